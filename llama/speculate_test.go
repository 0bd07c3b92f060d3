package llama

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/sample"
)

// drafterFunc makes a Drafter of a function.
type drafterFunc func(ctx context.Context, dst, ids []int32, n int) ([]int32, error)

func (f drafterFunc) Draft(ctx context.Context, dst, ids []int32, n int) ([]int32, error) {
	return f(ctx, dst, ids, n)
}

// knowing guesses from a text, with every fifth token wrong.
func knowing(text []int32) Drafter {
	return drafterFunc(func(_ context.Context, dst, ids []int32, n int) ([]int32, error) {
		for i := len(ids); i < min(len(text), len(ids)+n); i++ {
			id := text[i]
			if i%5 == 0 {
				id ^= 1
			}
			dst = append(dst, id)
		}
		return dst, nil
	})
}

// ticking is a clock on which every step takes a millisecond.
func ticking() func() time.Time {
	at := time.Time{}
	return func() time.Time {
		at = at.Add(time.Millisecond)
		return at
	}
}

// counted is a sampling step with a state: it favours a token more the more were accepted.
type counted struct{ n int32 }

func (c *counted) Accept(int32) { c.n++ }

func (c *counted) Apply(x *sample.Candidates) {
	if i := x.Index(c.n % 300); i >= 0 {
		x.Logits[i] += 2
	}
}

// told is all that a generation tells.
type told struct {
	tokens  []Token
	lengths []int // of the session, at each token
	ids     []int32
	after   []float32 // logits of the session afterwards
	usage   Usage
}

// tell runs a generation, which ends after so many tokens, if not before.
func tell(t *testing.T, m *Model, positions int, prompt []int32, o GenerateOptions, most int) (r told) {
	t.Helper()
	s, err := m.NewSession(SessionOptions{Context: positions})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for tok, err := range s.GenerateIDs(t.Context(), prompt, o) {
		if err != nil {
			t.Fatal(err)
		}
		r.tokens, r.lengths = append(r.tokens, tok), append(r.lengths, s.Len())
		if len(r.tokens) == most {
			break
		}
	}
	r.ids, r.usage = s.IDs(), s.Usage()
	if len(r.ids) != len(s.ids) || len(s.pages) != ceilDiv(len(s.ids), backend.PageLen) || len(s.names) > len(s.ids)/backend.PageLen {
		t.Errorf("%d positions in %d pages with %d names", len(s.ids), len(s.pages), len(s.names))
	}
	for i, name := range s.names {
		if name != s.name(i, s.ids) {
			t.Errorf("page %d has the name of another text", i)
		}
	}
	if r.after, err = s.Logits(t.Context(), append(r.ids[:min(len(r.ids), positions-1)], 7)); err != nil {
		t.Fatal(err)
	}
	return r
}

// lastNew is the token that comes up first after all others have.
func lastNew(tokens []Token) (ids []int32) {
	seen := map[int32]bool{}
	for _, tok := range tokens {
		if !seen[tok.ID] {
			ids = []int32{tok.ID}
		}
		seen[tok.ID] = true
	}
	return ids
}

// TestSpeculationExact: with guesses of every kind a generation is what it is without: its
// tokens, their log-probabilities and its end, however tokens are drawn, and at each token
// and at the end the session holds the same positions with the same bits.
func TestSpeculationExact(t *testing.T) {
	repeated := slices.Repeat(randomTokens(1, 12), 3)
	types, files := []backend.DType{backend.Q8_0, backend.BF16, backend.F32, backend.Q4_K}, golden.Glob(t, "models/*/model.gguf")
	if testing.Short() || cpu.Default().Describe().Variant == "generic" { // which takes a hundred times as long
		types, files = types[:2], files[:1]
	}
	for _, typ := range types {
		t.Run(typ.String(), func(t *testing.T) {
			speculationExact(t, randomModel(t, typ, Options{}), randomModel(t, backend.Q5_0, Options{}), repeated)
		})
	}
	for _, path := range files {
		t.Run(golden.Name(path), func(t *testing.T) {
			m, err := Open(t.Context(), path, Options{Context: 4096})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			speculationExact(t, m, m, slices.Repeat(randomTokens(2, 9), 3))
		})
	}
}

