package backendtest

import (
	"context"
	"errors"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// largeCases are sizes of a small model, where there is work to divide: for
// benchmarks, and to compare numbers of workers.
func largeCases(b backend.Backend) (cs []*testCase) {
	const dim, rows = 1024, 16
	for _, t := range weightTypes() {
		for _, r := range []int{1, rows} {
			c := newCase(backend.MatMul, "large %v/%dx%dx%d", t, r, dim, dim)
			cs = append(cs, c.matMul(b.Rounding(t), dense, c.normal, r, c.weight(t, dim, dim)))
			c = newCase(backend.MatMulSwiGLU, "large %v/%dx%dx%d", t, r, dim, dim)
			cs = append(cs, c.matMulSwiGLU(b.Rounding(t), dense, r, c.weight(t, dim, dim), c.weight(t, dim, dim)))
		}
	}
	c := newCase(backend.MatMulBackward, "large/%dx%dx%d", rows, dim, dim)
	cs = append(cs, c.matMulBackward(backend.RoundNone, dense, rows, true, true, c.floatWeight(backend.F32, dense, dim, dim)))
	for _, round := range gradientRounds { // training: more rows than inputs
		const rows, k, n = 300, 160, 530
		f := func() *matrix { return c.floatWeight(backend.F32, dense, n, k) }
		c = newCase(backend.MatMulSwiGLU, "large float/%dx%dx%d/round %v", rows, k, n, round)
		cs = append(cs, c.matMulSwiGLU(round, dense, rows, f(), f()))
		c = newCase(backend.MatMulBackward, "large/%dx%dx%d/round %v", rows, k, n, round)
		cs = append(cs, c.matMulBackward(round, dense, rows, true, true, f()))
		c = newCase(backend.LogProbBackward, "large/%dx%dx%d/round %v", rows, k, n, round)
		cs = append(cs, c.logProbBackward(round, dense, rows, 1, f()))
		c = newCase(backend.CrossEntropy, "large/%dx%dx%d/round %v", rows, k, n, round)
		cs = append(cs, c.crossEntropy(round, dense, rows, 1, f()))
	}
	c = newCase(backend.LogProb, "large/%dx%dx%d", rows, dim, dim)
	cs = append(cs, c.logProb(backend.RoundNone, dense, rows, c.weight(backend.BF16, dim, dim)))

	c = newCase(backend.RMSNorm, "large/%dx%d", rows, dim)
	c.args.Eps = 1e-5
	c.in[0], c.in[1] = newOperand(backend.F32, dense, c.normal, rows, dim), newOperand(backend.F32, dense, c.normal, dim)
	c.out[0] = fresh(backend.F32, dense, rows, dim)
	cs = append(cs, c)
	for _, op := range []backend.Op{backend.SwiGLU, backend.Add, backend.Exp, backend.Softmax, backend.GELU} {
		c := newCase(op, "large/%dx%d", rows, 4*dim)
		c.in[0], c.out[0] = newOperand(backend.F32, dense, c.normal, rows, 4*dim), fresh(backend.F32, dense, rows, 4*dim)
		if op == backend.SwiGLU || op == backend.Add {
			c.in[1] = newOperand(backend.F32, dense, c.normal, rows, 4*dim)
		}
		cs = append(cs, c)
	}
	cs = append(cs, adamWCase("large", dense, normals, 1, 1<<16+3), sumSquaresCase("large", dense, normals, 1<<16+3))
	span := func(n int) []backend.Span { return []backend.Span{{Len: n}} }
	for _, s := range []scene{
		{name: "prefill 256", rows: []int{256}, spans: [][]backend.Span{span(256)}},
		{name: "one session at 1000", rows: []int{1}, spans: [][]backend.Span{span(1000)}},
		{name: "four sessions at 300", rows: []int{1, 1, 1, 1}, spans: [][]backend.Span{span(300), span(301), span(302), span(303)}},
	} {
		c := newCase(backend.Attention, "large/%s", s.name)
		c.args.KV = backend.KV{Type: backend.F16, Layers: 1, Heads: 2, HeadDim: 64}
		c.layout(s, true)
		c.addPages()
		cs = append(cs, c.attention(heads{8, 2, 64}, dense))
	}
	return cs
}

// Benchmark times the larger cases on be, each checked against the oracle
// before. Bytes are those of weights, pages and views.
func Benchmark(b *testing.B, be backend.Backend) {
	for _, c := range largeCases(be) {
		b.Run(c.op.String()+"/"+c.name, func(b *testing.B) {
			if _, err := check(be, c); errors.Is(err, backend.ErrUnsupported) {
				b.Skip(err)
			} else if err != nil {
				b.Fatal(err)
			}
			c.benchmark(b, be)
		})
	}
}

func (c *testCase) benchmark(b *testing.B, be backend.Backend) {
	p, err := c.place(be)
	if err != nil {
		b.Fatal(err)
	}
	defer p.free()
	e, err := be.NewExec()
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	size := int64(0)
	for _, o := range c.operands() {
		size += int64(o.view.Shape.Elems() * o.view.Type.BlockBytes())
	}
	for _, w := range c.weights {
		if w.float == nil {
			size += int64(len(w.raw))
		}
	}
	b.SetBytes(size)
	err = backend.Step(context.Background(), e, func() error {
		p.run(e)
		for b.Loop() {
			e.Run(c.op, &p.args)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
