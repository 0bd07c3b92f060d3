package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

// reduceCols is how many columns of a line are reduced together.
const reduceCols = 128

// reduceTask is Sum, Max or MaxBackward. A chunk is some columns of a line of what
// is left of the axis, or where that axis is the last, the one column of some lines.
type reduceTask struct {
	a                      *backend.Args
	fn                     func(t *reduceTask, w *worker, line, col, cols int)
	small                  backend.Shape // of what is left
	n                      int           // extent of the axis
	lines, blocks, perLine int
}

// reduced runs fn over what is left of the axis of In[0].
func (e *exec) reduced(a *backend.Args, fn func(t *reduceTask, w *worker, line, col, cols int)) {
	t := &e.reduce
	*t = reduceTask{a: a, fn: fn, small: a.In[0].Shape, n: a.In[0].Shape.Dim[a.Axis], perLine: 1}
	t.small.Dim[a.Axis] = 1
	left := backend.View{Shape: t.small}
	t.lines, t.blocks = left.Rows(), (left.Cols()+reduceCols-1)/reduceCols
	if t.blocks == 1 {
		t.perLine = max(1, chunkElems/(t.n*left.Cols()))
	}
	e.b.pool.run(t, (t.lines+t.perLine-1)/t.perLine*t.blocks)
	*t = reduceTask{}
}

func (t *reduceTask) run(w *worker, chunk int) {
	from, col := chunk/t.blocks*t.perLine, chunk%t.blocks*reduceCols
	cols := min(reduceCols, t.small.Dim[t.small.Rank-1]-col)
	for l := from; l < min(from+t.perLine, t.lines); l++ {
		t.fn(t, w, l, col, cols)
	}
}

// along is the elements of a view that has the axis or what is left of it, from
// column col of a line on: element i along the axis in column j is at
// i*step + j*stride.
func (t *reduceTask) along(v *backend.View, line, col int) (s []float32, step, stride int) {
	left := *v
	left.Shape = t.small
	stride = v.Stride[v.Shape.Rank-1]
	return elems[float32](v)[lineStart(&left, line)+col*stride:], v.Stride[t.a.Axis], stride
}

func (e *exec) sum(a *backend.Args) {
	e.reduced(a, func(t *reduceTask, w *worker, line, col, cols int) {
		var acc [reduceCols]float64
		x, step, xs := t.along(&t.a.In[0], line, col)
		for i := range t.n {
			if !w.spent(cols) {
				return
			}
			for j := range acc[:cols] {
				acc[j] += float64(x[i*step+j*xs])
			}
		}
		y, _, ys := t.along(&t.a.Out[0], line, col)
		for j, v := range acc[:cols] {
			y[j*ys] = float32(v)
		}
	})
}

func (e *exec) max(a *backend.Args) {
	e.reduced(a, func(t *reduceTask, w *worker, line, col, cols int) {
		x, step, xs := t.along(&t.a.In[0], line, col)
		y, _, ys := t.along(&t.a.Out[0], line, col)
		for j := range cols {
			if !w.spent(min(t.n, pieceLen)) {
				return
			}
			m := float32(math.Inf(-1))
			if !w.pieces(t.n, func(from, to int) {
				for i := from; i < to; i++ {
					m = max(m, x[i*step+j*xs])
				}
			}) {
				return
			}
			y[j*ys] = m
		}
	})
}

func (e *exec) maxBackward(a *backend.Args) {
	e.reduced(a, func(t *reduceTask, w *worker, line, col, cols int) {
		x, step, xs := t.along(&t.a.In[0], line, col)
		y, _, ys := t.along(&t.a.In[1], line, col)
		dy, _, dys := t.along(&t.a.In[2], line, col)
		dx, dxStep, dxs := t.along(&t.a.Out[0], line, col)
		for j := range cols {
			if !w.spent(min(t.n, pieceLen)) {
				return
			}
			g, top := dy[j*dys], y[j*ys]
			if !w.pieces(t.n, func(from, to int) {
				for i := from; i < to; i++ {
					dx[i*dxStep+j*dxs] = 0
					if x[i*step+j*xs] == top {
						dx[i*dxStep+j*dxs], g = g, 0
						top = float32(math.NaN()) // equals nothing
					}
				}
			}) {
				return
			}
		}
	})
}

const (
	batchRows   = 96  // rows of a chunk of BatchMatMul
	batchPanels = 8   // panels
	batchInputs = 512 // inputs that are packed at a time
)

// batchTask is BatchMatMul: chunks are rows by panels of a product.
type batchTask struct {
	a            *backend.Args
	rows, panels int // chunks of each
}

func (e *exec) batchMatMul(a *backend.Args) {
	t := &e.batch
	s := a.Out[0].Shape
	*t = batchTask{a, (s.Dim[1] + batchRows - 1) / batchRows, (panels(s.Dim[2]) + batchPanels - 1) / batchPanels}
	e.b.pool.run(t, s.Dim[0]*t.rows*t.panels)
	*t = batchTask{}
}

func (t *batchTask) run(w *worker, chunk int) {
	x, y, z := &t.a.In[0], &t.a.In[1], &t.a.Out[0]
	b, row, col := chunk/(t.rows*t.panels), chunk/t.panels%t.rows*batchRows, chunk%t.panels*batchPanels*panel
	m, n, k := min(batchRows, z.Shape.Dim[1]-row), min(batchPanels*panel, z.Shape.Dim[2]-col), x.Shape.Dim[2]
	wide := panels(n) * panel
	out := slice[float32](&w.scratch, m*wide)
	left, right := slice[float32](&w.scratch, m*batchInputs), slice[float32](&w.scratch, batchInputs*wide)
	clear(out)
	var xs, ys []float32
	if k > 0 {
		xs, ys = elems[float32](x)[b*x.Stride[0]+row*x.Stride[1]:], elems[float32](y)[b*y.Stride[0]+col*y.Stride[2]:]
	}
	for at := 0; at < k; at += batchInputs {
		if w.pause() {
			return
		}
		part := min(batchInputs, k-at)
		for r := range m {
			move(left[r*part:], 1, xs[r*x.Stride[1]+at*x.Stride[2]:], x.Stride[2], part)
		}
		for i := range part {
			to := right[i*wide:][:wide]
			move(to, 1, ys[(at+i)*y.Stride[1]:], y.Stride[2], n)
			clear(to[n:])
		}
		w.kernels.F32(wide/panel, out, wide, left, part, right, wide, panel, m, part, true)
	}
	for r := range m {
		to := elems[float32](z)[b*z.Stride[0]+(row+r)*z.Stride[1]+col*z.Stride[2]:]
		move(to, z.Stride[2], out[r*wide:], 1, n)
	}
}
