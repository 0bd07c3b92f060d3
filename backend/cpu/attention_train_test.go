package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// A trained is the operands of attention of a document in training, and what it gives.
type trained struct {
	q, k, v, dy    []float32 // [rows, heads*hd] or [rows, kv heads*hd]
	y, dq, dk, dv  []float32
	heads, kv, dim int
	whole          bool // every row sees all of the document
}

func newTrained(rnd *rand.Rand, rows, heads, kv, dim int) *trained {
	numbers := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rnd.NormFloat64())
		}
		return x
	}
	return &trained{q: numbers(rows * heads * dim), k: numbers(rows * kv * dim), v: numbers(rows * kv * dim), dy: numbers(rows * heads * dim),
		heads: heads, kv: kv, dim: dim}
}

func (d *trained) rows() int { return len(d.k) / (d.kv * d.dim) }

// attendTrained computes attention of documents that are packed into one step, and its
// gradients.
func attendTrained(t *testing.T, b *Backend, round backend.Rounding, docs ...*trained) {
	t.Helper()
	e := begin(t, b, t.Context())
	var lengths []int
	for _, d := range docs {
		lengths = append(lengths, d.rows())
	}
	layout := backend.Documents(lengths...)
	for i, d := range docs {
		layout.Segments[i].Whole = d.whole
	}
	e.Layout(layout)
	rows, d := layout.Rows(), docs[0]
	a := backend.Args{Layout: layout, KV: backend.KV{Type: backend.F32, Layers: 1, Heads: d.kv, HeadDim: d.dim}, Scale: 0.3, Round: round}
	view := func(cols int, of func(d *trained) []float32) backend.View {
		v := e.Alloc(backend.F32, backend.Dims(rows, cols))
		if of != nil {
			var all []float32
			for _, d := range docs {
				all = append(all, of(d)...)
			}
			e.Write(v, all)
		}
		return v
	}
	wide, narrow := d.heads*d.dim, d.kv*d.dim
	a.In[0] = view(wide, func(d *trained) []float32 { return d.q })
	a.In[1] = view(narrow, func(d *trained) []float32 { return d.k })
	a.In[2] = view(narrow, func(d *trained) []float32 { return d.v })
	a.Out[0], a.Out[1] = view(wide, nil), view(d.heads, nil)
	e.Run(backend.Attention, &a)
	read := func(v backend.View, cols int, to func(d *trained) *[]float32) {
		all := make([]float32, rows*cols)
		e.Read(all, v)
		for _, d := range docs {
			*to(d) = slices.Clone(all[:d.rows()*cols])
			all = all[d.rows()*cols:]
		}
	}
	read(a.Out[0], wide, func(d *trained) *[]float32 { return &d.y })
	a.In[3], a.In[4], a.In[5] = a.Out[0], view(wide, func(d *trained) []float32 { return d.dy }), a.Out[1]
	a.Out = [backend.MaxOut]backend.View{view(wide, nil), view(narrow, nil), view(narrow, nil)}
	e.Run(backend.AttentionBackward, &a)
	read(a.Out[0], wide, func(d *trained) *[]float32 { return &d.dq })
	read(a.Out[1], narrow, func(d *trained) *[]float32 { return &d.dk })
	read(a.Out[2], narrow, func(d *trained) *[]float32 { return &d.dv })
	if err := e.End(); err != nil {
		t.Fatal(err)
	}
}

// sameRows wants the bits of rows [from, to) of what two computations gave.
func sameRows(t *testing.T, what string, got, want []float32, width, from, to int) {
	t.Helper()
	for i := from * width; i < to*width; i++ {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: row %d, element %d is %g, want %g", what, i/width, i%width, got[i], want[i])
		}
	}
}

