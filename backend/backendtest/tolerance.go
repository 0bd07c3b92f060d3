package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

const (
	// u is half the distance of float32 values at 1: the relative error of one
	// rounding.
	u = 0x1p-24
	// floor is allowed on top of every bound: units that take subnormals as
	// zero (bf16 dot products) lose up to 2^-126 a term.
	floor = 0x1p-110
)

// A bound gives the largest error of element i of output out.
type bound func(out, i int) float64

// A rule computes the bounds of a case. x holds the operands with the outputs
// computed; a the operands as they were, for the rule to use up. A rule that
// returns nil wants results exact, after rounding to the output's type.
type rule func(c *testCase, x, a *ref.Values) bound

// tolerances is indexed by Op. A sum of n terms in any order is off by at most
// n*u times the sum of the absolute terms, the condition: the same operation on
// absolute operands. Constants beside n count the other roundings, with a
// factor of two to spare; function values (exp, log, sin) may be off by 4 units
// in the last place.
var tolerances = [...]rule{
	// K products and additions, and the scales of a block: one for the weight,
	// one for the input, one for the minimum.
	backend.MatMul: sumOf(func(a *backend.Args, _ int) int { return a.In[0].Cols() + 8 }),
	// One more addition; the products go through silu.
	backend.MatMulAdd:    sumOf(func(a *backend.Args, _ int) int { return a.In[0].Cols() + 9 }),
	backend.MatMulSwiGLU: matMulSwiGLURule,
	// Sums over all outputs for dx, over rows for dW.
	backend.MatMulBackward: sumOf(func(a *backend.Args, out int) int {
		n := a.In[0].Rows()
		for i := range a.Weights() {
			n = max(n, a.W[i].Rows()*a.Weights())
		}
		return n + 8
	}),
	// The mean of D squares, halved by the root, and four more roundings.
	backend.RMSNorm:           relative(func(a *backend.Args) int { return a.In[0].Cols()/2 + 8 }),
	backend.RMSNormBackward:   rmsNormBackwardRule,
	backend.LayerNorm:         layerNormRule,
	backend.LayerNormBackward: layerNormBackwardRule,
	// The angle is exact; |cos|, |sin| <= 1.
	backend.RoPETable: absolute(8),
	// Two products and a sum.
	backend.RoPE:         ropeRule,
	backend.RoPEBackward: ropeRule,
	// Rounding to nearest is exact by definition, and so is that of RoundI8.
	backend.KVAppend:          exact,
	backend.Attention:         orRounded(attentionRule),
	backend.AttentionBackward: orRounded(attentionBackwardRule),
	// exp, a sum, a quotient, two products.
	backend.SwiGLU:         relative(func(*backend.Args) int { return 16 }),
	backend.SwiGLUBackward: swiGLUBackwardRule,
	// Rows as they are; a sum over rows of the same id.
	backend.Embedding:         exact,
	backend.EmbeddingBackward: sumOf(func(a *backend.Args, _ int) int { return a.In[1].Rows() + 1 }),
	backend.RowNorms:          rowNormsRule,
	backend.LogProb:           logProbRule,
	backend.LogProbBackward:   logProbBackwardRule,
	backend.CrossEntropy:      crossEntropyRule,
	// Exact by formula.
	backend.RoundI8:   exact,
	backend.RoundBF16: exact,
	backend.RoundE4M3: exact,
	// Numbers are moved; each row of Fold adds at most one number of every tap.
	backend.Unfold: exact,
	backend.Fold:   sumOf(func(a *backend.Args, _ int) int { return a.Window.Taps() }),
	// One IEEE operation, rounded once.
	backend.Add: exact,
	backend.Mul: exact,
	// A function value; a quotient that may be a product with a reciprocal.
	backend.Exp:         relative(func(*backend.Args) int { return 8 }),
	backend.Log:         relative(func(*backend.Args) int { return 8 }),
	backend.LogBackward: relative(func(*backend.Args) int { return 4 }),
	backend.Sigmoid:     relative(func(*backend.Args) int { return 16 }),
	backend.Tanh:        relative(func(*backend.Args) int { return 16 }),
	// dy y (1-y), dy (1-y^2): 1-y cancels.
	backend.SigmoidBackward: inputs2(8, func(y, dy float64) float64 { return dy * y }),
	backend.TanhBackward:    inputs2(8, func(y, dy float64) float64 { return dy * (1 + y*y) }),
	// 1+erf cancels for negative x; the slope is at most 1 + |x|.
	backend.GELU:         inputs2(8, func(x, _ float64) float64 { return x }),
	backend.GELUBackward: inputs2(16, func(x, dy float64) float64 { return dy * (1 + math.Abs(x)) }),
	backend.Sum:          sumOf(func(a *backend.Args, _ int) int { return a.In[0].Shape.Dim[a.Axis] + 1 }),
	// Values are taken, not computed.
	backend.Max:         exact,
	backend.MaxBackward: exact,
	backend.Softmax:     softmaxRule,
	// y (dy - sum y dy): the difference cancels.
	backend.SoftmaxBackward: softmaxBackwardRule,
	backend.BatchMatMul:     sumOf(func(a *backend.Args, _ int) int { return a.In[0].Shape.Dim[2] + 2 }),
	backend.Gather:          exact,
	backend.ScatterAdd:      sumOf(func(a *backend.Args, _ int) int { return a.In[0].Rows() + 1 }),
	backend.Copy:            exact,
	backend.AdamW:           adamWRule,
	// A float32 sum of squares in order would be off by n roundings; in float64 it
	// is rounded once.
	backend.SumSquares: relative(func(*backend.Args) int { return 2 }),
}

