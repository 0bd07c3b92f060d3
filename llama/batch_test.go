package llama

import (
	"context"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// client is a session that is part of a batch, as a scheduler has it.
type client struct {
	s    *Session
	ctx  context.Context
	held int     // positions before the step
	ids  []int32 // of the step
	wish wish
}

func randomModel(t testing.TB, typ backend.DType, o Options) *Model {
	t.Helper()
	c := Config135M()
	c.Layers, c.Vocab, c.HiddenDim = 2, 320, 512
	m, err := NewRandom(t.Context(), c, typ, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func randomTokens(seed uint64, n int) []int32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = rng.Int32N(320)
	}
	return ids
}

// newClients makes sessions that hold texts of their own and want results of every kind.
func newClients(t *testing.T, m *Model) (list []*client) {
	t.Helper()
	dim, vocab := m.config.Dim, m.config.Vocab
	for i, c := range []struct {
		held, rows int
		results    backend.Results
		width      int
	}{
		{70, 1, backend.Results{Kind: backend.ResultLogits, Last: 1}, vocab},
		{130, 1, backend.Results{Kind: backend.ResultLogits, Last: 1}, vocab},
		{0, 40, backend.Results{Kind: backend.ResultLogits, Last: 40}, vocab},
		{64, 33, backend.Results{}, 0},
		{3, 6, backend.Results{Kind: backend.ResultLogprobs, Last: 5, Targets: []int32{3, -1, 7, 9, -1}}, 1},
		{0, 2, backend.Results{Kind: backend.ResultLogprobs, Last: 1, Targets: []int32{200}}, 1},
		{63, 2, backend.Results{Kind: backend.ResultHidden, Last: 2}, dim},
		{5, 3, backend.Results{Kind: backend.ResultLogits, Last: 2}, vocab},
	} {
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		ids := randomTokens(uint64(i), c.held+c.rows)
		if err := s.extend(t.Context(), ids[:c.held], wish{}); err != nil {
			t.Fatal(err)
		}
		out := make([]float32, c.results.Count()*c.width)
		list = append(list, &client{s, t.Context(), c.held, ids[c.held:], wish{Results: c.results, width: c.width, out: out}})
	}
	return list
}

// joined has the clients' rows computed at once, as many in one step as the model's options
// say, and returns the errors.
func joined(m *Model, list []*client) []error { return joinedWith(m, list, func() {}, func() {}) }

// joinedWith is joined that says when all are in the queue, and when one has returned.
func joinedWith(m *Model, list []*client, queued, back func()) []error {
	q := m.sched
	for claimed := false; !claimed; runtime.Gosched() {
		q.mu.Lock()
		claimed = !q.busy
		q.busy = true // as if a step ran, until all are there
		q.mu.Unlock()
	}
	errs := make([]error, len(list))
	var calls sync.WaitGroup
	for i, c := range list {
		calls.Go(func() {
			errs[i] = c.s.locked(func() error { return c.s.extend(c.ctx, c.ids, c.wish) })
			back()
		})
	}
	for there := 0; there < len(list); runtime.Gosched() {
		q.mu.Lock()
		there = len(q.queue)
		q.mu.Unlock()
	}
	queued()
	go q.serve()
	calls.Wait()
	return errs
}

// TestSharedStep: segments of several sessions, which want results of different kinds, go
// through one step, and each gets the bits that it gets alone.
func TestSharedStep(t *testing.T) {
	for _, typ := range []backend.DType{backend.F32, backend.BF16, backend.Q8_0} {
		m := randomModel(t, typ, Options{MixedRows: 512})
		alone, together := newClients(t, m), newClients(t, m)
		for _, c := range alone {
			if err := c.s.extend(t.Context(), c.ids, c.wish); err != nil {
				t.Fatal(err)
			}
		}
		for i, err := range joined(m, together) {
			if err != nil {
				t.Fatalf("%v, segment %d: %v", typ, i, err)
			}
			c := together[i]
			if !slices.Equal(c.wish.out, alone[i].wish.out) {
				t.Errorf("%v, segment %d: other numbers than alone", typ, i)
			}
			// What they appended is the same too.
			for _, s := range []*Session{c.s, alone[i].s} {
				if err := s.extend(t.Context(), []int32{17}, s.next()); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(c.s.logits, alone[i].s.logits) {
				t.Errorf("%v, segment %d: other logits afterwards than alone", typ, i)
			}
		}
	}
}

// TestSharedStepOutputAdapters: rows that have adapters of their own on the output layer get
// the logits of a step of their own, wherever in the step they lie, and Score has them too.
func TestSharedStepOutputAdapters(t *testing.T) {
	m := randomModel(t, backend.F32, Options{MixedRows: 512})
	rng := rand.New(rand.NewPCG(4, 5))
	for set := range 2 {
		lora := nn.NewLoRA(m.config.Dim, m.config.Vocab, 2, false)
		lora.Set = set
		var x [3][]float32
		for i, p := range []*tensor.Param{lora.A, lora.B} {
			for range p.Shape.Elems() {
				x[i] = append(x[i], float32(rng.NormFloat64())/8)
			}
		}
		if err := m.bindAdapter(lora, "lm_head", x); err != nil {
			t.Fatal(err)
		}
		m.net.Output.Adapters = append(m.net.Output.Adapters, lora)
	}
	alone, together := newClients(t, m), newClients(t, m)
	for i, c := range together {
		adapters := [][]int{{0}, {}, {1}, nil, {1, 0}, {}, {0}, {1}}[i]
		for _, c := range []*client{alone[i], c} {
			c.s.request.segment.Adapters = adapters
		}
		if err := alone[i].s.extend(t.Context(), c.ids, alone[i].wish); err != nil {
			t.Fatal(err)
		}
	}
	for i, err := range joined(m, together) {
		if err != nil {
			t.Fatalf("segment %d: %v", i, err)
		}
		if !slices.Equal(together[i].wish.out, alone[i].wish.out) {
			t.Errorf("segment %d: other numbers than alone", i)
		}
	}
	for _, adapters := range [][]int{nil, {}, {1}} {
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.request.segment.Adapters = adapters
		ids := randomTokens(9, 40)
		want := wish{Results: backend.Results{Kind: backend.ResultLogits, Last: len(ids)}, width: m.config.Vocab, out: make([]float32, len(ids)*m.config.Vocab)}
		if err := s.extend(t.Context(), ids, want); err != nil {
			t.Fatal(err)
		}
		if err := s.Score(t.Context(), ids, func(pos int, logits []float32) {
			if !slices.Equal(logits, want.out[pos*m.config.Vocab:][:m.config.Vocab]) {
				t.Errorf("adapters %v: Score has other logits at position %d than a step", adapters, pos)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPagesFound: a prompt that begins like one that another session holds, or held, has
// its whole pages from there, and gives the same bits. Other weights, and random keys and
// values, are never found.
func TestPagesFound(t *testing.T) {
	text := randomTokens(1, 300)
	fresh := func(ids []int32) []float32 {
		s, _ := randomModel(t, backend.Q8_0, Options{}).NewSession(SessionOptions{})
		l, err := s.Logits(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	m := randomModel(t, backend.Q8_0, Options{})
	ask := func(what string, s *Session, ids []int32, reused int) {
		t.Helper()
		before := s.Usage().ReusedTokens
		got, err := s.Logits(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.Usage().ReusedTokens - before; n != reused {
			t.Errorf("%s: %d tokens reused, want %d", what, n, reused)
		}
		if !slices.Equal(got, fresh(ids)) {
			t.Errorf("%s: other logits than those of a new model", what)
		}
	}
	open := func() *Session {
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	first, second := open(), open()
	ask("nothing is there", first, text[:200], 0)
	ask("pages in use", second, text[:250], 192)
	ask("the last token is computed", open(), text[:192], 128)
	other := append(slices.Clone(text[:100]), randomTokens(2, 100)...)
	ask("one page alike", open(), other, 64)
	ask("its own and others'", second, text[:300], 250)
	if err := first.Truncate(100); err != nil { // in the midst of a page that second has too
		t.Fatal(err)
	}
	ask("after a cut", first, other, 192)
	ask("what the cut left to others", second, text[:299], 298)
	first.Close()
	second.Close()
	third := open()
	ask("idle pages", third, text[:300], 256)
	ask("cut, then another text", third, other, 192)
	fork, err := third.Fork()
	if err != nil {
		t.Fatal(err)
	}
	ask("a fork", fork, text[:280], 256)
	m.version.Add(1)
	ask("other weights", open(), text[:300], 0)

	noise := open()
	ids := randomTokens(3, 200)
	if err := noise.FillRandom(t.Context(), ids[:130]); err != nil {
		t.Fatal(err)
	}
	if _, err := noise.Logits(t.Context(), ids); err != nil {
		t.Fatal(err)
	}
	ask("random keys and values", open(), ids, 0)
}

// TestPagesEvicted: idle pages are no more than a full session's, the longest idle go
// first, the end of a text before its beginning, and the memory limit takes them before it
// refuses.
func TestPagesEvicted(t *testing.T) {
	o := Options{Context: 256} // four pages
	run := func(m *Model, seed uint64, n int) (reused int) {
		t.Helper()
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Logits(t.Context(), randomTokens(seed, n)); err != nil {
			t.Fatal(err)
		}
		return s.Usage().ReusedTokens
	}
	check := func(m *Model, pages int) {
		t.Helper()
		if n := len(m.pages.all); n > pages || m.pages.count > 4 {
			t.Errorf("%d pages, %d idle, want at most %d and 4", n, m.pages.count, pages)
		}
	}
	m := randomModel(t, backend.Q8_0, o)
	run(m, 1, 150) // two whole pages and a part of one
	run(m, 2, 100)
	check(m, 4)
	if n := run(m, 1, 150); n != 128 {
		t.Errorf("%d tokens of the text before the last are reused, want 128", n)
	}
	run(m, 3, 256)
	check(m, 4)
	if n := run(m, 1, 150); n != 0 {
		t.Errorf("%d tokens of a text from before a full session are reused", n)
	}
	est := m.Memory()
	o.MemoryLimit = est.Total()
	limited := randomModel(t, backend.Q8_0, o)
	for seed := range uint64(20) {
		run(limited, seed, 256)
		check(limited, 4)
	}
}

// TestPagesUsedAgain: texts one after another, each of fewer pages than a full session,
// take the memory of the idle pages, and no new memory once there is as much as a full
// session's.
func TestPagesUsedAgain(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{Context: 256}) // four pages
	var before map[*page]bool
	for seed := range uint64(10) {
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Logits(t.Context(), randomTokens(seed, 192)); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if seed >= 2 && !maps.Equal(before, m.pages.all) {
			t.Fatalf("text %d changed the pages that there are", seed)
		}
		before = maps.Clone(m.pages.all)
	}
}

// TestSharedPageIsNotWritten: a page that the pool gave to a second session is copied
// before the first writes to it, whichever comes first.
func TestSharedPageIsNotWritten(t *testing.T) {
	m := randomModel(t, backend.F32, Options{})
	a, _ := m.NewSession(SessionOptions{})
	b, _ := m.NewSession(SessionOptions{})
	text := randomTokens(1, 129)
	want, err := a.Logits(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Truncate(70); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Logits(t.Context(), text); err != nil { // finds the page that a is about to write to
		t.Fatal(err)
	}
	if n := b.Usage().ReusedTokens; n != 128 && n != 64 {
		t.Errorf("%d tokens reused", n)
	}
	if _, err := a.Logits(t.Context(), append(slices.Clone(text[:70]), randomTokens(2, 58)...)); err != nil {
		t.Fatal(err)
	}
	if err := b.Truncate(128); err != nil {
		t.Fatal(err)
	}
	got, err := b.Logits(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Error("the second session's page was written to")
	}
}
