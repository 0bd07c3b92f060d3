package sample

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// left runs steps over logits and returns the ids that remain, ascending, with
// their logits.
func left(logits []float32, steps ...Step) (ids []int32, out []float32) {
	s := &Sampler{}
	s.load(logits)
	for _, step := range steps {
		step.Apply(&s.cand)
	}
	at := map[int32]float32{}
	for i, id := range s.cand.IDs {
		at[id] = s.cand.Logits[i]
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		out = append(out, at[id])
	}
	return ids, out
}

// TestFiltersByHand: survivors of distributions whose figures can be worked out
// on paper.
func TestFiltersByHand(t *testing.T) {
	for _, c := range []struct {
		name   string
		step   Step
		logits []float32
		want   []int32
	}{
		// p = 1/2, 1/4, 1/8, 1/8: entropy 1.75 bits; surprises 1, 2, 3, 3 bits are
		// 0.75, 0.25, 1.25 and 1.25 away, so the order is 1, 0, 2, 3.
		{"typical 0.2", typical(0.2), logs(4, 2, 1, 1), []int32{1}},
		{"typical 0.3", typical(0.3), logs(4, 2, 1, 1), []int32{0, 1}},
		{"typical 0.8", typical(0.8), logs(4, 2, 1, 1), []int32{0, 1, 2}},
		{"typical 0.99", typical(0.99), logs(4, 2, 1, 1), []int32{0, 1, 2, 3}},
		{"typical, one", typical(0.5), logs(1), []int32{0}},
		{"typical, banned", typical(0.99), []float32{negInf, 1, 1}, []int32{1, 2}},
		// Logits 0, 2, 4, 6: mean 3, deviation sqrt(5) = 2.236.
		{"sigma 0.5", topNSigma(0.5), []float32{0, 2, 4, 6}, []int32{3}},
		{"sigma 1", topNSigma(1), []float32{0, 2, 4, 6}, []int32{2, 3}},
		{"sigma 2", topNSigma(2), []float32{0, 2, 4, 6}, []int32{1, 2, 3}},
		{"sigma of equals", topNSigma(1), []float32{1, 1, 1}, []int32{0, 1, 2}},
		{"sigma, banned", topNSigma(1), []float32{negInf, 2, 4}, []int32{2}},
		// p = .5, .3, .1, .1: of those at least 0.2 likely the least stays.
		{"xtc", &xtc{probability: 1, threshold: 0.2}, logs(5, 3, 1, 1), []int32{1, 2, 3}},
		{"xtc 0.1", &xtc{probability: 1, threshold: 0.09}, logs(5, 3, 1, 1), []int32{3}},
		{"xtc, one above", &xtc{probability: 1, threshold: 0.4}, logs(5, 3, 1, 1), []int32{0, 1, 2, 3}},
		{"xtc, never", &xtc{probability: 0, threshold: 0.1}, logs(5, 3, 1, 1), []int32{0, 1, 2, 3}},
	} {
		if got, _ := left(c.logits, c.step); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestDynatempByHand: equal probabilities have the largest entropy and so the
// highest temperature; one sure token the lowest.
func TestDynatempByHand(t *testing.T) {
	d := newDynatemp(Params{Temperature: 1, DynatempRange: 0.5})
	// p = 1/2, 1/4, 1/8, 1/8: 1.75 of 2 bits: temperature 0.5 + 1*0.875.
	_, got := left(logs(4, 2, 1, 1), d)
	for i, p := range []float64{4, 2, 1, 1} {
		want := math.Log(p/4) / 1.375
		if math.Abs(float64(got[i])-want) > 1e-5 {
			t.Errorf("logit %d is %v, want %v", i, got[i], want)
		}
	}
	_, got = left([]float32{2, 2, negInf}, newDynatemp(Params{Temperature: 2, DynatempRange: 2, DynatempExponent: 2}))
	if got[0] != 0 || got[1] != 0 {
		t.Errorf("equal logits become %v", got)
	}
	// No entropy at all: temperature 0, the best alone.
	if ids, _ := left([]float32{0, 200, 100}, newDynatemp(Params{Temperature: 1, DynatempRange: 1})); !slices.Equal(ids, []int32{1}) {
		t.Errorf("at temperature 0 %v are left", ids)
	}
}

// TestDRYByHand: penalties of sequences that repeat.
func TestDRYByHand(t *testing.T) {
	for _, c := range []struct {
		name   string
		p      Params
		tokens []int32
		want   map[int32]float32 // penalties
	}{
		// 1 2 3 4 . 1 2 3 _: three tokens match, 4 would go on: 0.8 * 1.75^(3-2).
		{"three", Params{DRYMultiplier: 0.8}, []int32{1, 2, 3, 4, 9, 1, 2, 3}, map[int32]float32{4: 1.4}},
		{"too short", Params{DRYMultiplier: 0.8, DRYAllowedLength: 4}, []int32{1, 2, 3, 4, 9, 1, 2, 3}, nil},
		{"just long enough", Params{DRYMultiplier: 0.8, DRYAllowedLength: 3}, []int32{1, 2, 3, 4, 9, 1, 2, 3}, map[int32]float32{4: 0.8}},
		{"longest counts", Params{DRYMultiplier: 1, DRYBase: 2}, []int32{2, 3, 4, 1, 2, 3, 4, 9, 1, 2, 3}, map[int32]float32{4: 2}},
		{"two ways", Params{DRYMultiplier: 1, DRYBase: 2}, []int32{1, 2, 5, 1, 2, 6, 1, 2}, map[int32]float32{5: 1, 6: 1}},
		{"breaker", Params{DRYMultiplier: 1, DRYBreakers: [][]int32{{1}}}, []int32{1, 2, 3, 4, 9, 1, 2, 3}, map[int32]float32{4: 1}},
		{"breaker at the end", Params{DRYMultiplier: 1, DRYBreakers: [][]int32{{3}}}, []int32{1, 2, 3, 4, 9, 1, 2, 3}, nil},
		{"breaker of two", Params{DRYMultiplier: 1, DRYBreakers: [][]int32{{1, 2}}}, []int32{1, 2, 3, 4, 9, 1, 2, 3}, nil},
		{"window", Params{DRYMultiplier: 1, DRYLastN: 4}, []int32{1, 2, 3, 4, 9, 1, 2, 3}, nil},
		{"itself", Params{DRYMultiplier: 1, DRYBase: 2}, []int32{7, 7, 7, 7}, map[int32]float32{7: 2}},
	} {
		d := newDRY(c.p)
		for _, id := range c.tokens {
			d.Accept(id)
		}
		_, got := left(make([]float32, 10), d)
		for id, l := range got {
			if math.Abs(float64(l+c.want[int32(id)])) > 1e-6 {
				t.Errorf("%s: token %d loses %v, want %v", c.name, id, -l, c.want[int32(id)])
			}
		}
	}
}

// TestDRYAgainstDefinition: the linear search finds what comparing every place
// finds.
func TestDRYAgainstDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		d := newDRY(Params{DRYMultiplier: 1, DRYBase: 1.5})
		for range r.IntN(60) {
			d.Accept(r.Int32N(3))
		}
		want := make([]float64, 3)
		s := d.tokens
		for i := 1; i < len(s); i++ { // s[i] after s[..i-1]
			n := 0
			for n < i && s[i-1-n] == s[len(s)-1-n] {
				n++
			}
			if n >= 2 {
				want[s[i]] = max(want[s[i]], math.Pow(1.5, float64(n-2)))
			}
		}
		_, got := left(make([]float32, 3), d)
		for id := range want {
			if math.Abs(float64(-got[id])-want[id]) > 1e-4*want[id] {
				t.Fatalf("%v: token %d loses %v, want %v", s, id, -got[id], want[id])
			}
		}
	}
}

