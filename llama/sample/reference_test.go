package sample

import (
	"encoding/binary"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// tok is one candidate of the reference.
type tok struct {
	id    int32
	logit float32
}

// reference is the filters with a full sort: top-k, top-p, min-p, temperature
// and the draw with the random number u, as the package comment defines them.
// It returns the sorted candidates before temperature, and the drawn token.
func reference(logits []float32, p Params, u uint64) ([]tok, int32) {
	var ts []tok
	for i, l := range logits {
		if l > negInf { // neither -Inf nor NaN
			ts = append(ts, tok{int32(i), l})
		}
	}
	if len(ts) == 0 {
		return nil, -1
	}
	byRank := func(a, b tok) int {
		switch {
		case a.logit > b.logit:
			return -1
		case a.logit < b.logit:
			return 1
		}
		return int(a.id - b.id)
	}
	slices.SortFunc(ts, byRank)
	max := ts[0].logit
	if p.TopK > 0 {
		ts = ts[:min(p.TopK, len(ts))]
	}
	if p.TopP > 0 && p.TopP < 1 {
		var total, sum uint64
		for _, t := range ts {
			total += weight(t.logit, max)
		}
		need, n := uint64(math.Ceil(float64(p.TopP)*float64(total))), 0
		for sum < need {
			sum += weight(ts[n].logit, max)
			n++
		}
		ts = ts[:n]
	}
	if p.MinP > 0 {
		floor := max + float32(math.Log(float64(p.MinP)))
		ts = slices.DeleteFunc(ts, func(t tok) bool { return t.logit < floor })
	}
	order := slices.Clone(ts) // the draw walks in rank order after top-k, else by id
	if p.TopK == 0 {
		slices.SortFunc(order, func(a, b tok) int { return int(a.id - b.id) })
	}
	ws := make([]uint64, len(order))
	var total uint64
	for i, t := range order {
		l := t.logit
		if p.Temperature != 1 {
			l = float32((float64(l) - float64(max)) / float64(p.Temperature))
			ws[i] = weight(l, 0)
			if t.logit == max {
				ws[i] = weightOne
			}
		} else {
			ws[i] = weight(l, max)
		}
		total += ws[i]
	}
	left, _ := bits.Mul64(u, total)
	for i, w := range ws {
		if left < w {
			return ts, order[i].id
		}
		left -= w
	}
	panic("unreachable")
}

// compare runs the sampler and the reference and compares what is left after
// the filters, element by element, and the token drawn.
func compare(t *testing.T, logits []float32, p Params) {
	t.Helper()
	var left []tok
	spy := StepFunc(func(c *Candidates) {
		left = left[:0]
		for i, id := range c.IDs {
			if c.Logits[i] > negInf {
				left = append(left, tok{id, c.Logits[i]})
			}
		}
	})
	s := mustNew(t, p)
	last := len(s.chain)
	if p.Temperature != 1 {
		last--
	}
	s.chain = slices.Insert(s.chain, last, Step(spy))
	want, wantID := reference(logits, p, rand.NewPCG(p.Seed, pcgStream).Uint64())
	got, err := s.Sample(logits)
	if wantID < 0 {
		if err != ErrNoCandidate {
			t.Fatalf("%+v: %d, %v, want ErrNoCandidate", p, got, err)
		}
		return
	}
	if err != nil || got != wantID {
		t.Fatalf("%+v, %d logits: drew %d, %v, want %d", p, len(logits), got, err, wantID)
	}
	byID := func(a, b tok) int { return int(a.id - b.id) }
	slices.SortFunc(want, byID)
	slices.SortFunc(left, byID)
	if !slices.Equal(left, want) {
		t.Fatalf("%+v, %d logits: %d candidates left, want %d:\n%v\n%v", p, len(logits), len(left), len(want), left, want)
	}
	alts := TopLogprobs(nil, logits, max(p.TopK, 1))
	full, _ := reference(logits, Params{Temperature: 1, TopK: max(p.TopK, 1)}, 0)
	for i := range max(len(alts), len(full)) {
		if i >= len(alts) || i >= len(full) || alts[i].ID != full[i].id {
			t.Fatalf("TopLogprobs(%d) = %v, want %v", max(p.TopK, 1), alts, full)
		}
	}
}

var settings = []Params{
	{Temperature: 1},
	{Temperature: 0.7},
	{Temperature: 1, TopK: 1},
	{Temperature: 1, TopK: 40},
	{Temperature: 1, TopK: 1000},
	{Temperature: 1, TopP: 0.5},
	{Temperature: 1, TopP: 0.999999},
	{Temperature: 1, MinP: 0.05},
	{Temperature: 2, TopP: 0.9, MinP: 0.01},
	{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05},
	{Temperature: 1e-30, TopK: 5},
}

func TestAgainstFullSort(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	special := []float32{negInf, float32(math.Inf(1)), float32(math.NaN()), 0,
		float32(math.Copysign(0, -1)), math.MaxFloat32, -math.MaxFloat32, 1e-45}
	kinds := map[string]func(i int) float32{
		"normal":     func(int) float32 { return float32(r.NormFloat64() * 3) },
		"flat":       func(int) float32 { return float32(r.NormFloat64() * 0.1) },
		"ties":       func(int) float32 { return float32(r.IntN(5)) },
		"constant":   func(int) float32 { return -7 },
		"ascending":  func(i int) float32 { return float32(i) / 64 },
		"descending": func(i int) float32 { return -float32(i) / 64 },
		"wide":       func(int) float32 { return float32(r.NormFloat64() * 300) },
		"masked": func(int) float32 {
			if r.IntN(10) > 0 {
				return negInf
			}
			return float32(r.NormFloat64())
		},
		"nan": func(int) float32 {
			if r.IntN(10) > 0 {
				return float32(math.NaN())
			}
			return float32(r.NormFloat64())
		},
		"special": func(int) float32 { return special[r.IntN(len(special))] },
	}
	for name, f := range kinds {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{1, 2, 3, 7, 8, 9, 40, 41, 300, 5000} {
				logits := make([]float32, n)
				for i := range logits {
					logits[i] = f(i)
				}
				for i, p := range settings {
					p.Seed = uint64(i)
					compare(t, logits, p)
				}
			}
		})
	}
}

func FuzzAgainstFullSort(f *testing.F) {
	f.Add([]byte("\x00\x00\x80\x7f\x00\x00\x80\xff\x00\x00\xc0\x7f\x00\x00\x00\x80"), 3, float32(0.9), float32(0.1), float32(0.8), uint64(1))
	f.Add([]byte("abcdabcdabcdefghijkl"), 0, float32(0.5), float32(0), float32(1), uint64(2))
	f.Fuzz(func(t *testing.T, raw []byte, k int, topP, minP, temperature float32, seed uint64) {
		p := Params{Temperature: temperature, TopK: k, TopP: topP, MinP: minP, Seed: seed}
		if p.Validate() != nil || temperature == 0 || k > 1<<20 {
			return
		}
		logits := make([]float32, len(raw)/4)
		for i := range logits {
			logits[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		compare(t, logits, p)
	})
}
