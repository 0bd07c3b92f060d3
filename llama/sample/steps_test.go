package sample

import (
	"math"
	"slices"
	"testing"
)

// candidates returns the whole vocabulary with these logits.
func candidates(logits ...float32) *Candidates {
	var s Sampler
	s.load(logits)
	return &s.cand
}

func logs(ps ...float64) []float32 {
	out := make([]float32, len(ps))
	for i, p := range ps {
		out[i] = float32(math.Log(p))
	}
	return out
}

// same compares elements, NaN equal to NaN.
func same(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return x == y || x != x && y != y })
}

func TestBias(t *testing.T) {
	c := candidates(1, 2, 3)
	newBias(map[int32]float32{0: 0.5, 2: negInf, 3: 9, math.MaxInt32: 9}).Apply(c)
	if want := []float32{1.5, 2, negInf}; !same(c.Logits, want) {
		t.Errorf("logits %v, want %v", c.Logits, want)
	}
}

func TestPenalties(t *testing.T) {
	for _, tt := range []struct {
		name   string
		p      Params
		accept []int32
		want   []float32 // from logits 2, -2, 0, 1
	}{
		// 2/2 = 1; -2*2 = -4; 0*2 = 0; 3 not seen.
		{"repeat", Params{RepeatPenalty: 2}, []int32{0, 1, 2, 0}, []float32{1, -4, 0, 1}},
		// A penalty below 1 encourages: 2/0.5 = 4; -2*0.5 = -1.
		{"encourage", Params{RepeatPenalty: 0.5}, []int32{0, 1}, []float32{4, -1, 0, 1}},
		// 0 seen twice: 2 - 2*0.5 = 1; 1 once: -2 - 0.5 = -2.5.
		{"frequency", Params{FrequencyPenalty: 0.5}, []int32{0, 1, 0}, []float32{1, -2.5, 0, 1}},
		// Whatever the count: 2 - 0.25; -2 - 0.25.
		{"presence", Params{PresencePenalty: 0.25}, []int32{0, 1, 0}, []float32{1.75, -2.25, 0, 1}},
		// First the factor: 2/2 - 2*0.5 - 0.25 = -0.25.
		{"all", Params{RepeatPenalty: 2, FrequencyPenalty: 0.5, PresencePenalty: 0.25}, []int32{0, 0}, []float32{-0.25, -2, 0, 1}},
		// Only the last two count, 3 and 1: 1 - 1 = 0; -2 - 1 = -3.
		{"window", Params{FrequencyPenalty: 1, PenaltyLastN: 2}, []int32{0, 0, 2, 3, 1}, []float32{2, -3, 0, 0}},
		{"unknown ids", Params{FrequencyPenalty: 1}, []int32{-1, 4, math.MaxInt32, math.MinInt32}, []float32{2, -2, 0, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			step := newPenalties(tt.p)
			for _, id := range tt.accept {
				step.Accept(id)
			}
			c := candidates(2, -2, 0, 1)
			step.Apply(c)
			if !same(c.Logits, tt.want) {
				t.Errorf("logits %v, want %v", c.Logits, tt.want)
			}
			step.Reset()
			c = candidates(2, -2, 0, 1)
			step.Apply(c)
			if want := []float32{2, -2, 0, 1}; !same(c.Logits, want) {
				t.Errorf("after Reset: logits %v, want %v", c.Logits, want)
			}
		})
	}
}

// The window holds 64 tokens by default and everything for -1.
func TestPenaltyLastN(t *testing.T) {
	for _, tt := range []struct{ lastN, want int }{{0, 64}, {-1, 1000}, {7, 7}} {
		step := newPenalties(Params{FrequencyPenalty: 1, PenaltyLastN: tt.lastN})
		for range 1000 {
			step.Accept(0)
		}
		c := candidates(0)
		step.Apply(c)
		if c.Logits[0] != float32(-tt.want) {
			t.Errorf("PenaltyLastN %d: logit %v, want %d", tt.lastN, c.Logits[0], -tt.want)
		}
	}
}

