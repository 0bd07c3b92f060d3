package llama_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
)

// tiny returns the first golden model as a GGUF file, with a random prompt of
// n ids.
func tiny(t testing.TB, n int) (path string, ids []int32) {
	t.Helper()
	path = golden.Glob(t, "models/*/model.gguf")[0]
	m, err := llama.ReadInfo(context.Background(), path, llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return path, randomIDs(m.Config, n)
}

// randomIDs makes n ids, the same at each call.
func randomIDs(c llama.Config, n int) (ids []int32) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range n {
		ids = append(ids, rng.Int32N(int32(c.Vocab)))
	}
	return ids
}

func collect(t testing.TB, s *llama.Session, ids []int32, o llama.GenerateOptions) []int32 {
	t.Helper()
	var out []int32
	for tok, err := range s.GenerateIDs(context.Background(), ids, o) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tok.ID)
	}
	return out
}

// TestChunkingInvariance: logits after a prompt are the same however it is cut
// into steps, and whether it was computed before.
func TestChunkingInvariance(t *testing.T) {
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		t.Run(golden.Name(path), func(t *testing.T) {
			info, err := llama.ReadInfo(context.Background(), path, llama.Options{})
			if err != nil {
				t.Fatal(err)
			}
			ids := randomIDs(info.Config, 150)
			var want []float32
			for _, rows := range []int{512, 1, 7, 64, 65} {
				s := session(t, open(t, path, llama.Options{BatchRows: rows}))
				got, err := s.Logits(context.Background(), ids)
				if err != nil {
					t.Fatal(err)
				}
				if want == nil {
					want = got
				}
				if worst, at := golden.MaxRelative(got, want); worst > golden.IncrementalLogits {
					t.Errorf("steps of %d rows: token %d differs by %.3g", rows, at, worst)
				}
				// the same bits from a cache that holds more, less and other tokens
				if _, err := s.Logits(context.Background(), append(slices.Clone(ids[:100]), ids...)); err != nil {
					t.Fatal(err)
				}
				again, err := s.Logits(context.Background(), ids)
				if err != nil {
					t.Fatal(err)
				}
				if worst, at := golden.MaxRelative(again, want); worst > golden.IncrementalLogits {
					t.Errorf("steps of %d rows, cached: token %d differs by %.3g", rows, at, worst)
				}
			}
		})
	}
}

// TestWorkerInvariance: the same bits from one worker and from many.
func TestWorkerInvariance(t *testing.T) {
	path, ids := tiny(t, 90)
	var want []float32
	for _, workers := range []int{1, 2, 5} {
		b, err := cpu.New(cpu.Options{Workers: workers})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		got := scoreAll(t, session(t, open(t, path, llama.Options{Backend: b})), ids)
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d workers give other bits than 1", workers)
		}
	}
}

func TestPrefixReuse(t *testing.T) {
	path, ids := tiny(t, 200)
	s := session(t, open(t, path, llama.Options{}))
	steps := []struct {
		name            string
		prompt          []int32
		reused, prefill int
	}{
		{"new", ids[:100], 0, 100},
		{"longer", ids[:150], 100, 50},
		{"same", ids[:150], 149, 1},
		{"shorter", ids[:80], 79, 1},
		{"other end", append(slices.Clone(ids[:70]), ids[100:130]...), 70, 30},
		{"all other", ids[150:180], 0, 30},
	}
	for _, st := range steps {
		before := s.Usage()
		got, err := s.Logits(context.Background(), st.prompt)
		if err != nil {
			t.Fatal(st.name, err)
		}
		u := s.Usage()
		if r, p := u.ReusedTokens-before.ReusedTokens, u.PrefillTokens-before.PrefillTokens; r != st.reused || p != st.prefill {
			t.Errorf("%s: reused %d, computed %d rows; want %d and %d", st.name, r, p, st.reused, st.prefill)
		}
		want, err := session(t, open(t, path, llama.Options{})).Logits(context.Background(), st.prompt)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: other logits than a fresh session", st.name)
		}
	}
}

