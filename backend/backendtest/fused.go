package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// The cases of products that go on with their result at once.

func fusedCases() (cs []*testCase) {
	for _, t := range weightTypes() {
		ks := inputs(t)
		for i := range max(len(rowCounts), len(ks)) {
			r, n, k := rowCounts[i%len(rowCounts)], outputs[i%len(outputs)], ks[i%len(ks)]
			for _, round := range roundings(k) {
				name := "%v/%dx%dx%d/round %v"
				c := newCase(backend.MatMulAdd, name, t, r, n, k, round)
				cs = append(cs, c.matMulAdd(round, place(i%3), i%2 == 0, r, c.weight(t, n, k)))
				c = newCase(backend.MatMulSwiGLU, name, t, r, n, k, round)
				cs = append(cs, c.matMulSwiGLU(round, place(i%3), r, c.weight(t, n, k), c.weight(t, n, k)))
			}
		}
	}
	for _, t := range []backend.DType{backend.F32, backend.BF16, backend.Q8_0} { // more rows than go through at once, several blocks of columns
		const rows, n, k = 515, 20, 256
		round := backend.RoundNone
		if t == backend.Q8_0 {
			round = backend.RoundI8x32
		}
		c := newCase(backend.MatMulAdd, "%v/many rows", t)
		cs = append(cs, c.matMulAdd(round, gaps, true, rows, c.weight(t, n, k)))
		c = newCase(backend.MatMulSwiGLU, "%v/many rows", t)
		cs = append(cs, c.matMulSwiGLU(round, gaps, rows, c.weight(t, n, k), c.weight(t, n, k)))
		c = newCase(backend.MatMulAdd, "%v/long", t)
		cs = append(cs, c.matMulAdd(round, gaps, false, 14, c.weight(t, n, 17*k)))
		c = newCase(backend.MatMulSwiGLU, "%v/long", t)
		cs = append(cs, c.matMulSwiGLU(round, gaps, 14, c.weight(t, n, 17*k), c.weight(t, n, 17*k)))
	}
	c := newCase(backend.MatMulSwiGLU, "mixed types")
	cs = append(cs, c.matMulSwiGLU(backend.RoundI8x256, gaps, 16, c.weight(backend.Q4_K, 40, 512), c.weight(backend.Q6_K, 40, 512)))
	c = newCase(backend.MatMulSwiGLU, "float")
	cs = append(cs, c.matMulSwiGLU(backend.RoundNone, gaps, 5, c.floatWeight(backend.F32, gaps, 40, 65), c.floatWeight(backend.BF16, odd, 40, 65)))
	c = newCase(backend.MatMulAdd, "float")
	return append(cs, c.matMulAdd(backend.RoundNone, odd, true, 5, c.floatWeight(backend.F32, gaps, 40, 65)))
}

// matMulAdd adds a product of rows to numbers, in place or not.
func (c *testCase) matMulAdd(round backend.Rounding, p place, inPlace bool, rows int, w *matrix) *testCase {
	c.matMul(round, p, c.normal, rows, w)
	c.in[1] = newOperand(backend.F32, p, c.normal, rows, w.rows)
	if inPlace {
		c.out[0] = c.in[1]
	}
	return c
}

// matMulSwiGLU multiplies rows with a gate and another weight. Gates of some units
// are where the logistic function bends.
func (c *testCase) matMulSwiGLU(round backend.Rounding, p place, rows int, gate, up *matrix) *testCase {
	size := 4 / math.Sqrt(float64(gate.cols))
	c.matMul(round, p, func(int) float64 { return size * c.rng.NormFloat64() }, rows, gate, up)
	c.out[1] = nil
	return c
}

// matMulSwiGLURule: products g and u are off by K+8 roundings of their conditions
// G and U; the slope of silu is at most 1.1; the function itself is off by 16
// roundings.
func matMulSwiGLURule(_ *testCase, x, a *ref.Values) bound {
	n := float64(a.Args.In[0].Cols()+8) * u
	products := func(v *ref.Values) (gate, up []float64) {
		gate, up = make([]float64, len(v.Out[0])), make([]float64, len(v.Out[0]))
		keep := v.Out
		v.Out[0], v.Out[1] = gate, up
		v.Eval(backend.MatMul)
		v.Out = keep
		return gate, up
	}
	gate, up := products(a)
	magnitudes(a)
	condGate, condUp := products(a)
	return func(_, i int) float64 {
		silu := math.Abs(gate[i] / (1 + math.Exp(-gate[i])))
		return 1.1*n*condGate[i]*(math.Abs(up[i])+n*condUp[i]) + silu*n*condUp[i] + 16*u*math.Abs(x.Out[0][i])
	}
}

func matMulAddGradient() *gradient {
	c := newCase(backend.MatMulAdd, "gradient")
	c.matMulAdd(backend.RoundNone, dense, false, 5, c.floatWeight(backend.F32, gaps, 17, 9))
	return &gradient{c, func(g *tape) {
		g.run(backend.MatMulBackward, []backend.View{g.in[0], g.dy[0]}, g.dx(0), g.dw(0))
		g.run(backend.Copy, []backend.View{g.dy[0]}, g.dx(1))
	}}
}

func matMulSwiGLUGradient() *gradient {
	c := newCase(backend.MatMulSwiGLU, "gradient")
	f := func() *matrix { return c.floatWeight(backend.F32, gaps, 7, 9) }
	c.matMulSwiGLU(backend.RoundNone, dense, 5, f(), f())
	return &gradient{c, func(g *tape) {
		s := g.dy[0].Shape
		gate, up, dgate, dup := g.zeros(s), g.zeros(s), g.zeros(s), g.zeros(s)
		g.run(backend.MatMul, []backend.View{g.in[0]}, gate, up)
		g.run(backend.SwiGLUBackward, []backend.View{gate, up, g.dy[0]}, dgate, dup)
		g.run(backend.MatMulBackward, []backend.View{g.in[0], dgate, dup}, g.dx(0), g.dw(0), g.dw(1))
	}}
}
