package cpu

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
)

// BenchmarkTrain times the products of training with float32 weights, of sizes of models
// of 15M and 135M parameters: GOP/s, and shares of the peak, are those of the fastest run.
func BenchmarkTrain(b *testing.B) {
	back, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer back.Close()
	probe, err := back.NewProbe(0)
	if err != nil {
		b.Fatal(err)
	}
	defer probe.Close()
	for _, size := range [][3]int{{1024, 576, 1536}, {1024, 1536, 576}, {1024, 576, 576}, {2048, 288, 768}, {1024, 288, 32000}, {1024, 576, 49152}} {
		for _, round := range []backend.Rounding{backend.RoundBothBF16, backend.RoundNone} {
			for _, c := range []struct {
				name     string
				op       backend.Op
				dx, dw   bool
				products float64
			}{{"y", backend.MatMul, false, false, 1}, {"dx", backend.MatMulBackward, true, false, 1}, {"dW", backend.MatMulBackward, false, true, 1}, {"loss", backend.CrossEntropy, true, true, 3}, {"dloss", backend.LogProbBackward, true, true, 3}} {
				r, k, n := size[0], size[1], size[2]
				if vocab := n >= 32000; vocab != (c.op == backend.CrossEntropy || c.op == backend.LogProbBackward) {
					continue
				}
				b.Run(fmt.Sprintf("%s/%dx%dx%d/%v", c.name, r, k, n, round), func(b *testing.B) {
					x, err := back.NewExec()
					if err != nil {
						b.Fatal(err)
					}
					defer x.Close()
					a := trainArgs(b, back, c.op, r, k, n, c.dx, c.dw)
					a.Round = round
					best := time.Hour // the machine is not always ours alone
					for b.Loop() {
						start := time.Now()
						if err := x.Begin(context.Background()); err != nil {
							b.Fatal(err)
						}
						x.Run(c.op, a)
						if err := x.End(); err != nil {
							b.Fatal(err)
						}
						best = min(best, time.Since(start))
					}
					ops := c.products * 2 * float64(r*k*n) / best.Seconds()
					b.ReportMetric(ops/1e9, "GOP/s")
					limits, err := probe.Limits(context.Background())
					if err != nil {
						b.Fatal(err)
					}
					if peak := limits.BF16; round == backend.RoundBothBF16 && peak > 0 {
						b.ReportMetric(100*ops/peak, "%peak")
					} else {
						b.ReportMetric(100*ops/limits.F32, "%peak")
					}
					b.ReportMetric(float64(x.Scratch())/1e6, "MB")
				})
			}
		}
	}
}

// trainArgs are operands of random numbers.
func trainArgs(b *testing.B, back *Backend, op backend.Op, r, k, n int, dx, dw bool) *backend.Args {
	view := func(t backend.DType, size float32, dims ...int) backend.View {
		s := backend.Dims(dims...)
		buf, err := back.Alloc(4 * int64(s.Elems()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(buf.Free)
		v := backend.Contiguous(buf, t, 0, s)
		if t == backend.I32 {
			for i, x := 0, elems[int32](&v); i < s.Elems(); i++ {
				x[i] = int32(i * 977 % n)
			}
			return v
		}
		seed := uint32(1)
		for i, x := 0, elems[float32](&v); i < s.Elems(); i++ {
			seed = seed*1664525 + 1013904223
			x[i] = size * (float32(seed>>8)/(1<<23) - 1)
		}
		return v
	}
	a := &backend.Args{}
	w, err := back.Float("w", view(backend.F32, 0.1, n, k))
	if err != nil {
		b.Fatal(err)
	}
	a.In[0], a.W[0] = view(backend.F32, 1, r, k), w
	grads := func(at int) {
		if dx {
			a.Out[at] = view(backend.F32, 0, r, k)
		}
		if dw {
			a.Out[at+1] = view(backend.F32, 0, n, k)
		}
	}
	switch op {
	case backend.MatMul:
		a.Out[0] = view(backend.F32, 0, r, n)
	case backend.MatMulBackward:
		a.In[1] = view(backend.F32, 1, r, n)
		grads(0)
	case backend.CrossEntropy:
		a.In[1], a.In[2] = view(backend.I32, 0, r), view(backend.F32, 1, r)
		a.Out[0], a.Out[1] = view(backend.F32, 0, r), view(backend.F32, 0, r)
		grads(2)
	case backend.LogProbBackward:
		a.In[1], a.In[2], a.In[3] = view(backend.I32, 0, r), view(backend.F32, 10, r), view(backend.F32, 1, r)
		grads(0)
	}
	return a
}
