package optim

import (
	"math"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
)

// near wants a number to 1e-12 of a scale.
func near(t *testing.T, what string, got, want, scale float64) {
	t.Helper()
	if d := math.Abs(got - want); !(d <= 1e-12*scale) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// TestScheduleGolden takes every case of the golden files.
func TestScheduleGolden(t *testing.T) {
	var file struct {
		Cases []struct {
			Name   string
			Params struct {
				Peak, Final          float64
				Warmup, Total, Decay int
				Shape                Fall `json:"decay_shape"`
			}
			Steps []int
			LR    []float64
		}
	}
	golden.JSON(t, golden.Glob(t, "losses/schedules.json")[0], &file)
	if len(file.Cases) == 0 {
		t.Fatalf("%d cases", len(file.Cases))
	}
	for _, c := range file.Cases {
		s := Schedule{Peak: c.Params.Peak, Floor: c.Params.Final, Warmup: c.Params.Warmup, Total: c.Params.Total, Decay: c.Params.Decay, Fall: c.Params.Shape}
		switch kind, _, _ := strings.Cut(c.Name, "_"); kind {
		case "paper":
			s.Kind = Cosine
		default:
			s.Kind = Kind(kind)
		}
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		for i, step := range c.Steps {
			near(t, c.Name, s.At(step), c.LR[i], s.Peak)
		}
	}
}

// TestScheduleOfTraining: the rates of the golden runs, which count updates from 1.
func TestScheduleOfTraining(t *testing.T) {
	for _, path := range golden.Glob(t, "train/*/expect.json") {
		var file struct {
			AdamW struct {
				Peak  float64 `json:"peak_lr"`
				Final float64 `json:"final_lr_fraction"`
				W     int     `json:"warmup_steps"`
				N     int     `json:"total_steps"`
				Steps []struct {
					Step int
					LR   float64
				}
			}
		}
		golden.JSON(t, path, &file)
		a := file.AdamW
		s := Schedule{Kind: Cosine, Peak: a.Peak, Warmup: a.W, Total: a.N, Floor: a.Final * a.Peak}
		for _, step := range a.Steps {
			near(t, golden.Name(path), s.At(step.Step), step.LR, a.Peak)
		}
	}
}

func TestScheduleEdges(t *testing.T) {
	s := Schedule{Kind: WSD, Peak: 1, Warmup: 2, Total: 12, Decay: 10, Floor: 0.5}
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	for step, want := range map[int]float64{-5: 0, 0: 0, 1: 0.5, 2: 1, 3: 0.95, 11: 0.55, 12: 0.5, 1 << 40: 0.5} {
		near(t, "wsd", s.At(step), want, 1)
	}
	if got := (Schedule{Peak: 3}).At(1 << 40); got != 3 {
		t.Errorf("the zero kind gives %v", got)
	}
}

func TestScheduleViolations(t *testing.T) {
	for _, c := range []struct {
		s    Schedule
		want []string
	}{
		{Schedule{}, []string{"peak 0"}},
		{Schedule{Peak: math.NaN(), Floor: -1, Warmup: -1, Total: -2, Kind: "step"}, []string{"peak NaN", "floor -1", "warm-up of -1", "total of -2", `kind "step"`}},
		{Schedule{Peak: 1, Floor: 2, Kind: Cosine, Warmup: 5, Total: 5, Decay: 1}, []string{"floor 2", "want more than the 5", "only wsd"}},
		{Schedule{Peak: 1, Floor: 0.5, Fall: FallSqrt}, []string{"of a constant rate", `fall "sqrt"`}},
		{Schedule{Peak: 1, Kind: WSD, Total: 10, Warmup: 3, Decay: 8, Fall: "steep"}, []string{"decay of 8 steps: want 1 to the 7", `fall "steep"`}},
		{Schedule{Peak: math.Inf(1), Kind: Linear, Total: 1}, []string{"peak +Inf"}},
	} {
		err := c.s.Validate()
		if err == nil {
			t.Errorf("%+v is valid", c.s)
			continue
		}
		if n := len(strings.Split(err.Error(), "\n")); n != len(c.want) {
			t.Errorf("%+v: %d violations: %v", c.s, n, err)
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%+v: %v does not say %q", c.s, err, w)
			}
		}
	}
}
