package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
)

// BenchmarkTrainAttention times attention of rows and its gradients, for one document
// of 1024 rows and for packed ones, and reports the arithmetic that causality leaves
// as a fraction of what all cores can do.
func BenchmarkTrainAttention(b *testing.B) {
	for _, round := range []backend.Rounding{backend.RoundBothBF16, backend.RoundNone} {
		for _, n := range []struct{ heads, kv, dim, documents int }{{9, 3, 64, 1}, {6, 6, 48, 1}, {9, 3, 64, 4}} {
			for _, op := range []backend.Op{backend.Attention, backend.AttentionBackward} {
				b.Run(fmt.Sprintf("%v/%v/%d on %d of %d/%d documents", op, round, n.heads, n.kv, n.dim, n.documents), func(b *testing.B) {
					benchmarkRows(b, op, round, backend.KV{Type: backend.F32, Layers: 1, Heads: n.kv, HeadDim: n.dim}, n.heads, n.documents)
				})
			}
		}
	}
}

func benchmarkRows(b *testing.B, op backend.Op, round backend.Rounding, kv backend.KV, heads, documents int) {
	const rows = 1024
	be := open(b, Options{})
	x, err := be.NewExec()
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	if err := x.Begin(b.Context()); err != nil {
		b.Fatal(err)
	}
	layout := backend.Layout{Pos: make([]int32, rows)}
	pairs := 0.0
	for i := range documents {
		n := rows / documents
		layout.Segments = append(layout.Segments, backend.Segment{Row: i * n, Rows: n, Spans: []backend.Span{{Start: i * n, Len: n}}})
		pairs += float64(n) * float64(n+1) / 2
	}
	a := backend.Args{Layout: &layout, KV: kv, Scale: 0.125, Round: round}
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func(cols int) backend.View {
		v := x.Alloc(backend.F32, backend.Dims(rows, cols))
		for i, e := 0, elems[float32](&v)[:rows*cols]; i < len(e); i++ {
			e[i] = float32(rnd.NormFloat64())
		}
		return v
	}
	d, g := heads*kv.HeadDim, kv.Heads*kv.HeadDim
	a.In[0], a.In[1], a.In[2], a.Out[0], a.Out[1] = random(d), random(g), random(g), random(d), random(heads)
	x.Run(backend.Attention, &a)
	products := 2.0
	if op == backend.AttentionBackward {
		products = 5
		a.In[3], a.In[4], a.In[5] = a.Out[0], random(d), a.Out[1]
		a.Out = [backend.MaxOut]backend.View{random(d), random(g), random(g)}
	}
	for b.Loop() {
		x.Run(op, &a)
	}
	peak, ok := be.kernels.PeakBF16()
	if round == backend.RoundNone || !ok {
		peak, ok = be.kernels.PeakF32()
	}
	rate := pairs * float64(heads*kv.HeadDim) * 2 * products * float64(b.N) / b.Elapsed().Seconds() / 1e9
	b.ReportMetric(rate, "GFLOP/s")
	if ok {
		const rounds = 1 << 23
		start := time.Now()
		be.pool.run(probeTask(func(*worker, int) { peak.Run(rounds) }), len(be.pool.workers))
		most := float64(rounds*peak.Ops*len(be.pool.workers)) / time.Since(start).Seconds() / 1e9
		b.ReportMetric(100*rate/most, "%peak")
	}
	if err := x.End(); err != nil {
		b.Fatal(err)
	}
}
