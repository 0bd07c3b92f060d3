package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// The cases of operations that change parameters: no gaps, in any place.

func optimizerCases() (cs []*testCase) {
	for i, dims := range shapes() {
		for f, fill := range []fill{normals, small, allEdges} {
			name := []string{"normal", "small", "edges"}[f]
			cs = append(cs, adamWCase(name, place(i%2), fill, 1+5*i, dims...), sumSquaresCase(name, place(i%2), fill, dims...))
		}
	}
	c := adamWCase("plain", dense, normals, 3, 65)
	c.args.AdamW.Decay, c.args.AdamW.Scale = 0, 1
	cs = append(cs, c)
	c = adamWCase("no means", odd, normals, 1, 65)
	c.args.AdamW.Beta1, c.args.AdamW.Beta2, c.args.AdamW.Correct1, c.args.AdamW.Correct2 = 0, 0, 1, 1
	// Chunks of different sums.
	return append(cs, c, adamWCase("long", odd, normals, 7, 3, 1<<13+5), sumSquaresCase("long", odd, normals, 3, 1<<13+5))
}

// small are gradients around Eps, as late in training.
func small(c *testCase) func(int) float64 {
	return func(int) float64 { return 1e-8 * c.rng.NormFloat64() }
}

// adamWCase is step t of numbers of size 1.
func adamWCase(name string, p place, g fill, t int, dims ...int) *testCase {
	c := newCase(backend.AdamW, "%s/%v, step %d", name, dims, t)
	const beta1, beta2 = float32(0.9), float32(0.95)
	c.args.AdamW = backend.AdamWArgs{
		LR: 3e-3, Beta1: beta1, Beta2: beta2, Eps: 1e-8, Decay: 0.1, Scale: 0.7,
		Correct1: float32(1 - math.Pow(float64(beta1), float64(t))), Correct2: float32(1 - math.Pow(float64(beta2), float64(t))),
	}
	numbers := g(c)
	c.in[0] = newOperand(backend.F32, p, numbers, dims...)
	c.out[0] = newOperand(backend.F32, 1-p, c.normal, dims...)
	c.out[1] = newOperand(backend.F32, p, func(i int) float64 { return numbers(i + 3) }, dims...)
	c.out[2] = newOperand(backend.F32, p, func(i int) float64 { return math.Abs(numbers(i+7) * numbers(i+7)) }, dims...)
	return c
}

func sumSquaresCase(name string, p place, fill fill, dims ...int) *testCase {
	c := newCase(backend.SumSquares, "%s/%v", name, dims)
	c.in[0], c.out[0] = newOperand(backend.F32, p, fill(c), dims...), fresh(backend.F32, odd, 1)
	return c
}

// adamWRule: m and v are sums of two products, whose factors 1-Beta and Scale g are
// rounded too: 4 roundings, and 8 to spare a factor of two; those of m go into w with
// the size of its terms, which may cancel. v does not cancel: its root, Eps and the
// divisions are off by 8 roundings, of the whole step. w is rounded twice.
func adamWRule(_ *testCase, x, a *ref.Values) bound {
	p := &x.Args.AdamW
	lr, b1, scale := float64(p.LR), float64(p.Beta1), float64(p.Scale)
	return func(out, i int) float64 {
		terms := math.Abs(b1*a.Out[1][i]) + math.Abs((1-b1)*scale*a.In[0][i])
		switch out {
		case 1:
			return 8 * u * terms
		case 2:
			return 12 * u * x.Out[2][i]
		}
		w := math.Abs(a.Out[0][i])
		root := math.Sqrt(x.Out[2][i]/float64(p.Correct2)) + float64(p.Eps)
		return u * (4*w + 4*lr*float64(p.Decay)*w + 24*lr*terms/float64(p.Correct1)/root)
	}
}
