package cpu

import (
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// TestCleanTask wants of a MatMul what it gives at first, after a MatMulAdd that has
// panicked half-way.
func TestCleanTask(t *testing.T) {
	const rows, k, n = 3, 64, 48
	b := open(t, Options{Workers: 2})
	w, err := b.Pack(t.Context(), randomSource(backend.Q8_0, n, k))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Free()
	foreign, err := ref.New().Pack(t.Context(), randomSource(backend.Q8_0, n, k))
	if err != nil {
		t.Fatal(err)
	}
	e := begin(t, b, t.Context())
	defer e.End()
	x, add, out := e.Alloc(backend.F32, backend.Dims(rows, k)), e.Alloc(backend.F32, backend.Dims(rows, n)), e.Alloc(backend.F32, backend.Dims(rows, n))
	for i := range rows * k {
		elems[float32](&x)[i] = float32(i%7) - 3
	}
	for i := range rows * n {
		elems[float32](&add)[i] = 1000
	}
	product := func() []float32 {
		a := backend.Args{Round: backend.RoundI8x32}
		a.In[0], a.Out[0], a.W[0] = x, out, w
		e.Run(backend.MatMul, &a)
		y := make([]float32, rows*n)
		e.Read(y, out)
		return y
	}
	want := product()
	func() {
		defer func() {
			if recover() == nil {
				t.Fatal("a weight of another backend does not panic")
			}
		}()
		var a backend.Args
		a.In[0], a.In[1], a.Out[0], a.W[0] = x, add, out, foreign
		e.Run(backend.MatMulAdd, &a)
	}()
	sameRows(t, "MatMul after a panic", product(), want, n, 0, rows)
}
