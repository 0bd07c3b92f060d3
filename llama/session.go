package llama

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herd-ml/herd/backend"
)

// Session is a cache of one sequence's keys and values, not a transcript: each
// call takes the whole prompt, and the longest prefix of it that the session
// holds is not computed again. A session serves one call at a time.
type Session struct {
	m     *Model
	limit int // positions

	state  sync.Mutex // guards the three below
	busy   bool       // a call is under way, perhaps paused in its caller's loop
	closed bool
	cancel context.CancelCauseFunc // of the call

	work sync.Mutex // held while what follows is used: never while a caller's loop runs
	ids  []int32    // tokens whose keys and values are held
	*pageList
	bufs []backend.Buffer // of pages, in order: the page table

	version uint64 // of the weights that the pages were computed with

	names   []pageName // of the whole pages that are held, in order
	private bool       // the keys and values are not those of ids: other sessions may not use them

	request request
	users   atomic.Int32 // of what work guards, where a step outlives its call
	most    int          // positions that the call may come to hold, where that is more than its prompt
	// The call that is under way has ended in a step that goes on. It is the call's to know.
	outlived bool
	shared   *page // the page that a copy replaces in the running step, or nil
	span     [1]backend.Span
	logits   []float32 // of the last position computed, [V]
	usage    Usage
	dropped  runtime.Cleanup // gives back the pages of a session that nobody closed
}

// Usage counts a session's work.
type Usage struct {
	ReusedTokens  int           // prompt tokens that the cache already held
	PrefillTokens int           // prompt tokens computed
	PrefillTime   time.Duration // for them
	DecodeTokens  int           // generated tokens fed back
	DecodeTime    time.Duration // for them, and for guessing
	Shifts        int           // times that a full context was halved

	// Of GenerateOptions.Speculation: the tokens guessed, and those of them that were then
	// generated and fed back, which took no step of their own. DecodeTokens counts these too.
	DraftedTokens, AcceptedTokens int
}

// NewSession returns an empty session. It takes memory as positions fill.
func (m *Model) NewSession(o SessionOptions) (*Session, error) {
	if int64(o.Context) < 0 || int64(o.Context) > math.MaxInt32 {
		return nil, fmt.Errorf("llama: SessionOptions.Context is %d, want 0 to %d", o.Context, math.MaxInt32)
	}
	if m.life.Err() != nil {
		return nil, ErrClosed
	}
	limit := m.opts.context(m.config, o.Context)
	if err := m.opts.checkContext(m.config, limit); err != nil {
		return nil, err
	}
	adapters, err := m.adapterNumbers(o.Adapters)
	if err != nil {
		return nil, err
	}
	s := m.newSession(limit, o.Priority)
	s.request.segment.Adapters = adapters
	return s, nil
}

func (m *Model) newSession(limit, priority int) *Session {
	s := &Session{m: m, limit: limit, logits: make([]float32, m.config.Vocab), pageList: &pageList{pool: m.pages}}
	s.request.session, s.request.priority, s.request.done = s, priority, make(chan struct{}, 1)
	s.request.segment.Spans = s.span[:]
	s.dropped = runtime.AddCleanup(s, (*pageList).drop, s.pageList)
	return s
}

// enter claims the session for one call.
func (s *Session) enter(ctx context.Context) (call context.Context, leave func(), err error) {
	s.state.Lock()
	defer s.state.Unlock()
	switch {
	case s.closed:
		return nil, nil, ErrClosed
	case s.busy:
		return nil, nil, ErrBusy
	}
	call, cancel, err := s.m.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	s.busy, s.outlived, s.cancel = true, false, cancel
	s.m.sched.enter()
	s.m.pages.hold(s.pageList)
	s.most = 0
	return call, func() {
		cancel(nil)
		s.m.sched.leave(&s.request)
		if !s.outlived {
			s.rest()
		}
		s.state.Lock()
		s.busy, s.cancel = false, nil
		s.state.Unlock()
	}, nil
}

// lock claims the session's cache for a piece of work, after which the caller calls unlock.
func (s *Session) lock() error {
	s.work.Lock()
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		s.work.Unlock()
		return ErrClosed
	}
	s.notice()
	return nil
}

