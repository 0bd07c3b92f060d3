package llama

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/sample"
)

// stepsOf makes a model note the rows of each request of every step.
func stepsOf(m *Model) *[][]int {
	var steps [][]int
	forward := m.sched.forward
	m.sched.forward = func() error {
		var rows []int
		for _, r := range m.batch.requests {
			rows = append(rows, r.rows)
		}
		steps = append(steps, rows)
		return forward()
	}
	return &steps
}

func newSession(t testing.TB, m *Model, o SessionOptions) *Session {
	t.Helper()
	s, err := m.NewSession(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// generated is what a session generates after a prompt.
func generated(ctx context.Context, s *Session, prompt []int32, o GenerateOptions) (ids []int32, err error) {
	o.IgnoreEOS = true
	for token, err := range s.GenerateIDs(ctx, prompt, o) {
		if err != nil {
			return ids, err
		}
		ids = append(ids, token.ID)
	}
	return ids, nil
}

// TestStreamsAreAsAlone: sessions that generate at once, from prompts of many lengths, with
// their own sampling, have the tokens that each has alone, for all types of weights and of
// keys and values.
func TestStreamsAreAsAlone(t *testing.T) {
	const streams = 12
	for _, c := range []struct{ typ, kv backend.DType }{
		{backend.F32, backend.Invalid}, {backend.BF16, backend.F16}, {backend.Q8_0, backend.Q8_0}, {backend.Q4_K, backend.BF16},
	} {
		m := randomModel(t, c.typ, Options{KVType: c.kv, BatchRows: 96, MixedRows: 32})
		options := func(i int) GenerateOptions {
			o := GenerateOptions{MaxTokens: 5 + 3*i}
			if i%2 > 0 {
				o.Sampling = sample.Params{Temperature: 1, Seed: uint64(i + 1)}
			}
			return o
		}
		prompt := func(i int) []int32 { return randomTokens(uint64(i/2), 1+23*i) } // some begin alike
		var got, want [streams][]int32
		var calls sync.WaitGroup
		for i := range streams {
			s := newSession(t, m, SessionOptions{Priority: i % 3})
			calls.Go(func() {
				var err error
				if got[i], err = generated(t.Context(), s, prompt(i), options(i)); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		alone := randomModel(t, c.typ, Options{KVType: c.kv})
		for i := range streams {
			s := newSession(t, alone, SessionOptions{})
			var err error
			if want[i], err = generated(t.Context(), s, prompt(i), options(i)); err != nil {
				t.Fatal(err)
			}
			s.Close()
		}
		for i := range streams {
			if !slices.Equal(got[i], want[i]) {
				t.Errorf("%v: stream %d has other tokens than alone", c, i)
			}
		}
		if n := m.Stats(); n.BatchSize() < 2 {
			t.Errorf("%v: %+v: calls were not joined", c, n)
		}
	}
}

// TestLongPromptBesideStreams: a long prompt beside streams takes MixedRows rows of a step,
// and each step has a row of every stream; alone it takes BatchRows.
func TestLongPromptBesideStreams(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{BatchRows: 128, MixedRows: 40})
	steps := stepsOf(m)
	if _, err := newSession(t, m, SessionOptions{}).Logits(t.Context(), randomTokens(1, 300)); err != nil {
		t.Fatal(err)
	}
	if want := [][]int{{128}, {128}, {44}}; fmt.Sprint(*steps) != fmt.Sprint(want) {
		t.Errorf("alone the steps have %v rows, want %v", *steps, want)
	}
	var list []*client
	for i := range 5 {
		s, n := newSession(t, m, SessionOptions{}), 1
		if i == 2 {
			n = 300
		}
		list = append(list, &client{s: s, ctx: t.Context(), ids: randomTokens(uint64(10+i), n), wish: s.next()})
	}
	*steps = nil
	for _, err := range joined(m, list) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := []int{1, 1, 1, 1, 40}; !slices.Equal((*steps)[0], want) {
		t.Errorf("the first step has %v rows, want %v", (*steps)[0], want)
	}
}

// TestOrder: without room for all, rows of a higher priority go first, then who came first;
// one step in eight begins with the one that waits longest.
func TestOrder(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{BatchRows: 32})
	var order []int
	number := map[*Session]int{}
	forward := m.sched.forward
	m.sched.forward = func() error {
		for _, r := range m.batch.requests {
			order = append(order, number[r.session])
		}
		return forward()
	}
	var list []*client
	for i := range 12 {
		s := newSession(t, m, SessionOptions{Priority: min(i, 1)}) // the first is the lowest
		number[s] = i
		list = append(list, &client{s: s, ctx: t.Context(), ids: randomTokens(uint64(i), 32), wish: s.next()})
	}
	for _, err := range joined(m, list) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if at := slices.Index(order, 0); at != turnEvery-1 {
		t.Errorf("the lowest priority has step %d, want %d: %v", at, turnEvery-1, order)
	}
	if len(order) != 12 {
		t.Errorf("%d steps of one request each, want 12", len(order))
	}
}

// TestCancelled: the end of one call's context is that call's alone and comes at once, in
// the queue and in a step; the step goes on for the others, whose numbers are as alone; the
// session that left is as it was before, and usable.
func TestCancelled(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{MixedRows: 512})
	for name, gone := range map[string][]bool{"one": {true, false, false}, "two": {true, false, true}, "all": {true, true, true}} {
		for _, inStep := range []bool{false, true} {
			want, list := newClients(t, m)[:3], newClients(t, m)[:3]
			for _, c := range want {
				if err := c.s.extend(t.Context(), c.ids, c.wish); err != nil {
					t.Fatal(err)
				}
			}
			var cancels []context.CancelCauseFunc
			for i, c := range list {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if c.ctx = ctx; gone[i] {
					cancels = append(cancels, cancel)
				}
			}
			var returned atomic.Int64
			cancel := func() { // and wait for who left
				for _, c := range cancels {
					c(io.EOF)
				}
				for end := time.Now().Add(10 * time.Second); returned.Load() < int64(len(cancels)); runtime.Gosched() {
					if time.Now().After(end) {
						t.Error("a call does not return although its context has ended")
						break
					}
				}
			}
			forward, once := m.sched.forward, false
			m.sched.forward = func() error {
				if inStep && !once {
					once = true
					cancel()
				}
				return forward()
			}
			queued := func() {
				if !inStep {
					cancel()
				}
			}
			errs := joinedWith(m, list, queued, func() { returned.Add(1) })
			m.sched.forward = forward
			for i, err := range errs {
				switch {
				case gone[i] && !(errors.Is(err, context.Canceled) && errors.Is(err, io.EOF)):
					t.Errorf("%s: the cancelled call %d has the error %v", name, i, err)
				case !gone[i] && err != nil:
					t.Errorf("%s: call %d: %v", name, i, err)
				case !gone[i] && !slices.Equal(list[i].wish.out, want[i].wish.out):
					t.Errorf("%s: call %d has other numbers than alone", name, i)
				}
				if gone[i] {
					if n := list[i].s.Len(); n != list[i].held {
						t.Errorf("%s: the session that left holds %d positions, want %d", name, n, list[i].held)
					}
					list[i].ctx = t.Context()
					if err := joined(m, list[i:i+1])[0]; err != nil || !slices.Equal(list[i].wish.out, want[i].wish.out) {
						t.Errorf("%s: the session that left has other numbers afterwards, or %v", name, err)
					}
				}
			}
		}
	}
}

// disturbed is call i of many, some of which are cancelled, panic in their sampling or have
// their session closed.
func disturbed(t *testing.T, m *Model, i int, prompt, want []int32) {
	own := errors.New("of the caller")
	s := newSession(t, m, SessionOptions{Priority: i % 3})
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := GenerateOptions{MaxTokens: 12}
	disturb := func() {}
	switch i % 10 {
	case 3:
		disturb = cancel
	case 5:
		disturb = func() { panic(own) }
	case 7:
		disturb = func() { go s.Close() }
	}
	n := 0
	o.Steps = []sample.Step{sample.StepFunc(func(*sample.Candidates) {
		if n++; n == 4 {
			disturb()
		}
	})}
	var ids []int32
	var err error
	fault := func() (v any) {
		defer func() { v = recover() }()
		ids, err = generated(ctx, s, prompt, o)
		return nil
	}()
	switch i % 10 {
	case 3:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	case 5:
		if fault != own {
			t.Errorf("a panic of the caller: %v, %v", fault, err)
		}
	case 7:
		if err != nil && !errors.Is(err, ErrClosed) || err == nil && !slices.Equal(ids, want) {
			t.Errorf("closed: %v", err)
		}
	default:
		if err != nil || fault != nil || !slices.Equal(ids, want) {
			t.Errorf("call %d: %v, %v, or other tokens than alone", i, err, fault)
		}
	}
}

// TestManyStreams: of a thousand calls, a hundred of which run at once, while some are
// cancelled, some panic in their sampling and some sessions are closed, none is lost and
// none starves, and who is not disturbed gets what it gets alone.
func TestManyStreams(t *testing.T) {
	calls, workers := 1000, 100
	if testing.Short() {
		calls, workers = 200, 40
	}
	c := Config135M()
	c.Layers, c.Vocab, c.Dim, c.HiddenDim, c.Heads, c.KVHeads, c.HeadDim = 1, 64, 32, 64, 2, 1, 16
	open := func() *Model {
		m, err := NewRandom(t.Context(), c, backend.F32, Options{BatchRows: 48, MixedRows: 24})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		return m
	}
	prompt := func(i int) []int32 {
		rng := rand.New(rand.NewPCG(uint64(i%17), 2))
		ids := make([]int32, 1+rng.IntN(100))
		for j := range ids {
			ids[j] = rng.Int32N(64)
		}
		return ids
	}
	alone, want := open(), map[int][]int32{}
	for i := range 17 {
		s := newSession(t, alone, SessionOptions{})
		want[i], _ = generated(t.Context(), s, prompt(i), GenerateOptions{MaxTokens: 12})
	}
	m := open()
	var next, done atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < calls; i = int(next.Add(1)) - 1 {
				disturbed(t, m, i, prompt(i), want[i%17])
				done.Add(1)
			}
		})
	}
	group.Wait()
	if n := done.Load(); n != int64(calls) {
		t.Errorf("%d calls of %d came back", n, calls)
	}
	q := m.sched
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) > 0 {
		t.Errorf("%d requests are left in the queue", len(q.queue))
	}
}

