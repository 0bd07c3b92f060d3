package nn

import (
	"fmt"

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

// shareOf is the share of the rows of a layout that have an adapter set. All rows of a
// layout without segments have it.
func shareOf(l *backend.Layout, set int) share {
	with, without := false, false
	for i := range l.Segments {
		if l.Segments[i].Adapted(set) {
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

// adapt applies the adapters of layers that share an input to their outputs: the first
// adapter of each layer, then the second, and so on. The products with the first factors of
// adapters that all rows have are one dispatch.
func adapt(c *tensor.Context, x *tensor.Tensor, ls [backend.MaxWeights]*Linear, ys *[backend.MaxWeights]*tensor.Tensor) {
	for j := 0; ; j++ {
		var as [backend.MaxWeights]*tensor.Param
		more, together := false, false
		for i, l := range ls {
			if l == nil || j >= len(l.Adapters) {
				continue
			}
			more = true
			rows := c.Rows()
			a := l.Adapters[j]
			in := a.dropout(c, x, &rows)
			switch shareOf(rows.Layout, a.Set) {
			case allRows:
				if in != x { // of its own
					ys[i] = a.add(c, ys[i], tensor.MatMul(c, in, a.A))
					continue
				}
				as[i], together = a.A, true
			case someRows:
				ys[i] = a.addRows(c, ys[i], &rows, func(from, n int) *tensor.Tensor {
					return tensor.MatMul(c, tensor.SliceRows(c, in, from, n), a.A)
				})
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
	if l.Bias != nil {
		y = tensor.AddTo(c, y, l.Bias.Value())
	}
	if l.Magnitude != nil {
		y = tensor.Mul(c, y, tensor.Mul(c, l.Magnitude.Value(), l.InverseNorm.Value()))
	}
	return y
}

// addRows returns y [R,out] changed by the adapter in those rows that have it, run by run;
// first gives n rows of x A^T [n,r]. Without a tape the result is y itself, so that a step
// of many clients allocates nothing for it.
func (l *LoRA) addRows(c *tensor.Context, y *tensor.Tensor, rows *tensor.Rows, first func(from, n int) *tensor.Tensor) *tensor.Tensor {
	if n := rows.Count(); y.Rows() > n {
		panic(&backend.ShapeError{Op: "LoRA", Detail: fmt.Sprintf("a tensor of %d rows, and %d rows that SetRows said are its own", y.Rows(), n)})
	}
	var parts []*tensor.Tensor // with a tape: all runs, one after the other
	for from, segment := 0, 0; from < y.Rows(); {
		n, adapted := l.run(rows, &segment, from, y.Rows())
		part := tensor.SliceRows(c, y, from, n)
		if adapted {
			changed := l.add(c, part, first(from, n))
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

// run is the length of the longest run of rows from row from on of a tensor of end rows, of
// which all have the adapter or none has. segment is at most the segment of row from, and
// becomes the last segment that was looked at.
func (l *LoRA) run(rows *tensor.Rows, segment *int, from, end int) (n int, adapted bool) {
	segments := rows.Layout.Segments
	of := func(r int) bool {
		for at := rows.At(r); at >= segments[*segment].Row+segments[*segment].Rows; {
			*segment++
		}
		return segments[*segment].Adapted(l.Set)
	}
	adapted = of(from)
	for n = 1; from+n < end && of(from+n) == adapted; n++ {
	}
	return n, adapted
}
