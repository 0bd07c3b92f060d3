package llama

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// paced runs a pace for so many tokens of a text in which guesses are right as often as
// said. Steps take the times given, in milliseconds: without guesses, more for a guess, and
// for making it. It returns the time and the number of steps with guesses.
func paced(p *pace, tokens int, right func(token int) bool, one, more, draft float64) (time, guessed float64) {
	for at := 0; at < tokens; {
		n := p.length(ofCaller)
		good := 0
		for good < n && right(at+good) {
			good++
		}
		computed, drafted := one+more*float64(n), draft*float64(n)
		p.step(ofCaller, n, milliseconds(drafted), milliseconds(computed))
		p.judge(ofCaller, good, n)
		time += computed + drafted
		at += good + 1
		if n > 0 {
			guessed++
		}
	}
	return time, guessed
}

func milliseconds(x float64) time.Duration { return time.Duration(x * float64(time.Millisecond)) }

// often is right for a share of tokens, by chance.
func often(share float64) func(int) bool {
	rng := rand.New(rand.NewPCG(1, 2))
	right := make([]bool, 10000)
	for i := range right {
		right[i] = rng.Float64() < share
	}
	return func(token int) bool { return right[token] }
}

// inTurns is right for 60 tokens and wrong for the next 60.
func inTurns(token int) bool { return token/60%2 == 1 }

// TestPace: guessing gives about the speed that the best fixed length gives, and costs next
// to nothing where every length is slower than none.
func TestPace(t *testing.T) {
	const tokens = 4000
	for i, right := range []func(int) bool{often(0), often(0.2), often(0.5), often(0.8), often(0.95), often(1), inTurns} {
		for _, c := range [][3]float64{{4, 0, 0}, {4, 0.2, 0}, {4, 0.7, 0}, {4, 0.5, 1}, {4, 4, 0}, {4, 3, 3}, {40, 3, 3}} {
			best := math.Inf(1)
			for n := range 17 {
				time := 0.0
				for at := 0; at < tokens; {
					good := 0
					for good < n && right(at+good) {
						good++
					}
					time += c[0] + float64(n)*(c[1]+c[2])
					at += good + 1
				}
				best = min(best, time)
			}
			p := newPace(16)
			got, _ := paced(&p, tokens, right, c[0], c[1], c[2])
			if got > 1.12*best {
				t.Errorf("text %d, times %v: %.0f ms, the best fixed length takes %.0f", i, c, got, best)
			}
		}
	}
}

// TestPaceOff: where guesses are never right they become rare.
func TestPaceOff(t *testing.T) {
	p := newPace(16)
	paced(&p, 200, often(0), 4, 1, 1)
	time, guessed := paced(&p, 6400, often(0), 4, 1, 1)
	if guessed > 110 || time > 1.05*4*6400 {
		t.Errorf("%v of 6400 steps have guesses, %.3f times as slow", guessed, time/4/6400)
	}
	// Once they are right they come back.
	time, _ = paced(&p, 3000, often(0.97), 4, 1, 0)
	if time > 0.5*4*3000 {
		t.Errorf("%.2f of the time without guesses", time/4/3000)
	}
}

// TestPaceTrial: a trial waits until there are guesses.
func TestPaceTrial(t *testing.T) {
	p := newPace(16)
	paced(&p, 1000, often(0), 4, 1, 1)
	steps := 0
	for ; p.length(ofCaller) == 0; steps++ {
		p.step(ofCaller, 0, 0, 4*time.Millisecond)
	}
	for range 10 {
		p.step(ofCaller, 0, 0, 4*time.Millisecond) // nobody guessed
		if p.length(ofCaller) == 0 {
			t.Fatalf("after %d steps nobody guessed, and nobody is asked again", steps)
		}
	}
	p.step(ofCaller, 2, time.Millisecond, 5*time.Millisecond)
	p.judge(ofCaller, 0, 2)
	if n := p.length(ofCaller); n > 0 {
		t.Errorf("%d guesses after a trial that failed", n)
	}
}

// TestPaceSlowStep: one step that waited does not change what is guessed for long.
func TestPaceSlowStep(t *testing.T) {
	for _, guesses := range []int{0, 4} {
		p := newPace(16)
		paced(&p, 1000, often(0.7), 4, 3, 0)
		before, _ := paced(&p, 1000, often(0.7), 4, 3, 0)
		p.step(ofCaller, guesses, 0, 30*time.Second)
		after, _ := paced(&p, 1000, often(0.7), 4, 3, 0)
		if after > 1.15*before {
			t.Errorf("a slow step with %d guesses: %.0f ms afterwards, %.0f before", guesses, after, before)
		}
	}
}
