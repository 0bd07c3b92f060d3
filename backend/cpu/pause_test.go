package cpu

import (
	"fmt"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// pauseWork is what takes some 10 us of a Zen 4 core at its peak.
var pauseWork = map[kernel.Work]float64{
	kernel.Floats:   1 << 20, // multiplications of floats
	kernel.Codes:    1 << 21, // multiplications of int8
	kernel.Elements: 1 << 16, // elements of what is no product
}

// pauseMost is how much of that may lie between two pauses: 30 us, and so less than 100 us
// of a core that is a third as fast.
const pauseMost = 3

// pauseWatch finds the largest work of kernels between two pauses of a worker, in units of
// pauseWork.
type pauseWatch struct {
	w         *worker
	pauses    uint // when now began
	now, most float64
}

func (p *pauseWatch) count(kind kernel.Work, n int) {
	if p.w.pauses != p.pauses {
		p.pauses, p.now = p.w.pauses, 0
	}
	p.now += float64(n) / pauseWork[kind]
	p.most = max(p.most, p.now)
}

// TestPauses measures the work that a worker does between two pauses, without a clock:
// no goroutine of the host program runs on its thread meanwhile, and the collector may
// have to wait, so this bounds how late they are. What kernels do counts; Go code is
// interrupted anywhere.
func TestPauses(t *testing.T) {
	for _, v := range kernel.Variants() {
		if v.Err != nil || v.Name == "generic" {
			continue // not here; or Go code
		}
		b := open(t, Options{Variant: v.Name, Workers: 1})
		watch := &pauseWatch{w: b.pool.workers[0]}
		b.kernels = kernel.Counted(b.kernels, watch.count)
		watch.w.kernels = b.kernels
		check := func(what string, run func()) {
			watch.w.pauses++
			watch.most = 0
			run()
			if watch.most > pauseMost {
				t.Errorf("%s: %s: %.3g units of work between two pauses, %v are allowed", v.Name, what, watch.most, pauseMost)
			}
			if watch.most == 0 {
				t.Errorf("%s: %s: no work is counted", v.Name, what)
			}
		}
		pausesOfProducts(t, b, check)
		pausesOfAttention(t, b, check)
		pausesOfElements(t, b, check)
	}
}

// pausesOfAttention checks attention to pages and to rows, of few rows and of many.
func pausesOfAttention(t *testing.T, b *Backend, check func(what string, run func())) {
	const context = 2000
	for _, rows := range []int{1, 7, 256} {
		for _, typ := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
			d := newDecoder(t, b, shape{1, 512, 256, 4, 2, 64}, backend.Q8_0, context, rows)
			d.kv.Type = typ
			for i := range d.layout.Segments[0].Pages {
				p, err := b.Alloc(b.PageBytes(d.kv))
				if err != nil {
					t.Fatal(err)
				}
				defer p.Free()
				d.layout.Segments[0].Pages[i] = p
			}
			if err := d.x.Begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.x.Layout(&d.layout)
			q, h := d.x.Alloc(backend.F32, backend.Dims(rows, d.dim)), d.x.Alloc(backend.F32, backend.Dims(rows, d.dim))
			for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
				check(fmt.Sprintf("attention of %d rows to pages of %v, rounding %v", rows, typ, round), func() {
					a := backend.Args{Layout: &d.layout, KV: d.kv, Scale: 0.125, Round: round}
					a.In[0], a.Out[0] = q, h
					d.x.Run(backend.Attention, &a)
				})
			}
			if err := d.x.End(); err != nil {
				t.Fatal(err)
			}
		}
	}
	const rows, hd, heads = 700, 128, 4
	for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
		e := begin(t, b, t.Context())
		l := backend.Documents(rows)
		e.Layout(l)
		alloc := func(cols int) backend.View { return e.Alloc(backend.F32, backend.Dims(rows, cols)) }
		a := backend.Args{Layout: l, KV: backend.KV{Heads: 2, HeadDim: hd}, Scale: 0.1, Round: round}
		a.In[0], a.In[1], a.In[2], a.Out[0], a.Out[1] = alloc(heads*hd), alloc(2*hd), alloc(2*hd), alloc(heads*hd), alloc(heads)
		check(fmt.Sprintf("attention to rows, rounding %v", round), func() { e.Run(backend.Attention, &a) })
		a.In[3], a.In[4], a.In[5] = a.Out[0], alloc(heads*hd), a.Out[1]
		a.Out[0], a.Out[1], a.Out[2] = alloc(heads*hd), alloc(2*hd), alloc(2*hd)
		check(fmt.Sprintf("backward of attention, rounding %v", round), func() { e.Run(backend.AttentionBackward, &a) })
		if err := e.End(); err != nil {
			t.Fatal(err)
		}
	}
}