// unlock ends a piece of work. Where the step outlives the call that asked for it, the cache
// is in use by both, and the last of them leaves it as it was before the step.
func (s *Session) unlock() {
	if s.request.gone {
		if s.users.Add(-1) > 0 {
			return
		}
		s.settle(false)
		s.request.clear()
		s.rest()
	}
	s.work.Unlock()
}

// rest says that no call uses the session's pages any longer.
func (s *Session) rest() {
	s.m.pages.dismiss(s.pageList)
	s.m.pages.rest(s.pageList)
}

// look is for what asks for what the session holds, call or no call: it locks the cache
// until done is called.
func (s *Session) look() (done func()) {
	s.work.Lock()
	s.m.pages.hold(s.pageList)
	s.notice()
	return func() {
		s.m.pages.rest(s.pageList)
		s.work.Unlock()
	}
}

// notice makes the session hold nothing where its pages were taken.
func (s *Session) notice() {
	if len(s.pages) < len(s.bufs) {
		s.ids, s.bufs, s.names, s.private = s.ids[:0], s.bufs[:0], s.names[:0], false
	}
}

// claim is enter and lock, for calls that do not pause.
func (s *Session) claim(ctx context.Context) (call context.Context, leave func(), err error) {
	call, done, err := s.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := s.lock(); err != nil {
		done()
		return nil, nil, err
	}
	return call, func() { s.unlock(); done() }, nil
}

// enterEmpty is enter for a call that computes ids from the start: it empties the session.
func (s *Session) enterEmpty(ctx context.Context, ids []int32) (call context.Context, leave func(), err error) {
	call, leave, err = s.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	err = s.locked(func() error {
		if err := s.m.checkIDs(ids); err != nil {
			return err
		}
		s.truncate(0)
		return s.admit(call, min(len(ids), s.limit))
	})
	if err != nil {
		leave()
		return nil, nil, err
	}
	return call, leave, nil
}

// locked runs work on the session's cache. Nothing of the caller's runs within it: it may
// ask the session for its length, or close it.
func (s *Session) locked(work func() error) error {
	if err := s.lock(); err != nil {
		return err
	}
	defer s.unlock()
	return work()
}

// Len is the number of positions held.
func (s *Session) Len() int {
	defer s.look()()
	return len(s.ids)
}

// IDs are the tokens whose keys and values are held.
func (s *Session) IDs() []int32 {
	defer s.look()()
	return slices.Clone(s.ids)
}

// Context is the most positions the session can hold.
func (s *Session) Context() int { return s.limit }

// Usage returns the counters.
func (s *Session) Usage() Usage {
	s.work.Lock()
	defer s.work.Unlock()
	return s.usage
}

// Truncate forgets all but the first n positions.
func (s *Session) Truncate(n int) error {
	_, leave, err := s.claim(context.Background())
	if err != nil {
		return err
	}
	defer leave()
	if n < 0 || n > len(s.ids) {
		return fmt.Errorf("llama: Truncate(%d) of a session that holds %d positions", n, len(s.ids))
	}
	s.truncate(n)
	return nil
}

func (s *Session) truncate(n int) {
	s.ids = s.ids[:n]
	keep := ceilDiv(n, backend.PageLen)
	for _, p := range slices.Backward(s.pages[keep:]) { // what begins a text stays longest
		s.m.pages.put(s.pageList, p)
	}
	s.pages, s.bufs = s.pages[:keep], s.bufs[:keep]
	s.names = s.names[:min(len(s.names), n/backend.PageLen)]
	s.private = s.private && n > 0
}

// cut is truncate after extend has failed, where a step may still have the session.
func (s *Session) cut(n int) {
	if s.outlived {
		s.ids = s.ids[:n] // unlock does the rest
		return
	}
	s.truncate(n)
}

