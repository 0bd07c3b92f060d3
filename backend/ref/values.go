package ref

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// Values are the operands of one operation in float64: every view as a
// row-major slice without gaps, broadcast axes written out.
type Values struct {
	// Args holds the shapes, the Layout, pages and numbers of the operation.
	// The contents of its views are not looked at.
	Args *backend.Args
	In   [backend.MaxIn][]float64
	// Out is written; gradients of weights are added to what it holds. nil
	// where the output is absent.
	Out [backend.MaxOut][]float64
	// W returns a row of a weight, valid until the next call.
	W [backend.MaxWeights]func(row int) []float64
}

// Load reads the operands of a. Weights are decoded a row at a time, when
// needed.
func Load(a *backend.Args) *Values {
	x := &Values{Args: a}
	for i := range a.In {
		x.In[i] = load(&a.In[i])
	}
	for i := range a.Out {
		x.Out[i] = load(&a.Out[i])
	}
	for i := range a.Weights() {
		x.W[i] = rowsOf(a.W[i])
	}
	return x
}

// Store writes the outputs to the views of Args, rounded to their types.
func (x *Values) Store() {
	for i := range x.Args.Out {
		store(&x.Args.Out[i], x.Out[i])
	}
}

// rowsOf decodes the rows of a weight from the bytes that the file had, so
// that the oracle depends on no decoder but package block.
func rowsOf(w backend.Weight) func(int) []float64 {
	size, err := w.Type().RowBytes(int64(w.Cols()))
	if err != nil {
		panic(&backend.ShapeError{Op: "weight " + w.Name(), Detail: err.Error()})
	}
	raw, f, row := make([]byte, size), make([]float32, w.Cols()), make([]float64, w.Cols())
	return func(n int) []float64 {
		w.Unpack(raw, n, 1)
		block.DecodeRows(w.Type(), f, raw, len(f))
		for i, v := range f {
			row[i] = float64(v)
		}
		return row
	}
}

// each calls f with the position in the buffer of every element of v, in
// row-major order.
func each(v *backend.View, f func(at int)) {
	dim, stride := [backend.MaxRank]int{1, 1, 1, 1}, [backend.MaxRank]int{}
	copy(dim[backend.MaxRank-v.Shape.Rank:], v.Shape.Dim[:v.Shape.Rank])
	copy(stride[backend.MaxRank-v.Shape.Rank:], v.Stride[:v.Shape.Rank])
	for a := range dim[0] {
		for b := range dim[1] {
			for c := range dim[2] {
				at := v.Off + a*stride[0] + b*stride[1] + c*stride[2]
				for range dim[3] {
					f(at)
					at += stride[3]
				}
			}
		}
	}
}

// load returns the elements of v, nil where v is absent.
func load(v *backend.View) []float64 {
	if !v.Present() {
		return nil
	}
	mem, out := memory(v.Buf), make([]float64, 0, v.Shape.Elems())
	each(v, func(at int) { out = append(out, get(v.Type, mem, at)) })
	return out
}

func store(v *backend.View, x []float64) {
	if !v.Present() {
		return
	}
	mem, i := memory(v.Buf), 0
	each(v, func(at int) {
		put(v.Type, mem, at, x[i])
		i++
	})
}

// get reads element at of mem.
func get(t backend.DType, mem []byte, at int) float64 {
	switch t {
	case backend.F32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(mem[4*at:])))
	case backend.F16:
		return float64(block.F16ToF32(binary.LittleEndian.Uint16(mem[2*at:])))
	case backend.BF16:
		return float64(block.BF16ToF32(binary.LittleEndian.Uint16(mem[2*at:])))
	case backend.I8:
		return float64(int8(mem[at]))
	case backend.I32:
		return float64(int32(binary.LittleEndian.Uint32(mem[4*at:])))
	}
	panic(&backend.ShapeError{Op: "view", Detail: fmt.Sprintf("elements of type %v", t)})
}

// put writes x as element at of mem. Half types are rounded from float32, as
// every backend does.
func put(t backend.DType, mem []byte, at int, x float64) {
	switch t {
	case backend.F32:
		binary.LittleEndian.PutUint32(mem[4*at:], math.Float32bits(float32(x)))
	case backend.F16:
		binary.LittleEndian.PutUint16(mem[2*at:], block.F32ToF16(float32(x)))
	case backend.BF16:
		binary.LittleEndian.PutUint16(mem[2*at:], block.F32ToBF16(float32(x)))
	case backend.I8:
		mem[at] = byte(int8(x))
	case backend.I32:
		binary.LittleEndian.PutUint32(mem[4*at:], uint32(int32(x)))
	default:
		panic(&backend.ShapeError{Op: "view", Detail: fmt.Sprintf("elements of type %v", t)})
	}
}
