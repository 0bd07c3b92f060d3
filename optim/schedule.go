package optim

import (
	"errors"
	"fmt"
	"math"
)

// Kind is what a Schedule does after the warm-up. With W = Warmup, N = Total, D =
// Decay, p = Peak and f = Floor, at step s of W or more:
type Kind string

const (
	// Constant is p. So is the zero Kind.
	Constant Kind = "constant"
	// Cosine is f + (p-f) (1 + cos(pi (s-W)/(N-W)))/2
	// (https://arxiv.org/abs/1608.03983, eq. 5, without restarts), and f from N on.
	Cosine Kind = "cosine"
	// Linear is f + (p-f) (N-s)/(N-W), and f from N on.
	Linear Kind = "linear"
	// WSD is warm-up, stable, decay: p up to step N-D, then a Fall to f at N
	// (https://arxiv.org/abs/2404.06395, section 4).
	WSD Kind = "wsd"
)

// Fall is the shape of the last part of WSD: with x = (s-(N-D))/D from 0 to 1, the rate
// is f + (p-f) y.
type Fall string

const (
	FallLinear Fall = "linear" // y = 1-x. So is the zero Fall.
	FallCosine Fall = "cosine" // y = (1 + cos(pi x))/2
	// FallSqrt is y = 1 - sqrt(x) (https://arxiv.org/abs/2405.18392, section 3).
	FallSqrt Fall = "sqrt"
)

// Schedule is the learning rate as a function of the step alone, so that a run that
// stopped goes on as it would have.
type Schedule struct {
	Kind Kind
	Peak float64 // the largest rate
	// Warmup is the number of steps in which the rate grows from 0: it is Peak s/W at
	// step s below W.
	Warmup int
	Total  int     // steps in all, the warm-up included; Constant needs none
	Floor  float64 // what the rate falls to
	Decay  int     // steps of the fall of WSD, the last ones of Total
	Fall   Fall    // of WSD
}

// Validate lists every violation.
func (s Schedule) Validate() error {
	var errs []error
	bad := func(wrong bool, format string, a ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("optim: schedule: "+format, a...))
		}
	}
	bad(!(s.Peak > 0) || math.IsInf(s.Peak, 0), "peak %v: want a positive number", s.Peak)
	bad(!(s.Floor >= 0 && s.Floor <= s.Peak), "floor %v: want 0 to the peak %v", s.Floor, s.Peak)
	bad(s.Warmup < 0, "warm-up of %d steps", s.Warmup)
	bad(s.Total < 0, "total of %d steps", s.Total)
	switch s.Kind {
	case "", Constant:
		bad(s.Floor != 0, "floor %v of a constant rate", s.Floor)
	case Cosine, Linear, WSD:
		bad(s.Total <= s.Warmup, "total of %d steps: want more than the %d of the warm-up", s.Total, s.Warmup)
	default:
		bad(true, "kind %q: want constant, cosine, linear or wsd", s.Kind)
	}
	if s.Kind != WSD {
		bad(s.Decay != 0 || s.Fall != "", "decay of %d steps and fall %q: only wsd has them", s.Decay, s.Fall)
		return errors.Join(errs...)
	}
	bad(s.Decay < 1 || s.Decay > s.Total-s.Warmup, "decay of %d steps: want 1 to the %d after the warm-up", s.Decay, s.Total-s.Warmup)
	switch s.Fall {
	case "", FallLinear, FallCosine, FallSqrt:
	default:
		bad(true, "fall %q: want linear, cosine or sqrt", s.Fall)
	}
	return errors.Join(errs...)
}

// At is the rate at a step. Step 0 is before the first update; with a warm-up its rate is 0.
// Callers that count updates from 0 ask for At(step+1): the rate of the first update is then
// Peak/Warmup. Steps below 0 count as step 0. The schedule must be valid.
func (s Schedule) At(step int) float64 {
	step = max(step, 0)
	if step < s.Warmup {
		return s.Peak * float64(step) / float64(s.Warmup)
	}
	from, shape := s.Warmup, s.Fall
	switch s.Kind {
	case Cosine:
		shape = FallCosine
	case Linear:
		shape = FallLinear
	case WSD:
		from = s.Total - s.Decay
	default:
		return s.Peak
	}
	switch {
	case step <= from:
		return s.Peak
	case step >= s.Total:
		return s.Floor
	}
	x := float64(step-from) / float64(s.Total-from)
	y := 1 - x
	switch shape {
	case FallCosine:
		y = (1 + math.Cos(math.Pi*x)) / 2
	case FallSqrt:
		y = 1 - math.Sqrt(x)
	}
	return s.Floor + (s.Peak-s.Floor)*y
}