// exactOptions are settings of generations, by name.
func exactOptions() map[string]GenerateOptions {
	return map[string]GenerateOptions{
		"greedy":    {},
		"drawn":     {Sampling: sample.Params{Temperature: 1, Seed: 1}},
		"filters":   {Sampling: sample.Params{Temperature: 0.7, TopK: 20, TopP: 0.9, MinP: 0.01, TypicalP: 0.95, XTCProbability: 0.3, XTCThreshold: 0.05, Seed: 2}},
		"penalties": {Sampling: sample.Params{Temperature: 0.3, RepeatPenalty: 1.3, FrequencyPenalty: 0.2, PenaltyLastN: 7, DRYMultiplier: 0.8, Seed: 3}},
		"mirostat":  {Sampling: sample.Params{Temperature: 0.8, Mirostat: 2, Seed: 4}},
		"mirostat1": {Sampling: sample.Params{Temperature: 0.8, Mirostat: 1, Seed: 5}},
		"logprobs":  {Logprobs: true, TopLogprobs: 3},
		"length":    {MaxTokens: 13},
		"shift":     {ContextShift: true, Keep: 5, MaxTokens: 200},
		"shift all": {ContextShift: true, Keep: -1, MaxTokens: 100},
	}
}

// speculationExact compares generations with all kinds of guesses with those without.
func speculationExact(t *testing.T, m, other *Model, prompt []int32) {
	positions := len(prompt) + 100
	for name, o := range exactOptions() {
		o.IgnoreEOS = true
		step := func() []sample.Step {
			if name == "drawn" || name == "greedy" {
				return []sample.Step{&counted{}}
			}
			return nil
		}
		plain := o
		plain.Steps = step()
		most := []int{0, 25}[len(name)%2] // a break just before the end of a page
		want := tell(t, m, positions, prompt, plain, most)
		text := slices.Clone(prompt)
		for _, tok := range want.tokens {
			text = append(text, tok.ID)
		}
		if name == "drawn" || name == "greedy" { // ended by a token, in the midst of guesses
			o.StopTokens = lastNew(want.tokens)
			plain.StopTokens, plain.Steps = o.StopTokens, step()
			want = tell(t, m, positions, prompt, plain, most)
		}
		drafted, accepted := 0, 0
		for guess, spec := range map[string]Speculation{
			"lookup": {Lookup: true}, "itself": {Model: m, Max: 5}, "other": {Model: other, Max: 3}, "one": {Drafter: knowing(text), Max: 1},
			"most":   {Drafter: knowing(text), Max: 64},
			"both":   {Lookup: true, Model: m},
			"beyond": {Drafter: drafterFunc(func(_ context.Context, dst, ids []int32, n int) ([]int32, error) { return append(dst, text...), nil })},
		} {
			spec.now = ticking()
			o.Speculation, o.Steps = spec, step()
			got := tell(t, m, positions, prompt, o, most)
			for i := range got.tokens {
				if i >= len(want.tokens) || !reflect.DeepEqual(got.tokens[i], want.tokens[i]) {
					t.Fatalf("%s, %s: token %d is %+v, want %+v", name, guess, i, got.tokens[i], want.tokens[min(i, len(want.tokens)-1)])
				}
			}
			if len(got.tokens) != len(want.tokens) || !slices.Equal(got.lengths, want.lengths) || !slices.Equal(got.ids, want.ids) {
				t.Errorf("%s, %s: %d tokens, session %v of %v, want %d, %v of %v", name, guess, len(got.tokens), got.lengths, got.ids, len(want.tokens), want.lengths, want.ids)
			}
			if !slices.Equal(got.after, want.after) {
				t.Errorf("%s, %s: other logits afterwards", name, guess)
			}
			u, w := got.usage, want.usage
			if u.DecodeTokens != w.DecodeTokens || u.PrefillTokens != w.PrefillTokens || u.Shifts != w.Shifts || u.AcceptedTokens > u.DraftedTokens {
				t.Errorf("%s, %s: usage %+v, want %+v", name, guess, u, w)
			}
			drafted, accepted = drafted+u.DraftedTokens, accepted+u.AcceptedTokens
		}
		if accepted == 0 || accepted == drafted {
			t.Errorf("%s: %d of %d guesses were right: nothing is tested", name, accepted, drafted)
		}
	}
}

