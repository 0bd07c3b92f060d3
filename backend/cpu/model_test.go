package cpu

import (
	"context"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// decoder is the sequence of operations of a Llama forward step, with random
// weights: what the pool sees in real use.
type decoder struct {
	x                                backend.Exec
	layers, dim, ffn, heads, kvHeads int
	hd                               int
	matmulOnly                       bool
	blocks                           []decoderBlock
	norm, freq                       backend.View
	embed                            backend.Weight
	kv                               backend.KV
	layout                           backend.Layout
	a                                backend.Args
}

type decoderBlock struct{ q, k, v, o, gate, up, down backend.Weight }

// shape is the size of a model; smol that of SmolLM2-135M.
type shape struct{ layers, dim, ffn, heads, kvHeads, vocab int }

var (
	smol = shape{30, 576, 1536, 9, 3, 49152}
	tiny = shape{2, 128, 256, 4, 2, 1000}
)

func newDecoder(t testing.TB, b *Backend, s shape, typ backend.DType, context, rows int) *decoder {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	weight := func(typ backend.DType, rows, cols int) backend.Weight {
		w, err := b.Pack(t.Context(), randomSource(typ, rows, cols))
		check(err)
		t.Cleanup(w.Free)
		return w
	}
	buffer := func(n int64) backend.Buffer {
		m, err := b.Alloc(n)
		check(err)
		t.Cleanup(m.Free)
		return m
	}
	hd := 64
	d := &decoder{layers: s.layers, dim: s.dim, ffn: s.ffn, heads: s.heads, kvHeads: s.kvHeads, hd: s.dim / s.heads}
	hd = d.hd
	x, err := b.NewExec()
	check(err)
	t.Cleanup(x.Close)
	d.x = x
	for range s.layers {
		d.blocks = append(d.blocks, decoderBlock{
			weight(typ, s.dim, s.dim), weight(typ, s.kvHeads*hd, s.dim), weight(typ, s.kvHeads*hd, s.dim),
			weight(typ, s.dim, s.dim), weight(typ, s.ffn, s.dim), weight(typ, s.ffn, s.dim), weight(typ, s.dim, s.ffn)})
	}
	d.embed = weight(backend.Q8_0, s.vocab, s.dim)
	d.norm = backend.Contiguous(buffer(int64(4*s.dim)), backend.F32, 0, backend.Dims(s.dim))
	d.freq = backend.Contiguous(buffer(int64(2*hd)), backend.F32, 0, backend.Dims(hd/2))
	d.kv = backend.KV{Type: backend.F16, Layers: s.layers, Heads: s.kvHeads, HeadDim: hd}
	seg := backend.Segment{Rows: rows, Spans: []backend.Span{{Len: context + rows}}}
	for range (context + rows + backend.PageLen - 1) / backend.PageLen {
		seg.Pages = append(seg.Pages, buffer(b.PageBytes(d.kv)))
	}
	d.layout = backend.Layout{Segments: []backend.Segment{seg}, Pos: make([]int32, rows), Logits: []int32{int32(rows - 1)}}
	return d
}

// randomSource is a weight of random codes; scales are whatever they are.
func randomSource(typ backend.DType, rows, cols int) backend.WeightSource {
	return backend.WeightSource{Name: "random", Type: typ, Rows: rows, Cols: cols, ReadRows: func(dst []byte, row, n int) error {
		r := rand.New(rand.NewPCG(uint64(row), uint64(cols)))
		for i := range dst {
			dst[i] = byte(r.Uint32())
		}
		for i := 1; i < len(dst); i += 2 {
			dst[i] &= 0xbf // no scale is infinite or NaN in the types used here
		}
		return nil
	}}
}

// step runs one forward step.
func (d *decoder) step(ctx context.Context) error {
	e, rows := d.x, d.layout.Rows()
	if err := e.Begin(ctx); err != nil {
		return err
	}
	e.Layout(&d.layout)
	alloc := func(n int) backend.View { return e.Alloc(backend.F32, backend.Dims(rows, n)) }
	kvDim := d.kvHeads * d.hd
	x, h, y := alloc(d.dim), alloc(d.dim), alloc(d.dim)
	q, k, v, gate, up := alloc(d.dim), alloc(kvDim), alloc(kvDim), alloc(d.ffn), alloc(d.ffn)
	table := alloc(d.hd)
	d.run(backend.RoPETable, d.freq, backend.View{}, table)
	for i := range d.blocks {
		b := &d.blocks[i]
		d.a.Layer = i
		d.run(backend.RMSNorm, x, d.norm, h)
		d.matmul(h, [3]backend.Weight{b.q, b.k, b.v}, q, k, v)
		d.run(backend.RoPE, q, table, q)
		d.run(backend.RoPE, k, table, k)
		d.run(backend.KVAppend, k, v, backend.View{})
		d.run(backend.Attention, q, backend.View{}, h)
		d.matmul(h, [3]backend.Weight{b.o}, y)
		d.run(backend.Add, x, y, x)
		d.run(backend.RMSNorm, x, d.norm, h)
		d.matmul(h, [3]backend.Weight{b.gate, b.up}, gate, up)
		d.run(backend.SwiGLU, gate, up, gate)
		d.matmul(gate, [3]backend.Weight{b.down}, y)
		d.run(backend.Add, x, y, x)
	}
	logits := e.Alloc(backend.F32, backend.Dims(1, d.embed.Rows()))
	d.matmul(x.Slice(0, rows-1, 1), [3]backend.Weight{d.embed}, logits)
	return e.End()
}

func (d *decoder) run(op backend.Op, in0, in1, out backend.View) {
	if d.matmulOnly {
		return
	}
	layer := d.a.Layer
	d.a = backend.Args{Layout: &d.layout, KV: d.kv, Layer: layer, Eps: 1e-5, Scale: 0.125}
	d.a.In[0], d.a.In[1], d.a.Out[0] = in0, in1, out
	d.x.Run(op, &d.a)
}

func (d *decoder) matmul(x backend.View, w [3]backend.Weight, out ...backend.View) {
	layer := d.a.Layer
	d.a = backend.Args{W: w, Layer: layer}
	d.a.In[0] = x
	if w[0].Type() == backend.Q8_0 {
		d.a.Round = d.x.Backend().Rounding(backend.Q8_0)
	}
	copy(d.a.Out[:], out)
	d.x.Run(backend.MatMul, &d.a)
}

// BenchmarkStep times steps of the shape of SmolLM2-135M in Q4_1: decoding one
// token after 256, and a prompt of 256; all of it, and its 211 products alone.
func BenchmarkStep(b *testing.B) {
	for _, variant := range []string{"", "generic"} {
		be := open(b, Options{Variant: variant})
		for _, c := range []struct {
			name          string
			context, rows int
			matmulOnly    bool
		}{{"decode", 256, 1, false}, {"decode-matmul", 256, 1, true}, {"prefill256", 0, 256, false}, {"prefill256-matmul", 0, 256, true}} {
			b.Run(be.Describe().Variant+"/"+c.name, func(b *testing.B) {
				d := newDecoder(b, be, smol, backend.Q4_1, c.context, c.rows)
				d.matmulOnly = c.matmulOnly
				if err := d.step(b.Context()); err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				for b.Loop() {
					if err := d.step(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(c.rows*b.N)/b.Elapsed().Seconds(), "tokens/s")
			})
		}
	}
}