func exact(*testCase, *ref.Values, *ref.Values) bound { return nil }

// orRounded is the rule of attention, or another where it rounds.
func orRounded(r rule) rule {
	return func(c *testCase, x, a *ref.Values) bound {
		if c.args.Round == backend.RoundBothBF16 {
			return roundedAttentionRule(c, x, a)
		}
		return r(c, x, a)
	}
}

// absolute allows n roundings of 1.
func absolute(n float64) rule {
	return func(*testCase, *ref.Values, *ref.Values) bound {
		return func(int, int) float64 { return n * u }
	}
}

// relative allows n roundings of the result.
func relative(n func(*backend.Args) int) rule {
	return func(c *testCase, x, _ *ref.Values) bound {
		n := float64(n(x.Args))
		return func(out, i int) float64 { return n * u * math.Abs(x.Out[out][i]) }
	}
}

// inputs2 allows n roundings of a function of the inputs.
func inputs2(n float64, f func(a, b float64) float64) rule {
	return func(_ *testCase, _, a *ref.Values) bound {
		return func(_, i int) float64 {
			b := 0.0
			if a.In[1] != nil {
				b = a.In[1][i]
			}
			return n * u * math.Abs(f(a.In[0][i], b))
		}
	}
}

// sumOf allows n roundings of the condition.
func sumOf(n func(a *backend.Args, out int) int) rule {
	return func(c *testCase, _, a *ref.Values) bound {
		magnitudes(a)
		a.Eval(c.op)
		return func(out, i int) float64 { return float64(n(a.Args, out)) * u * math.Abs(a.Out[out][i]) }
	}
}

// magnitudes makes all operands positive. A weight becomes the largest of its
// block, since a kernel may add the multiples of a block's scale and of its
// minimum apart.
func magnitudes(a *ref.Values) {
	for _, x := range a.In {
		for i, v := range x {
			x[i] = math.Abs(v)
		}
	}
	for _, x := range a.Out {
		for i, v := range x {
			x[i] = math.Abs(v)
		}
	}
	for i := range a.Args.Weights() {
		row, n := a.W[i], a.Args.W[i].Type().BlockElems()
		a.W[i] = func(r int) []float64 {
			w := row(r)
			for i := 0; i < len(w); i += n {
				m := 0.0
				for _, v := range w[i:][:n] {
					m = max(m, math.Abs(v))
				}
				for j := range n {
					w[i+j] = m
				}
			}
			return w
		}
	}
}