// TestSpeculationRows: each of several rows at the end of a text has the logits, and the
// state, of a step of its own, bit for bit.
func TestSpeculationRows(t *testing.T) {
	const rows, held = 20, 60 // across the end of a page
	for _, typ := range backend.DTypes() {
		if _, known := scaleOffsets[typ]; !known && !typ.Float() {
			continue // no random weights
		}
		if testing.Short() && typ.Float() {
			continue
		}
		for _, precision := range []Precision{PrecisionAuto, PrecisionF32} {
			m := randomModel(t, typ, Options{Precision: precision})
			ids := randomTokens(3, held+rows)
			vocab, dim := m.config.Vocab, m.config.Dim
			extend := func(n int) (logits, states []float32) {
				s := newSession(t, m, SessionOptions{})
				defer s.Close()
				if err := s.extend(t.Context(), ids[:held], wish{}); err != nil {
					t.Fatal(err)
				}
				logits, states = make([]float32, rows*vocab), make([]float32, rows*dim)
				for at := 0; at < rows; at += n {
					w := wish{Results: backend.Results{Kind: backend.ResultLogits, Last: n}, width: vocab, out: logits[at*vocab:][:n*vocab], states: states[at*dim:][:n*dim]}
					if err := s.extend(t.Context(), ids[held+at:][:n], w); err != nil {
						t.Fatal(err)
					}
				}
				return logits, states
			}
			logits, states := extend(1)
			for _, n := range []int{2, 5, rows} {
				if l, s := extend(n); !slices.Equal(l, logits) || !slices.Equal(s, states) {
					t.Errorf("%v, %v: %d rows a step give other bits than one", typ, precision, n)
				}
			}
			m.Close()
		}
	}
}