// TestCloseBesideStreams: Model.Close ends all calls, wherever they are, with ErrClosed.
func TestCloseBesideStreams(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{})
	var calls sync.WaitGroup
	var tokens atomic.Int64
	for i := range 8 {
		s := newSession(t, m, SessionOptions{})
		calls.Go(func() {
			for _, err := range s.GenerateIDs(t.Context(), randomTokens(uint64(i), 50), GenerateOptions{IgnoreEOS: true}) {
				if err != nil {
					if !errors.Is(err, ErrClosed) {
						t.Errorf("stream %d: %v", i, err)
					}
					return
				}
				tokens.Add(1)
			}
			t.Errorf("stream %d ended", i)
		})
	}
	for tokens.Load() < 40 {
		runtime.Gosched()
	}
	m.Close()
	calls.Wait()
}

// TestJoinedStepAllocates: what a step of many streams allocates does not grow with the
// tokens.
func TestJoinedStepAllocates(t *testing.T) {
	const streams = 8
	m := randomModel(t, backend.Q8_0, Options{})
	var sessions []*Session
	for range streams {
		sessions = append(sessions, newSession(t, m, SessionOptions{}))
	}
	measure := func(tokens int) float64 {
		return testing.AllocsPerRun(3, func() {
			var calls sync.WaitGroup
			for i, s := range sessions {
				calls.Go(func() {
					if err := s.Truncate(0); err != nil {
						t.Error(err)
					}
					if _, err := generated(t.Context(), s, randomTokens(uint64(i), 5), GenerateOptions{MaxTokens: tokens}); err != nil {
						t.Error(err)
					}
				})
			}
			calls.Wait()
		})
	}
	few, many := measure(10), measure(90)
	perToken := (many - few) / (80 * streams)
	t.Logf("%.3f allocations a token", perToken)
	if perToken > 0.5 { // the tokens are collected here, and the race detector adds some
		t.Error("a step of several calls allocates")
	}
}