// TestDRYIsLinear: texts that repeat themselves everywhere take at most two
// comparisons a token, however long they are.
func TestDRYIsLinear(t *testing.T) {
	for name, period := range map[string]int{"one token": 1, "three in turn": 3, "a period of 100": 100} {
		for _, n := range []int{1 << 10, 1 << 11, 1 << 12, 1 << 16} {
			d := newDRY(Params{DRYMultiplier: 1, DRYBreakers: [][]int32{{5, 1}}})
			for i := range n {
				d.Accept(int32(1 + i%period%7))
			}
			left(make([]float32, 10), d)
			if d.compared < n-1 || d.compared > 2*n {
				t.Errorf("%s: %d comparisons for %d tokens", name, d.compared, n)
			}
		}
	}
}

// TestMirostat1ByHand: probabilities that follow Zipf's law with exponent 2, of which the
// formula of the paper keeps a number that is worked out here from its terms.
func TestMirostat1ByHand(t *testing.T) {
	const vocab = 1000
	logits := make([]float32, vocab)
	for i := range logits {
		logits[(i*617+5)%vocab] = float32(-2 * math.Log(float64(i+1))) // in no order
	}
	s, err := New(Params{Temperature: 1, Mirostat: 1, MirostatTau: 3, MirostatEta: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	for _, mu := range []float64{6, 0, 3.5, 40} {
		s.load(logits)
		s.mirostat.mu = mu
		s.mirostat.truncate(&s.cand)
		// s = 2, e = 1: k = sqrt(2^mu / (1 - 1/N)).
		want := min(vocab, max(1, int(math.Sqrt(math.Exp2(mu)/(1-1./vocab)))))
		if got := len(s.cand.IDs); got != want {
			t.Errorf("mu %v keeps %d, want %d", mu, got, want)
		}
		if s.cand.IDs[0] != 5 {
			t.Errorf("mu %v: the most likely is %d", mu, s.cand.IDs[0])
		}
	}
	for what, logits := range map[string][]float32{
		"one":   {1},
		"equal": {2, 2, 2, 2},
		"sure":  {100, negInf, negInf},
		"huge":  {float32(math.MaxFloat32), 0, -float32(math.MaxFloat32)},
	} {
		s.Reset()
		if id, err := s.Sample(logits); err != nil || int(id) >= len(logits) || logits[id] == negInf {
			t.Errorf("%s: %d, %v", what, id, err)
		}
	}
}

// TestMirostatByHand: one step of the algorithm, and its aim in the long run.
func TestMirostatByHand(t *testing.T) {
	s, err := New(Params{Temperature: 1, Mirostat: 2, MirostatTau: 1.25, MirostatEta: 0.5, TopK: 1})
	if err != nil {
		t.Fatal(err)
	}
	// mu = 2.5: of surprises 1, 2, 3, 3 bits the first two stay, with 2/3 and 1/3.
	logits := logs(4, 2, 1, 1)
	id, err := s.Sample(logits)
	if err != nil || id > 1 {
		t.Fatalf("drew %d, %v", id, err)
	}
	s.Accept(id)
	surprise := -math.Log2([]float64{2. / 3, 1. / 3}[id])
	if want := 2.5 - 0.5*(surprise-1.25); math.Abs(s.mirostat.mu-want) > 1e-9 {
		t.Errorf("mu is %v, want %v", s.mirostat.mu, want)
	}
	s.Reset()
	if s.mirostat.mu != 2.5 {
		t.Errorf("after Reset mu is %v", s.mirostat.mu)
	}
	for version := 1; version <= 2; version++ {
		aims(t, version)
	}
}

// aims checks that the surprise of what is drawn comes to be what is asked for.
func aims(t *testing.T, version int) {
	s, _ := New(Params{Temperature: 1, Mirostat: version, MirostatTau: 3, Seed: 4})
	long, sum := benchLogits()[:5000], 0.0
	for i := range 3000 {
		id, err := s.Sample(long)
		if err != nil {
			t.Fatal(err)
		}
		if i >= 500 {
			sum += s.mirostat.surprise
		}
		s.Accept(id)
	}
	if mean := sum / 2500; math.Abs(mean-3) > 0.15 {
		t.Errorf("tokens surprise by %v bits, want about 3", mean)
	}
}

// TestXTCProbability: it acts as often as it should, and its stream is its own.
func TestXTCProbability(t *testing.T) {
	x := &xtc{probability: 0.3, threshold: 0.2}
	x.reseed(1)
	n := 0
	for range 10000 {
		if ids, _ := left(logs(5, 3, 1, 1), x); len(ids) < 4 {
			n++
		}
	}
	if n < 2800 || n > 3200 {
		t.Errorf("it acts %d times of 10000, want about 3000", n)
	}
	p := Params{Temperature: 1, Seed: 9}
	a, _ := New(p)
	p.XTCProbability, p.XTCThreshold = 1e-9, 0.1
	b, _ := New(p)
	for range 100 {
		x, _ := a.Sample(benchLogits()[:300])
		y, _ := b.Sample(benchLogits()[:300])
		if x != y {
			t.Fatal("a stage that does not act changes what is drawn")
		}
	}
}

// TestOrder: the chain is in the user's order, and what it leaves out is off.
func TestOrder(t *testing.T) {
	p := Params{Temperature: 0.5, TopK: 2, MinP: 0.1, RepeatPenalty: 1.2, TopNSigma: 1, TypicalP: 0.9, XTCProbability: 0.5, XTCThreshold: 0.1, DRYMultiplier: 1}
	own := StepFunc(func(*Candidates) {})
	types := func(p Params) (names []string) {
		for _, s := range p.chain([]Step{own}) {
			names = append(names, strings.TrimPrefix(strings.TrimPrefix(reflect.TypeOf(s).String(), "*"), "sample."))
		}
		return names
	}
	if got, want := types(p), []string{"penalties", "dry", "StepFunc", "topNSigma", "topK", "typical", "minP", "xtc", "temperature"}; !slices.Equal(got, want) {
		t.Errorf("by default %v, want %v", got, want)
	}
	p.Order, _ = ParseOrder("temperature;min-p, top_k;penalties")
	if got, want := types(p), []string{"StepFunc", "temperature", "minP", "topK", "penalties"}; !slices.Equal(got, want) {
		t.Errorf("in the user's order %v, want %v", got, want)
	}
	p.Mirostat = 2
	if got, want := types(p), []string{"StepFunc", "temperature"}; !slices.Equal(got, want) {
		t.Errorf("with mirostat %v, want %v", got, want)
	}
	if _, err := ParseOrder("top_k;nonsense;top_k"); err == nil || !strings.Contains(err.Error(), `"nonsense"`) || !strings.Contains(err.Error(), `"top_k" twice`) {
		t.Errorf("a bad order: %v", err)
	}
	// Order matters: top-k of 1 after a temperature of any kind is the same, but
	// min-p after a high temperature keeps more.
	hot := Params{Temperature: 5, MinP: 0.5, Order: []Stage{StageTemperature, StageMinP}}
	cold := Params{Temperature: 5, MinP: 0.5}
	a, _ := left(logs(8, 4, 2, 1), hot.chain(nil)...)
	b, _ := left(logs(8, 4, 2, 1), cold.chain(nil)...)
	if !slices.Equal(a, []int32{0, 1, 2, 3}) || !slices.Equal(b, []int32{0, 1}) {
		t.Errorf("min-p after temperature keeps %v, before %v", a, b)
	}
}

// TestMoreViolations: every bad setting is named.
func TestMoreViolations(t *testing.T) {
	nan := float32(math.NaN())
	err := Params{TypicalP: 2, TopNSigma: -1, XTCProbability: nan, XTCThreshold: -1, DynatempRange: -1, DynatempExponent: nan, Mirostat: 3, MirostatTau: -1, MirostatEta: nan,
		DRYMultiplier: -1, DRYBase: 0.5, DRYAllowedLength: -1, DRYLastN: -1, Order: []Stage{"x"}}.Validate()
	for _, field := range []string{"TypicalP", "TopNSigma", "XTCProbability", "XTCThreshold", "DynatempRange", "DynatempExponent", "Mirostat is 3", "MirostatTau", "MirostatEta",
		"DRYMultiplier", "DRYBase", "DRYAllowedLength", "DRYLastN", "Order"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named in %v", field, err)
		}
	}
}

// TestClonesGoOn: clones with state draw the same tokens, and the others do not
// allocate once warm.
func TestClonesGoOn(t *testing.T) {
	for name, p := range map[string]Params{
		"mirostat": {Temperature: 1, Mirostat: 2}, "xtc": {Temperature: 1, XTCProbability: 0.5, XTCThreshold: 0.01},
		"dry": {Temperature: 1, DRYMultiplier: 1}, "typical": {Temperature: 1, TypicalP: 0.5}, "sigma": {Temperature: 1, TopNSigma: 1}, "dynatemp": {Temperature: 1, DynatempRange: 0.5},
	} {
		s, err := New(p)
		if err != nil {
			t.Fatal(err)
		}
		logits := benchLogits()[:500]
		draw := func(s *Sampler) int32 {
			id, err := s.Sample(logits)
			if err != nil {
				t.Fatal(err)
			}
			s.Accept(id)
			return id
		}
		for range 50 {
			draw(s)
		}
		c := s.Clone()
		for range 50 {
			if a, b := draw(s), draw(c); a != b {
				t.Fatalf("%s: the clone draws %d, not %d", name, b, a)
			}
		}
		if n := testing.AllocsPerRun(20, func() { _, _ = s.Sample(logits) }); n > 0 {
			t.Errorf("%s: %v allocations a token", name, n)
		}
	}
}

// FuzzChain: no settings and logits make it panic, and what is drawn was there.
func FuzzChain(f *testing.F) {
	f.Add(float32(1), float32(0.5), float32(0.1), 3, 2, "dry;xtc", []byte{1, 2, 3, 255})
	f.Fuzz(func(t *testing.T, a, b, c float32, k, n int, order string, raw []byte) {
		p := Params{Temperature: a, TopK: k, TypicalP: b, XTCProbability: b, XTCThreshold: c, DynatempRange: c, TopNSigma: b, DRYMultiplier: b, DRYBase: 1 + c, DRYAllowedLength: n, Mirostat: n & 3 % 3, Seed: uint64(k)}
		p.Order, _ = ParseOrder(order)
		s, err := New(p)
		if err != nil {
			return
		}
		logits := make([]float32, len(raw))
		for i, x := range raw {
			logits[i] = []float32{negInf, float32(math.NaN()), float32(math.Inf(1)), -float32(x), float32(x) * c}[x%5]
		}
		for range 8 {
			id, err := s.Sample(logits)
			if err != nil {
				return
			}
			if id < 0 || int(id) >= len(logits) || !(logits[id] > negInf) {
				t.Fatalf("drew %d of %v with %+v", id, logits, p)
			}
			s.Accept(id)
		}
	})
}
