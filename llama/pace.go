package llama

import "time"

// pace decides how many tokens to guess at a time: the number that gives the most tokens a
// second, where
//
//	tokens of a step with k guesses = 1 + right + right^2 + ... + right^k
//	seconds                         = one + k*(more + draft)
//
// and right is the share of guesses that are right, one the time of a step without guesses,
// more that of a further row, draft that of making a guess. All are averages of late. While
// that number is 0 some guesses are made at times, as texts change.
type pace struct {
	max              int
	right            average
	one, more, draft average // in seconds

	warm  bool // the guesses before this one were asked for
	steps int  // with guesses, since one without
	plain int  // steps with guesses until one without, to know its time
	off   int  // steps since guessing is not worth it, or since the last trial
	wait  int  // steps until the next trial
}

const (
	moreOfOne    = 0.2 // of one is more, before it is known
	trialGuesses = 2
	firstTrial   = 4  // steps before the first trial; each that fails doubles it
	lastTrial    = 64 // steps before a trial at most
	firstPlain   = 2  // steps with guesses before one without; each doubles it
	lastPlain    = 64 // at most
)

// newPace expects every second guess to be right.
func newPace(max int) pace {
	p := pace{max: max, wait: firstTrial, plain: firstPlain}
	p.right.add(0.5)
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

// length is the number of guesses to ask for.
func (p *pace) length() int {
	n := p.choose()
	p.warm = p.warm && n > 0
	return n
}

func (p *pace) choose() int {
	if p.one.n == 0 {
		return 0
	}
	if p.steps >= p.plain {
		p.plain = min(2*p.plain, lastPlain)
		return 0
	}
	more := p.more.value
	if p.more.n == 0 {
		more = moreOfOne * p.one.value
	}
	n, best := 0, 1/p.one.value
	for k, tokens, likely := 1, 1.0, 1.0; k <= p.max; k++ {
		likely *= p.right.value
		tokens += likely
		if rate := tokens / (p.one.value + float64(k)*(more+p.draft.value)); rate > best {
			n, best = k, rate
		}
	}
	if n > 0 {
		p.off, p.wait = 0, firstTrial
		return n
	}
	if p.off++; p.off < p.wait {
		return 0
	}
	p.off, p.wait = 0, min(2*p.wait, lastTrial)
	return min(trialGuesses, p.max)
}

// step counts a step with so many guesses, and the time that making them took. The first
// guesses after a while take longer: a draft model has the text in between to compute.
func (p *pace) step(guesses int, drafted, computed time.Duration) {
	if guesses == 0 {
		p.steps = 0
		p.one.addTime(computed.Seconds())
		return
	}
	p.steps++
	if p.warm {
		p.draft.addTime(drafted.Seconds() / float64(guesses))
	}
	p.warm = true
	further := (computed.Seconds() - p.one.value) / float64(guesses)
	p.more.add(max(0, min(further, 4*p.one.value)))
}

// judge counts the guesses of a step that were right, from the first on.
func (p *pace) judge(right, guesses int) {
	for range right {
		p.right.add(1)
	}
	if right < guesses {
		p.right.add(0)
	}
}

// restart says that the guesses to come are the first after a while.
func (p *pace) restart() { p.warm = false }
