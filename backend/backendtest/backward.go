package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// The cases of products' gradients and of losses.

// gradientRounds are the ways to round the products of gradients.
var gradientRounds = []backend.Rounding{backend.RoundNone, backend.RoundBothBF16}

func matMulBackwardCases() (cs []*testCase) {
	for _, t := range weightTypes() {
		for i, k := range inputs(t) {
			r, n := rowCounts[i%len(rowCounts)], outputs[i%len(outputs)]
			for j, round := range gradientRounds {
				c := newCase(backend.MatMulBackward, "%v/%dx%dx%d/round %v", t, r, n, k, round)
				cs = append(cs, c.matMulBackward(round, place(i%3), r, i%4 != 3, t.Float() && i%3 != j, c.weight(t, n, k)))
				if t == backend.F32 || t == backend.BF16 {
					c := newCase(backend.MatMulBackward, "float %v/%dx%dx%d/round %v", t, r, n, k, round)
					cs = append(cs, c.matMulBackward(round, place(i%3), r, i%4 != 3, true, c.floatWeight(t, place(i%3), n, k)))
				}
			}
		}
	}
	for _, round := range gradientRounds {
		c := newCase(backend.MatMulBackward, "q, k, v/round %v", round)
		f := func(n int) *matrix { return c.floatWeight(backend.F32, gaps, n, 64) }
		cs = append(cs, c.matMulBackward(round, gaps, 19, true, true, f(64), f(16), f(17)))
		c = newCase(backend.MatMulBackward, "frozen base of mixed types/round %v", round)
		cs = append(cs, c.matMulBackward(round, odd, 19, true, false, c.weight(backend.Q4_K, 33, 256), c.weight(backend.BF16, 16, 256)))
		// More rows, inputs and outputs than go through at once.
		for _, size := range [][3]int{{2075, 19, 21}, {14, 2083, 35}, {13, 18, 2081}, {259, 67, 131}} {
			c = newCase(backend.MatMulBackward, "long/%v/round %v", size, round)
			cs = append(cs, c.matMulBackward(round, gaps, size[0], true, true, c.floatWeight(backend.F32, gaps, size[1], size[2])))
		}
		c = newCase(backend.MatMulBackward, "edges/round %v", round)
		c.matMulBackward(round, dense, len(edges), true, true, c.floatWeight(backend.F32, dense, 20, 33))
		x := read(c.in[1].view)
		for r, e := range edges { // one in a row of dy
			x[20*r+r] = e
		}
		write(c.in[1].view, x)
		cs = append(cs, c)
		c = newCase(backend.MatMulBackward, "no rows/round %v", round)
		cs = append(cs, c.matMulBackward(round, dense, 0, true, true, c.floatWeight(backend.F32, dense, 20, 33)))
	}
	return cs
}

func (c *testCase) matMulBackward(round backend.Rounding, p place, rows int, dx, dw bool, weights ...*matrix) *testCase {
	k := weights[0].cols
	c.args.Round = round
	c.weights = weights
	c.in[0] = newOperand(backend.F32, p, c.normal, rows, k)
	if dx {
		c.out[0] = fresh(backend.F32, p, rows, k)
	}
	for i, w := range weights {
		c.in[1+i] = newOperand(backend.F32, p, c.normal, rows, w.rows)
		if dw {
			c.out[1+i] = newOperand(backend.F32, p, c.normal, w.rows, k)
		}
	}
	return c
}

func logProbCases() (cs []*testCase) {
	for _, t := range weightTypes() {
		for i, k := range inputs(t) {
			r, vocab := rowCounts[i%len(rowCounts)], outputs[i%len(outputs)]
			round := roundings(k)
			c := newCase(backend.LogProb, "%v/%d rows, %dx%d", t, r, vocab, k)
			cs = append(cs, c.logProb(round[i%len(round)], place(i%3), r, c.weight(t, vocab, k)))
			if i%2 > 0 {
				c.out[2] = fresh(backend.F32, place(i%2), r)
			}
			for j, round := range gradientRounds {
				c := newCase(backend.LogProbBackward, "%v/%d rows, %dx%d/round %v", t, r, vocab, k, round)
				cs = append(cs, c.logProbBackward(round, place(i%3), r, i+j, c.weight(t, vocab, k)))
				if t == backend.F32 || t == backend.BF16 {
					c := newCase(backend.LogProbBackward, "float %v/%d rows, %dx%d/round %v", t, r, vocab, k, round)
					cs = append(cs, c.logProbBackward(round, place(i%3), r, i+j, c.floatWeight(t, gaps, vocab, k)))
				}
			}
		}
	}
	for _, round := range gradientRounds {
		c := newCase(backend.LogProb, "infinity and NaN/round %v", round)
		cs = append(cs, c.logProb(round, dense, 8, c.floatWeight(backend.F32, gaps, 37, 20)).notFinite(true))
		c = newCase(backend.LogProb, "many rows/round %v", round)
		cs = append(cs, c.logProb(round, gaps, 531, c.floatWeight(backend.F32, gaps, 37, 20)))
		c.out[2] = fresh(backend.F32, dense, 531)
		c = newCase(backend.LogProbBackward, "many rows/round %v", round)
		cs = append(cs, c.logProbBackward(round, gaps, 531, 2, c.floatWeight(backend.F32, gaps, 37, 20)))
	}
	return cs
}

