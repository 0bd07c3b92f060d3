package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

func (e *exec) ropeBackward(a *backend.Args) {
	e.eachRow(a, a.In[0].Rows(), a.In[0].Cols(), func(w *worker, a *backend.Args, from, to int) {
		rotate(w, w.kernels.RotateBack, a, from, to)
	})
}

func (e *exec) swiGLUBackward(a *backend.Args) {
	e.eachLine(a, 6, true, func(w *worker, l lines) {
		if l.unit() {
			if l.z.n == 0 {
				l.z.s = slice[float32](&w.scratch, l.y.n)
			}
			w.kernels.SwiGLUBackward(l.y.s, l.z.s, l.p.s, l.q.s, l.r.s)
			w.scratch.reset()
			return
		}
		for i := range l.y.n {
			dgate, dup := kernel.SwiGLUBackward(l.p.at(i), l.q.at(i), l.r.at(i))
			l.y.set(i, dgate)
			if l.z.n > 0 {
				l.z.set(i, dup)
			}
		}
	})
}

// normRows is how many rows of RMSNormBackward are added to dw together. Those are
// the first, the second and so on: what they add up to is added in order, so that
// bits do not depend on workers.
const normRows = 32

// normTask is RMSNormBackward: chunks of rows, then of columns of dw, part [chunks, D].
type normTask struct {
	a    *backend.Args
	part []float32 // nil where dw is absent
	sum  bool      // the second time
}

func (e *exec) rmsNormBackward(a *backend.Args) {
	rows, d := a.In[0].Rows(), a.In[0].Cols()
	chunks := (rows + normRows - 1) / normRows
	mark := e.arena.mark()
	defer e.arena.release(mark)
	e.norm = normTask{a: a}
	if a.Out[1].Present() {
		e.norm.part = slice[float32](&e.arena, chunks*d)
	}
	e.b.pool.run(&e.norm, chunks)
	if e.norm.part != nil {
		e.norm.sum = true
		e.b.pool.run(&e.norm, (d+scatterCols-1)/scatterCols)
	}
	e.norm = normTask{}
}

func (t *normTask) run(wk *worker, chunk int) {
	a, d := t.a, t.a.In[0].Cols()
	if t.sum {
		col := chunk * scatterCols
		n := min(scatterCols, d-col)
		dw := elems[float32](&a.Out[1])[col:][:n]
		for at := col; at < len(t.part); at += d {
			if !wk.spent(n) {
				return
			}
			wk.kernels.Add(dw, dw, t.part[at:])
		}
		return
	}
	x, w, dy := elems[float32](&a.In[0]), elems[float32](&a.In[1])[:d], elems[float32](&a.In[2])
	var dx, dw []float32
	if t.part != nil {
		dw = t.part[chunk*d:][:d]
	} else {
		dw = slice[float32](&wk.scratch, d)
	}
	clear(dw)
	if a.Out[0].Present() {
		dx = elems[float32](&a.Out[0])
	}
	nowhere := slice[float32](&wk.scratch, d)
	for r := chunk * normRows; r < min((chunk+1)*normRows, a.In[0].Rows()); r++ {
		x, dy, dx1 := row(x, r, a.In[0].RowStride(), d), row(dy, r, a.In[2].RowStride(), d), nowhere
		if dx != nil {
			dx1 = row(dx, r, a.Out[0].RowStride(), d)
		}
		if !wk.spent(d) {
			return
		}
		squares, dot := wk.normSums(x, w, dy)
		s := 1 / math.Sqrt(squares/float64(d)+float64(a.Eps))
		if scale, c := float32(s), float32(s*s*s*dot/float64(d)); !wk.pieces(d, func(from, to int) {
			wk.kernels.NormBackward(dx1[from:to], dw[from:to], x[from:to], w[from:to], dy[from:to], scale, c)
		}) {
			return
		}
	}
}

// scatterCols is how many columns a chunk adds up: each column in the order of the
// rows, so that bits do not depend on workers.
const scatterCols = 128

