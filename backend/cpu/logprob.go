package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// logProbRows is how many rows of logits are in memory at once.
const logProbRows = 32

func (e *exec) logProb(a *backend.Args) {
	checkIDs(backend.LogProb, a)
	if a.Round != backend.RoundNone && a.Round != backend.RoundBothBF16 {
		e.roundedLogProb(a)
		return
	}
	e.inParts(a.In[0].Rows(), lossRow, func(from, n int) {
		l := e.start(a, e.identity(from, n), e.formatOf(a.Round), a.Out[2].Present())
		e.logSumExps(l, nil, 0)
		l.store(a)
		for i, h := range l.entropy {
			elems[float32](&a.Out[2])[from+i] = float32(h)
		}
	})
}

// roundedLogProb runs MatMul, which knows all ways to round, for a few rows at a time
// and reduces their logits.
func (e *exec) roundedLogProb(a *backend.Args) {
	rows, w := a.In[0].Rows(), a.W[0]
	x := a.In[0]
	if x.Shape.Rank != 2 {
		x = backend.Contiguous(x.Buf, x.Type, x.Off, backend.Dims(rows, x.Cols()))
	}
	mark := e.arena.mark()
	defer e.arena.release(mark)
	for r := 0; r < rows; r += logProbRows {
		n := min(logProbRows, rows-r)
		b := &e.inner
		b.Reset()
		b.In[0], b.W[0], b.Round = x.Slice(0, r, n), w, a.Round
		b.Out[0] = e.Alloc(backend.F32, backend.Dims(n, w.Rows()))
		e.matMul(b)
		b.In[1] = a.In[1].Slice(0, r, n)
		b.Out[1], b.Out[2] = a.Out[0].Slice(0, r, n), a.Out[1].Slice(0, r, n)
		if a.Out[2].Present() {
			b.Out[3] = a.Out[2].Slice(0, r, n)
		}
		e.eachRow(b, n, 4*w.Rows(), reduceLogits)
		b.Reset()
		e.arena.release(mark)
	}
}

// reduceLogits writes the log-probability of an id to Out[1], the log of the sum to
// Out[2] and the entropy to Out[3] if present, from logits in Out[0].
func reduceLogits(_ *worker, a *backend.Args, from, to int) {
	z, ids, v := elems[float32](&a.Out[0]), elems[int32](&a.In[1]), a.Out[0].Cols()
	logp, lse := elems[float32](&a.Out[1]), elems[float32](&a.Out[2])
	for r := from; r < to; r++ {
		z := row(z, r, v, v)
		top := float32(math.Inf(-1))
		for _, x := range z {
			top = max(top, x)
		}
		var sum float64
		for _, x := range z {
			sum += float64(kernel.Exp(x - top))
		}
		l := float64(top)
		if !math.IsInf(l, 0) {
			l += math.Log(sum)
		}
		lse[r], logp[r] = float32(l), float32(float64(z[ids[r]])-l)
		if a.Out[3].Present() {
			h := l - l // NaN unless finite
			for _, x := range z {
				if p := float64(kernel.Exp(x - float32(l))); p != 0 {
					h -= p * (float64(x) - l)
				}
			}
			elems[float32](&a.Out[3])[r] = float32(h)
		}
	}
}