func TestTruncateAndFork(t *testing.T) {
	path, ids := tiny(t, 100)
	m := open(t, path, llama.Options{})
	s := session(t, m)
	o := llama.GenerateOptions{MaxTokens: 80, IgnoreEOS: true}
	want := collect(t, session(t, m), ids, o)
	other := append(slices.Clone(ids[:70]), 1, 2, 3)
	wantOther := collect(t, session(t, m), other, o)
	if _, err := s.Logits(context.Background(), ids); err != nil {
		t.Fatal(err)
	}
	f, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Len() != 100 {
		t.Fatalf("the fork holds %d positions", f.Len())
	}
	if err := f.Truncate(70); err != nil {
		t.Fatal(err)
	}
	// Both write into the page they share (64..127), interleaved.
	var a, b []int32
	next := func(dst *[]int32, s *llama.Session, prompt []int32) {
		for tok, err := range s.GenerateIDs(context.Background(), append(slices.Clone(prompt), *dst...), llama.GenerateOptions{MaxTokens: 1, IgnoreEOS: true}) {
			if err != nil {
				t.Fatal(err)
			}
			*dst = append(*dst, tok.ID)
		}
	}
	for range 80 {
		next(&a, s, ids)
		next(&b, f, other)
	}
	if !slices.Equal(a, want) || !slices.Equal(b, wantOther) {
		t.Error("sessions that share pages disturb each other")
	}
	if u := f.Usage(); u.PrefillTokens > 3+80 {
		t.Errorf("the fork computed %d rows", u.PrefillTokens)
	}
	for _, n := range []int{-1, 1 << 20} {
		if err := s.Truncate(n); err == nil {
			t.Errorf("Truncate(%d) succeeds", n)
		}
	}
}

func TestBusyAndClose(t *testing.T) {
	path, ids := tiny(t, 20)
	m := open(t, path, llama.Options{})
	s := session(t, m)
	n := 0
	for _, err := range s.GenerateIDs(context.Background(), ids, llama.GenerateOptions{IgnoreEOS: true}) {
		n++
		switch n {
		case 1:
			if _, err := s.Logits(context.Background(), ids); !errors.Is(err, llama.ErrBusy) {
				t.Errorf("a second call gets %v", err)
			}
		case 2:
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		case 3:
			if !errors.Is(err, llama.ErrClosed) {
				t.Errorf("after Close in the loop: %v", err)
			}
		default:
			t.Fatal("goes on after Close")
		}
	}
	if n != 3 {
		t.Errorf("%d tokens", n)
	}
	if err := s.Close(); err != nil {
		t.Error("second Close:", err)
	}
	if _, err := s.Logits(context.Background(), ids); !errors.Is(err, llama.ErrClosed) {
		t.Error("a closed session answers", err)
	}
	// Closing the model ends generations of other goroutines.
	var wg sync.WaitGroup
	errs := make([]error, 8)
	started := make(chan struct{}, len(errs))
	for i := range errs {
		wg.Go(func() {
			s, err := m.NewSession(llama.SessionOptions{})
			if err != nil {
				errs[i] = err
				return
			}
			defer s.Close()
			for {
				for _, err := range s.GenerateIDs(context.Background(), ids, llama.GenerateOptions{IgnoreEOS: true}) {
					select {
					case started <- struct{}{}:
					default:
					}
					if err != nil {
						errs[i] = err
						return
					}
				}
			}
		})
	}
	<-started
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for i, err := range errs {
		if !errors.Is(err, llama.ErrClosed) {
			t.Errorf("generation %d ends with %v", i, err)
		}
	}
	if err := m.Close(); err != nil {
		t.Error("second Close:", err)
	}
	if _, err := m.NewSession(llama.SessionOptions{}); !errors.Is(err, llama.ErrClosed) {
		t.Error("a closed model gives a session:", err)
	}
}

