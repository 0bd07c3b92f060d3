package cpu

import (
	"github.com/herd-ml/herd/backend"
)

func (e *exec) unfold(a *backend.Args) {
	e.eachRow(a, a.Out[0].Rows(), a.Out[0].Cols(), func(w *worker, a *backend.Args, from, to int) {
		in, out, c := elems[float32](&a.In[0]), elems[float32](&a.Out[0]), a.In[0].Cols()
		g := grid{w: a.Window}
		for r := from; r < to; r++ {
			g.find(a.Layout, r, true)
			i, j := (r-g.first)/g.across, (r-g.first)%g.across
			y := row(out, r, a.Out[0].RowStride(), a.Out[0].Cols())
			clear(y)
			for t := range a.Window.Taps() {
				down, across := i*a.Window.Stride[0]-a.Window.Pad[0]+t/a.Window.Kernel[1], j*a.Window.Stride[1]-a.Window.Pad[1]+t%a.Window.Kernel[1]
				if down >= 0 && down < g.s.Rows/a.Window.Width && across >= 0 && across < a.Window.Width {
					copy(y[t*c:][:c], row(in, g.s.Row+down*a.Window.Width+across, a.In[0].RowStride(), c))
				}
			}
		}
	})
}

// fold adds, to each row, what its windows hold of it, the taps in order: so neither
// workers nor chunks change a bit.
func (e *exec) fold(a *backend.Args) {
	e.eachRow(a, a.Out[0].Rows(), a.Out[0].Cols()*a.Window.Taps(), func(w *worker, a *backend.Args, from, to int) {
		in, out, c := elems[float32](&a.In[0]), elems[float32](&a.Out[0]), a.Out[0].Cols()
		g := grid{w: a.Window}
		for r := from; r < to; r++ {
			g.find(a.Layout, r, false)
			x := row(out, r, a.Out[0].RowStride(), c)
			clear(x)
			pixel := r - g.s.Row
			for t := range a.Window.Taps() {
				i, one := window(pixel/a.Window.Width+a.Window.Pad[0]-t/a.Window.Kernel[1], a.Window.Stride[0], g.down)
				j, other := window(pixel%a.Window.Width+a.Window.Pad[1]-t%a.Window.Kernel[1], a.Window.Stride[1], g.across)
				if one && other {
					w.kernels.Add(x, x, row(in, g.first+i*g.across+j, a.In[0].RowStride(), a.In[0].Cols())[t*c:][:c])
				}
			}
		}
	})
}

// window is which of n windows begins at a pixel of an axis, padding counted, and whether
// one does.
func window(at, stride, n int) (int, bool) {
	return at / stride, at >= 0 && at%stride == 0 && at/stride < n
}

// grid is the windows of a segment: find goes from one segment to the next.
type grid struct {
	w            backend.Window
	segment      int              // the next one
	s            *backend.Segment // nil at first
	first, after int              // its windows are rows [first, after) of what they see
	down, across int
}

// find goes on to the segment that has row r, of what the windows see or of the layout.
func (g *grid) find(l *backend.Layout, r int, seen bool) {
	for g.s == nil || seen && r >= g.after || !seen && r >= g.s.Row+g.s.Rows {
		g.s = &l.Segments[g.segment]
		g.down, g.across = g.w.Grid(g.s.Rows)
		g.first, g.after = g.after, g.after+g.down*g.across
		g.segment++
	}
}