// TestSpeculationDistribution: pairs of tokens that follow a prompt are drawn as often as
// the model's probabilities say, whatever is guessed. The chi-squared statistic of pairs
// drawn in the ratio of another temperature is far above the bound.
func TestSpeculationDistribution(t *testing.T) {
	const vocab, draws, temperature = 6, 3000, 1.5
	shape := Config{Layers: 1, Dim: 32, Heads: 2, KVHeads: 2, HeadDim: 16, HiddenDim: 48, Vocab: vocab, Context: 64, NormEps: 1e-5, RopeTheta: 10000}
	var models [2]*Model
	for i := range models {
		m, err := New(t.Context(), shape, nil, Init{Std: 0.25, Seed: uint64(i + 1)}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		models[i] = m
	}
	prompt := []int32{1, 2, 3, 1, 2}
	s := newSession(t, models[0], SessionOptions{})
	// pairs adds up the probabilities of the last two of four tokens.
	var pairs func(text []int32, likely, temperature float64, p *[vocab * vocab]float64)
	pairs = func(text []int32, likely, temperature float64, p *[vocab * vocab]float64) {
		if n := len(text); n == len(prompt)+4 {
			p[text[n-2]*vocab+text[n-1]] += likely
			return
		}
		logits, err := s.Logits(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for _, l := range logits {
			sum += math.Exp(float64(l) / temperature)
		}
		for id, l := range logits {
			pairs(append(slices.Clone(text), int32(id)), likely*math.Exp(float64(l)/temperature)/sum, temperature, p)
		}
	}
	var want, other [vocab * vocab]float64
	pairs(prompt, 1, temperature, &want)
	pairs(prompt, 1, 1.3*temperature, &other)
	distance := func(seen [vocab * vocab]float64) (x float64) {
		for i, p := range want {
			if p*draws < 5 {
				t.Fatalf("pair %d is drawn %.1f times: too few for the statistic", i, p*draws)
			}
			x += (seen[i] - p*draws) * (seen[i] - p*draws) / (p * draws)
		}
		return x
	}
	const bound = 75 // 35 degrees of freedom: above it once in 10,000 times
	for name, spec := range map[string]Speculation{
		"lookup": {Lookup: true}, "model": {Model: models[1]}, "itself": {Model: models[0]},
	} {
		var seen [vocab * vocab]float64
		before := s.Usage()
		for seed := range uint64(draws) {
			spec.now = ticking()
			o := GenerateOptions{MaxTokens: 6, Sampling: sample.Params{Temperature: temperature, Seed: seed}, Speculation: spec}
			var ids []int32
			for tok, err := range s.GenerateIDs(t.Context(), prompt, o) {
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, tok.ID)
			}
			seen[ids[2]*vocab+ids[3]]++ // the first of the tokens that may be guessed
		}
		accepted := s.Usage().AcceptedTokens - before.AcceptedTokens
		if x := distance(seen); x > bound || accepted < draws/10 {
			t.Errorf("%s: chi-squared %.1f, want at most %d; %d guesses were right", name, x, bound, accepted)
		}
	}
	for i := range other {
		other[i] *= draws
	}
	if x := distance(other); x < 2*bound {
		t.Errorf("another temperature has chi-squared %.1f: the test sees nothing", x)
	}
}

// TestSpeculationBadInput: what cannot work is an error that says so, and leaves the
// session usable.
func TestSpeculationBadInput(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{})
	c := m.Config()
	c.Vocab = 300
	small, err := NewRandom(t.Context(), c, backend.Q8_0, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	closed := randomModel(t, backend.Q8_0, Options{})
	closed.Close()
	closing := randomModel(t, backend.Q4_0, Options{})
	fails := errors.New("out of guesses")
	prompt := slices.Repeat(randomTokens(1, 5), 3)
	for name, c := range map[string]struct {
		spec Speculation
		is   error
		says string
		then func(n int) // after each token
	}{
		"negative":   {spec: Speculation{Lookup: true, Max: -1}, says: "Speculation.Max is -1, want 0 to 64"},
		"too long":   {spec: Speculation{Max: 65}, says: "Speculation.Max is 65"},
		"vocabulary": {spec: Speculation{Model: small}, says: "another vocabulary: 300 tokens, want 320"},
		"closed":     {spec: Speculation{Model: closed}, is: ErrClosed, says: "the draft model"},
		"closing":    {spec: Speculation{Model: closing}, is: ErrClosed, says: "the draft model", then: func(n int) { closing.Close() }},
		"outside": {spec: Speculation{Drafter: drafterFunc(func(_ context.Context, dst, _ []int32, _ int) ([]int32, error) {
			return append(dst, 3, 320), nil
		})}, says: "is the token 320, outside the vocabulary of 320"},
		"error": {spec: Speculation{Drafter: drafterFunc(func(_ context.Context, dst, _ []int32, _ int) ([]int32, error) {
			return append(dst, 3), fails
		})}, is: fails},
	} {
		s := newSession(t, m, SessionOptions{})
		c.spec.now = ticking()
		var failed error
		n := 0
		for _, err := range s.GenerateIDs(t.Context(), prompt, GenerateOptions{MaxTokens: 30, IgnoreEOS: true, Speculation: c.spec}) {
			if failed = err; err != nil {
				break
			}
			if n++; c.then != nil {
				c.then(n)
			}
		}
		if failed == nil || !errors.Is(failed, c.is) && c.is != nil || !strings.Contains(failed.Error(), c.says) {
			t.Errorf("%s: %v after %d tokens", name, failed, n)
		}
		if _, err := s.Logits(t.Context(), prompt); err != nil {
			t.Errorf("%s: the session is not usable afterwards: %v", name, err)
		}
	}
}

// TestSpeculationVocabularies: models of the same size with other tokens are refused, with
// the first that differs.
func TestSpeculationVocabularies(t *testing.T) {
	path := golden.Glob(t, "models/*/model.gguf")[0]
	open := func() *Model {
		m, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	a, b := open(), open()
	if err := sameVocabulary(a, b); err != nil {
		t.Error(err)
	}
	for _, other := range golden.Glob(t, "models/*/model.gguf") {
		m, err := Open(t.Context(), other, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		first := int32(-1)
		for id := int32(m.tok.VocabSize()) - 1; id >= 0; id-- {
			if string(m.tok.TokenBytes(id)) != string(a.tok.TokenBytes(id)) {
				first = id
			}
		}
		err = sameVocabulary(a, m)
		switch {
		case m.config.Vocab != a.config.Vocab:
			if err == nil || !strings.Contains(err.Error(), fmt.Sprint(m.config.Vocab)) {
				t.Errorf("%s: %v", golden.Name(other), err)
			}
		case (first < 0) != (err == nil), err != nil && !strings.Contains(err.Error(), fmt.Sprintf("the first is %d, %q", first, m.tok.TokenBytes(first))):
			t.Errorf("%s: first other token %d, got %v", golden.Name(other), first, err)
		}
	}
}

// TestSpeculationPanic: a panic of the caller's drafter is the caller's, and what the
// drafter asks the session is answered.
func TestSpeculationPanic(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{})
	s := newSession(t, m, SessionOptions{})
	d := drafterFunc(func(_ context.Context, dst, ids []int32, _ int) ([]int32, error) {
		if s.Len() != len(ids)-1 {
			t.Errorf("the session holds %d tokens before the last of %d", s.Len(), len(ids))
		}
		if len(ids) > 12 {
			panic("no idea")
		}
		return append(dst, 5, 6), nil
	})
	func() {
		defer func() {
			if p := recover(); p != "no idea" {
				t.Errorf("recovered %v", p)
			}
		}()
		for _, err := range s.GenerateIDs(t.Context(), randomTokens(1, 8), GenerateOptions{IgnoreEOS: true, Speculation: Speculation{Drafter: d, now: ticking()}}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Error("no panic")
	}()
	if _, err := s.Logits(t.Context(), randomTokens(1, 9)); err != nil {
		t.Error("the session is not usable afterwards:", err)
	}
}

// TestSpeculationEnds: a generation whose tokens are all guessed ends with its context,
// with the model and the session, and with the weights' version, as without guesses.
func TestSpeculationEnds(t *testing.T) {
	prompt := randomTokens(1, 8)
	for name, c := range map[string]struct {
		end  func(m *Model, s *Session, cancel context.CancelCauseFunc)
		want error
	}{
		"cancelled": {func(_ *Model, _ *Session, cancel context.CancelCauseFunc) { cancel(io.EOF) }, io.EOF},
		"session":   {func(_ *Model, s *Session, _ context.CancelCauseFunc) { s.Close() }, ErrClosed},
		"model":     {func(m *Model, _ *Session, _ context.CancelCauseFunc) { m.Close() }, ErrClosed},
		"weights":   {func(m *Model, _ *Session, _ context.CancelCauseFunc) { m.version.Add(1) }, ErrStale},
	} {
		for last := 20; last < 27; last++ { // after a guess and after a step
			m := randomModel(t, backend.Q8_0, Options{})
			s := newSession(t, m, SessionOptions{})
			ctx, cancel := context.WithCancelCause(t.Context())
			n := 0
			for _, err := range s.GenerateIDs(ctx, prompt, GenerateOptions{IgnoreEOS: true, Speculation: Speculation{Model: m, now: ticking()}}) {
				if err != nil {
					if !errors.Is(err, c.want) || n != last {
						t.Errorf("%s: %v after %d tokens", name, err, n)
					}
					break
				}
				if n++; n == last {
					if a := s.Usage().AcceptedTokens; a < n/8 {
						t.Fatalf("%s: %d of %d guesses are right", name, a, n)
					}
					c.end(m, s, cancel)
				}
				if n > last {
					t.Fatalf("%s: goes on", name)
				}
			}
			cancel(nil)
			s.Close()
		}
	}
}

// TestLookupAllocatesNothing: tokens that are looked up allocate no more than others.
func TestLookupAllocatesNothing(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{Context: 1024})
	s := newSession(t, m, SessionOptions{})
	prompt := slices.Repeat(randomTokens(1, 10), 5)
	rng := rand.New(rand.NewPCG(1, 2))
	measure := func(tokens int, guess Speculation) float64 {
		return testing.AllocsPerRun(3, func() {
			if err := s.Truncate(0); err != nil {
				t.Fatal(err)
			}
			at := 0
			copies := sample.StepFunc(func(c *sample.Candidates) { // most of the prompt again
				if at++; rng.IntN(10) > 0 {
					c.Logits[c.Index(prompt[at%len(prompt)])] = 100
				}
			})
			o := GenerateOptions{MaxTokens: tokens, IgnoreEOS: true, Steps: []sample.Step{copies}, Speculation: guess}
			for _, err := range s.GenerateIDs(t.Context(), prompt, o) {
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	perToken := func(guess Speculation) float64 { return (measure(700, guess) - measure(100, guess)) / 600 }
	plain := perToken(Speculation{})
	before := s.Usage()
	if n := perToken(Speculation{Lookup: true, now: ticking()}); n > plain+0.5 { // one a step is more; the race detector adds some
		t.Errorf("%.2f allocations a token, without guesses %.2f", n, plain)
	}
	if u := s.Usage(); u.AcceptedTokens < (u.DecodeTokens-before.DecodeTokens)/5 {
		t.Errorf("%d of %d tokens were guessed", u.AcceptedTokens, u.DecodeTokens)
	}
}

// TestSpeculationTogether: generations with guesses that run at once on one model, whose
// rows share steps, say what each says alone without guesses.
func TestSpeculationTogether(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{})
	var wait sync.WaitGroup
	for i := range 6 {
		prompt := slices.Repeat(randomTokens(uint64(i), 10), 3)
		o := GenerateOptions{IgnoreEOS: true, MaxTokens: 60, Sampling: sample.Params{Temperature: 0.8, Seed: uint64(i)}, Logprobs: i%2 == 0}
		want := tell(t, m, 200, prompt, o, 0)
		o.Speculation = []Speculation{{Lookup: true}, {Model: m, Lookup: true}, {Model: m}}[i%3]
		wait.Go(func() {
			if got := tell(t, m, 200, prompt, o, 0); !reflect.DeepEqual(got.tokens, want.tokens) || !slices.Equal(got.after, want.after) {
				t.Errorf("generation %d: other tokens or logits than alone", i)
			}
		})
	}
	wait.Wait()
}
