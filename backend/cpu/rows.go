package cpu

import (
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// rowTask is an operation whose rows do not depend on each other. Each chunk is perChunk
// rows.
type rowTask struct {
	fn             func(w *worker, a *backend.Args, from, to int)
	a              *backend.Args
	rows, perChunk int
}

func (t *rowTask) run(w *worker, chunk int) {
	from := chunk * t.perChunk
	t.fn(w, t.a, from, min(from+t.perChunk, t.rows))
}

// chunkElems is how many elements a chunk of rows or lines has, some microseconds of work.
const chunkElems = 1 << 13

// eachRow calls fn for rows [from, to), chunk by chunk. width is what a row costs, in
// elements.
func (e *exec) eachRow(a *backend.Args, rows, width int, fn func(w *worker, a *backend.Args, from, to int)) {
	n := max(1, chunkElems/max(width, 1))
	e.rows = rowTask{fn, a, rows, n}
	e.b.pool.run(&e.rows, (rows+n-1)/n)
	e.rows.a = nil
}

// row returns row r of a matrix, given its elements and row stride.
func row[T number](s []T, r, stride, cols int) []T { return s[r*stride:][:cols:cols] }

func (e *exec) rmsNorm(a *backend.Args) {
	e.eachRow(a, a.In[0].Rows(), a.In[0].Cols(), func(wk *worker, a *backend.Args, from, to int) {
		x, y, w := elems[float32](&a.In[0]), elems[float32](&a.Out[0]), elems[float32](&a.In[1])
		d := a.In[0].Cols()
		for r := from; r < to; r++ {
			x, y := row(x, r, a.In[0].RowStride(), d), row(y, r, a.Out[0].RowStride(), d)
			s := float32(1 / math.Sqrt(wk.sumSquares(x)/float64(d)+float64(a.Eps)))
			if !wk.pieces(d, func(from, to int) { wk.kernels.Scaled(y[from:to], x[from:to], w[from:], s) }) {
				return
			}
		}
	})
}

func (e *exec) ropeTable(a *backend.Args) {
	// A sine costs as much as 16 elements of other operations.
	e.eachRow(a, a.Out[0].Rows(), 16*a.Out[0].Cols(), func(_ *worker, a *backend.Args, from, to int) {
		f, half := elems[float32](&a.In[0]), a.In[0].Cols()
		out := elems[float32](&a.Out[0])
		for r := from; r < to; r++ {
			y := row(out, r, a.Out[0].RowStride(), 2*half)
			for i := range half {
				sin, cos := math.Sincos(float64(float32(a.Layout.Pos[r]) * f[i]))
				y[i], y[half+i] = float32(cos), float32(sin)
			}
		}
	})
}

func (e *exec) rope(a *backend.Args) {
	e.eachRow(a, a.In[0].Rows(), a.In[0].Cols(), func(w *worker, a *backend.Args, from, to int) {
		rotate(w, w.kernels.Rotate, a, from, to)
	})
}

// rotate turns the heads of rows [from, to) by the angles of the table.
func rotate(w *worker, turn func(y, x, cos, sin []float32), a *backend.Args, from, to int) {
	in, table, out := elems[float32](&a.In[0]), elems[float32](&a.In[1]), elems[float32](&a.Out[0])
	d, hd := a.In[0].Cols(), a.In[1].Cols()
	half := hd / 2
	for r := from; r < to; r++ {
		t := row(table, r, a.In[1].RowStride(), hd)
		for h := 0; h < d; h += hd {
			if !w.spent(hd) {
				return
			}
			turn(out[r*a.Out[0].RowStride()+h:][:hd], in[r*a.In[0].RowStride()+h:][:hd], t[:half], t[half:])
		}
	}
}

func (e *exec) swiGLU(a *backend.Args) {
	// Any strides are allowed; the model's are rows.
	e.eachLine(a, 4, true, func(w *worker, l lines) {
		if l.unit() {
			w.kernels.SwiGLU(l.y.s, l.p.s, l.q.s)
			return
		}
		for i := range l.y.n {
			z := l.p.at(i)
			l.y.set(i, z/(1+kernel.Exp(-z))*l.q.at(i))
		}
	})
}

func (e *exec) add(a *backend.Args) {
	e.eachLine(a, 1, true, func(w *worker, l lines) {
		if l.unit() {
			w.kernels.Add(l.y.s, l.p.s, l.q.s)
			return
		}
		for i := range l.y.n {
			l.y.set(i, l.p.at(i)+l.q.at(i))
		}
	})
}

func (e *exec) mul(a *backend.Args) {
	e.eachLine(a, 1, true, func(w *worker, l lines) {
		if l.unit() {
			w.kernels.Mul(l.y.s, l.p.s, l.q.s)
			return
		}
		for i := range l.y.n {
			l.y.set(i, l.p.at(i)*l.q.at(i))
		}
	})
}

func (e *exec) softmax(a *backend.Args) {
	e.eachLine(a, 4, false, func(w *worker, l lines) {
		x, y := &l.p, &l.y
		m := float32(math.Inf(-1))
		if !w.pieces(x.n, func(from, to int) {
			for i := from; i < to; i++ {
				m = max(m, x.at(i))
			}
		}) {
			return
		}
		var sum float64
		if !w.pieces(x.n, func(from, to int) {
			for i := from; i < to; i++ {
				p := kernel.Exp(x.at(i) - m)
				y.set(i, p)
				sum += float64(p)
			}
		}) {
			return
		}
		w.pieces(x.n, func(from, to int) {
			for i := from; i < to; i++ {
				y.set(i, float32(float64(y.at(i))/sum))
			}
		})
	})
}

func (e *exec) embedding(a *backend.Args) {
	e.eachRow(a, a.Out[0].Rows(), a.Out[0].Cols(), func(w *worker, a *backend.Args, from, to int) {
		ids, out, d := elems[int32](&a.In[0]), elems[float32](&a.Out[0]), a.Out[0].Cols()
		for r := from; r < to; r++ {
			id := index("Embedding", ids[r], a.W[0].Rows())
			y := row(out, r, a.Out[0].RowStride(), d)
			if !w.pieces(d, func(from, to int) { a.W[0].Tile(y[from:to], id, 1, from, to-from) }) {
				return
			}
		}
	})
}

func (e *exec) gather(a *backend.Args) {
	e.eachRow(a, a.Out[0].Rows(), a.Out[0].Cols(), func(w *worker, a *backend.Args, from, to int) {
		ids, in, out, d := elems[int32](&a.In[1]), elems[float32](&a.In[0]), elems[float32](&a.Out[0]), a.Out[0].Cols()
		for r := from; r < to; r++ {
			id := index("Gather", ids[r], a.In[0].Rows())
			y, x := row(out, r, a.Out[0].RowStride(), d), row(in, id, a.In[0].RowStride(), d)
			if !w.pieces(d, func(from, to int) { copy(y[from:to], x[from:to]) }) {
				return
			}
		}
	})
}

// index checks an id against n rows.
func index(op string, id int32, n int) int {
	if id < 0 || int(id) >= n {
		panic(&backend.ShapeError{Op: op, Detail: fmt.Sprintf("id %d of %d rows", id, n)})
	}
	return int(id)
}

func (e *exec) roundI8(a *backend.Args) {
	e.eachRow(a, a.In[0].Rows(), a.In[0].Cols(), func(w *worker, a *backend.Args, from, to int) {
		in, k, group := elems[float32](&a.In[0]), a.In[0].Cols(), a.Round.Group()
		for r := from; r < to; r++ {
			x, q := row(in, r, a.In[0].RowStride(), k), row(elems[int8](&a.Out[0]), r, a.Out[0].RowStride(), k)
			d, sums := row(elems[float32](&a.Out[1]), r, a.Out[1].RowStride(), k/group), row(elems[int32](&a.Out[2]), r, a.Out[2].RowStride(), k/16)
			if !w.pieces(k, func(from, to int) { w.kernels.RoundI8(q[from:to], d[from/group:], sums[from/16:], x[from:to], group) }) {
				return
			}
		}
	})
}

func (e *exec) roundE4M3(a *backend.Args) {
	e.eachRow(a, a.In[0].Rows(), a.In[0].Cols(), func(_ *worker, a *backend.Args, from, to int) {
		x, k := elems[float32](&a.In[0]), a.In[0].Cols()
		q, d := elems[uint8](&a.Out[0]), elems[float32](&a.Out[1])
		for r := from; r < to; r++ {
			d[r*a.Out[1].RowStride()] = block.RoundE4M3(row(q, r, a.Out[0].RowStride(), k), row(x, r, a.In[0].RowStride(), k), backend.E4M3Bound)
		}
	})
}
