package cpu

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// Scratch implements backend.Backend. What follows takes of an arena that only counts what
// the operations take of theirs, in the same order.
func (b *Backend) Scratch(op backend.Op, a *backend.Args) int64 {
	s := scratch{b: b, k: b.kernels, a: a, m: &arena{counts: true}}
	switch op {
	case backend.MatMul, backend.MatMulAdd, backend.MatMulSwiGLU:
		s.product(a.In[0].Rows())
	case backend.MatMulBackward:
		s.productBackward()
	case backend.RMSNormBackward, backend.LayerNormBackward:
		vectors := 1
		if op == backend.LayerNormBackward {
			vectors = 2
		}
		if op == backend.LayerNormBackward || a.Out[1].Present() {
			s.take(4 * vectors * a.In[0].Cols() * ((a.In[0].Rows() + normRows - 1) / normRows))
		}
	case backend.Attention, backend.AttentionBackward:
		s.attention(op == backend.AttentionBackward)
	case backend.LogProb:
		s.logProb()
	case backend.LogProbBackward, backend.CrossEntropy:
		s.loss(op == backend.CrossEntropy)
	case backend.SumSquares:
		s.take(8 * ((a.In[0].Shape.Elems() + chunkElems - 1) / chunkElems))
	case backend.RowNorms:
		if a.Weights() == 3 {
			s.take(8 * a.W[1].Rows())
			s.panels(format{}, a.W[1].Rows(), a.W[0].Cols())
			s.take(4 * a.W[0].Cols()) // before the panels, but never more than they
		}
	}
	return s.m.peak
}

// scratch counts for one operation.
type scratch struct {
	b *Backend
	k *kernel.Set
	a *backend.Args
	m *arena
}

func (s *scratch) take(bytes int) { s.m.take(int64(bytes)) }

// part counts what is given back at its end.
func (s *scratch) part(f func()) {
	mark := s.m.mark()
	f()
	s.m.release(mark)
}

func (s *scratch) format() format { return (&exec{b: s.b}).formatOf(s.a.Round) }

// product counts MatMul and its like of so many rows.
func (s *scratch) product(rows int) {
	most := 512
	for _, w := range s.a.W[:s.a.Weights()] {
		if s.packs(w) {
			most = blockLen
		}
	}
	if rows = min(rows, most); rows == 0 {
		return
	}
	k, codes, meta, dot, values, pairs, bytes := s.a.In[0].Cols(), 1, false, false, false, false, 0
	f := s.format()
	if s.a.Round.Twice() {
		codes = 2
	}
	s.part(func() {
		for _, w := range s.a.W[:s.a.Weights()] {
			t, pack := w.Type(), s.packs(w)
			form := s.k.Format(t)
			switch {
			case pack:
				dot, values = dot || f.dot, values || !f.dot
				pairs = pairs || f.dot
				bytes += panels(w.Rows()) * f.step(k)
			case form != nil && !t.Float() && form.Group == s.a.Round.Group():
				q := inputOf[int8](rows*codes, k, unpackLen, unit(form))
				if !meta {
					s.take(q.elems(k))
				}
				meta = true
				s.m.take(int64(q.blocks(k)*q.rows*q.cols/form.Sub) * int64(sizeOf[kernel.Meta]()))
			case t == backend.BF16 && (s.a.Round == backend.RoundToBF16 || s.a.Round == backend.RoundBothBF16) && s.k.HasBF16Dot():
				dot, pairs = true, true
			default:
				values = true
				pairs = pairs || t == backend.BF16
			}
		}
		if s.a.Round != backend.RoundNone || rows >= kernel.MaxRows || pairs && k%2 == 1 {
			if values {
				s.take(4 * elemsOf[float32](rows, k, blockLen, tileLen))
			}
			if dot {
				s.take(2 * elemsOf[uint16](rows, k, blockLen, 32))
			}
		}
		for _, w := range s.a.W[:s.a.Weights()] {
			if all := panels(w.Rows()); s.packs(w) { // the largest window, as windows cuts them
				s.take(min(all, all/(1+bytes/windowBytes)+2) * f.step(k))
			}
		}
	})
}

// packs is the function of that name, of a weight that may have a shape only.
func (s *scratch) packs(w backend.Weight) bool {
	return !w.Packed() || s.a.Round == backend.RoundBothBF16 && w.Type() != backend.BF16
}

func (s *scratch) operand(f format, rows, k int) {
	if f.dot {
		s.take(2 * elemsOf[uint16](rows, k, k+k%2, 32))
	} else {
		s.take(4 * elemsOf[float32](rows, k, k+k%2, 1))
	}
}

func (s *scratch) panels(f format, n, cols int) { s.take(panels(cols) * f.padded(n)) }

// addProducts counts the function of that name.
func (s *scratch) addProducts(f format, n, k int) {
	s.part(func() { s.panels(f, n, min(f.window(n), k)) })
}

