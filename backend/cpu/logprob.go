package cpu

import "github.com/herd-ml/herd/backend"

// logProbBytes is what logits take that MatMul has written.
const logProbBytes = 16 << 20

// logProb reduces logits as they are made where panels of floats are multiplied with.
// MatMul knows all other ways.
func (e *exec) logProb(a *backend.Args) {
	checkIDs(backend.LogProb, a)
	w := a.W[0]
	made := w.Type().Quantized() && a.Round == backend.RoundNone || a.Round != backend.RoundNone && a.Round != backend.RoundBothBF16
	most := lossRow
	if made {
		most = logProbBytes / (4 * w.Rows())
	}
	e.inParts(a.In[0].Rows(), most, func(from, n int) {
		l := e.found(a, e.identity(from, n), e.formatOf(a.Round), a.Out[2].Present())
		if made {
			e.reduceProduct(l, a, from)
		} else {
			e.packRows(l, a)
			e.logSumExps(l, nil, 0)
		}
		l.store(a)
		for i, h := range l.entropy {
			elems[float32](&a.Out[2])[from+i] = float32(h)
		}
	})
}

// reduceProduct runs MatMul for the rows from a row on and reduces their logits.
func (e *exec) reduceProduct(l *loss, a *backend.Args, from int) {
	x := a.In[0]
	if x.Shape.Rank != 2 {
		x = backend.Contiguous(x.Buf, x.Type, x.Off, backend.Dims(x.Rows(), x.Cols()))
	}
	b := &e.inner
	*b = backend.Args{Round: a.Round}
	b.In[0], b.W[0] = x.Slice(0, from, l.rows), l.w
	b.Out[0] = e.Alloc(backend.F32, backend.Dims(l.rows, l.vocab))
	e.matMul(b)
	e.eachRow(b, l.rows, 4*l.vocab, func(w *worker, a *backend.Args, from, to int) {
		z := elems[float32](&a.Out[0])
		for col := 0; col < l.vocab; col += lossCols {
			if !w.spent(lossCols) {
				return
			}
			mark := w.scratch.mark()
			l.reduce(w, z[from*l.vocab+col:], l.vocab, from, to-from, col, min(lossCols, l.vocab-col))
			w.scratch.release(mark)
		}
	})
	b.Reset()
	for r := range l.rows {
		l.total(r)
	}
}
