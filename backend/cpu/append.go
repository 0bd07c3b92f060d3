package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

func (e *exec) kvAppend(a *backend.Args) {
	e.eachRow(a, a.In[0].Rows(), 2*a.In[0].Cols(), func(w *worker, a *backend.Args, from, to int) {
		segment := 0
		for r := from; r < to; r++ {
			s := &a.Layout.Segments[segment]
			for r >= s.Row+s.Rows {
				segment++
				s = &a.Layout.Segments[segment]
			}
			at := s.KeyRow(r - s.Row)
			page, slot := memory(s.Pages[at/backend.PageLen]), at%backend.PageLen
			for value := range 2 {
				in := &a.In[value]
				w.scratch.reset()
				w.appendKV(page, slot, value, row(elems[float32](in), r, in.RowStride(), in.Cols()), a)
			}
		}
	})
}

// appendKV writes the keys or values x [G*hd] of one row to a slot of a page.
func (w *worker) appendKV(page []byte, slot, value int, x []float32, a *backend.Args) {
	switch a.KV.Type {
	case backend.F32:
		place(as[float32](page), slot, value, x, a)
	case backend.F16:
		h := slice[uint16](&w.scratch, len(x))
		w.kernels.RoundF16(h, x)
		place(as[uint16](page), slot, value, h, a)
	case backend.BF16:
		h := slice[uint16](&w.scratch, len(x))
		w.kernels.RoundBF16(h, x)
		place(as[uint16](page), slot, value, h, a)
	default:
		w.appendQ8(page, slot, value, x, a)
	}
}

// appendQ8 rounds to codes and scales. The codes of a block have the places of the
// elements of other types.
func (w *worker) appendQ8(page []byte, slot, value int, x []float32, a *backend.Args) {
	n := backend.Q8_0.BlockElems()
	codes, d, sums := slice[int8](&w.scratch, len(x)), slice[float32](&w.scratch, len(x)/n), slice[int32](&w.scratch, len(x)/16)
	w.kernels.RoundI8(codes, d, sums, x, n)
	place(as[int8](page), slot, value, codes, a)
	for i, d := range d {
		if d != d {
			d = float32(math.NaN()) // one of them, whatever computed it
		}
		at := order(a.KV).scaleAt(a.Layer, value, i*n/a.KV.HeadDim, slot, i*n%a.KV.HeadDim)
		as[uint16](page[at:])[0] = block.F32ToF16(d)
	}
}

// place copies a row of all heads to a slot.
func place[T number](page []T, slot, value int, x []T, a *backend.Args) {
	hd := a.KV.HeadDim
	for g := range a.KV.Heads {
		to, x := page[order(a.KV).at(a.Layer, value, g, slot, 0):], x[g*hd:][:hd]
		if value == 1 {
			copy(to, x)
			continue
		}
		for i, v := range x {
			to[i*backend.PageLen] = v
		}
	}
}
