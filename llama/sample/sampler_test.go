package sample

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

func mustNew(t testing.TB, p Params, steps ...Step) *Sampler {
	t.Helper()
	s, err := New(p, steps...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// draw samples n tokens from the same logits, accepting each.
func draw(t testing.TB, s *Sampler, logits []float32, n int) []int32 {
	t.Helper()
	ids := make([]int32, n)
	for i := range ids {
		id, err := s.Sample(logits)
		if err != nil {
			t.Fatal(err)
		}
		s.Accept(id)
		ids[i] = id
	}
	return ids
}

func TestValidateListsEverything(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	bad := []Params{
		{Temperature: nan, TopK: -1, TopP: nan, MinP: nan, RepeatPenalty: nan, FrequencyPenalty: nan,
			PresencePenalty: nan, PenaltyLastN: -2, LogitBias: map[int32]float32{-1: 0, 1: nan, 2: inf}},
		{Temperature: -1, TopK: -5, TopP: 1.5, MinP: -0.1, RepeatPenalty: -1, FrequencyPenalty: inf,
			PresencePenalty: negInf, PenaltyLastN: -9, LogitBias: map[int32]float32{-1: 1, 1: inf, 2: nan}},
		{Temperature: inf, TopK: -2, TopP: -1, MinP: 2, RepeatPenalty: inf, FrequencyPenalty: negInf,
			PresencePenalty: inf, PenaltyLastN: -3, LogitBias: map[int32]float32{-1: 0, 1: nan, 2: nan}},
	}
	want := []string{"Temperature", "TopK", "TopP", "MinP", "RepeatPenalty", "FrequencyPenalty",
		"PresencePenalty", "PenaltyLastN", "LogitBias[-1]", "LogitBias[1]", "LogitBias[2]"}
	for i, p := range bad {
		_, err := New(p, nil)
		if err == nil {
			t.Fatalf("case %d: no error", i)
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != len(want)+1 {
			t.Fatalf("case %d: %d violations, want %d:\n%v", i, len(lines), len(want)+1, err)
		}
		for j, field := range append(slices.Clone(want), "step 0") {
			if !strings.Contains(lines[j], field) {
				t.Errorf("case %d: line %q does not name %s", i, lines[j], field)
			}
		}
	}
	good := Params{Temperature: 2, TopK: 1, TopP: 1, MinP: 1, RepeatPenalty: 0.5, FrequencyPenalty: -2,
		PresencePenalty: -2, PenaltyLastN: -1, LogitBias: map[int32]float32{0: negInf}}
	for _, p := range []Params{{}, good} {
		if err := p.Validate(); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestGreedy(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	long := make([]float32, 37) // more than argmax takes at once, and a tail
	long[20], long[36] = 1, 1
	for _, tt := range []struct {
		logits []float32
		want   int32
	}{
		{[]float32{1, 3, 3, 2}, 1},
		{[]float32{nan, 1, nan}, 1},
		{[]float32{negInf, -1, -2}, 1},
		{[]float32{5, inf, inf}, 1},
		{[]float32{float32(math.Copysign(0, -1)), 0}, 0},
		{long, 20},
	} {
		nop := StepFunc(func(*Candidates) {})
		reverse := StepFunc(func(c *Candidates) { slices.Reverse(c.IDs); slices.Reverse(c.Logits) })
		for i, s := range []*Sampler{mustNew(t, Params{}), mustNew(t, Params{}, nop), mustNew(t, Params{}, reverse)} {
			if got, err := s.Sample(tt.logits); err != nil || got != tt.want {
				t.Errorf("sampler %d of %v: %d, %v, want %d", i, tt.logits, got, err, tt.want)
			}
		}
	}
}

// Bias, penalties and the caller's steps hold for greedy sampling too.
func TestGreedyWithSteps(t *testing.T) {
	logits := []float32{5, 4, 3, 2}
	p := Params{FrequencyPenalty: 10, LogitBias: map[int32]float32{0: negInf}}
	s := mustNew(t, p, Mask(func(id int32) bool { return id != 2 }))
	if got := draw(t, s, logits, 2); !slices.Equal(got, []int32{1, 3}) { // 0 biased, 2 masked, 1 penalised
		t.Errorf("drew %v, want [1 3]", got)
	}
	if want := []float32{5, 4, 3, 2}; !same(logits, want) {
		t.Errorf("Sample changed its input to %v", logits)
	}
}

func TestNothingToChoose(t *testing.T) {
	nan := float32(math.NaN())
	all := Params{Temperature: 0.8, TopK: 2, TopP: 0.9, MinP: 0.1}
	none := StepFunc(func(c *Candidates) { c.IDs, c.Logits = nil, nil })
	for _, p := range []Params{{}, {RepeatPenalty: 2}, {Temperature: 1}, all, {Temperature: 1, TopP: 0.5}, {Temperature: 1, MinP: 0.5}} {
		for _, logits := range [][]float32{nil, {nan, nan}, {negInf, negInf, negInf}, {nan, negInf}} {
			if id, err := mustNew(t, p).Sample(logits); !errors.Is(err, ErrNoCandidate) {
				t.Errorf("%+v of %v: %d, %v, want ErrNoCandidate", p, logits, id, err)
			}
		}
		for _, step := range []Step{none, Mask(func(int32) bool { return false })} {
			s := mustNew(t, p, step)
			if id, err := s.Sample([]float32{1, 2, 3}); !errors.Is(err, ErrNoCandidate) {
				t.Errorf("%+v, all banned: %d, %v, want ErrNoCandidate", p, id, err)
			}
		}
	}
	torn := StepFunc(func(c *Candidates) { c.IDs = c.IDs[:1] })
	if _, err := mustNew(t, Params{}, torn).Sample([]float32{1, 2}); err == nil || errors.Is(err, ErrNoCandidate) {
		t.Errorf("ids and logits of different lengths: error %v", err)
	}
	if _, err := mustNew(t, Params{}).Sample(make([]float32, maxCandidates)); err == nil || errors.Is(err, ErrNoCandidate) {
		t.Errorf("too large a vocabulary: error %v", err)
	}
}

// These draws are what seed 1 means; they may never change.
func TestSeedIsStable(t *testing.T) {
	logits := logs(.1, .2, .3, .4)
	want := []int32{3, 3, 3, 3, 3, 2, 3, 3, 3, 2, 2, 3, 3, 0, 2, 3}
	s := mustNew(t, Params{Temperature: 1, Seed: 1})
	if got := draw(t, s, logits, len(want)); !slices.Equal(got, want) {
		t.Errorf("drew %v, want %v", got, want)
	}
	s.Reset()
	if got := draw(t, s, logits, len(want)); !slices.Equal(got, want) {
		t.Errorf("after Reset: drew %v, want %v", got, want)
	}
	s.Reseed(2)
	if got := draw(t, s, logits, len(want)); slices.Equal(got, want) {
		t.Error("another seed drew the same")
	}
}

// chiSquare is the statistic of counts against probabilities ps.
func chiSquare(counts []int, ps []float64) float64 {
	n := 0
	for _, c := range counts {
		n += c
	}
	x := 0.0
	for i, p := range ps {
		d := float64(counts[i]) - float64(n)*p
		x += d * d / (float64(n) * p)
	}
	return x
}

// The 99.9 % quantiles of chi-square with 3 and 1 degrees of freedom are 16.27
// and 10.83. The seeds are fixed, so the test does not flicker.
func TestDistribution(t *testing.T) {
	logits := logs(.1, .2, .3, .4)
	const n = 20000
	t.Run("one stream", func(t *testing.T) {
		counts := make([]int, 4)
		for _, id := range draw(t, mustNew(t, Params{Temperature: 1, Seed: 7}), logits, n) {
			counts[id]++
		}
		if x := chiSquare(counts, []float64{.1, .2, .3, .4}); x > 16.27 {
			t.Errorf("counts %v: chi-square %.2f", counts, x)
		}
	})
	t.Run("first draw of neighbouring seeds", func(t *testing.T) {
		counts := make([]int, 4)
		for seed := range uint64(n) {
			counts[draw(t, mustNew(t, Params{Temperature: 1, Seed: seed}), logits, 1)[0]]++
		}
		if x := chiSquare(counts, []float64{.1, .2, .3, .4}); x > 16.27 {
			t.Errorf("counts %v: chi-square %.2f", counts, x)
		}
	})
	// Top-k 2 leaves .3 and .4; at temperature 1/2 they count as squares:
	// .09/.25 = .36 and .16/.25 = .64.
	t.Run("filtered", func(t *testing.T) {
		counts := make([]int, 4)
		for _, id := range draw(t, mustNew(t, Params{Temperature: 0.5, TopK: 2, Seed: 7}), logits, n) {
			counts[id]++
		}
		if counts[0]+counts[1] != 0 {
			t.Fatalf("counts %v: a filtered token was drawn", counts)
		}
		if x := chiSquare(counts[2:], []float64{.36, .64}); x > 10.83 {
			t.Errorf("counts %v: chi-square %.2f", counts, x)
		}
	})
}

// countdown is a stateful step: it bans the tokens it was told of.
type countdown struct{ seen []int32 }

func (s *countdown) Apply(c *Candidates) {
	for _, id := range s.seen {
		c.Logits[c.Index(id)] = negInf
	}
}
func (s *countdown) Accept(id int32) { s.seen = append(s.seen, id) }
func (s *countdown) Reset()          { s.seen = nil }
func (s *countdown) Clone() Step     { return &countdown{slices.Clone(s.seen)} }

func TestClone(t *testing.T) {
	logits := logs(.1, .2, .3, .15, .25)
	p := Params{Temperature: 1, FrequencyPenalty: 1, PenaltyLastN: 2, Seed: 3}
	s := mustNew(t, p, &countdown{})
	first := draw(t, s, logits, 2)
	c := s.Clone()
	want := draw(t, s, logits, 3)
	if got := draw(t, c, logits, 3); !slices.Equal(got, want) {
		t.Errorf("the clone drew %v, the original %v", got, want)
	}
	all := slices.Sorted(slices.Values(append(first, want...)))
	if !slices.Equal(all, []int32{0, 1, 2, 3, 4}) {
		t.Errorf("drew %v: the step's state was lost", all)
	}
	s.Reset()
	if got := draw(t, s, logits, 2); !slices.Equal(got, first) {
		t.Errorf("after Reset drew %v, at first %v", got, first)
	}
	if _, err := c.Sample(logits); !errors.Is(err, ErrNoCandidate) {
		t.Errorf("resetting the original changed the clone: %v", err)
	}
}

func TestNoAllocation(t *testing.T) {
	logits := benchLogits()[:4096]
	mask := NewBitset(len(logits))
	for id := range int32(len(logits)) {
		mask.Add(id)
	}
	for _, p := range []Params{
		{},
		{Temperature: 1},
		{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05, RepeatPenalty: 1.1, LogitBias: map[int32]float32{5: 1}},
		{Temperature: 1, TopP: 0.95, PresencePenalty: 5},
	} {
		s := mustNew(t, p, mask)
		draw(t, s, logits, 200) // the window's map too reaches its size
		if n := testing.AllocsPerRun(200, func() {
			id, err := s.Sample(logits)
			if err != nil {
				t.Fatal(err)
			}
			s.Accept(id)
		}); n > 0 {
			t.Errorf("%+v: %v allocations per token", p, n)
		}
	}
}