func (c *testCase) logits(round backend.Rounding, p place, rows int, w *matrix) {
	c.args.Round, c.weights = round, []*matrix{w}
	size := 2 / math.Sqrt(float64(w.cols))
	c.in[0] = newOperand(backend.F32, p, func(int) float64 { return size * c.rng.NormFloat64() }, rows, w.cols)
	c.in[1] = newOperand(backend.I32, dense, c.below(w.rows), rows)
}

func (c *testCase) logProb(round backend.Rounding, p place, rows int, w *matrix) *testCase {
	c.logits(round, p, rows, w)
	c.out[0], c.out[1] = fresh(backend.F32, p%2, rows), fresh(backend.F32, p%2, rows)
	return c
}

// logProbBackward has gradients of the outputs and outputs as kind says.
func (c *testCase) logProbBackward(round backend.Rounding, p place, rows, kind int, w *matrix) *testCase {
	c.logits(round, p, rows, w)
	lse := c.output(backend.LogProb, rows, rows)
	c.in[2] = newOperand(backend.F32, p%2, func(i int) float64 { return lse[i] }, rows)
	c.in[3] = newOperand(backend.F32, p%2, c.sparse, rows)
	if kind%2 > 0 {
		c.in[4] = newOperand(backend.F32, p%2, c.sparse, rows)
	}
	if kind%3 > 0 {
		c.in[5] = newOperand(backend.F32, p%2, c.sparse, rows)
	}
	c.gradients(p, rows, kind, 0, w)
	return c
}

// gradients are the outputs dx and dW from out on, or one of them.
func (c *testCase) gradients(p place, rows, kind, out int, w *matrix) {
	if kind%4 != 3 || !w.t.Float() {
		c.out[out] = fresh(backend.F32, p, rows, w.cols)
	}
	if w.t.Float() && kind%5 != 4 {
		c.out[out+1] = newOperand(backend.F32, p, c.normal, w.rows, w.cols)
	}
}

// sparse is zero in a third of the rows.
func (c *testCase) sparse(i int) float64 {
	if i%3 == 2 {
		return 0
	}
	return c.rng.NormFloat64()
}

func crossEntropyCases() (cs []*testCase) {
	for _, t := range weightTypes() {
		for i, k := range inputs(t) {
			r, vocab := rowCounts[i%len(rowCounts)], outputs[i%len(outputs)]
			for j, round := range gradientRounds {
				c := newCase(backend.CrossEntropy, "%v/%d rows, %dx%d/round %v", t, r, vocab, k, round)
				cs = append(cs, c.crossEntropy(round, place(i%3), r, i+j, c.weight(t, vocab, k)))
				if t == backend.F32 || t == backend.BF16 {
					c := newCase(backend.CrossEntropy, "float %v/%d rows, %dx%d/round %v", t, r, vocab, k, round)
					cs = append(cs, c.crossEntropy(round, place(i%3), r, i+j, c.floatWeight(t, gaps, vocab, k)))
				}
			}
		}
	}
	for _, round := range gradientRounds {
		for _, size := range [][3]int{{531, 37, 20}, {14, 2083, 35}, {40, 300, 67}} { // more than go through at once
			c := newCase(backend.CrossEntropy, "long/%v/round %v", size, round)
			cs = append(cs, c.crossEntropy(round, gaps, size[0], 1, c.floatWeight(backend.F32, gaps, size[1], size[2])))
		}
		for _, all := range []bool{false, true} {
			c := newCase(backend.CrossEntropy, "infinity and NaN %v/round %v", all, round)
			cs = append(cs, c.crossEntropy(round, dense, 8, 1, c.floatWeight(backend.F32, gaps, 37, 20)).notFinite(all))
		}
		c := newCase(backend.CrossEntropy, "no rows/round %v", round)
		cs = append(cs, c.crossEntropy(round, dense, 0, 1, c.floatWeight(backend.F32, gaps, 37, 20)))
		c = newCase(backend.CrossEntropy, "no row counts/round %v", round)
		cs = append(cs, c.crossEntropy(round, dense, 5, 2, c.floatWeight(backend.F32, gaps, 37, 20)))
		write(c.in[2].view, make([]float64, 5))
		for _, size := range []float64{1e-42, 60, 3000} { // denormal inputs, probabilities of 0 and 1
			c := newCase(backend.CrossEntropy, "inputs of %g/round %v", size, round)
			c.crossEntropy(round, dense, 9, 1, c.floatWeight(backend.F32, gaps, 37, 20))
			x := read(c.in[0].view)
			for i := range x {
				x[i] *= size
			}
			write(c.in[0].view, x)
			cs = append(cs, c)
		}
	}
	return cs
}

