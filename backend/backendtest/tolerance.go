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
	backend.MatMul: sumOf(func(a *backend.Args, _ int) float64 { return float64(a.In[0].Cols()) + 8 }),
	// The mean of D squares, halved by the root, and four more roundings.
	backend.RMSNorm: relative(func(a *backend.Args) float64 { return float64(a.In[0].Cols())/2 + 8 }),
	// The angle is exact; |cos|, |sin| <= 1.
	backend.RoPETable: absolute(8),
	// Two products and a sum.
	backend.RoPE:         ropeRule,
	backend.RoPEBackward: ropeRule,
	// Rounding to nearest is exact by definition.
	backend.KVAppend:  exact,
	backend.Attention: attentionRule,
	// exp, a sum, a quotient, two products.
	backend.SwiGLU:    relative(func(*backend.Args) float64 { return 16 }),
	backend.Embedding: exact,
	// One IEEE operation, rounded once.
	backend.Add:    exact,
	backend.Mul:    exact,
	backend.Gather: exact,
	backend.Copy:   exact,
}

func exact(*testCase, *ref.Values, *ref.Values) bound { return nil }

// absolute allows n roundings of 1.
func absolute(n float64) rule {
	return func(*testCase, *ref.Values, *ref.Values) bound {
		return func(int, int) float64 { return n * u }
	}
}

// relative allows n roundings of the result.
func relative(n func(*backend.Args) float64) rule {
	return func(c *testCase, x, _ *ref.Values) bound {
		n := n(x.Args)
		return func(out, i int) float64 { return n * u * math.Abs(x.Out[out][i]) }
	}
}

// sumOf allows n roundings of the condition.
func sumOf(n func(a *backend.Args, out int) float64) rule {
	return func(c *testCase, _, a *ref.Values) bound {
		magnitudes(a)
		a.Eval(c.op)
		return func(out, i int) float64 { return n(a.Args, out) * u * math.Abs(a.Out[out][i]) }
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

// ropeRule allows 4 roundings of the two elements of a pair.
func ropeRule(_ *testCase, x, _ *ref.Values) bound {
	hd, in := x.Args.In[1].Cols(), x.In[0]
	before := append([]float64(nil), in...)
	return func(_, i int) float64 {
		j := i + hd/2
		if i%hd >= hd/2 {
			j = i - hd/2
		}
		return 4 * u * (math.Abs(before[i]) + math.Abs(before[j]))
	}
}

// attentionRule: a score is a dot product of hd terms, off by at most hd+4
// roundings of |q| |k| Scale; exp turns that, twice with the maximum, into a
// relative error; the sums over T keys and the division follow. The values are
// bounded by the largest.
func attentionRule(c *testCase, x, _ *ref.Values) bound {
	hd, keys := float64(x.Args.KV.HeadDim), 0
	for _, s := range c.args.Layout.Segments {
		n := 0
		for _, sp := range s.Spans {
			n += sp.Len
		}
		keys = max(keys, n)
	}
	score := math.Abs(float64(x.Args.Scale)) * c.longest(c.in[:1]) * c.longest(append(c.pages, c.in[1]))
	total := (2*score*(hd+4) + float64(keys) + 16) * u
	v := c.largest(append(c.pages, c.in[2]))
	return func(int, int) float64 { return total * v }
}

// longest is the largest finite norm of HeadDim successive elements.
func (c *testCase) longest(os []*operand) float64 {
	m, hd := 0.0, c.args.KV.HeadDim
	for _, o := range os {
		if o == nil {
			continue
		}
		x := read(o.view)
		for i := 0; i+hd <= len(x); i += hd {
			s := 0.0
			for _, v := range x[i:][:hd] {
				s += v * v
			}
			if !math.IsNaN(s) && !math.IsInf(s, 0) {
				m = max(m, math.Sqrt(s))
			}
		}
	}
	return m
}

// largest is the largest finite magnitude.
func (c *testCase) largest(os []*operand) float64 {
	m := 0.0
	for _, o := range os {
		if o == nil {
			continue
		}
		for _, v := range read(o.view) {
			if v = math.Abs(v); !math.IsNaN(v) && !math.IsInf(v, 0) {
				m = max(m, v)
			}
		}
	}
	return m
}
