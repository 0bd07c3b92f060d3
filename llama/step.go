package llama

import (
	"context"
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/tensor"
)

// step is one forward pass over rows of one or more sequences. Calls on
// sessions take turns with it; a scheduler will put the rows of several in one.
type step struct {
	ids    []int32 // [R]
	layout backend.Layout
	copies []pageCopy // done before anything is appended
	hidden bool       // emit hidden states [D] instead of logits [V]
	// targets, where not nil, are an id for each row in layout.Logits, whose
	// log-probability is emitted instead of logits, which are never all in memory.
	targets []int32
	// emit gets the result of each row in layout.Logits; values are valid during
	// the call only.
	emit func(i int, values []float32)
}

// pageCopy fills a page that has become a session's own.
type pageCopy struct{ dst, src backend.Buffer }

// run executes a step once the steps before it are done. On an error nothing
// has been emitted that counts, and what was appended must not be used.
func (m *Model) run(ctx context.Context, s *step) (err error) {
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
		return cause(ctx, ctxerr.Of(ctx))
	}
	defer func() { <-m.turn }()
	err = m.cx.Step(ctx, &s.layout, m.pages.kv, func() error {
		m.forward(s)
		return nil
	})
	return cause(ctx, err)
}

// forward is what happens within a step.
func (m *Model) forward(s *step) {
	for _, c := range s.copies {
		m.cx.CopyPage(c.dst, c.src)
	}
	h := m.net.hidden(m.cx, s.ids, false) // [n, D]
	if s.targets != nil && len(m.net.Output.Adapters) == 0 {
		m.emitLogprobs(h, s)
		return
	}
	width := m.config.Vocab
	if s.hidden {
		width = m.config.Dim
	}
	for from := 0; from < h.Rows(); from += logitRows {
		n := min(logitRows, h.Rows()-from)
		mark := m.cx.Mark()
		x := tensor.SliceRows(m.cx, h, from, n)
		m.cx.SetRows(s.layout.Logits, from)
		if !s.hidden {
			x = m.net.Output.Forward(m.cx, x) // [n, V]
		}
		if cap(m.host) < n*width {
			m.host = make([]float32, n*width)
		}
		out := m.host[:n*width]
		m.cx.Read(out, x)
		m.cx.Release(mark)
		if m.cx.Stopped() {
			return // the step's end says why
		}
		for i := range n {
			row := out[i*width : (i+1)*width]
			if s.targets != nil {
				row = []float32{float32(sample.Logprob(row, s.targets[from+i]))}
			}
			s.emit(from+i, row)
		}
	}
}

// emitLogprobs emits the log-probability of each row's target.
func (m *Model) emitLogprobs(h *tensor.Tensor, s *step) {
	if h.Rows() == 0 {
		return
	}
	logp, _ := tensor.LogProb(m.cx, h, s.targets, m.net.Output.Weight)
	out := make([]float32, h.Rows())
	m.cx.Read(out, logp)
	for i := range out {
		if m.cx.Stopped() {
			return // the step's end says why
		}
		s.emit(i, out[i:i+1])
	}
}

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
