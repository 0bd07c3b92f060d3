package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

// The forward cases of the gradient checks, each with its backward written in
// the operations that Op.Backward names.

func gradients() []*gradient {
	return []*gradient{
		matMulGradient(), matMulAddGradient(), matMulSwiGLUGradient(), rmsNormGradient(), layerNormGradient(), unfoldGradient(), foldGradient(), ropeGradient(), ropeBackGradient(), attentionGradient(), crossAttentionGradient(),
		swiGLUGradient(), embeddingGradient(), logProbGradient(), crossEntropyGradient(), addGradient(), mulGradient(),
		unaryGradient(backend.Exp, normals, func(g *tape) {
			g.run(backend.Mul, []backend.View{g.out[0], g.dy[0]}, g.dx(0))
		}),
		unaryGradient(backend.Log, positiveUnits, func(g *tape) {
			g.run(backend.LogBackward, []backend.View{g.in[0], g.dy[0]}, g.dx(0))
		}),
		unaryGradient(backend.Sigmoid, normals, func(g *tape) {
			g.run(backend.SigmoidBackward, []backend.View{g.out[0], g.dy[0]}, g.dx(0))
		}),
		unaryGradient(backend.Tanh, normals, func(g *tape) {
			g.run(backend.TanhBackward, []backend.View{g.out[0], g.dy[0]}, g.dx(0))
		}),
		unaryGradient(backend.GELU, normals, func(g *tape) {
			g.run(backend.GELUBackward, []backend.View{g.in[0], g.dy[0]}, g.dx(0))
		}),
		unaryGradient(backend.Softmax, normals, func(g *tape) {
			g.run(backend.SoftmaxBackward, []backend.View{g.out[0], g.dy[0]}, g.dx(0))
		}),
		unaryGradient(backend.Copy, normals, func(g *tape) {
			g.run(backend.Copy, []backend.View{g.dy[0]}, g.dx(0))
		}),
		sumGradient(), maxGradient(), batchMatMulGradient(), gatherGradient(), scatterAddGradient(),
	}
}

// positiveUnits keeps away from where log ends.
func positiveUnits(c *testCase) func(int) float64 {
	return func(int) float64 { return 0.5 + c.rng.Float64() }
}

func unaryGradient(op backend.Op, f fill, backward func(*tape)) *gradient {
	c := newCase(op, "gradient")
	c.in[0], c.out[0] = newOperand(backend.F32, gaps, f(c), 3, 7), fresh(backend.F32, dense, 3, 7)
	return &gradient{c, backward}
}

func matMulGradient() *gradient {
	c := newCase(backend.MatMul, "gradient, three weights")
	f := func(n int) *matrix { return c.floatWeight(backend.F32, gaps, n, 9) }
	c.matMul(backend.RoundNone, dense, c.normal, 5, f(4), f(17), f(3))
	return &gradient{c, func(g *tape) {
		g.run(backend.MatMulBackward, []backend.View{g.in[0], g.dy[0], g.dy[1], g.dy[2]}, g.dx(0), g.dw(0), g.dw(1), g.dw(2))
	}}
}

func rmsNormGradient() *gradient {
	c := newCase(backend.RMSNorm, "gradient")
	c.args.Eps = 0.01
	c.in[0], c.in[1] = newOperand(backend.F32, gaps, c.normal, 4, 9), newOperand(backend.F32, odd, c.normal, 9)
	c.out[0] = fresh(backend.F32, dense, 4, 9)
	return &gradient{c, func(g *tape) {
		g.run(backend.RMSNormBackward, []backend.View{g.in[0], g.in[1], g.dy[0]}, g.dx(0), g.to(1, false, true, g.in[1].Shape))
	}}
}

func ropeGradient() *gradient     { return rotation(backend.RoPE, backend.RoPEBackward) }
func ropeBackGradient() *gradient { return rotation(backend.RoPEBackward, backend.RoPE) }

func rotation(op, back backend.Op) *gradient {
	c := newCase(op, "gradient")
	c.in[0] = newOperand(backend.F32, dense, c.normal, 3, 16)
	c.in[1] = newOperand(backend.F32, dense, func(i int) float64 {
		angle := float64(i/8) + float64(i%4)/3
		if i%8 < 4 {
			return math.Cos(angle)
		}
		return math.Sin(angle)
	}, 3, 8)
	c.out[0] = fresh(backend.F32, dense, 3, 16)
	return &gradient{c, func(g *tape) { g.run(back, []backend.View{g.dy[0], g.in[1]}, g.dx(0)) }}
}

func attentionGradient() *gradient {
	c := newCase(backend.Attention, "gradient, responses to a shared prompt")
	c.args.KV = backend.KV{Type: backend.F32, Layers: 1, Heads: 2, HeadDim: 4}
	c.layout(scene{rows: []int{5, 2, 3}, spans: [][]backend.Span{{{Len: 5}}, {{Len: 5}, {Start: 5, Len: 2}}, {{Len: 4}, {Start: 7, Len: 3}}}}, false)
	c.in[1], c.in[2] = newOperand(backend.F32, gaps, c.normal, 10, 8), newOperand(backend.F32, odd, c.normal, 10, 8)
	c.attention(heads{4, 2, 4}, gaps)
	return &gradient{c, func(g *tape) {
		g.run(backend.AttentionBackward, []backend.View{g.in[0], g.in[1], g.in[2], g.out[0], g.dy[0]}, g.dx(0), g.dx(1), g.dx(2))
	}}
}