func TestCancel(t *testing.T) {
	path, ids := tiny(t, 2000)
	m := open(t, path, llama.Options{BatchRows: 64})
	s, err := m.NewSession(llama.SessionOptions{Context: 4000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Logits(context.Background(), ids[:10]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(3*time.Millisecond, cancel)
	_, err = s.Logits(ctx, ids)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled prefill: %v", err)
	}
	if n := s.Len(); n < 9 || n >= 2000 || n != 10 && n%64 != 10 && n%64 != 9 {
		t.Errorf("%d positions are held after a cancelled prefill", n)
	}
	got, err := s.Logits(context.Background(), ids[:300])
	if err != nil {
		t.Fatal(err)
	}
	want, err := session(t, m).Logits(context.Background(), ids[:300])
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Error("a cancelled prefill leaves its marks")
	}
	// Cancelled while generating: one error, last.
	ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	n, last := 0, error(nil)
	for _, err := range s.GenerateIDs(ctx, ids[:20], llama.GenerateOptions{IgnoreEOS: true}) {
		if last != nil {
			t.Fatal("goes on after an error")
		}
		if n++; n == 5 {
			cancel()
		}
		last = err
	}
	if !errors.Is(last, context.Canceled) || n != 6 || s.Len() != 24 {
		t.Errorf("%d tokens, then %v; %d positions are held", n, last, s.Len())
	}
}

func TestContextFull(t *testing.T) {
	path, ids := tiny(t, 40)
	m := open(t, path, llama.Options{})
	s, err := m.NewSession(llama.SessionOptions{Context: 32})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Logits(context.Background(), ids); !errors.Is(err, llama.ErrContextFull) {
		t.Errorf("a prompt of 40 in 32 positions: %v", err)
	}
	var finish llama.Finish
	n := 0
	for tok, err := range s.GenerateIDs(context.Background(), ids[:30], llama.GenerateOptions{IgnoreEOS: true}) {
		if err != nil {
			t.Fatal(err)
		}
		n, finish = n+1, tok.Finish
	}
	if n != 3 || finish != llama.FinishContext { // positions 30 and 31, and one that is not fed back
		t.Errorf("%d tokens, finish %q", n, finish)
	}
}

func TestGenerateOptions(t *testing.T) {
	path, ids := tiny(t, 10)
	m := open(t, path, llama.Options{})
	s := session(t, m)
	free := collect(t, s, ids, llama.GenerateOptions{MaxTokens: 30, IgnoreEOS: true})
	stopAt := free[7]
	got := collect(t, s, ids, llama.GenerateOptions{MaxTokens: 30, IgnoreEOS: true, StopTokens: []int32{stopAt}})
	if want := free[:slices.Index(free, stopAt)+1]; !slices.Equal(got, want) {
		t.Errorf("with a stop token %v, want %v", got, want)
	}
	var text string
	for _, id := range free {
		text += string(m.Tokenizer().TokenBytes(id))
	}
	for tok, err := range s.GenerateIDs(context.Background(), ids, llama.GenerateOptions{MaxTokens: 3, IgnoreEOS: true, TopLogprobs: 4}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(tok.Top) != 4 || tok.Top[0].ID != tok.ID || tok.Top[0].Logprob != tok.Logprob || tok.Logprob > 0 {
			t.Errorf("log-probabilities of a greedy token: %+v", tok)
		}
	}
	banned := free[0]
	mask := sample.Mask(func(id int32) bool { return id != banned })
	if got := collect(t, s, ids, llama.GenerateOptions{MaxTokens: 5, IgnoreEOS: true, Steps: []sample.Step{mask}}); slices.Contains(got, banned) {
		t.Errorf("a masked token appears: %v", got)
	}
	drawn := llama.GenerateOptions{MaxTokens: 20, IgnoreEOS: true, Sampling: sample.Params{Temperature: 1, Seed: 7}}
	a, b := collect(t, s, ids, drawn), collect(t, s, ids, drawn)
	drawn.Sampling.Seed = 8
	if c := collect(t, s, ids, drawn); !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Error("a seed gives one text, another seed another")
	}
	bad := llama.GenerateOptions{MaxTokens: -1, TopLogprobs: -2, Stop: []string{""}, Sampling: sample.Params{TopK: -3}}
	for _, err := range s.GenerateIDs(context.Background(), ids, bad) {
		for _, part := range []string{"MaxTokens", "TopLogprobs", "Stop[0]", "TopK"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("violations %v lack %s", err, part)
			}
		}
	}
	seq := s.GenerateIDs(context.Background(), ids, llama.GenerateOptions{MaxTokens: 1})
	for range seq {
	}
	for _, err := range seq {
		if err == nil {
			t.Error("a sequence can be ranged over twice")
		}
	}
	for _, bad := range [][]int32{{}, {-1}, {int32(m.Config().Vocab)}} {
		if _, err := s.Logits(context.Background(), bad); err == nil {
			t.Errorf("ids %v are taken", bad)
		}
	}
}

