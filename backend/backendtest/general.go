package backendtest

import (
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
)

// edges are the values that arithmetic treats in a way of its own.
var edges = []float64{0, math.Copysign(0, -1), 1e-40, -1e-45, 1e-30, 1, -1, 65504, 65520, -1e30, math.Inf(1), math.Inf(-1), math.NaN(), 0.5}

// edge fills with edges.
func edge(i int) float64 { return edges[(i*5+i/len(edges))%len(edges)] }

// The fills of element-wise cases.
type fill func(c *testCase) func(i int) float64

func normals(c *testCase) func(int) float64  { return c.normal }
func allEdges(c *testCase) func(int) float64 { return edge }

// wide are numbers around which exp and tanh saturate.
func wide(c *testCase) func(int) float64 {
	return func(i int) float64 { return []float64{0, -0.5, 9, -9, 20, -20, 87, -87, 90, -90, 300, -300}[i%12] }
}

// positive spans many powers of ten, 0.9 to 1.1 among them.
func positive(c *testCase) func(int) float64 {
	return func(i int) float64 {
		if i%2 == 0 {
			return 1 + 0.1*(2*c.rng.Float64()-1)
		}
		return math.Pow(10, 60*c.rng.Float64()-30)
	}
}

// unit lies between 0 and 1, as the outputs of sigmoid and softmax do.
func unit(c *testCase) func(int) float64 { return func(int) float64 { return c.rng.Float64() } }

// masked has minus infinity in every third place.
func masked(c *testCase) func(int) float64 {
	return func(i int) float64 {
		if i%3 == 1 {
			return math.Inf(-1)
		}
		return 10 * c.rng.NormFloat64()
	}
}

// shapes are operands of one to four axes around vector widths, and empty ones.
func shapes() [][]int {
	var s [][]int
	for i, d := range widths {
		switch i % 4 {
		case 0:
			s = append(s, []int{d})
		case 1:
			s = append(s, []int{2, 3, d})
		case 2:
			s = append(s, []int{2, 1, 3, d})
		}
		s = append(s, []int{rowCounts[i%len(rowCounts)], d})
	}
	return append(s, []int{0, 8}, []int{3, 0})
}

// elementwise makes cases of an operation whose operands all have one shape:
// with every fill, in places up to the limit, into new memory and in place.
func elementwise(op backend.Op, outs int, limit place, fills ...[]fill) (cs []*testCase) {
	for i, dims := range shapes() {
		for f, inputs := range fills {
			for _, inPlace := range []bool{false, true} {
				c := newCase(op, "%v, fill %d, in place %v", dims, f, inPlace)
				for j, fill := range inputs {
					p := place((i + j) % int(limit+1))
					if j == 0 && p == repeated && inPlace {
						p = gaps
					}
					c.in[j] = newOperand(backend.F32, p, fill(c), dims...)
				}
				for j := range outs {
					c.out[j] = fresh(backend.F32, place((i+j+1)%min(int(limit+1), 4)), dims...)
				}
				if inPlace {
					c.out[0] = c.in[0]
				}
				cs = append(cs, c)
			}
		}
	}
	return cs
}

func elementwiseCases() []*testCase {
	one := func(f fill) []fill { return []fill{f} }
	two := func(f, g fill) []fill { return []fill{f, g} }
	return slices.Concat(
		elementwise(backend.SwiGLU, 1, gaps, two(normals, normals), two(wide, normals)),
		elementwise(backend.SwiGLUBackward, 2, gaps, []fill{normals, normals, normals}, []fill{wide, normals, normals}),
		elementwise(backend.Add, 1, repeated, two(normals, normals), two(allEdges, allEdges)),
		elementwise(backend.Mul, 1, repeated, two(normals, normals), two(allEdges, allEdges)),
		elementwise(backend.Exp, 1, repeated, one(normals), one(wide), one(allEdges)),
		elementwise(backend.Log, 1, repeated, one(positive), one(allEdges)),
		elementwise(backend.LogBackward, 1, repeated, two(positive, normals)),
		elementwise(backend.Sigmoid, 1, repeated, one(normals), one(wide), one(allEdges)),
		elementwise(backend.SigmoidBackward, 1, repeated, two(unit, normals)),
		elementwise(backend.Tanh, 1, repeated, one(normals), one(wide), one(allEdges)),
		elementwise(backend.TanhBackward, 1, repeated, two(unit, normals)),
		elementwise(backend.GELU, 1, repeated, one(normals), one(wide)),
		elementwise(backend.GELUBackward, 1, repeated, two(normals, normals), two(wide, normals)),
		elementwise(backend.Softmax, 1, repeated, one(normals), one(wide), one(masked), one(allEdges)),
		elementwise(backend.SoftmaxBackward, 1, repeated, two(unit, normals)),
	)
}

