package cpu

import (
	"fmt"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// The most work between two pauses: some 10 us of a Zen 4 core at its peak, 25 us
// in attention, and so less than 100 us of one that is a quarter as fast.
const (
	pauseFloat    = 1 << 20 // multiplications of floats
	pauseInt8     = 1 << 21 // multiplications of int8
	pauseAttend   = 5 << 19 // multiplications of attention, of many rows
	pauseElements = 1 << 16 // elements of an operation without products
)

// TestPauses counts how often a worker pauses in long operations. Between two
// pauses no goroutine of the host program runs on the worker's thread and the
// collector waits, so this bounds how late they are, without a clock. Each
// operation consists of equal parts, so the mean stands for the largest.
func TestPauses(t *testing.T) {
	for _, v := range kernel.Variants() {
		if v.Err != nil || v.Name == "generic" {
			continue // not here; or Go code, which is interrupted anywhere
		}
		b := open(t, Options{Variant: v.Name, Workers: 1})
		check := func(what string, work, most int, run func()) {
			w := b.pool.workers[0]
			before := w.pauses
			run()
			if pauses := int(w.pauses - before); pauses*most < work {
				t.Errorf("%s: %s: %d pauses, %d units of work for each, at most %d are allowed", v.Name, what, pauses, work/max(1, pauses), most)
			}
		}
		pausesOfProducts(t, b, check)
		for _, rows := range []int{1, 256} {
			const context = 2000
			d := newDecoder(t, b, shape{1, 256, 256, 4, 2, 64}, backend.Q8_0, context, rows)
			if err := d.x.Begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.x.Layout(&d.layout)
			q, h := d.x.Alloc(backend.F32, backend.Dims(rows, d.dim)), d.x.Alloc(backend.F32, backend.Dims(rows, d.dim))
			check(fmt.Sprintf("attention of %d rows", rows), 2*rows*(context+rows/2)*d.dim, pauseAttend, func() {
				d.run(backend.Attention, q, backend.View{}, h)
			})
			if err := d.x.End(); err != nil {
				t.Fatal(err)
			}
		}
		e := begin(t, b, t.Context())
		var a backend.Args
		a.Eps = 1e-5
		for i := range 2 {
			a.In[i] = e.Alloc(backend.F32, backend.Dims(256, 4096))
		}
		a.Out[0] = e.Alloc(backend.F32, backend.Dims(256, 4096))
		for _, op := range []backend.Op{backend.Add, backend.Mul, backend.SwiGLU, backend.Exp, backend.Copy} {
			check(op.String(), 256*4096, pauseElements, func() { e.Run(op, &a) })
		}
		a.In[1] = e.Alloc(backend.F32, backend.Dims(4096))
		check("RMSNorm", 256*4096, pauseElements, func() { e.Run(backend.RMSNorm, &a) })
		if err := e.End(); err != nil {
			t.Fatal(err)
		}
	}
}

// pausesOfProducts checks products with weights of every type, as they are and
// with rounded rows, and with a matrix of floats.
func pausesOfProducts(t *testing.T, b *Backend, check func(what string, work, most int, run func())) {
	const n, k = 512, 4096
	multiply := func(w backend.Weight, rows int, round backend.Rounding) {
		most := pauseFloat
		if round == backend.RoundI8x32 || round == backend.RoundI8x256 {
			most = pauseInt8
		}
		e := begin(t, b, t.Context())
		var a backend.Args
		a.In[0], a.Out[0], a.W[0], a.Round = e.Alloc(backend.F32, backend.Dims(rows, k)), e.Alloc(backend.F32, backend.Dims(rows, n)), w, round
		check(fmt.Sprintf("%d rows by %v, rounding %v", rows, w.Type(), round), rows*n*k, most, func() { e.Run(backend.MatMul, &a) })
		if err := e.End(); err != nil {
			t.Fatal(err)
		}
	}
	for _, typ := range backend.DTypes() {
		w, err := b.Pack(t.Context(), randomSource(typ, n, k))
		if err != nil {
			continue // no type of weights
		}
		for _, rows := range []int{1, 5, 64} {
			multiply(w, rows, backend.RoundNone)
			multiply(w, rows, b.Rounding(typ))
		}
		w.Free()
	}
	m, err := b.Alloc(4 * n * k)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Free()
	w, err := b.Float("matrix", backend.Contiguous(m, backend.F32, 0, backend.Dims(n, k)))
	if err != nil {
		t.Fatal(err)
	}
	multiply(w, 256, backend.RoundNone)
	multiply(w, 256, backend.RoundBothBF16)
}
