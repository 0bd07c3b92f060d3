package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// BenchmarkBackward times what a step of training does beside products, for 1024 rows
// of a model of 135M. Bytes are those of the operands, which do not fit the cache of a
// core.
func BenchmarkBackward(b *testing.B) {
	const rows, dim, ffn, vocab = 1024, 576, 1536, 49152
	be := open(b, Options{})
	x, err := be.NewExec()
	if err != nil {
		b.Fatal(err)
	}
	defer x.Close()
	if err := x.Begin(b.Context()); err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func(dims ...int) backend.View {
		v := x.Alloc(backend.F32, backend.Dims(dims...))
		for i, e := 0, elems[float32](&v)[:v.Shape.Elems()]; i < len(e); i++ {
			e[i] = float32(rnd.NormFloat64())
		}
		return v
	}
	ids := x.Alloc(backend.I32, backend.Dims(rows))
	for i := range rows {
		elems[int32](&ids)[i] = int32(rnd.IntN(vocab))
	}
	wide := func() backend.View { return random(rows, ffn) }
	narrow := func() backend.View { return random(rows, dim) }
	half := x.Alloc(backend.BF16, backend.Dims(rows, ffn))
	for _, c := range []struct {
		op      backend.Op
		in, out []backend.View
	}{
		{backend.RMSNormBackward, []backend.View{narrow(), random(dim), narrow()}, []backend.View{narrow(), random(dim)}},
		{backend.RoPEBackward, []backend.View{narrow(), random(rows, 64)}, []backend.View{narrow()}},
		{backend.SwiGLUBackward, []backend.View{wide(), wide(), wide()}, []backend.View{wide(), wide()}},
		{backend.SwiGLU, []backend.View{wide(), wide()}, []backend.View{wide()}},
		{backend.EmbeddingBackward, []backend.View{ids, narrow()}, []backend.View{random(vocab, dim)}},
		{backend.Add, []backend.View{wide(), wide()}, []backend.View{wide()}},
		{backend.Copy, []backend.View{wide()}, []backend.View{half}},
		{backend.Copy, []backend.View{half}, []backend.View{wide()}},
	} {
		a, bytes := backend.Args{Eps: 1e-5}, 0
		copy(a.In[:], c.in)
		copy(a.Out[:], c.out)
		for _, v := range append(c.in, c.out...) {
			if v.Shape.Dim[0] != vocab {
				bytes += v.Shape.Elems() * v.Type.BlockBytes()
			}
		}
		b.Run(fmt.Sprintf("%v/%v", c.op, c.out[0].Type), func(b *testing.B) {
			b.SetBytes(int64(bytes))
			for b.Loop() {
				x.Run(c.op, &a)
			}
		})
	}
	if err := x.End(); err != nil {
		b.Fatal(err)
	}
}
