package llama

import (
	"context"
	"fmt"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/tensor"
)

// request is what one call wants of a forward step: rows of its sequence go through the
// network, and results of some of them come back. It is the call's but while the scheduler
// has it.
type request struct {
	session *Session
	ctx     context.Context
	ids     []int32 // a step computes all or the first of them
	pos     int     // position of the first
	wish    wish    // of a text in which ids begin at from, and which has so many
	from    int
	total   int
	copies  []pageCopy
	// segment says where the rows' keys are and what is wanted of the rows; the batch
	// sets Row, Rows, Seq, Results and the length of the span.
	segment backend.Segment
	out     []float32 // the results, row after row
	states  []float32 // unless nil, the states [n, D] of the rows with results come here too

	rows int   // that the step computed
	err  error // of this call, once the step is over

	// What follows is the scheduler's.
	priority int
	ticket   uint64 // says who came first
	quantum  int    // rows that may be computed until the next ticket
	epoch    uint64 // of the step that it was part of, while its call is away
	place    place
	gone     bool          // its call has ended before the step that has it
	done     chan struct{} // the step is over
}

// short reports whether a step computes all rows or none.
func (r *request) short() bool { return len(r.ids) <= shortRows }

// clear forgets what is of one call.
func (r *request) clear() {
	r.ctx, r.ids, r.wish, r.out, r.states, r.err, r.gone = nil, nil, wish{}, nil, nil, nil, false
}

// pageCopy fills a page that has become a session's own.
type pageCopy struct{ dst, src backend.Buffer }

// batch is one forward step of the rows of one or more calls.
type batch struct {
	requests []*request
	ids      []int32 // [R]
	layout   backend.Layout
	host     []float32 // numbers on their way out that are no results yet
}

// take puts the first n rows of a request behind those that are there.
func (b *batch) take(r *request, n int) {
	r.place, r.rows = running, n
	s := &r.segment
	s.Row, s.Rows, s.Seq = len(b.ids), n, len(b.requests)
	s.Spans[0].Len = r.pos + n
	s.Results, r.out, r.states = r.wish.part(r.from, r.from+n, r.total)
	b.requests, b.ids = append(b.requests, r), append(b.ids, r.ids[:n]...)
	b.layout.Segments = append(b.layout.Segments, *s)
	for i := range n {
		b.layout.Pos = append(b.layout.Pos, int32(r.pos+i))
	}
}

// reset makes the batch empty. It keeps the memory, and nothing of the calls.
func (b *batch) reset() {
	clear(b.requests)
	clear(b.layout.Segments)
	b.requests, b.ids = b.requests[:0], b.ids[:0]
	b.layout.Segments, b.layout.Pos = b.layout.Segments[:0], b.layout.Pos[:0]
}

// step calls f, which runs a step on the model's context, when it is its turn. The caller's
// own code does not run within f: a panic there is the model's fault, and an error.
func (m *Model) step(ctx context.Context, f func(ctx context.Context) error) (err error) {
	if err := m.begin(); err != nil {
		return err
	}
	defer m.steps.Done()
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("llama: a forward step failed: %v", fault)
		}
	}()
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return ended(ctx)
	}
	defer func() { <-m.turn }()
	return cause(ctx, f(ctx))
}

// forward is what happens within a step of the batch.
func (m *Model) forward() error {
	if err := m.snapshot(); err != nil {
		return err
	}
	b := &m.batch
	for _, r := range b.requests {
		for _, c := range r.copies {
			m.cx.CopyPage(c.dst, c.src)
		}
	}
	h := m.net.hidden(m.cx, m.net.embed(m.cx, b.ids, nil, nil), LayerRange{}, false) // [len(Logits), D]
	for from, i := 0, 0; i < len(b.requests); {
		kind, n := b.requests[i].segment.Results.Kind, 0
		first := i
		for ; i < len(b.requests); i++ {
			r := &b.requests[i].segment.Results
			if r.Kind != kind && r.Kind != backend.ResultNone {
				break
			}
			n += r.Count()
		}
		if n > 0 {
			m.states(h, from, b.requests[first:i])
			m.results(kind, tensor.SliceRows(m.cx, h, from, n), from, &outputs{requests: b.requests[first:i]})
		}
		from += n
	}
	return nil
}

// states keeps the states of the rows of each request that wants them. Their rows are
// those of h from one on.
func (m *Model) states(h *tensor.Tensor, at int, requests []*request) {
	for _, r := range requests {
		n := r.segment.Results.Count()
		if at += n; r.states != nil && n > 0 {
			m.cx.Read(r.states, tensor.SliceRows(m.cx, h, at-n, n))
		}
	}
}

// outputs is where the results of requests of one kind go, row after row.
type outputs struct {
	requests []*request
	row      int // of the first request
}

