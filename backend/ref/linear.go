package ref

import (
	"bytes"
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// dot is the sum of a[k]*b[k] in ascending order.
func dot(a, b []float64) float64 {
	s := 0.0
	for k, v := range a {
		s += v * b[k]
	}
	return s
}

// axpy adds s*x to y.
func axpy(y []float64, s float64, x []float64) {
	for k, v := range x {
		y[k] += s * v
	}
}

func matMul(x *Values) {
	in := rounded(x.In[0], x.Args.In[0].Cols(), x.Args.Round)
	for i := range x.Args.Weights() {
		x.product(x.Out[i], in, i)
	}
}

// product writes in W[i]^T to out.
func (x *Values) product(out, in []float64, i int) {
	a := x.Args
	rows, k, cols := a.In[0].Rows(), a.In[0].Cols(), a.W[i].Rows()
	for n := range cols {
		w := x.weight(i, n)
		for r := range rows {
			out[r*cols+n] = dot(in[r*k:][:k], w)
		}
	}
}

func matMulAdd(x *Values) {
	matMul(x)
	axpy(x.Out[0], 1, x.In[1])
}

func matMulSwiGLU(x *Values) {
	in := rounded(x.In[0], x.Args.In[0].Cols(), x.Args.Round)
	x.product(x.Out[0], in, 0)
	up := make([]float64, len(x.Out[0]))
	x.product(up, in, 1)
	for i, z := range x.Out[0] {
		x.Out[0][i] = silu(z) * up[i]
	}
}

func matMulBackward(x *Values) {
	a := x.Args
	rows, k := a.In[0].Rows(), a.In[0].Cols()
	in, dx := rounded(x.In[0], k, a.Round), x.Out[0]
	clear(dx)
	for i := range a.Weights() {
		dw, cols := x.Out[1+i], a.W[i].Rows()
		dy := rounded(x.In[1+i], cols, a.Round)
		for n := range cols {
			w := x.weight(i, n)
			for r := range rows {
				g := dy[r*cols+n]
				if dx != nil {
					axpy(dx[r*k:][:k], g, w)
				}
				if dw != nil {
					axpy(dw[n*k:][:k], g, in[r*k:][:k])
				}
			}
		}
	}
}

// weight is row n of weight i as a product sees it.
func (x *Values) weight(i, n int) []float64 {
	w := x.W[i](n)
	if x.Args.Round == backend.RoundBothBF16 {
		w = rounded(w, len(w), backend.RoundBothBF16)
	}
	return w
}

// rounded returns the rows of k elements in x as products see them.
func rounded(x []float64, k int, how backend.Rounding) []float64 {
	out := make([]float64, len(x))
	switch group := how.Group(); {
	case group > 0:
		for i := 0; i < len(x); i += group {
			code, d := roundGroup(x[i:][:group])
			for j, c := range code {
				out[i+j] = float64(c) * float64(d)
			}
			if !how.Twice() {
				continue
			}
			rest := make([]float64, group)
			for j, c := range code {
				rest[j] = float64(float32(x[i+j]) - float32(float32(c)*d))
			}
			code, d = roundGroup(rest)
			for j, c := range code {
				out[i+j] += float64(c) * float64(d)
			}
		}
	case how == backend.RoundToBF16, how == backend.RoundBothBF16:
		for i, v := range x {
			out[i] = float64(block.BF16ToF32(block.F32ToBF16(float32(v))))
		}
	case how == backend.RoundToE4M3:
		for i := 0; i < len(x); i += k {
			code, d := roundRow(x[i:][:k])
			for j, c := range code {
				out[i+j] = float64(block.E4M3ToF32(c)) * float64(d)
			}
		}
	default:
		copy(out, x)
	}
	return out
}

// roundRow is the formula of RoundE4M3, every step in float32.
func roundRow(x []float64) (code []uint8, d float32) {
	m := 1e-12
	for _, v := range x {
		m = math.Max(m, math.Abs(v)) // NaN where one is
	}
	if math.IsNaN(m) {
		return bytes.Repeat([]byte{0x7f}, len(x)), float32(m)
	}
	scale := 448 / float32(math.Min(m, backend.E4M3Bound))
	for _, v := range x {
		v := math.Max(-448, math.Min(448, float64(float32(v)*scale)))
		code = append(code, block.F32ToE4M3(float32(v), true))
	}
	return code, 1 / scale
}

func roundE4M3(x *Values) {
	k := x.Args.In[0].Cols()
	for r := range x.Out[1] {
		code, d := roundRow(x.In[0][r*k:][:k])
		x.Out[1][r] = float64(d)
		for i, c := range code {
			x.Out[0][r*k+i] = float64(int8(c))
		}
	}
}

// roundGroup is the formula of RoundI8 for one group, every step in float32. A
// group so small that 127/m is infinite counts as zeros.
func roundGroup(x []float64) (code []int8, d float32) {
	code = make([]int8, len(x))
	var m float32
	for _, v := range x {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return code, float32(math.NaN())
		}
		m = max(m, float32(math.Abs(v)))
	}
	scale := 127 / m
	if math.IsInf(float64(scale), 0) {
		return code, 0
	}
	for i, v := range x {
		code[i] = int8(math.RoundToEven(float64(float32(v) * scale)))
	}
	return code, m / 127
}

func roundI8(x *Values) {
	group := x.Args.Round.Group()
	for i := 0; i < len(x.In[0]); i += group {
		code, d := roundGroup(x.In[0][i:][:group])
		x.Out[1][i/group] = float64(d)
		for j, c := range code {
			if j%16 == 0 {
				x.Out[2][(i+j)/16] = 0
			}
			x.Out[0][i+j] = float64(c)
			x.Out[2][(i+j)/16] += float64(c)
		}
	}
}

func rowNorms(x *Values) {
	a := x.Args
	var change [][]float64
	if a.Weights() == 3 {
		for r := range a.W[1].Rows() {
			change = append(change, slices.Clone(x.W[1](r)))
		}
	}
	for n := range a.W[0].Rows() {
		v := slices.Clone(x.W[0](n))
		for r, row := range change {
			axpy(v, float64(a.Scale)*x.W[2](n)[r], row)
		}
		norm, inverse := math.Sqrt(dot(v, v)), 0.0
		if norm != 0 {
			inverse = 1 / norm
		}
		for i, y := range [2]float64{norm, inverse} {
			if x.Out[i] != nil {
				x.Out[i][n] = y
			}
		}
	}
}

func embedding(x *Values) {
	d := x.Args.W[0].Cols()
	for r, id := range x.In[0] {
		copy(x.Out[0][r*d:][:d], x.W[0](index(backend.Embedding, id, x.Args.W[0].Rows())))
	}
}

// scatterInto is EmbeddingBackward: ids first, then rows.
func scatterInto(x *Values) {
	d, rows := x.Args.Out[0].Cols(), x.Args.Out[0].Rows()
	for r, id := range x.In[0] {
		axpy(x.Out[0][index(backend.EmbeddingBackward, id, rows)*d:][:d], 1, x.In[1][r*d:][:d])
	}
}