// TestPackedAttention wants of a document, causal or whole, the bits that it has alone,
// whatever is packed before and after it.
func TestPackedAttention(t *testing.T) {
	lengths := []int{1, 95, 200, 289, 600, maxStripes*stripeRows - 1, maxStripes * stripeRows, maxStripes*stripeRows + 1, 2900}
	if testing.Short() {
		lengths = []int{289, 600, maxStripes*stripeRows + 1}
	}
	for _, variant := range []string{"avx2", ""} {
		b, err := New(Options{Variant: variant, Workers: 2})
		if err != nil {
			t.Log(err)
			continue
		}
		defer b.Close()
		for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
			rnd := rand.New(rand.NewPCG(31, 32))
			for i, n := range lengths {
				alone := newTrained(rnd, n, 2, 1, 16)
				alone.whole = i%2 == 1
				attendTrained(t, b, round, alone)
				packed := *alone
				attendTrained(t, b, round, newTrained(rnd, 77, 2, 1, 16), newTrained(rnd, 300, 2, 1, 16), &packed, newTrained(rnd, 700, 2, 1, 16))
				what := fmt.Sprintf("%s, %v, %d rows: ", b.kernels.Name(), round, n)
				sameRows(t, what+"y", packed.y, alone.y, 32, 0, n)
				sameRows(t, what+"dq", packed.dq, alone.dq, 32, 0, n)
				sameRows(t, what+"dk", packed.dk, alone.dk, 16, 0, n)
				sameRows(t, what+"dv", packed.dv, alone.dv, 16, 0, n)
			}
		}
	}
}

// TestWildAttention puts a number that is not finite, or rounds to one, into one row and
// wants the bits of all that does not see it, and no number where it is seen.
func TestWildAttention(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, variant := range []string{"generic", "avx2", ""} {
		b, err := New(Options{Variant: variant, Workers: 2})
		if err != nil {
			t.Log(err)
			continue
		}
		defer b.Close()
		for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
			rnd := rand.New(rand.NewPCG(33, 34))
			for _, n := range []int{7, 130, 331} {
				if testing.Short() && n > 130 {
					continue
				}
				clean := newTrained(rnd, n, 6, 2, 20)
				attendTrained(t, b, round, clean)
				for _, bad := range []float32{nan, inf, -inf, math.MaxFloat32} {
					for _, at := range []int{0, 3, n - 2, n - 1, n / 2} {
						wildRow(t, b, round, clean, bad, at)
					}
				}
			}
		}
	}
}

func wildRow(t *testing.T, b *Backend, round backend.Rounding, clean *trained, bad float32, at int) {
	t.Helper()
	n, wide, narrow := clean.rows(), clean.heads*clean.dim, clean.kv*clean.dim
	for _, of := range []string{"q", "k", "v", "dy"} {
		what := fmt.Sprintf("%s, %v, %d rows, %g in %s of row %d: ", b.kernels.Name(), round, n, bad, of, at)
		d := *clean
		x, width := map[string]*[]float32{"q": &d.q, "k": &d.k, "v": &d.v, "dy": &d.dy}[of], wide
		if of == "k" || of == "v" {
			width = narrow
		}
		*x = slices.Clone(*x)
		(*x)[at*width+5] = bad // of the first head
		attendTrained(t, b, round, newTrained(rand.New(rand.NewPCG(1, 2)), 9, d.heads, d.kv, d.dim), &d)
		// A score of minus infinity is a weight of zero, and the largest number stays one
		// where it is not rounded.
		counts := bad != bad || (of == "v" || of == "dy") && bad-bad != 0
		sees := func(name string, y []float32, width, row int) {
			t.Helper()
			if !counts {
				return
			}
			for _, v := range y[row*width:][:clean.dim] {
				if v-v != 0 {
					return
				}
			}
			t.Fatalf("%s%s of row %d is finite: %v", what, name, row, y[row*width:][:clean.dim])
		}
		switch of {
		case "k", "v":
			sameRows(t, what+"y", d.y, clean.y, wide, 0, at)
			sameRows(t, what+"dq", d.dq, clean.dq, wide, 0, at)
			sees("y", d.y, wide, n-1)
			sees("dq", d.dq, wide, n-1)
		case "q", "dy":
			if of == "dy" {
				sameRows(t, what+"y", d.y, clean.y, wide, 0, n)
			}
			sameRows(t, what+"y before", d.y, clean.y, wide, 0, at)
			sameRows(t, what+"y after", d.y, clean.y, wide, at+1, n)
			sameRows(t, what+"dq before", d.dq, clean.dq, wide, 0, at)
			sameRows(t, what+"dq after", d.dq, clean.dq, wide, at+1, n)
			sameRows(t, what+"dk", d.dk, clean.dk, narrow, at+1, n)
			sameRows(t, what+"dv", d.dv, clean.dv, narrow, at+1, n)
			sees("dq", d.dq, wide, at)
			sees("dk", d.dk, narrow, 0)
		}
	}
}