func crossAttentionGradient() *gradient {
	c := newCase(backend.Attention, "gradient, two texts at parts of another source")
	c.args.KV = backend.KV{Type: backend.F32, Layers: 1, Heads: 1, HeadDim: 4}
	c.layout(scene{rows: []int{3, 1, 2}, spans: [][]backend.Span{{{Start: 2, Len: 6}}, {{Len: 0}}, {{Len: 3}, {Start: 7, Len: 2}}}, whole: true, keys: 9}, false)
	c.in[1], c.in[2] = newOperand(backend.F32, gaps, c.normal, 9, 4), newOperand(backend.F32, odd, c.normal, 9, 4)
	c.attention(heads{2, 1, 4}, gaps)
	return &gradient{c, func(g *tape) {
		g.run(backend.AttentionBackward, []backend.View{g.in[0], g.in[1], g.in[2], g.out[0], g.dy[0]}, g.dx(0), g.dx(1), g.dx(2))
	}}
}

func swiGLUGradient() *gradient {
	c := newCase(backend.SwiGLU, "gradient")
	c.in[0], c.in[1] = newOperand(backend.F32, gaps, c.normal, 3, 9), newOperand(backend.F32, odd, c.normal, 3, 9)
	c.out[0] = fresh(backend.F32, dense, 3, 9)
	return &gradient{c, func(g *tape) {
		g.run(backend.SwiGLUBackward, []backend.View{g.in[0], g.in[1], g.dy[0]}, g.dx(0), g.dx(1))
	}}
}

func embeddingGradient() *gradient {
	c := newCase(backend.Embedding, "gradient, ids more than once")
	c.in[0], c.out[0] = newOperand(backend.I32, dense, c.below(4), 9), fresh(backend.F32, dense, 9, 5)
	c.weights = []*matrix{c.floatWeight(backend.F32, gaps, 4, 5)}
	return &gradient{c, func(g *tape) {
		g.run(backend.EmbeddingBackward, []backend.View{g.in[0], g.dy[0]}, g.dw(0))
	}}
}

// broadcast is a binary case whose second input repeats along the first axis.
func broadcast(op backend.Op) *testCase {
	c := newCase(op, "gradient, second input broadcast")
	c.in[0], c.in[1] = newOperand(backend.F32, transposed, c.normal, 4, 6), newOperand(backend.F32, repeated, c.normal, 4, 6)
	c.out[0] = fresh(backend.F32, dense, 4, 6)
	return c
}

// sumRows sums a gradient over the rows that a broadcast repeated.
func (g *tape) sumRows(in int, dy backend.View) {
	g.run(backend.Sum, []backend.View{dy}, g.to(in, false, false, backend.Dims(1, dy.Cols()))) // Axis is 0
}

func addGradient() *gradient {
	return &gradient{broadcast(backend.Add), func(g *tape) {
		g.run(backend.Copy, []backend.View{g.dy[0]}, g.dx(0))
		g.sumRows(1, g.dy[0])
	}}
}

func mulGradient() *gradient {
	return &gradient{broadcast(backend.Mul), func(g *tape) {
		g.run(backend.Mul, []backend.View{g.dy[0], g.in[1]}, g.dx(0))
		product := g.zeros(g.dy[0].Shape)
		g.run(backend.Mul, []backend.View{g.dy[0], g.in[0]}, product)
		g.sumRows(1, product)
	}}
}

// along is a case of an operation along the middle axis.
func along(op backend.Op) *testCase {
	c := newCase(op, "gradient along the middle axis")
	c.args.Axis = 1
	c.in[0], c.out[0] = newOperand(backend.F32, gaps, c.normal, 2, 5, 3), fresh(backend.F32, dense, 2, 1, 3)
	return c
}

func sumGradient() *gradient {
	return &gradient{along(backend.Sum), func(g *tape) {
		wide := g.dy[0]
		wide.Shape, wide.Stride[1] = g.in[0].Shape, 0
		g.run(backend.Copy, []backend.View{wide}, g.dx(0))
	}}
}

func maxGradient() *gradient {
	return &gradient{along(backend.Max), func(g *tape) {
		// Out[0] as computed from the same float32 inputs is one of them.
		g.run(backend.MaxBackward, []backend.View{g.in[0], g.out[0], g.dy[0]}, g.dx(0))
	}}
}

func batchMatMulGradient() *gradient {
	c := newCase(backend.BatchMatMul, "gradient")
	c.in[0], c.in[1] = newOperand(backend.F32, gaps, c.normal, 2, 3, 5), newOperand(backend.F32, transposed, c.normal, 2, 5, 4)
	c.out[0] = fresh(backend.F32, dense, 2, 3, 4)
	return &gradient{c, func(g *tape) {
		g.run(backend.BatchMatMul, []backend.View{g.dy[0], g.in[1].Transpose(1, 2)}, g.dx(0))
		g.run(backend.BatchMatMul, []backend.View{g.in[0].Transpose(1, 2), g.dy[0]}, g.dx(1))
	}}
}

func gatherGradient() *gradient {
	c := newCase(backend.Gather, "gradient, rows more than once")
	c.in[0], c.in[1] = newOperand(backend.F32, gaps, c.normal, 4, 5), newOperand(backend.I32, dense, c.below(4), 9)
	c.out[0] = fresh(backend.F32, dense, 9, 5)
	return &gradient{c, func(g *tape) {
		g.run(backend.ScatterAdd, []backend.View{g.dy[0], g.in[1]}, g.to(0, false, true, g.in[0].Shape))
	}}
}

func scatterAddGradient() *gradient {
	c := newCase(backend.ScatterAdd, "gradient")
	c.in[0], c.in[1] = newOperand(backend.F32, gaps, c.normal, 9, 5), newOperand(backend.I32, dense, c.below(4), 9)
	c.out[0] = newOperand(backend.F32, dense, c.normal, 4, 5)
	return &gradient{c, func(g *tape) {
		g.run(backend.Gather, []backend.View{g.dy[0], g.in[1]}, g.dx(0))
	}}
}