func (s *scratch) productBackward() {
	f, rows, k := s.format(), min(s.a.In[0].Rows(), blockLen), s.a.In[0].Cols()
	if rows == 0 {
		return
	}
	for i := range s.a.Weights() {
		some := min(blockLen, s.a.W[i].Rows())
		if s.a.Out[0].Present() {
			s.part(func() {
				s.operand(f, rows, some)
				s.addProducts(f, some, k)
			})
		}
		if s.a.Out[1+i].Present() {
			s.part(func() {
				s.panels(f, rows, min(f.window(rows), k))
				s.operand(f, some, rows)
			})
		}
	}
}

func (s *scratch) attention(back bool) {
	e, a := &exec{b: s.b}, s.a
	switch {
	case back || e.asColumns(a):
	case e.roundedPages(a):
		t := &pagedRows{attendTask: attendTask{a: a, hd: a.KV.HeadDim}}
		t.lay(a.Layout)
		b := *a
		b.Layout = &t.layout
		for range 2 {
			s.take(4 * t.layout.Keys * a.KV.Heads * a.KV.HeadDim)
		}
		a = &b
	default:
		return
	}
	t := e.rowTask(a, back)
	t.take(s.m)
	if back {
		t.stripesOf(s.m)
	}
}

// partOf is the rows of the first, and largest, of the parts that inParts makes.
func partOf(rows, most int) int {
	most = max(most/kernel.MaxRows, 1) * kernel.MaxRows
	parts := (rows + most - 1) / most
	if parts == 0 {
		return 0
	}
	return min(((rows+parts-1)/parts+kernel.MaxRows-1)/kernel.MaxRows*kernel.MaxRows, rows)
}

// found counts what is found of n rows.
func (s *scratch) found(n int, entropy bool) {
	blocks := (s.a.W[0].Rows() + lossCols - 1) / lossCols
	s.take(4 * n * blocks)
	s.take(4 * n * blocks)
	s.take(4 * n)
	s.take(8 * n)
	if entropy {
		s.take(8 * n * blocks)
		s.take(8 * n)
	}
}

// logits counts products with at most n rows of the weight.
func (s *scratch) logits(f format, n int) {
	w := s.a.W[0]
	if t := w.Type(); w.Packed() && (f.dot && t == backend.BF16 || !f.dot && !f.round && t == backend.F32) {
		return
	}
	s.part(func() { s.take(panels(n) * f.step(w.Cols())) })
}

// window is windowOf.
func (s *scratch) window(f format) int {
	w := s.a.W[0]
	return min((&loss{format: f, k: w.Cols()}).windowOf(), w.Rows())
}

func (s *scratch) logProb() {
	w, f, most := s.a.W[0], s.format(), lossRow
	made := w.Type().Quantized() && s.a.Round == backend.RoundNone || s.a.Round != backend.RoundNone && s.a.Round != backend.RoundBothBF16
	if made {
		most = logProbBytes / (4 * w.Rows())
	}
	n := partOf(s.a.In[0].Rows(), most)
	if n == 0 {
		return
	}
	s.take(4 * n)
	s.found(n, s.a.Out[2].Present())
	if made {
		s.take(4 * n * w.Rows())
		s.product(n)
		return
	}
	s.operand(f, n, w.Cols())
	s.logits(f, s.window(f))
}

// loss counts CrossEntropy, or LogProbBackward, of rows that all count.
func (s *scratch) loss(both bool) {
	f, rows, k, vocab := s.format(), s.a.In[0].Rows(), s.a.In[0].Cols(), s.a.W[0].Rows()
	dx, dw, most, stride := s.a.Out[0].Present(), s.a.Out[1].Present(), lossRow, blockLen+panel
	if both {
		stride = panels(vocab)*panel + panel
		dx, dw, most = s.a.Out[2].Present(), s.a.Out[3].Present(), lossBytes/(4*stride)
	}
	s.take(4 * rows)
	if !both && !dx && !dw || rows == 0 {
		return
	}
	if !dx && !dw {
		most = lossRow
	}
	n := partOf(rows, most)
	s.found(n, !both && s.a.In[5].Present())
	s.operand(f, n, k)
	window := s.window(f)
	if !dx && !dw {
		s.logits(f, window)
		return
	}
	if both {
		s.take(4 * n * stride)
		s.logits(f, window)
		s.take(int(sizeOf[rowGradient]()) * n)
	} else {
		s.take(int(sizeOf[rowGradient]()) * n)
		if s.a.In[5].Present() {
			s.logits(f, window)
		}
	}
	if dx {
		s.take(4 * n * k)
	}
	if dw {
		s.panels(f, n, k)
	}
	some := min(blockLen, vocab)
	if !both {
		s.take(4 * n * stride)
		s.logits(f, some)
	}
	if dx {
		s.operand(f, n, some)
	}
	if dw {
		s.operand(f, some, n)
	}
	if dx {
		s.addProducts(f, some, k)
	}
}

// elemsOf is the room of an input of k columns.
func elemsOf[T number](rows, k, cols, group int) int {
	in := inputOf[T](rows, k, cols, group)
	return in.elems(k)
}