func rmsNormCases() (cs []*testCase) {
	for i, d := range widths {
		for _, inPlace := range []bool{false, true} {
			r := rowCounts[i%len(rowCounts)]
			c := newCase(backend.RMSNorm, "%dx%d, in place %v", r, d, inPlace)
			c.args.Eps = 1e-5
			size := math.Pow(10, float64(i%7-3))
			c.in[0] = newOperand(backend.F32, place(i%3), func(int) float64 { return size * c.rng.NormFloat64() }, r, d)
			c.in[1] = newOperand(backend.F32, place(i%2), c.normal, d)
			if c.out[0] = fresh(backend.F32, place(i%3), r, d); inPlace {
				c.out[0] = c.in[0]
			}
			cs = append(cs, c)

			dx, dw := !inPlace || i%2 == 0, !inPlace || i%2 == 1
			c = newCase(backend.RMSNormBackward, "%dx%d, dx %v, dw %v", r, d, dx, dw)
			c.args.Eps = 1e-5
			c.in[0] = newOperand(backend.F32, place(i%3), func(int) float64 { return size * c.rng.NormFloat64() }, r, d)
			c.in[1] = newOperand(backend.F32, place(i%2), c.normal, d)
			c.in[2] = newOperand(backend.F32, place((i+1)%3), c.normal, r, d)
			if dx {
				c.out[0] = fresh(backend.F32, place(i%3), r, d)
			}
			if dw {
				c.out[1] = newOperand(backend.F32, place(i%2), c.normal, d)
			}
			cs = append(cs, c)
		}
	}
	c := newCase(backend.RMSNorm, "zeros, infinity, NaN")
	c.args.Eps = 1e-6
	c.in[0] = newOperand(backend.F32, dense, func(i int) float64 {
		return [][]float64{{0, 0, 0}, {1, math.Inf(1), 2}, {1, 2, math.NaN()}, {1e-40, 0, 0}}[i/3][i%3]
	}, 4, 3)
	c.in[1] = newOperand(backend.F32, dense, c.normal, 3)
	c.out[0] = fresh(backend.F32, dense, 4, 3)
	return append(cs, c)
}

func reduceCases() (cs []*testCase) {
	for i, dims := range shapes() {
		for axis := range dims {
			for f, fill := range []fill{normals, allEdges} {
				for _, op := range []backend.Op{backend.Sum, backend.Max, backend.MaxBackward} {
					if f == 1 && op == backend.MaxBackward || dims[axis] == 0 {
						continue
					}
					c := newCase(op, "%v along %d, fill %d", dims, axis, f)
					c.args.Axis = axis
					if op == backend.MaxBackward {
						fill = ties
					}
					c.in[0] = newOperand(backend.F32, place(i%5), fill(c), dims...)
					out := slices.Clone(dims)
					out[axis] = 1
					if op == backend.MaxBackward {
						y := c.maxima(axis, dims)
						c.in[1] = newOperand(backend.F32, place(i%4), func(i int) float64 { return y[i] }, out...)
						c.in[2] = newOperand(backend.F32, place((i+1)%4), c.normal, out...)
						out = dims
					}
					c.out[0] = fresh(backend.F32, place((i+1)%4), out...)
					cs = append(cs, c)
				}
			}
		}
	}
	return cs
}

// ties are small integers, so that the largest is there more than once.
func ties(c *testCase) func(int) float64 {
	return func(int) float64 { return float64(c.rng.IntN(5)) }
}

// maxima is the output of Max for In[0], worked out by positions.
func (c *testCase) maxima(axis int, dims []int) []float64 {
	inner := 1
	for _, d := range dims[axis+1:] {
		inner *= d
	}
	y := map[int]float64{}
	for i, v := range read(c.in[0].view) {
		line := i/(inner*dims[axis])*inner + i%inner
		if m, ok := y[line]; !ok || v > m {
			y[line] = v
		}
	}
	list := make([]float64, len(y))
	for i := range list {
		list[i] = y[i]
	}
	return list
}

func batchMatMulCases() (cs []*testCase) {
	for i, k := range widths {
		b, m, n := 1+i%3, rowCounts[i%len(rowCounts)], outputs[i%len(outputs)]
		c := newCase(backend.BatchMatMul, "%d of %dx%dx%d", b, m, k, n)
		c.in[0] = newOperand(backend.F32, place(i%5), c.normal, b, m, k)
		c.in[1] = newOperand(backend.F32, place((i+3)%5), c.normal, b, k, n)
		c.out[0] = fresh(backend.F32, place((i+1)%4), b, m, n)
		cs = append(cs, c)
	}
	return cs
}

func copyCases() (cs []*testCase) {
	floats := []backend.DType{backend.F32, backend.F16, backend.BF16}
	for i, dims := range shapes() {
		for _, from := range floats {
			for _, to := range floats {
				c := newCase(backend.Copy, "%v to %v, %v", from, to, dims)
				fill := c.normal
				if i%2 == 0 {
					fill = edge
				}
				c.in[0] = newOperand(from, place(i%5), fill, dims...)
				c.out[0] = fresh(to, place((i+2)%4), dims...)
				cs = append(cs, c)
			}
		}
		c := newCase(backend.Copy, "I32, %v", dims)
		c.in[0] = newOperand(backend.I32, place(i%5), func(i int) float64 { return float64(i * 7919 * (1 - 2*(i%2))) }, dims...)
		c.out[0] = fresh(backend.I32, place(i%4), dims...)
		cs = append(cs, c)
	}
	return cs
}

func gatherCases() (cs []*testCase) {
	for i, d := range widths {
		n, r := outputs[i%len(outputs)], rowCounts[i%len(rowCounts)]
		if i == 4 {
			r = 0
		}
		c := newCase(backend.Gather, "%d of %d rows of %d", r, n, d)
		fill := c.normal
		if i%3 == 0 {
			fill = edge
		}
		c.in[0] = newOperand(backend.F32, place(i%3), fill, n, d)
		c.in[1] = newOperand(backend.I32, place(i%2), c.below(n), r)
		c.out[0] = fresh(backend.F32, place((i+1)%3), r, d)
		cs = append(cs, c)

		c = newCase(backend.ScatterAdd, "%d into %d rows of %d", r, n, d)
		c.in[0] = newOperand(backend.F32, place(i%3), c.normal, r, d)
		c.in[1] = newOperand(backend.I32, place(i%2), c.below(n), r)
		c.out[0] = newOperand(backend.F32, place((i+1)%3), c.normal, n, d)
		cs = append(cs, c)
	}
	return cs
}
