package nn

import (
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// Which adapters change a layer is a property of the rows: a step may have rows of several
// clients with adapters of their own, or of a policy and of the reference it is held to.

// plain reports whether the layer is its matrix alone.
func (l *Linear) plain() bool { return l.Bias == nil && len(l.Adapters) == 0 }

// rescaled reports whether an adapter does more than add.
func (l *Linear) rescaled() bool {
	for _, a := range l.Adapters {
		if a.Magnitude != nil {
			return true
		}
	}
	return false
}

// A share is how many of a step's rows have an adapter.
type share uint8

const (
	noRows share = iota
	someRows
	allRows
)

// shareOf is the share of the rows of the step that have an adapter set. A step without
// segments has all.
func shareOf(c *tensor.Context, set int) share {
	with, without := false, false
	for i := range c.Layout().Segments {
		if c.Layout().Segments[i].Adapted(set) {
			with = true
		} else {
			without = true
		}
	}
	switch {
	case !without:
		return allRows
	case with:
		return someRows
	}
	return noRows
}

// adapt lets the adapters of layers of one input change their outputs: the first of each
// layer, then the second, and so on. First factors of adapters that all rows have are
// multiplied in one dispatch.
func adapt(c *tensor.Context, x *tensor.Tensor, ls [backend.MaxWeights]*Linear, ys *[backend.MaxWeights]*tensor.Tensor) {
	for j := 0; ; j++ {
		var as [backend.MaxWeights]*tensor.Param
		more, together := false, false
		for i, l := range ls {
			if l == nil || j >= len(l.Adapters) {
				continue
			}
			more = true
			switch a := l.Adapters[j]; shareOf(c, a.Set) {
			case allRows:
				as[i], together = a.A, true
			case someRows:
				ys[i] = a.addRows(c, ys[i], x)
			}
		}
		if !more {
			return
		}
		if !together {
			continue
		}
		for i, h := range tensor.MatMuls(c, x, as) {
			if h != nil {
				ys[i] = ls[i].Adapters[j].add(c, ys[i], h)
			}
		}
	}
}

// add returns y changed by the adapter, for y [R,out] and h = x A^T [R,r].
func (l *LoRA) add(c *tensor.Context, y, h *tensor.Tensor) *tensor.Tensor {
	if l.Scale != 1 {
		h = tensor.Scale(c, h, l.Scale)
	}
	y = tensor.MatMulAdd(c, y, h, l.B)
	if l.Magnitude != nil {
		y = tensor.Mul(c, y, tensor.Mul(c, l.Magnitude.Value(), l.InverseNorm.Value()))
	}
	return y
}

// addRows returns y [R,out] changed by the adapter in those rows of x [R,in] that have it,
// run by run. Without a tape the result is y itself, so that a step of many clients
// allocates nothing for it.
func (l *LoRA) addRows(c *tensor.Context, y, x *tensor.Tensor) *tensor.Tensor {
	var parts []*tensor.Tensor // with a tape: all runs, one after the other
	for from, segment := 0, 0; from < x.Rows(); {
		n, adapted := l.run(c, &segment, from, x.Rows())
		part := tensor.SliceRows(c, y, from, n)
		if adapted {
			changed := l.add(c, part, tensor.MatMul(c, tensor.SliceRows(c, x, from, n), l.A))
			if !c.Recording() && changed != part {
				tensor.CopyTo(c, part, changed)
			}
			part = changed
		}
		if c.Recording() {
			parts = append(parts, part)
		}
		from += n
	}
	if parts == nil {
		return y
	}
	return tensor.Concat(c, 0, parts...)
}

// run is how many rows from a row on, of rows that a tensor has, have the adapter as that
// one does, and whether it does. segment is one of the row or before it, and becomes the
// one that the next row may be in.
func (l *LoRA) run(c *tensor.Context, segment *int, from, rows int) (n int, adapted bool) {
	segments := c.Layout().Segments
	of := func(r int) bool {
		for at := c.LayoutRow(r); at >= segments[*segment].Row+segments[*segment].Rows; {
			*segment++
		}
		return segments[*segment].Adapted(l.Set)
	}
	adapted = of(from)
	for n = 1; from+n < rows && of(from+n) == adapted; n++ {
	}
	return n, adapted
}