// TestManySessions: two hundred sessions at once give what each gives alone.
func TestManySessions(t *testing.T) {
	path, ids := tiny(t, 230)
	m := open(t, path, llama.Options{})
	o := llama.GenerateOptions{MaxTokens: 6, IgnoreEOS: true, Sampling: sample.Params{Temperature: 0.7, Seed: 3}}
	var wg sync.WaitGroup
	got := make([][]int32, 200)
	for i := range got {
		wg.Go(func() {
			s, err := m.NewSession(llama.SessionOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			got[i] = collect(t, s, ids[i:i+10+i%20], o)
		})
	}
	wg.Wait()
	alone := session(t, m)
	for i := range got {
		if want := collect(t, alone, ids[i:i+10+i%20], o); !slices.Equal(got[i], want) {
			t.Errorf("session %d: %v, alone %v", i, got[i], want)
		}
	}
}

func TestEmbed(t *testing.T) {
	path, _ := tiny(t, 0)
	m := open(t, path, llama.Options{})
	s := session(t, m)
	norm := func(o llama.EmbedOptions) (v []float32, square float64) {
		v, err := s.Embed(context.Background(), "a text of some words", o)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range v {
			square += float64(x) * float64(x)
		}
		return v, square
	}
	mean, one := norm(llama.EmbedOptions{})
	if len(mean) != m.Config().Dim || one < 0.9999 || one > 1.0001 {
		t.Errorf("%d values of square length %v", len(mean), one)
	}
	last, _ := norm(llama.EmbedOptions{Pooling: llama.PoolLast})
	if slices.Equal(mean, last) {
		t.Error("mean and last token give the same vector")
	}
	if got := collect(t, s, []int32{1, 2, 3}, llama.GenerateOptions{MaxTokens: 3, IgnoreEOS: true}); len(got) != 3 {
		t.Error("the session is not usable after Embed")
	}
}

// TestPanicBecomesError: a failing kernel is an error of the call.
func TestPanicBecomesError(t *testing.T) {
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	path, ids := tiny(t, 5)
	faulty := &faultyBackend{Backend: b}
	m := open(t, path, llama.Options{Backend: faulty})
	s := session(t, m)
	faulty.fail.Store(true)
	if _, err := s.Logits(context.Background(), ids); err == nil || !strings.Contains(err.Error(), "made to fail") {
		t.Fatalf("got %v", err)
	}
	faulty.fail.Store(false)
	if _, err := s.Logits(context.Background(), ids); err != nil {
		t.Fatal("the session is not usable after a fault:", err)
	}
}

// TestDecodeAllocatesNothing counts allocations of a decode step.
func TestDecodeAllocatesNothing(t *testing.T) {
	path, ids := tiny(t, 10)
	s := session(t, open(t, path, llama.Options{}))
	measure := func(tokens int) float64 {
		return testing.AllocsPerRun(3, func() {
			if err := s.Truncate(0); err != nil {
				t.Fatal(err)
			}
			for _, err := range s.GenerateIDs(context.Background(), ids, llama.GenerateOptions{MaxTokens: tokens, IgnoreEOS: true}) {
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	// The text of a token is an allocation of its own; everything else is not.
	few, many := measure(10), measure(110)
	perToken := (many - few) / 100
	t.Logf("%.2f allocations a token", perToken)
	if perToken > 1.5 {
		t.Error("a decode step allocates")
	}
}

func TestEstimate(t *testing.T) {
	for _, path := range append(golden.Glob(t, "models/*/model.gguf"), golden.Glob(t, "models/*/hf")...) {
		for _, o := range []llama.Options{{}, {Trainable: true}, {Trainable: true, Precision: llama.PrecisionBF16}} {
			est, err := llama.Estimate(path, o)
			if err != nil {
				t.Fatal(err)
			}
			if (est.Snapshots > 0) != o.Trainable {
				t.Errorf("%s, %+v: %v", golden.Name(path), o, est)
			}
			m := open(t, path, o)
			if m.Memory() != est {
				t.Errorf("%s: estimated %v, the model says %v", golden.Name(path), est, m.Memory())
			}
			o.MemoryLimit = est.Total() - 1
			if _, err := llama.Open(context.Background(), path, o); !errors.Is(err, llama.ErrMemory) {
				t.Errorf("%s: one byte less than needed: %v", golden.Name(path), err)
			}
			o.MemoryLimit++
			limited := open(t, path, o)
			full := session(t, limited)
			if _, err := full.Logits(context.Background(), randomIDs(m.Config(), 64)); err != nil {
				t.Error("within the limit:", err)
			}
			if limited.Memory() != est {
				t.Errorf("%s: estimated %v, after a step the model says %v", golden.Name(path), est, limited.Memory())
			}
		}
	}
}

func TestPageLimit(t *testing.T) {
	path, ids := tiny(t, 300)
	est, err := llama.Estimate(path, llama.Options{Context: 64})
	if err != nil {
		t.Fatal(err)
	}
	m := open(t, path, llama.Options{Context: 64, MemoryLimit: est.Total()})
	s := session(t, m)
	if _, err := s.Logits(context.Background(), ids); !errors.Is(err, llama.ErrMemory) {
		t.Errorf("a session beyond the limit: %v", err)
	}
	if _, err := s.Logits(context.Background(), ids[:60]); err != nil {
		t.Error("the session is not usable after a refused page:", err)
	}
}
