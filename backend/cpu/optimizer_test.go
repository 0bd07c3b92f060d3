package cpu

import (
	"context"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// BenchmarkOptimizer is 16M parameters, in memory that no cache holds. The bytes are
// those read and written.
func BenchmarkOptimizer(b *testing.B) {
	const n = 1 << 24
	for _, v := range kernel.Variants() {
		if v.Err != nil {
			continue
		}
		be := open(b, Options{Variant: v.Name})
		var a backend.Args
		for _, to := range []*backend.View{&a.In[0], &a.Out[0], &a.Out[1], &a.Out[2]} {
			buf, err := be.Alloc(4 * n)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(buf.Free)
			*to = backend.Contiguous(buf, backend.F32, 0, backend.Dims(n))
			for i := range elems[float32](to) {
				elems[float32](to)[i] = 1e-3
			}
		}
		a.AdamW = backend.AdamWArgs{LR: 1e-4, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Decay: 0.1, Scale: 1, Correct1: 1, Correct2: 1}
		run := func(op backend.Op, bytes int64, a *backend.Args) {
			b.Run(op.String()+"/"+v.Name, func(b *testing.B) {
				e, err := be.NewExec()
				if err != nil {
					b.Fatal(err)
				}
				defer e.Close()
				if err := e.Begin(context.Background()); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(bytes)
				for b.Loop() {
					e.Run(op, a)
				}
				if err := e.End(); err != nil {
					b.Fatal(err)
				}
			})
		}
		run(backend.AdamW, 28*n, &a)
		sum := backend.Args{In: a.In}
		sum.Out[0] = a.Out[0].Slice(0, 0, 1)
		run(backend.SumSquares, 4*n, &sum)
	}
}