// TestSamePromptAtOnce: sessions that start together with one prompt compute its whole pages
// once, also where the one that computes them is cancelled, and hold them once.
func TestSamePromptAtOnce(t *testing.T) {
	const streams, pages = 16, 6
	prompt := randomTokens(1, pages*backend.PageLen+10)
	want, err := newSession(t, randomModel(t, backend.Q8_0, Options{}), SessionOptions{}).Logits(t.Context(), prompt)
	if err != nil {
		t.Fatal(err)
	}
	for _, cancelled := range []bool{false, true} {
		m := randomModel(t, backend.Q8_0, Options{BatchRows: 128})
		stopped, cancel := context.WithCancel(t.Context())
		defer cancel()
		var calls sync.WaitGroup
		rows := 0
		forward := m.sched.forward
		m.sched.forward = func() error {
			rows += len(m.batch.ids)
			if cancelled && rows > 300 {
				cancel()
			}
			return forward()
		}
		first := newSession(t, m, SessionOptions{Priority: 1})
		for i := range streams {
			s, ctx := newSession(t, m, SessionOptions{}), t.Context()
			if i == 0 {
				s = first
				if cancelled {
					ctx = stopped
				}
			}
			calls.Go(func() {
				got, err := s.Logits(ctx, prompt)
				if i == 0 && cancelled {
					return
				}
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("session %d: %v, or other logits than alone", i, err)
				}
			})
		}
		calls.Wait()
		if most := len(prompt) + (streams-1)*10 + 128; !cancelled && rows != most-128 || rows > most {
			t.Errorf("%d rows were computed, want %d", rows, most-128)
		}
		if n := m.Stats(); !cancelled && n.PagesUsed != pages+streams {
			t.Errorf("%d pages are used, want %d and one for each of %d sessions", n.PagesUsed, pages, streams)
		}
	}
}
