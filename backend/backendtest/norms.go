package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/ref"
)

// The cases of RowNorms: every type of weight, with and without a change.

func rowNormsCases() (cs []*testCase) {
	for _, t := range weightTypes() {
		for i, k := range inputs(t) {
			n, rank := outputs[i%len(outputs)], []int{0, 1, 3, 8, 17}[i%5]
			c := newCase(backend.RowNorms, "%v/%dx%d/rank %d", t, n, k, rank)
			change := []backend.DType{backend.F32, backend.BF16, backend.F16}[i%3]
			cs = append(cs, c.rowNorms(i, rank, c.weight(t, n, k), change))
			if t == backend.F32 || t == backend.BF16 {
				c := newCase(backend.RowNorms, "float %v/%dx%d/rank %d", t, n, k, rank)
				cs = append(cs, c.rowNorms(i+1, rank, c.floatWeight(t, place(i%3), n, k), backend.Invalid))
			}
		}
	}
	for rank, size := range [][2]int{{35, 4352}, {20, 2083}, {3, 1 << 15}} { // more than is decoded at once
		c := newCase(backend.RowNorms, "long/%v", size)
		cs = append(cs, c.rowNorms(0, 3*rank, c.floatWeight(backend.F32, gaps, size[0], size[1]), backend.Invalid))
	}
	return append(cs, edgeRowNormsCases()...)
}

// rowNorms has the outputs that kind says. The change is of float weights, or of packed ones
// of a type.
func (c *testCase) rowNorms(kind, rank int, w *matrix, packed backend.DType) *testCase {
	c.weights = []*matrix{w}
	if rank > 0 {
		c.args.Scale = []float32{1, -0.5, 3}[kind%3]
		for i, dims := range [2][2]int{{rank, w.cols}, {w.rows, rank}} {
			if packed != backend.Invalid {
				c.weights = append(c.weights, c.weight(packed, dims[0], dims[1]))
			} else {
				c.weights = append(c.weights, c.floatWeight(backend.F32, place((kind+i)%3), dims[0], dims[1]))
			}
		}
	}
	for i := range 2 {
		if kind%4 != 2+i {
			c.out[i] = fresh(backend.F32, place((kind+i)%2), w.rows)
		}
	}
	return c
}

// edgeRowNormsCases have values at the ends of float32, and changes that nearly cancel what
// they change.
func edgeRowNormsCases() (cs []*testCase) {
	const k, rank = 67, 3
	for _, rank := range []int{0, rank} {
		c := newCase(backend.RowNorms, "edges/rank %d", rank)
		w := c.floatWeight(backend.F32, gaps, len(edges), k)
		w.set(func(x []float64) {
			for i, e := range edges {
				x[i*k+i] = e
			}
		})
		cs = append(cs, c.rowNorms(0, rank, w, backend.Invalid))
		c = newCase(backend.RowNorms, "sizes/rank %d", rank)
		w = c.floatWeight(backend.F32, gaps, 40, k)
		w.set(func(x []float64) { // of rows: from subnormal to large, zeros
			for i := range x {
				x[i] *= math.Pow(10, float64(4*(i/k)-44)) * float64(min(i/k%7, 1))
			}
		})
		cs = append(cs, c.rowNorms(0, rank, w, backend.Invalid))
	}
	for _, left := range []float64{0, 1e-7, 1e-4, 1e-2, 1} {
		c := newCase(backend.RowNorms, "%v is left", left)
		c.rowNorms(0, rank, c.floatWeight(backend.F32, gaps, 19, k), backend.Invalid)
		a, b := c.weights[1].values(), c.weights[2].values()
		c.weights[0].set(func(x []float64) {
			for i := range x {
				delta := 0.0
				for r := range rank {
					delta += float64(c.args.Scale) * b[i/k*rank+r] * a[r*k+i%k]
				}
				x[i] = -delta * (1 + left*c.rng.NormFloat64())
			}
		})
		cs = append(cs, c)
		// Or the terms of the change cancel each other: of two rows of A that are alike.
		c = newCase(backend.RowNorms, "%v of the change is left", left)
		c.rowNorms(0, rank, c.floatWeight(backend.F32, gaps, 19, k), backend.Invalid)
		c.weights[0].set(func(x []float64) { clear(x) })
		c.weights[1].set(func(x []float64) { copy(x[k:], x[:k]) })
		c.weights[2].set(func(x []float64) {
			for i := 0; i < len(x); i += rank {
				x[i+1], x[i+2] = -x[i]*(1+left), 0
			}
		})
		cs = append(cs, c)
	}
	return cs
}

// values are those of a float weight.
func (m *matrix) values() []float64 { return read(m.float.view) }

// set changes them.
func (m *matrix) set(f func(x []float64)) {
	x := m.values()
	f(x)
	write(m.float.view, x)
	x = m.values()
	values := make([]float32, len(x))
	for i, v := range x {
		values[i] = float32(v)
	}
	block.Encode(m.t, m.raw, values)
}

// rowNormsRule: squares are added up in float64, and a row is rounded once; 8 for the norm
// and its inverse. What a change adds to a row may be off by a rounding for each of its
// terms, and two more for scale and sum, of up to 16 times what is left: where less is left
// a backend must be more exact. (rank+1) terms have at most that many times the norm of
// the largest.
func rowNormsRule(c *testCase, x, _ *ref.Values) bound {
	n := 8.0
	if len(c.weights) == 3 {
		n += 16 * float64(c.weights[1].rows+3)
	}
	return func(out, i int) float64 { return n * u * math.Abs(x.Out[out][i]) }
}