// Fork returns a second session with the same positions. Pages are shared until
// one of the two writes to them.
func (s *Session) Fork() (*Session, error) {
	_, leave, err := s.claim(context.Background())
	if err != nil {
		return nil, err
	}
	defer leave()
	f := s.m.newSession(s.limit, s.request.priority)
	f.ids, f.version, f.private = append(f.ids, s.ids...), s.version, s.private
	f.names, f.request.segment.Adapters = append(f.names, s.names...), s.request.segment.Adapters
	for _, p := range s.pages {
		s.m.pages.share(f.pageList, p)
		f.pages = append(f.pages, p)
		f.bufs = append(f.bufs, p.buf)
	}
	s.m.pages.hold(f.pageList)
	s.m.pages.rest(f.pageList)
	return f, nil
}

// Close refuses new calls, cancels a running one, waits for its step, then
// gives the pages back. Closing twice is fine.
func (s *Session) Close() error {
	s.state.Lock()
	s.closed = true
	if s.cancel != nil {
		s.cancel(ErrClosed)
	}
	s.state.Unlock()
	defer s.look()()
	s.truncate(0)
	s.dropped.Stop()
	return nil
}

// reserve gives the session pages of its own for n more positions. A shared
// page that is about to be written to is replaced by a copy, which the next
// step makes; the page it replaces is s.shared until the step is over.
func (s *Session) reserve(n int) error {
	s.request.copies = s.request.copies[:0]
	end := ceilDiv(len(s.ids)+n, backend.PageLen)
	for len(s.pages) < end {
		p, err := s.m.pages.get(s.pageList)
		if err != nil {
			return err
		}
		s.pages = append(s.pages, p)
		s.bufs = append(s.bufs, p.buf)
	}
	first := len(s.ids) / backend.PageLen
	if old := s.pages[first]; len(s.ids)%backend.PageLen > 0 && !s.m.pages.own(old) {
		own, err := s.m.pages.get(s.pageList)
		if err != nil {
			return err
		}
		s.request.copies = append(s.request.copies, pageCopy{dst: own.buf, src: old.buf})
		s.pages[first], s.bufs[first] = own, own.buf
		s.shared = old
	}
	return nil
}

// settle ends what reserve began. Where the step failed it puts the shared page back in
// its place and gives back the pages beyond the positions held.
func (s *Session) settle(done bool) {
	first := len(s.ids) / backend.PageLen
	if s.shared != nil && !done {
		s.pages[first], s.shared = s.shared, s.pages[first]
		s.bufs[first] = s.pages[first].buf
	}
	if s.shared != nil {
		s.m.pages.put(s.pageList, s.shared)
		s.shared = nil
	}
	if !done {
		s.truncate(len(s.ids))
	}
}

// wish is what is wanted of the rows that extend computes.
type wish struct {
	backend.Results
	width  int       // numbers of a row's result
	out    []float32 // where they go
	states []float32 // unless nil, where the states [Last, D] go that they are made of
}

// part is the wish for rows [from, to) of n.
func (w *wish) part(from, to, n int) (r backend.Results, out, states []float32) {
	first := n - w.Last // of the rows that something is wanted of
	if to <= first {
		return r, nil, nil
	}
	r = backend.Results{Kind: w.Kind, Last: to - max(from, first)}
	before := backend.Results{Kind: w.Kind, Last: max(from, first) - first}
	if w.Targets != nil {
		r.Targets, before.Targets = w.Targets[before.Last:][:r.Last], w.Targets[:before.Last]
	}
	if w.states != nil {
		dim := len(w.states) / w.Last
		states = w.states[before.Last*dim:][:r.Last*dim]
	}
	return r, w.out[before.Count()*w.width:][:r.Count()*w.width], states
}

// extend computes ids after the positions held, in steps of at most BatchRows. On an error
// the session holds what the finished steps computed.
func (s *Session) extend(ctx context.Context, ids []int32, w wish) error {
	switch v := s.m.version.Load(); {
	case len(s.ids) == 0:
		s.version = v
	case s.version != v:
		return ErrStale
	}
	if len(s.ids)+len(ids) > s.limit {
		return fmt.Errorf("%w: %d positions are held, %d more are asked for, the session has %d", ErrContextFull, len(s.ids), len(ids), s.limit)
	}
	r := &s.request
	r.ctx, r.wish, r.total = ctx, w, len(ids)
	var err error
	for r.from = 0; r.from < len(ids) && err == nil; r.from += r.rows {
		r.ids, r.pos = ids[r.from:min(r.from+s.m.opts.batchRows(), len(ids))], len(s.ids)
		if err = s.reserve(len(r.ids)); err == nil {
			r.segment.Pages = s.bufs
			if !s.m.sched.do(r) {
				s.outlived = true // and has the session until it is over
				return ended(ctx)
			}
			err = r.err
		}
		if err == nil && s.version != s.m.version.Load() {
			err = ErrStale // changed meanwhile
		}
		if s.settle(err == nil); err == nil {
			s.ids = append(s.ids, r.ids[:r.rows]...)
			s.publish()
		}
	}
	r.clear()
	return err
}

