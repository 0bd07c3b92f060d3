package llama

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
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

	work  sync.Mutex // held while what follows is used: never while a caller's loop runs
	ids   []int32    // tokens whose keys and values are held
	pages []*page
	bufs  []backend.Buffer // of pages, in order: the page table

	version uint64 // of the weights that the pages were computed with

	step   step
	seg    [1]backend.Segment
	span   [1]backend.Span
	scored struct { // what Logprobs wants
		ids  []int32
		from int
	}
	logits []float32 // of the last position computed, [V]
	one    [1]int32
	keep   func(int, []float32) // keepLogits, bound once
	usage  Usage
}

// Usage counts a session's work.
type Usage struct {
	ReusedTokens  int           // prompt tokens that the cache already held
	PrefillTokens int           // prompt tokens computed
	PrefillTime   time.Duration // for them
	DecodeTokens  int           // generated tokens fed back
	DecodeTime    time.Duration // for them
	Shifts        int           // times that a full context was halved
}

// NewSession returns an empty session. It takes memory as positions fill.
func (m *Model) NewSession(o SessionOptions) (*Session, error) {
	if int64(o.Context) < 0 || int64(o.Context) > math.MaxInt32 {
		return nil, fmt.Errorf("llama: SessionOptions.Context is %d, want 0 to %d", o.Context, math.MaxInt32)
	}
	if m.life.Err() != nil {
		return nil, ErrClosed
	}
	return m.newSession(m.opts.context(m.config, o.Context)), nil
}

func (m *Model) newSession(limit int) *Session {
	s := &Session{m: m, limit: limit, logits: make([]float32, m.config.Vocab)}
	s.keep = s.keepLogits
	s.step.layout.Segments = s.seg[:]
	s.seg[0].Spans = s.span[:]
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
	s.busy, s.cancel = true, cancel
	return call, func() {
		cancel(nil)
		s.state.Lock()
		s.busy, s.cancel = false, nil
		s.state.Unlock()
	}, nil
}

// lock claims the session's cache for a piece of work; unlock is work.Unlock.
func (s *Session) lock() error {
	s.work.Lock()
	s.state.Lock()
	defer s.state.Unlock()
	if s.closed {
		s.work.Unlock()
		return ErrClosed
	}
	return nil
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
	return call, func() { s.work.Unlock(); done() }, nil
}

