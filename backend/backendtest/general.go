package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

// edges are the values that arithmetic treats in a way of its own.
var edges = []float64{0, math.Copysign(0, -1), 1e-40, -1e-45, 1e-30, 1, -1, 65504, 65520, -1e30, math.Inf(1), math.Inf(-1), math.NaN(), 0.5}

// edge fills with edges.
func edge(i int) float64 { return edges[(i*5+i/len(edges))%len(edges)] }

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
		}
	}
	return cs
}

// binary are cases of two inputs of one shape.
func binaryCases(op backend.Op, fills ...func(c *testCase) func(int) float64) (cs []*testCase) {
	for i, d := range widths {
		for f, fill := range fills {
			for _, inPlace := range []bool{false, true} {
				r := rowCounts[i%len(rowCounts)]
				c := newCase(op, "%dx%d, fill %d, in place %v", r, d, f, inPlace)
				c.in[0] = newOperand(backend.F32, place(i%3), fill(c), r, d)
				c.in[1] = newOperand(backend.F32, place((i+1)%3), fill(c), r, d)
				if c.out[0] = fresh(backend.F32, place(i%3), r, d); inPlace {
					c.out[0] = c.in[0]
				}
				cs = append(cs, c)
			}
		}
	}
	return cs
}

func normals(c *testCase) func(int) float64  { return c.normal }
func allEdges(c *testCase) func(int) float64 { return edge }

// gates are numbers around which exp saturates.
func gates(c *testCase) func(int) float64 {
	return func(i int) float64 { return []float64{0, -0.5, 20, -20, 87, -87, 90, -90, 300, -300}[i%10] }
}

func copyCases() (cs []*testCase) {
	floats := []backend.DType{backend.F32, backend.F16, backend.BF16}
	for i, d := range widths {
		for _, from := range floats {
			for _, to := range floats {
				r := rowCounts[i%len(rowCounts)]
				c := newCase(backend.Copy, "%v to %v, %dx%d", from, to, r, d)
				fill := c.normal
				if i%2 == 0 {
					fill = edge
				}
				c.in[0] = newOperand(from, place(i%5), fill, r, d)
				c.out[0] = fresh(to, place((i+2)%4), r, d)
				cs = append(cs, c)
			}
		}
		c := newCase(backend.Copy, "I32, %d", d)
		c.in[0] = newOperand(backend.I32, place(i%5), func(i int) float64 { return float64(i * 7919 * (1 - 2*(i%2))) }, 2, d, 3)
		c.out[0] = fresh(backend.I32, place(i%4), 2, d, 3)
		cs = append(cs, c)
	}
	return cs
}

func gatherCases() (cs []*testCase) {
	for i, d := range widths {
		n, r := outputs[i%len(outputs)], rowCounts[i%len(rowCounts)]
		c := newCase(backend.Gather, "%d of %d rows of %d", r, n, d)
		fill := c.normal
		if i%3 == 0 {
			fill = edge
		}
		c.in[0] = newOperand(backend.F32, place(i%3), fill, n, d)
		c.in[1] = newOperand(backend.I32, place(i%2), c.below(n), r)
		c.out[0] = fresh(backend.F32, place((i+1)%3), r, d)
		cs = append(cs, c)
	}
	return cs
}
