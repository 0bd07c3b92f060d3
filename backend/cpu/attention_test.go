package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// TestAttentionChunks wants the bits of a prompt computed at once from one computed
// in chunks and token by token, by any number of workers: parts are chunks of their
// own or not, and keys and values are widened first or not.
func TestAttentionChunks(t *testing.T) {
	const heads, kvHeads = 6, 2
	length, step := 5*partLen+70, 1
	if testing.Short() {
		length, step = 2*partLen+70, 2
	}
	for _, typ := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
		for _, variant := range []string{"generic", "avx2", "avx512"} {
			kv := backend.KV{Type: typ, Layers: 1, Heads: kvHeads, HeadDim: 32}
			rnd := rand.New(rand.NewPCG(3, 4))
			q := make([]float32, length*heads*kv.HeadDim)
			for i := range q {
				q[i] = float32(rnd.NormFloat64())
			}
			var want []float32
			for workers := 1; workers <= 3; workers += step {
				be, err := New(Options{Workers: workers, Variant: variant})
				if err != nil {
					t.Log(err)
					break
				}
				pages := randomPages(t, be, kv, length)
				for _, chunk := range []int{length, 33, 1} {
					got := attendChunks(t, be, kv, pages, q, length, max(0, length-70*chunk), chunk)
					if want == nil {
						want = got
					}
					for i, v := range want[len(want)-len(got):] {
						if math.Float32bits(v) != math.Float32bits(got[i]) {
							t.Fatalf("%v, %s, %d workers, chunks of %d: element %d of %d is %g, want %g", typ, variant, workers, chunk, i, len(got), got[i], v)
						}
					}
				}
				if err := be.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// attendChunks is the output of rows [from, length), so many at a time.
func attendChunks(t *testing.T, be *Backend, kv backend.KV, pages []backend.Buffer, q []float32, length, from, chunk int) (out []float32) {
	t.Helper()
	x, err := be.NewExec()
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	width := len(q) / length
	for ; from < length; from += chunk {
		rows := min(chunk, length-from)
		if err := x.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		a := backend.Args{KV: kv, Scale: 0.2, Layout: &backend.Layout{Pos: make([]int32, rows), Segments: []backend.Segment{
			{Rows: rows, Pages: pages, Spans: []backend.Span{{Len: from + rows}}}}}}
		a.In[0], a.Out[0] = x.Alloc(backend.F32, backend.Dims(rows, width)), x.Alloc(backend.F32, backend.Dims(rows, width))
		x.Write(a.In[0], q[from*width:][:rows*width])
		x.Layout(a.Layout)
		x.Run(backend.Attention, &a)
		y := make([]float32, rows*width)
		x.Read(y, a.Out[0])
		out = append(out, y...)
		if err := x.End(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// randomPages are the pages of so many positions, the same numbers on any backend.
func randomPages(t testing.TB, be *Backend, kv backend.KV, length int) (pages []backend.Buffer) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range (length + backend.PageLen - 1) / backend.PageLen {
		page, err := be.Alloc(be.PageBytes(kv))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(page.Free)
		pages = append(pages, page)
		fillPage(rnd, memory(page), kv)
	}
	return pages
}

// BenchmarkAttention times attention of the shape of Llama 3.2 1B, layer after
// layer, so that keys and values come from memory: a step of one row, and a chunk
// of a prompt, at a depth. Bytes are the keys and values that a step reads.
func BenchmarkAttention(b *testing.B) {
	be := open(b, Options{})
	for _, typ := range []backend.DType{backend.F16, backend.BF16, backend.F32, backend.Q8_0} {
		for _, c := range []struct{ rows, depth int }{{1, 256}, {1, 8192}, {1, 1024}, {512, 512}, {512, 8192}} {
			b.Run(fmt.Sprintf("%v/%d rows at %d", typ, c.rows, c.depth), func(b *testing.B) {
				benchmarkAttention(b, be, typ, c.rows, c.depth)
			})
		}
	}
}

func benchmarkAttention(b *testing.B, be *Backend, typ backend.DType, rows, depth int) {
	const heads, layers = 32, 16
	kv := backend.KV{Type: typ, Layers: layers, Heads: 8, HeadDim: 64}
	x, err := be.NewExec()
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	seg := backend.Segment{Rows: rows, Spans: []backend.Span{{Len: depth}}, Pages: randomPages(b, be, kv, depth)}
	layout := backend.Layout{Segments: []backend.Segment{seg}, Pos: make([]int32, rows)}
	if err := x.Begin(b.Context()); err != nil {
		b.Fatal(err)
	}
	x.Layout(&layout)
	a := backend.Args{Layout: &layout, KV: kv, Scale: 0.125}
	a.In[0], a.Out[0] = x.Alloc(backend.F32, backend.Dims(rows, heads*kv.HeadDim)), x.Alloc(backend.F32, backend.Dims(rows, heads*kv.HeadDim))
	q := elems[float32](&a.In[0])
	for i := range rows * heads * kv.HeadDim {
		q[i] = float32(rnd.NormFloat64())
	}
	b.SetBytes(int64(depth/backend.PageLen) * be.PageBytes(kv))
	for b.Loop() {
		for a.Layer = range layers {
			x.Run(backend.Attention, &a)
		}
	}
	pairs := float64(rows) * (float64(depth) - float64(rows-1)/2)
	b.ReportMetric(pairs*heads*float64(kv.HeadDim)*4*layers*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
	if err := x.End(); err != nil {
		b.Fatal(err)
	}
}

// fillPage writes numbers that softmax does not make one of.
func fillPage(rnd *rand.Rand, page []byte, kv backend.KV) {
	for i, h := 0, as[uint16](page); i < len(h); i++ {
		v := float32(rnd.NormFloat64())
		switch {
		case kv.Type == backend.F16:
			h[i] = block.F32ToF16(v)
		case kv.Type == backend.BF16 || kv.Type == backend.F32 && i%2 == 1:
			h[i] = block.F32ToBF16(v)
		case kv.Type == backend.Q8_0:
			h[i] = uint16(rnd.Uint32()) &^ 0x80
		}
	}
	for h := 0; kv.Type == backend.Q8_0 && h < 2*kv.Layers*kv.Heads; h++ {
		codes := backend.PageLen * kv.HeadDim
		scales := as[uint16](page[order(kv).offset(0, 0, h)+codes:])[:codes/32]
		for i := range scales {
			scales[i] = block.F32ToF16(float32(rnd.ExpFloat64() / 127))
		}
	}
}
