package train

import (
	"testing"
	"time"
)

func TestEstimator(t *testing.T) {
	now := time.Unix(1000, 0)
	var e Estimator
	if e.Left(10) != 0 || e.Elapsed(now) != 0 || e.PerSecond(1) != 0 {
		t.Error("an estimate of nothing")
	}
	e.Start(now)
	step := func(d time.Duration) {
		now = now.Add(d)
		e.Step(now)
	}
	step(9 * time.Second)
	if got := e.Left(2); got != 18*time.Second { // all that is known
		t.Errorf("%v after one step, want 18s", got)
	}
	step(5 * time.Second)
	step(4 * time.Second)
	if got := e.Left(1); got != 6*time.Second {
		t.Errorf("%v after three steps, want 6s", got)
	}
	step(time.Second)
	step(time.Second) // now the first three no longer count
	for range 100 {
		if got := e.Left(7); got != 7*time.Second || e.PerSecond(512) != 512 {
			t.Fatalf("%v, %v per second, want 7s, 512", got, e.PerSecond(512))
		}
		step(time.Second)
	}
	// An evaluation of 16 s every 16 steps doubles the pace.
	for i := range 256 {
		if i%16 == 0 {
			now = now.Add(16 * time.Second)
		}
		step(time.Second)
	}
	if got := e.Left(10); got != 20*time.Second {
		t.Errorf("%v with evaluations, want 20s", got)
	}
	// A pace that changes is known after 64 steps.
	for range pastSteps {
		step(3 * time.Second)
	}
	if got := e.Left(10); got != 30*time.Second {
		t.Errorf("%v after a change, want 30s", got)
	}
	if e.Left(-1) != 0 {
		t.Error("less than nothing is left")
	}
	if len(e.ends) > pastSteps+1 {
		t.Errorf("%d times are kept", len(e.ends))
	}
}
