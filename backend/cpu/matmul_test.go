package cpu

import (
	"context"
	"fmt"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// BenchmarkMatMul multiplies one row, and the two rows of codes of a finely
// rounded one, by weights that no cache holds, one after the other as a step does:
// MB/s are what is read of memory. 512 rows are a prefill.
func BenchmarkMatMul(b *testing.B) {
	back, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer back.Close()
	const k, outputs = 2048, 8192
	for _, t := range []backend.DType{backend.Q4_0, backend.Q4_1, backend.Q5_0, backend.Q8_0, backend.Q4_K, backend.Q5_K, backend.Q6_K, backend.IQ4_XS, backend.F16, backend.BF16, backend.F32} {
		var ws []backend.Weight
		bytes := int64(0)
		for bytes < 200<<20 {
			w, err := back.Pack(context.Background(), randomSource(t, outputs, k))
			if err != nil {
				b.Fatal(err)
			}
			ws, bytes = append(ws, w), bytes+w.Bytes()
		}
		for _, c := range []struct {
			rows int
			fine bool
		}{{1, false}, {1, true}, {512, false}} {
			round := back.Rounding(t)
			if c.fine && round.To16() == round {
				continue
			}
			if c.fine {
				round = round.To16()
			}
			b.Run(fmt.Sprintf("%v/%d/%v", t, c.rows, round), func(b *testing.B) {
				x, err := back.NewExec()
				if err != nil {
					b.Fatal(err)
				}
				defer x.Close()
				b.SetBytes(bytes)
				for b.Loop() {
					if err := x.Begin(context.Background()); err != nil {
						b.Fatal(err)
					}
					in := x.Alloc(backend.F32, backend.Dims(c.rows, k))
					out := x.Alloc(backend.F32, backend.Dims(c.rows, outputs))
					for i, v := range elems[float32](&in)[:c.rows*k] {
						_ = v
						elems[float32](&in)[i] = float32(i%17) - 8
					}
					var a backend.Args
					for _, w := range ws {
						a.Reset()
						a.In[0], a.Out[0], a.W[0], a.Round = in, out, w, round
						x.Run(backend.MatMul, &a)
					}
					if err := x.End(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(2*k*outputs*float64(c.rows*len(ws)*b.N)/b.Elapsed().Seconds()/1e9, "GOP/s")
			})
		}
		for _, w := range ws {
			w.Free()
		}
	}
}