// anew is claim for a call that computes ids from the start.
func (s *Session) anew(ctx context.Context, ids []int32) (call context.Context, leave func(), err error) {
	call, leave, err = s.claim(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := s.m.checkIDs(ids); err != nil {
		leave()
		return nil, nil, err
	}
	s.truncate(0)
	return call, leave, nil
}

// Len is the number of positions held.
func (s *Session) Len() int {
	s.work.Lock()
	defer s.work.Unlock()
	return len(s.ids)
}

// IDs are the tokens whose keys and values are held.
func (s *Session) IDs() []int32 {
	s.work.Lock()
	defer s.work.Unlock()
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
	for _, p := range s.pages[keep:] {
		s.m.pages.put(p)
	}
	s.pages, s.bufs = s.pages[:keep], s.bufs[:keep]
}

// Fork returns a second session with the same positions. Pages are shared until
// one of the two writes to them.
func (s *Session) Fork() (*Session, error) {
	_, leave, err := s.claim(context.Background())
	if err != nil {
		return nil, err
	}
	defer leave()
	f := s.m.newSession(s.limit)
	f.ids, f.version = append(f.ids, s.ids...), s.version
	for _, p := range s.pages {
		p.refs.Add(1)
		f.pages = append(f.pages, p)
		f.bufs = append(f.bufs, p.buf)
	}
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
	s.work.Lock()
	defer s.work.Unlock()
	s.truncate(0)
	return nil
}

// reserve gives the session pages of its own for n more positions. A shared
// page that is about to be written to is replaced by a copy, which the next
// step makes; the page it replaces is returned.
func (s *Session) reserve(n int) (shared *page, err error) {
	s.step.copies = s.step.copies[:0]
	end := ceilDiv(len(s.ids)+n, backend.PageLen)
	for len(s.pages) < end {
		p, err := s.m.pages.get()
		if err != nil {
			return nil, err
		}
		s.pages = append(s.pages, p)
		s.bufs = append(s.bufs, p.buf)
	}
	first := len(s.ids) / backend.PageLen
	if old := s.pages[first]; len(s.ids)%backend.PageLen > 0 && old.refs.Load() > 1 {
		own, err := s.m.pages.get()
		if err != nil {
			return nil, err
		}
		s.step.copies = append(s.step.copies, pageCopy{dst: own.buf, src: old.buf})
		s.pages[first], s.bufs[first] = own, own.buf
		return old, nil
	}
	return nil, nil
}

// settle ends what reserve began: after a step that failed, the shared page
// takes its place again, and pages beyond the positions held are given back.
func (s *Session) settle(shared *page, err error) {
	first := len(s.ids) / backend.PageLen
	if shared != nil && err != nil {
		s.pages[first], shared = shared, s.pages[first]
		s.bufs[first] = s.pages[first].buf
	}
	if shared != nil {
		s.m.pages.put(shared)
	}
	if err != nil {
		s.truncate(len(s.ids))
	}
}

// rows says which rows of an extension results are wanted of.
type rows uint8

const (
	lastRow rows = iota
	allRows
	scoredRows // those of Session.scored
)

// extend computes ids after the positions held, in steps of at most BatchRows,
// and emits the results of the rows wanted; i counts rows of ids. On an error
// the session holds what the finished steps computed.
func (s *Session) extend(ctx context.Context, ids []int32, want rows, emit func(i int, values []float32)) error {
	switch v := s.m.version.Load(); {
	case len(s.ids) == 0:
		s.version = v
	case s.version != v:
		return ErrStale
	}
	if len(s.ids)+len(ids) > s.limit {
		return fmt.Errorf("%w: %d positions are held, %d more are asked for, the session has %d", ErrContextFull, len(s.ids), len(ids), s.limit)
	}
	batch := s.m.opts.batchRows()
	for from := 0; from < len(ids); from += batch {
		chunk := ids[from:min(from+batch, len(ids))]
		shared, err := s.reserve(len(chunk))
		if err != nil {
			s.truncate(len(s.ids))
			return err
		}
		last := from+len(chunk) == len(ids)
		s.lay(chunk, want, last)
		s.step.emit = emit
		if want == allRows && from > 0 {
			s.step.emit = func(i int, values []float32) { emit(from+i, values) }
		}
		err = s.m.run(ctx, &s.step)
		if err == nil && s.version != s.m.version.Load() {
			err = ErrStale // changed meanwhile
		}
		s.settle(shared, err)
		if err != nil {
			return err
		}
		s.ids = append(s.ids, chunk...)
	}
	return nil
}

// lay writes the layout of a step that appends chunk.
func (s *Session) lay(chunk []int32, want rows, last bool) {
	l := &s.step.layout
	s.step.ids = chunk
	l.Pos, l.Logits = l.Pos[:0], l.Logits[:0]
	s.step.targets = s.step.targets[:0]
	if want != scoredRows {
		s.step.targets = nil
	} else if s.step.targets == nil {
		s.step.targets = []int32{}
	}
	for i := range chunk {
		l.Pos = append(l.Pos, int32(len(s.ids)+i))
		if next := len(s.ids) + i + 1; want == scoredRows && next >= s.scored.from && next < len(s.scored.ids) {
			l.Logits, s.step.targets = append(l.Logits, int32(i)), append(s.step.targets, s.scored.ids[next])
		}
		if want == allRows || want == lastRow && last && i == len(chunk)-1 {
			l.Logits = append(l.Logits, int32(i))
		}
	}
	s.span[0] = backend.Span{Len: len(s.ids) + len(chunk)}
	s.seg[0] = backend.Segment{Rows: len(chunk), Pages: s.bufs, Spans: s.span[:]}
}

// prefill makes the session hold exactly ids and s.logits what follows them.
func (s *Session) prefill(ctx context.Context, ids []int32) error {
	if len(ids) == 0 {
		return fmt.Errorf("llama: an empty prompt: there is nothing to continue")
	}
	if err := s.m.checkIDs(ids); err != nil {
		return err
	}
	if len(ids) > s.limit {
		return fmt.Errorf("%w: the prompt has %d tokens, the session %d positions", ErrContextFull, len(ids), s.limit)
	}
	if s.version != s.m.version.Load() {
		s.truncate(0)
	}
	n := 0
	for n < len(ids)-1 && n < len(s.ids) && ids[n] == s.ids[n] {
		n++
	}
	s.truncate(n)
	start := time.Now()
	before := len(s.ids)
	err := s.extend(ctx, ids[n:], lastRow, s.keep)
	s.usage.ReusedTokens += n
	s.usage.PrefillTokens += len(s.ids) - before
	s.usage.PrefillTime += time.Since(start)
	return err
}

func (s *Session) keepLogits(_ int, values []float32) { copy(s.logits, values) }

// Logits returns the next-token logits [V] after ids.
func (s *Session) Logits(ctx context.Context, ids []int32) ([]float32, error) {
	call, leave, err := s.claim(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.prefill(call, ids); err != nil {
		return nil, err
	}
	return append([]float32(nil), s.logits...), nil
}

// Score computes ids from the start and calls visit for every position with
// the logits [V] of the token after it, valid during the call only.
func (s *Session) Score(ctx context.Context, ids []int32, visit func(pos int, logits []float32)) error {
	call, leave, err := s.anew(ctx, ids)
	if err != nil {
		return err
	}
	defer leave()
	return s.extend(call, ids, allRows, visit)
}

// Logprobs computes ids from the start and returns the log-probability of each of
// ids[from:], given those before it: out[i] is log p(ids[from+i] | ids[:from+i]). from is
// at least 1. Logits are never all in memory.
func (s *Session) Logprobs(ctx context.Context, ids []int32, from int) ([]float32, error) {
	if from < 1 || from > len(ids) {
		return nil, fmt.Errorf("llama: log-probabilities from position %d on of %d tokens: want 1 to %d", from, len(ids), len(ids))
	}
	call, leave, err := s.anew(ctx, ids)
	if err != nil {
		return nil, err
	}
	defer leave()
	s.scored.ids, s.scored.from = ids, from
	defer func() { s.scored.ids = nil }()
	out := make([]float32, 0, len(ids)-from)
	err = s.extend(call, ids, scoredRows, func(_ int, logp []float32) { out = append(out, logp[0]) })
	if err != nil {
		return nil, err
	}
	return out, nil
}
