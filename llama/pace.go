package llama

import (
	"math"
	"time"
)

// pace decides how many tokens to guess at a time: the number that gives the most tokens a
// second, where
//
//	tokens of a step with k guesses = 1 + right + right^2 + ... + right^k
//	seconds                         = first + k*(more + draft), without guesses one
//
// and right is the share of a source's guesses that are right, draft the time that making
// one takes, and first and more are the line that fits the times of steps with guesses:
// kernels for several rows have a price of their own. All are of late.
type pace struct {
	max     int
	one     average // in seconds
	several line
	steps   int // with guesses, since one without
	plain   int // steps with guesses until one without, to know its time
	sources [sources]source
}

// source is what is known of one way of guessing. While its guesses are not worth it some
// are made at times, as texts change.
type source struct {
	right average
	draft average // in seconds
	warm  bool    // its guesses before were asked for too
	off   int     // times it was not asked since a trial
	wait  int     // times until the next one: then the first guesses that it makes
	trial int     // guesses of that
}

// The ways of guessing. Those of lookup are told apart by how much is alike.
const (
	ofCaller = iota
	ofModel
	ofLookup
	sources = ofLookup + lookupKinds
)

const (
	moreOfOne    = 0.2 // of one is more, before it is known
	firstGuesses = 2   // of a trial; each that fails doubles it
	lastGuesses  = 8   // and the one after these has the first again
	firstTrial   = 4   // times before the first trial; each that fails doubles it, up to
	trialSteps   = 32  // times what a trial takes more than a step without guesses, in such steps
	firstPlain   = 2   // steps with guesses before one without; each doubles it
	lastPlain    = 64  // at most
)

// newPace expects every second guess to be right, and more where more is alike.
func newPace(most int) pace {
	p := pace{max: most, plain: firstPlain}
	for i := range p.sources {
		p.sources[i] = source{wait: firstTrial, trial: firstGuesses}
		p.sources[i].right.add(1 - math.Pow(0.5, float64(1+max(0, i-ofLookup))))
	}
	return p
}

// average is a running average of about the last 16 numbers.
type average struct {
	value float64
	n     int // numbers, up to 16
}

func (a *average) add(x float64) {
	a.n = min(a.n+1, 16)
	a.value += (x - a.value) / float64(a.n)
}

// addTime adds seconds. A step that waited for something says little of those to come: it
// counts as four at most.
func (a *average) addTime(s float64) {
	if a.n > 0 {
		s = min(s, 4*a.value)
	}
	a.add(s)
}

// line is a line through points of late: the sums of weighted least squares.
type line struct{ n, x, xx, y, xy float64 }

func (l *line) add(x, y, weight float64) {
	l.n += weight
	l.x += weight * x
	l.xx += weight * x * x
	l.y += weight * y
	l.xy += weight * x * y
}

// fade makes what is there count for less beside what comes.
func (l *line) fade() {
	for _, sum := range []*float64{&l.n, &l.x, &l.xx, &l.y, &l.xy} {
		*sum *= 15. / 16
	}
}

// fit returns the line, whose slope is not negative.
func (l *line) fit() (at0, slope float64) {
	if d := l.n*l.xx - l.x*l.x; d > 0 {
		slope = max(0, (l.n*l.xy-l.x*l.y)/d)
	}
	return (l.y - slope*l.x) / l.n, slope
}

// length is the number of guesses to ask a source for.
func (p *pace) length(from int) int {
	n := p.choose(&p.sources[from])
	p.sources[from].warm = p.sources[from].warm && n > 0
	return n
}

func (p *pace) choose(s *source) int {
	if p.one.n == 0 || p.steps >= p.plain {
		return 0
	}
	first, more := p.times()
	n, best := 0, 1/p.one.value
	for k, tokens, likely := 1, 1.0, 1.0; k <= p.max; k++ {
		likely *= s.right.value
		tokens += likely
		if rate := tokens / (first + float64(k)*(more+s.draft.value)); rate > best {
			n, best = k, rate
		}
	}
	if n > 0 {
		s.off, s.wait = 0, firstTrial
		return n
	}
	if s.off++; s.off <= s.wait {
		return 0
	}
	return min(s.trial, p.max)
}

// times are first and more. One step without guesses counts a little: where all steps had
// as many guesses it decides.
func (p *pace) times() (first, more float64) {
	l := p.several
	if l.n == 0 {
		return p.one.value, moreOfOne * p.one.value
	}
	l.add(0, p.one.value, 0.5)
	return l.fit()
}

// step counts a step with so many guesses, and the time that making them took. The first
// guesses after a while take longer: a draft model has the text in between to compute.
func (p *pace) step(from, guesses int, drafted, computed time.Duration) {
	if guesses == 0 {
		if p.steps >= p.plain {
			p.plain = min(2*p.plain, lastPlain)
		}
		p.steps = 0
		p.one.addTime(computed.Seconds())
		return
	}
	p.steps++
	first, more := p.times()
	p.several.fade()
	p.several.add(float64(guesses), min(computed.Seconds(), 4*(first+float64(guesses)*more)), 1)
	s := &p.sources[from]
	if s.off > s.wait { // a trial
		if s.trial *= 2; s.trial > lastGuesses {
			s.trial = firstGuesses
		}
		longer := (first+float64(s.trial)*more+drafted.Seconds())/p.one.value - 1 // than a step without guesses
		s.off, s.wait = 0, max(firstTrial, min(2*s.wait, int(trialSteps*longer)))
	}
	if s.warm {
		s.draft.addTime(drafted.Seconds() / float64(guesses))
	}
	s.warm = true
}

// judge counts the guesses of a step that were right, from the first on.
func (p *pace) judge(from, right, guesses int) {
	s := &p.sources[from]
	for range right {
		s.right.add(1)
	}
	if right < guesses {
		s.right.add(0)
	}
}

// restart says that the guesses to come are the first after a while.
func (p *pace) restart() {
	for i := range p.sources {
		p.sources[i].warm = false
	}
}