// next is the wish for the logits of the last row, in s.logits.
func (s *Session) next() wish {
	return wish{Results: backend.Results{Kind: backend.ResultLogits, Last: 1}, width: len(s.logits), out: s.logits}
}

// Logits returns the next-token logits [V] after ids.
func (s *Session) Logits(ctx context.Context, ids []int32) ([]float32, error) {
	call, leave, err := s.claim(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.prefill(call, ids, s.next()); err != nil {
		return nil, err
	}
	return slices.Clone(s.logits), nil
}

// Score computes ids from the start and calls visit for every position with the
// logits [V] of the token after it, which are valid during the call only. Logits are made
// for some positions at a time, so those of a long text are never all in memory. visit may
// ask the session for its length and use other sessions. It may close the session or the
// model; Score then ends with ErrClosed.
func (s *Session) Score(ctx context.Context, ids []int32, visit func(pos int, logits []float32)) error {
	call, leave, err := s.enterEmpty(ctx, ids)
	if err != nil {
		return err
	}
	defer leave()
	dim, vocab := s.m.config.Dim, s.m.config.Vocab
	logits := make([]float32, min(logitRows, len(ids))*vocab)
	return s.states(call, ids, func(from int, h []float32) error {
		for n := len(h) / dim; n > 0; n = len(h) / dim {
			n = min(n, logitRows)
			if err := s.m.logits(call, h[:n*dim], s.request.segment.Adapters, logits[:n*vocab]); err != nil {
				return err
			}
			if s.m.version.Load() != s.version {
				return ErrStale
			}
			for i := range n {
				visit(from+i, logits[i*vocab:][:vocab])
				if err := ended(call); err != nil {
					return err
				}
			}
			h, from = h[n*dim:], from+n
		}
		return nil
	})
}

// states appends ids to the session and calls visit with the states [n, D] after the last
// norm of the positions from one on, as many as a step computes.
func (s *Session) states(ctx context.Context, ids []int32, visit func(from int, h []float32) error) error {
	dim, batch := s.m.config.Dim, s.m.opts.batchRows()
	h := make([]float32, min(batch, len(ids))*dim)
	for from := 0; from < len(ids); from += batch {
		some := ids[from:min(from+batch, len(ids))]
		w := wish{Results: backend.Results{Kind: backend.ResultHidden, Last: len(some)}, width: dim, out: h[:len(some)*dim]}
		if err := s.locked(func() error { return s.extend(ctx, some, w) }); err != nil {
			return err
		}
		if err := visit(from, w.out); err != nil {
			return err
		}
	}
	return nil
}

// Logprobs computes ids from the start and returns the log-probability of each of
// ids[from:], given those before it: out[i] is log p(ids[from+i] | ids[:from+i]). from is
// at least 1. Logits are never all in memory.
func (s *Session) Logprobs(ctx context.Context, ids []int32, from int) ([]float32, error) {
	if from < 1 || from > len(ids) {
		return nil, fmt.Errorf("llama: log-probabilities from position %d on of %d tokens: want 1 to %d", from, len(ids), len(ids))
	}
	call, leave, err := s.enterEmpty(ctx, ids)
	if err != nil {
		return nil, err
	}
	defer leave()
	out := make([]float32, len(ids)-from)
	targets := append(slices.Clone(ids[from:]), -1) // nothing comes after the last
	w := wish{Results: backend.Results{Kind: backend.ResultLogprobs, Last: len(targets), Targets: targets}, width: 1, out: out}
	if err := s.locked(func() error { return s.extend(call, ids, w) }); err != nil {
		return nil, err
	}
	return out, nil
}