func (c *testCase) crossEntropy(round backend.Rounding, p place, rows, kind int, w *matrix) *testCase {
	c.logProb(round, p, rows, w)
	c.in[2] = newOperand(backend.F32, p%2, c.sparse, rows)
	if kind%2 > 0 {
		c.in[3] = newOperand(backend.F32, p%2, c.sparse, rows)
	}
	c.gradients(p, rows, kind, 2, w)
	return c
}

// notFinite makes the logits of the third row, which does not count, NaN, and one logit
// of the others minus infinite, which has no part; where all is set, other logits too.
func (c *testCase) notFinite(all bool) *testCase {
	x, w, m := read(c.in[0].view), read(c.weights[0].float.view), c.weights[0]
	k := m.cols
	for v := range m.rows {
		w[v*k], w[v*k+1] = 1, 0
	}
	w[(m.rows-1)*k+1] = math.Inf(1)
	for r := range c.in[0].view.Rows() {
		x[r*k+1] = -1
	}
	x[2*k+2] = math.NaN()
	if all {
		x[1] = 1                          // one logit of the row is infinite
		x[3*k], x[3*k+1] = math.Inf(1), 1 // all are
		x[4*k] = math.Inf(-1)             // all are minus infinite
		x[6*k+3] = math.NaN()
	}
	write(c.in[0].view, x)
	write(m.float.view, w)
	f := make([]float32, len(w))
	for i, v := range w {
		f[i] = float32(v)
	}
	block.Encode(m.t, m.raw, f)
	return c
}

func logProbGradient() *gradient {
	c := newCase(backend.LogProb, "gradient")
	c.logProb(backend.RoundNone, dense, 5, c.floatWeight(backend.F32, gaps, 11, 6))
	c.out[2] = fresh(backend.F32, dense, 5)
	return &gradient{c, func(g *tape) {
		g.run(backend.LogProbBackward, []backend.View{g.in[0], g.in[1], g.out[1], g.dy[0], g.dy[1], g.dy[2]}, g.dx(0), g.dw(0))
	}}
}

// crossEntropyGradient is that of the log-probability, whose gradient is -c, and of
// lse, whose is 2 zc lse.
func crossEntropyGradient() *gradient {
	c := newCase(backend.LogProb, "gradient as of CrossEntropy")
	c.logProb(backend.RoundNone, dense, 5, c.floatWeight(backend.F32, gaps, 11, 6))
	return &gradient{c, func(g *tape) {
		s := g.dy[0].Shape
		dlogp, dlse, lse := make([]float32, 5), make([]float32, 5), make([]float32, 5)
		g.Read(dlogp, g.dy[0])
		g.Read(dlse, g.dy[1])
		g.Read(lse, g.out[1])
		w, zc := make([]float64, 5), make([]float64, 5)
		for i := range w {
			w[i], zc[i] = -float64(dlogp[i]), float64(dlse[i])/(2*float64(lse[i]))
		}
		g.run(backend.CrossEntropy, []backend.View{g.in[0], g.in[1], g.put(w, s), g.put(zc, s)}, g.zeros(s), g.zeros(s), g.dx(0), g.dw(0))
	}}
}