// next is room for results of at most n rows of so many numbers.
func (o *outputs) next(n, width int) []float32 {
	r := o.requests[0]
	for r.segment.Results.Count() == o.row {
		o.requests, o.row = o.requests[1:], 0
		r = o.requests[0]
	}
	n = min(n, r.segment.Results.Count()-o.row)
	o.row += n
	return r.out[(o.row-n)*width:][:n*width]
}

// results makes results of one kind from the states [n, D] of their rows, which the layout
// wants logits of: the first of them is row at of those.
func (m *Model) results(kind backend.Result, h *tensor.Tensor, at int, o *outputs) {
	if kind != backend.ResultHidden {
		h = m.net.scaled(m.cx, h)
	}
	switch {
	case kind == backend.ResultHidden:
		m.read(h, o)
	case kind == backend.ResultLogprobs && len(m.net.Output.Adapters) == 0:
		targets := o.targets()
		logp, _ := tensor.LogProb(m.cx, h, targets, m.net.Output.Weight)
		out := m.batch.room(len(targets))
		m.cx.Read(out, logp)
		for i := range out {
			o.next(1, 1)[0] = out[i]
		}
	default:
		targets := o.targets()
		for from := 0; from < h.Rows(); from += logitRows {
			mark := m.cx.Mark()
			m.cx.SetRows(tensor.Rows{List: m.batch.layout.Logits, From: at + from})
			x := m.net.Output.Forward(m.cx, tensor.SliceRows(m.cx, h, from, min(logitRows, h.Rows()-from))) // [n, V]
			if kind == backend.ResultLogits {
				m.read(x, o)
			} else {
				row := m.batch.room(x.Cols())
				for i := range x.Rows() {
					m.cx.Read(row, tensor.SliceRows(m.cx, x, i, 1))
					o.next(1, 1)[0] = float32(sample.Logprob(row, targets[from+i]))
				}
			}
			m.cx.Release(mark)
		}
	}
}

// read copies rows to where they go.
func (m *Model) read(x *tensor.Tensor, o *outputs) {
	for at := 0; at < x.Rows(); {
		dst := o.next(x.Rows()-at, x.Cols())
		n := len(dst) / x.Cols()
		m.cx.Read(dst, tensor.SliceRows(m.cx, x, at, n))
		at += n
	}
}

// targets are those of all requests that want log-probabilities.
func (o *outputs) targets() (all []int32) {
	for _, r := range o.requests {
		for _, t := range r.segment.Results.Targets {
			if t >= 0 {
				all = append(all, t)
			}
		}
	}
	return all
}

// room is memory of the host for n numbers.
func (b *batch) room(n int) []float32 {
	if cap(b.host) < n {
		b.host = make([]float32, n)
	}
	return b.host[:n]
}

// logits makes logits [n, V] of states [n, D] that have left the step that made them, in a
// step of its own. The rows have the adapters given, as in backend.Segment.
func (m *Model) logits(ctx context.Context, h []float32, adapters []int, out []float32) error {
	n := len(h) / m.config.Dim
	l := backend.Documents(n)
	l.Segments[0].Adapters = adapters
	return m.step(ctx, func(ctx context.Context) error {
		return m.cx.Step(ctx, l, m.pages.kv, func() error {
			if err := m.snapshot(); err != nil {
				return err
			}
			x := m.cx.New(backend.F32, backend.Dims(n, m.config.Dim))
			m.cx.Write(x, h)
			m.cx.Read(out, m.net.Output.Forward(m.cx, m.net.scaled(m.cx, x)))
			return nil
		})
	})
}

// logprobs are the log-probabilities of ids after a position with state h [D], in a step of
// its own: the bits that ResultLogprobs has, and training.
func (m *Model) logprobs(ctx context.Context, h []float32, ids []int32) ([]float32, error) {
	out := make([]float32, len(ids))
	err := m.step(ctx, func(ctx context.Context) error {
		return m.cx.Step(ctx, nil, m.pages.kv, func() error {
			if err := m.snapshot(); err != nil {
				return err
			}
			x := m.cx.New(backend.F32, backend.Dims(len(ids), m.config.Dim))
			m.cx.Write(x, slices.Concat(slices.Repeat([][]float32{h}, len(ids))...))
			logp, _ := tensor.LogProb(m.cx, m.net.scaled(m.cx, x), ids, m.net.Output.Weight)
			m.cx.Read(out, logp)
			return nil
		})
	})
	return out, err
}

// ended is the error of a call's context that has ended, or nil.
func ended(ctx context.Context) error { return cause(ctx, ctxerr.Of(ctx)) }

// cause replaces the error of a context that Close ended by ErrClosed.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && context.Cause(ctx) == ErrClosed {
		return ErrClosed
	}
	return err
}

// checkIDs refuses ids outside the embedding table.
func (m *Model) checkIDs(ids []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= m.config.Vocab {
			return fmt.Errorf("llama: token %d at position %d is outside the vocabulary of %d", id, i, m.config.Vocab)
		}
	}
	return nil
}