func (e *exec) embeddingBackward(a *backend.Args) { e.scatter(a, "EmbeddingBackward", 0, 1) }

func (e *exec) scatterAdd(a *backend.Args) { e.scatter(a, "ScatterAdd", 1, 0) }

// scatter adds the rows of input in to the rows of the output that input ids names.
func (e *exec) scatter(a *backend.Args, op string, ids, in int) {
	n, d := a.Out[0].Rows(), a.Out[0].Cols()
	for _, id := range elems[int32](&a.In[ids])[:a.In[ids].Cols()] {
		index(op, id, n)
	}
	b := &e.inner // the operands in the order of EmbeddingBackward, for a function without variables
	*b = backend.Args{}
	b.In[0], b.In[1], b.Out[0] = a.In[ids], a.In[in], a.Out[0]
	e.rows = rowTask{scatterColumns, b, d, scatterCols}
	e.b.pool.run(&e.rows, (d+scatterCols-1)/scatterCols)
	e.rows.a = nil
	b.Reset()
}

// scatterColumns adds columns [from, to) of all rows.
func scatterColumns(w *worker, a *backend.Args, from, to int) {
	dy, out := elems[float32](&a.In[1]), elems[float32](&a.Out[0])
	for r, id := range elems[int32](&a.In[0])[:a.In[0].Cols()] {
		if !w.spent(to - from) {
			return
		}
		y := out[int(id)*a.Out[0].RowStride()+from:][:to-from]
		w.kernels.Add(y, y, dy[r*a.In[1].RowStride()+from:])
	}
}

func (e *exec) softmaxBackward(a *backend.Args) {
	e.eachLine(a, 2, false, func(w *worker, l lines) {
		var sum float64
		if !w.pieces(l.y.n, func(from, to int) {
			for i := from; i < to; i++ {
				sum += float64(float64(l.p.at(i)) * float64(l.q.at(i)))
			}
		}) {
			return
		}
		w.pieces(l.y.n, func(from, to int) {
			for i := from; i < to; i++ {
				l.y.set(i, float32(float64(l.p.at(i))*(float64(l.q.at(i))-sum)))
			}
		})
	})
}

// The element-wise operations; those that no model's training waits for are computed
// in float64.

func (e *exec) exp(a *backend.Args) { e.each1(a, 8, kernel.Exp) }

func (e *exec) log(a *backend.Args) {
	e.each1(a, 16, func(x float32) float32 { return float32(math.Log(float64(x))) })
}

func (e *exec) logBackward(a *backend.Args) {
	e.each2(a, 1, func(x, dy float32) float32 { return dy / x })
}

func (e *exec) sigmoid(a *backend.Args) {
	e.each1(a, 8, func(x float32) float32 { return 1 / (1 + kernel.Exp(-x)) })
}

func (e *exec) sigmoidBackward(a *backend.Args) {
	e.each2(a, 1, func(y, dy float32) float32 { return float32(dy*y) * (1 - y) })
}

func (e *exec) tanh(a *backend.Args) {
	e.each1(a, 16, func(x float32) float32 { return float32(math.Tanh(float64(x))) })
}

func (e *exec) tanhBackward(a *backend.Args) {
	e.each2(a, 1, func(y, dy float32) float32 { return dy * (1 - float32(y*y)) })
}

func (e *exec) gelu(a *backend.Args) {
	e.each1(a, 16, func(x float32) float32 { return float32(float64(x) * normal(float64(x))) })
}

func (e *exec) geluBackward(a *backend.Args) {
	e.each2(a, 32, func(x, dy float32) float32 {
		z := float64(x)
		return float32(float64(dy) * (normal(z) + z*math.Exp(-z*z/2)/math.Sqrt(2*math.Pi)))
	})
}

// normal is the distribution function of the standard normal; with 1+erf it would
// cancel for negative z.
func normal(z float64) float64 { return math.Erfc(-z/math.Sqrt2) / 2 }