func TestFilters(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	quarter := []float32{1, 1, 1, 1} // probabilities 1/4 each
	skewed := logs(.05, .5, .15, .3)
	for _, tt := range []struct {
		name   string
		step   Step
		logits []float32
		want   []int32
	}{
		{"top-k", topK(2), []float32{1, 3, 2, 0}, []int32{1, 2}},
		{"top-k ties", topK(2), []float32{1, 2, 2, 2}, []int32{1, 2}},
		{"top-k zeros", topK(1), []float32{float32(math.Copysign(0, -1)), 0}, []int32{0}},
		{"top-k many", topK(9), []float32{1, negInf, 2, nan}, []int32{2, 0}},
		{"top-k inf", topK(2), []float32{1, inf, 2, inf}, []int32{1, 3}},
		// 1/4 + 1/4 >= 1/2, exactly.
		{"top-p half", topP(0.5), quarter, []int32{0, 1}},
		{"top-p more than half", topP(0.500001), quarter, []int32{0, 1, 2}},
		// .5 < .75 <= .5 + .3.
		{"top-p", topP(0.75), skewed, []int32{1, 3}},
		// .5 + .3 < .81 <= .5 + .3 + .15.
		{"top-p three", topP(0.81), skewed, []int32{1, 2, 3}},
		{"top-p one", topP(1e-9), skewed, []int32{1}},
		{"top-p inf", topP(0.9), []float32{1, inf, nan, inf}, []int32{1, 3}},
		{"top-p nothing", topP(0.9), []float32{nan, negInf}, []int32{0, 1}},
		// At least 0.2 * .5 = .1.
		{"min-p", newMinP(0.2), skewed, []int32{1, 2, 3}},
		// At least 0.5 * .5 = .25.
		{"min-p half", newMinP(0.5), skewed, []int32{1, 3}},
		{"min-p one", newMinP(1), quarter, []int32{0, 1, 2, 3}},
		{"min-p inf", newMinP(0.5), []float32{1, inf, nan, negInf}, []int32{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := candidates(tt.logits...)
			tt.step.Apply(c)
			if !slices.Equal(c.IDs, tt.want) {
				t.Errorf("ids %v, want %v", c.IDs, tt.want)
			}
			for i, id := range c.IDs {
				if !same(c.Logits[i:i+1], tt.logits[id:id+1]) {
					t.Errorf("logit of id %d is %v, want %v", id, c.Logits[i], tt.logits[id])
				}
			}
		})
	}
}

func TestTemperature(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, tt := range []struct {
		t            float32
		logits, want []float32
	}{
		// (2-2)/0.5, (1-2)/0.5, (-1-2)/0.5.
		{0.5, []float32{2, 1, -1}, []float32{0, -2, -6}},
		// (1-3)/2, (3-3)/2.
		{2, []float32{1, 3}, []float32{-1, 0}},
		// The largest stays ahead however small the temperature.
		{1e-44, []float32{10, 9}, []float32{0, negInf}},
		{1, []float32{inf, 5, negInf, nan}, []float32{0, negInf, negInf, nan}},
	} {
		c := candidates(tt.logits...)
		temperature(tt.t).Apply(c)
		if !same(c.Logits, tt.want) {
			t.Errorf("temperature %v of %v: %v, want %v", tt.t, tt.logits, c.Logits, tt.want)
		}
	}
}

func TestBitset(t *testing.T) {
	b := NewBitset(65)
	b.Add(0)
	b.Add(2)
	b.Add(64)
	b.Remove(2)
	logits := make([]float32, 130) // two elements beyond the set
	c := candidates(logits...)
	b.Apply(c)
	for id, l := range c.Logits {
		if allowed := id == 0 || id == 64; (l == 0) != allowed {
			t.Errorf("id %d: logit %v, want allowed %v", id, l, allowed)
		}
	}
	if b.Has(-1) {
		t.Error("a negative id is in the set")
	}
}

// Index finds ids in and out of the vocabulary's order.
func TestIndex(t *testing.T) {
	c := candidates(0, 1, 2, 3)
	for _, id := range []int32{0, 3} {
		if got := c.Index(id); got != int(id) {
			t.Errorf("Index(%d) = %d", id, got)
		}
	}
	c.Top(3) // ids 3, 2, 1
	for id, want := range map[int32]int{3: 0, 2: 1, 1: 2, 0: -1, -1: -1, 4: -1} {
		if got := c.Index(id); got != want {
			t.Errorf("after Top: Index(%d) = %d, want %d", id, got, want)
		}
	}
}

func TestWeight(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, tt := range []struct {
		logit, max float32
		want       uint64
	}{
		{3, 3, weightOne}, {inf, inf, weightOne}, {5, inf, 0}, {negInf, 3, 0}, {nan, 3, 0}, {-29, 0, 0},
		// exp(-28) * 2^40 = 6.914e-13 * 1.0995e12 = 0.7602, rounded to 1.
		{-28, 0, 1},
	} {
		if got := weight(tt.logit, tt.max); got != tt.want {
			t.Errorf("weight(%v, %v) = %d, want %d", tt.logit, tt.max, got, tt.want)
		}
	}
	for x := float32(0); x > -700; x -= 0.00731 {
		got, want := expDiff(x, 0), math.Exp(float64(x))
		if math.Abs(got-want) > 2e-12*want {
			t.Fatalf("expDiff(%v, 0) = %v, want %v", x, got, want)
		}
	}
	for j, got := range exp2 {
		if want := math.Exp2(float64(j) / 32); math.Abs(got-want) > 2.3e-16*want {
			t.Errorf("exp2[%d] = %v, want %v", j, got, want)
		}
	}
}

// A filter after a step that sorted keeps the first candidates.
func TestTopOfSorted(t *testing.T) {
	c := candidates(1, 3, negInf, 2)
	for _, tt := range []struct {
		k    int
		want []int32
	}{{9, []int32{1, 3, 0}}, {2, []int32{1, 3}}, {1, []int32{1}}, {-1, nil}} {
		c.Top(tt.k)
		if !slices.Equal(c.IDs, tt.want) || !c.Sorted {
			t.Errorf("Top(%d): ids %v, sorted %v, want %v", tt.k, c.IDs, c.Sorted, tt.want)
		}
	}
}