// pausesOfElements checks operations without products, of many rows and of one long one.
func pausesOfElements(t *testing.T, b *Backend, check func(what string, run func())) {
	for _, rows := range []int{256, 1} {
		e := begin(t, b, t.Context())
		cols := 256 * 4096 / rows
		var a backend.Args
		a.Eps = 1e-5
		for i := range 3 {
			a.In[i] = e.Alloc(backend.F32, backend.Dims(rows, cols))
		}
		a.Out[0], a.Out[1] = e.Alloc(backend.F32, backend.Dims(rows, cols)), e.Alloc(backend.F32, backend.Dims(rows, cols))
		ops := func(in, out int, ops ...backend.Op) {
			for _, op := range ops {
				some := a
				clear(some.In[in:])
				clear(some.Out[out:])
				check(fmt.Sprintf("%v of [%d, %d]", op, rows, cols), func() { e.Run(op, &some) })
			}
		}
		ops(2, 1, backend.Add, backend.Mul, backend.SwiGLU)
		ops(3, 2, backend.SwiGLUBackward)
		half := a
		half.Out[0] = e.Alloc(backend.BF16, backend.Dims(rows, cols))
		check("rounding", func() { e.Run(backend.RoundBF16, &half) })
		a.In[1] = e.Alloc(backend.F32, backend.Dims(cols))
		ops(2, 1, backend.RMSNorm)
		if err := e.End(); err != nil {
			t.Fatal(err)
		}
	}
}

// pausesOfProducts checks products with weights of every type, as they are and with
// rounded rows, of inputs as wide as the widest models', and with a matrix of floats,
// forward and backward.
func pausesOfProducts(t *testing.T, b *Backend, check func(what string, run func())) {
	multiply := func(w backend.Weight, rows int, round backend.Rounding) {
		e := begin(t, b, t.Context())
		n, k := w.Rows(), w.Cols()
		alloc := func(cols int) backend.View { return e.Alloc(backend.F32, backend.Dims(rows, cols)) }
		a := backend.Args{Round: round}
		a.In[0], a.Out[0], a.W[0] = alloc(k), alloc(n), w
		what := fmt.Sprintf("%d rows by %v [%d, %d], rounding %v", rows, w.Type(), n, k, round)
		check(what, func() { e.Run(backend.MatMul, &a) })
		if rows > 5 && (round == backend.RoundNone || round == backend.RoundBothBF16) {
			a.In[1], a.Out[0] = a.Out[0], alloc(k)
			if !w.Packed() {
				a.Out[1] = e.Alloc(backend.F32, backend.Dims(n, k))
			}
			check("backward of "+what, func() { e.Run(backend.MatMulBackward, &a) })
		}
		if err := e.End(); err != nil {
			t.Fatal(err)
		}
	}
	few, many := []int{1, 2, 5, 64}, []int{1, 256}
	for _, size := range []struct {
		n, k int
		rows []int // with packed weights
	}{{256, 4096, few}, {64, 32768, few}, {8192, 256, many}} { // the last: many panels of short sums
		n, k := size.n, size.k
		for i, typ := range backend.DTypes() {
			if testing.Short() && i%4 != 0 {
				continue
			}
			w, err := b.Pack(t.Context(), randomSource(typ, n, k))
			if err != nil {
				continue // no type of weights
			}
			for _, rows := range size.rows {
				multiply(w, rows, backend.RoundNone)
				multiply(w, rows, b.Rounding(typ))
				multiply(w, rows, b.Rounding(typ).To16())
			}
			w.Free()
		}
		m, err := b.Alloc(int64(4 * n * k))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Free()
		w, err := b.Float("matrix", backend.Contiguous(m, backend.F32, 0, backend.Dims(n, k)))
		if err != nil {
			t.Fatal(err)
		}
		for _, rows := range many {
			multiply(w, rows, backend.RoundNone)
			multiply(w, rows, backend.RoundBothBF16)
		}
	}
}
