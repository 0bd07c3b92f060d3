package cpu

import (
	"testing"

	"github.com/herd-ml/herd/backend"
)

// flat is a view as one line of elements.
func flat(v backend.View) backend.View {
	return backend.Contiguous(v.Buf, v.Type, v.Off, backend.Dims(v.Shape.Elems()))
}

// every is each second element of a line.
func every(v backend.View) backend.View {
	v.Shape.Dim[1] /= 2
	v.Stride[1] = 2
	return v
}

// TestLongLines counts the pauses of operations on one long line or row: none works longer
// than on pieceLen elements, or a few times as many where these cost little, without one.
func TestLongLines(t *testing.T) {
	const n = 1 << 19
	for _, variant := range []string{"generic", ""} {
		b := open(t, Options{Variant: variant, Workers: 1})
		e := begin(t, b, t.Context())
		defer e.End()
		vec := func() backend.View { return e.Alloc(backend.F32, backend.Dims(1, n)) }
		ids := func(n int) backend.View {
			v := e.Alloc(backend.I32, backend.Dims(n))
			clear(elems[int32](&v)[:n])
			return v
		}
		x, y, z, u, v := vec(), vec(), vec(), vec(), vec()
		for _, w := range []*backend.View{&x, &y, &z, &u, &v} {
			for i := range n {
				elems[float32](w)[i] = float32(i%5) + 0.5
			}
		}
		scalar := func() backend.View { return e.Alloc(backend.F32, backend.Dims(1, 1)) }
		w, err := b.Pack(t.Context(), randomSource(backend.F32, 1, n))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Free()
		turned := func(v backend.View) backend.View { // a column of few elements for each of many ids
			return backend.Contiguous(v.Buf, v.Type, v.Off, backend.Dims(n/64, 64))
		}
		in := func(op backend.Op, out []backend.View, in ...backend.View) func() {
			return func() {
				a := backend.Args{Eps: 1e-5, Axis: 1, Round: backend.RoundI8x32}
				if op == backend.AdamW {
					a.AdamW = backend.AdamWArgs{LR: 1, Beta1: 0.9, Beta2: 0.9, Eps: 1, Scale: 1, Correct1: 1, Correct2: 1}
				}
				if op == backend.Embedding || op == backend.RowNorms {
					a.W[0] = w
				}
				copy(a.Out[:], out)
				copy(a.In[:], in)
				e.Run(op, &a)
			}
		}
		views := func(v ...backend.View) []backend.View { return v }
		bf16 := e.Alloc(backend.BF16, backend.Dims(1, n))
		codes := views(e.Alloc(backend.I8, backend.Dims(1, n)), e.Alloc(backend.F32, backend.Dims(1, n/32)), e.Alloc(backend.I32, backend.Dims(1, n/16)))
		for name, run := range map[string]func(){
			"Copy":            in(backend.Copy, views(y), x),
			"Copy of every":   in(backend.Copy, views(every(y)), every(x)),
			"Copy to BF16":    in(backend.Copy, views(bf16), x),
			"Add":             in(backend.Add, views(y), x, z),
			"Add of every":    in(backend.Add, views(every(y)), every(x), every(z)),
			"Mul":             in(backend.Mul, views(y), x, z),
			"Exp of every":    in(backend.Exp, views(every(y)), every(x)),
			"SwiGLU of every": in(backend.SwiGLU, views(every(y)), every(x), every(z)),
			"Softmax":         in(backend.Softmax, views(y), x),
			"SoftmaxBackward": in(backend.SoftmaxBackward, views(y), x, z),
			"Sum":             in(backend.Sum, views(scalar()), x),
			"Max":             in(backend.Max, views(scalar()), x),
			"MaxBackward":     in(backend.MaxBackward, views(y), x, scalar(), scalar()),
			"RMSNorm":         in(backend.RMSNorm, views(y), x, flat(z)),
			"RMSNormBackward": in(backend.RMSNormBackward, views(y, flat(u)), x, flat(z), v),
			"Gather":          in(backend.Gather, views(y), x, ids(1)),
			"ScatterAdd":      in(backend.ScatterAdd, views(e.Alloc(backend.F32, backend.Dims(1, 64))), turned(x), ids(n/64)),
			"Embedding":       in(backend.Embedding, views(y), ids(1)),
			"RowNorms":        in(backend.RowNorms, views(flat(scalar()))),
			"RoundI8":         in(backend.RoundI8, codes, x),
			"AdamW":           in(backend.AdamW, views(flat(y), flat(u), flat(v)), flat(z)),
			"SumSquares":      in(backend.SumSquares, views(e.Alloc(backend.F32, backend.Dims(1))), flat(x)),
		} {
			before := b.pool.workers[0].pauses
			run()
			if got := b.pool.workers[0].pauses - before; got < n/pieceLen/2 {
				t.Errorf("%s, %s: %d pauses for %d elements", b.kernels.Name(), name, got, n)
			}
		}
	}
}
