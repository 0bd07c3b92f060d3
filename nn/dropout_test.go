package nn_test

import (
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// dropping is a layer without weights of its own and with an adapter that drops part of
// its input.
func dropping(t *testing.T, b backend.Backend, r int, a, bb []float32) *nn.Linear {
	l := nn.NewLinear(dim, dim, false)
	bind(t, b, l.Weight, make([]float32, dim*dim))
	lora := nn.NewLoRA(dim, dim, r, false)
	lora.Dropout, lora.Stream = 0.3, 99
	bindFloat(t, b, lora.A, a)
	bindFloat(t, b, lora.B, bb)
	l.Adapters = []*nn.LoRA{lora}
	return l
}

// identity is the matrix [dim, dim] that changes nothing.
func identity() []float32 {
	x := make([]float32, dim*dim)
	for i := range dim {
		x[i*dim+i] = 1
	}
	return x
}

// TestDropout: the input of A loses a part of its elements and the others grow by 1/(1-p),
// by seed, layer and row alone; without a seed nothing is lost.
func TestDropout(t *testing.T) {
	const rows = 700
	each(t, func(t *testing.T, b backend.Backend) {
		l, c := dropping(t, b, dim, identity(), identity()), newContext(t, b)
		ones := slices.Repeat([]float32{1}, rows*dim)
		mask := func(seed uint64, from, n int) []float32 {
			return step(t, c, backend.Documents(rows), backend.KV{}, func() *tensor.Tensor {
				c.SetNoise(seed)
				c.SetRows(tensor.Rows{From: from})
				return l.Forward(c, write(c, ones[:n*dim], n, dim))
			})
		}
		if !slices.Equal(mask(0, 0, rows), ones) {
			t.Error("something is dropped without a seed")
		}
		m := mask(7, 0, rows)
		keep, dropped := float32(1/(1-float64(l.Adapters[0].Dropout))), 0
		for _, x := range m {
			if x != 0 && x != keep {
				t.Fatalf("an element became %v times, want 0 or %v", x, keep)
			}
			if x == 0 {
				dropped++
			}
		}
		// Five standard deviations of a binomial distribution.
		if n := float64(len(m)); math.Abs(float64(dropped)-0.3*n) > 5*math.Sqrt(n*0.3*0.7) {
			t.Errorf("%d of %v are dropped, want 0.3 of them", dropped, n)
		}
		if !slices.Equal(mask(7, 0, rows), m) || !slices.Equal(mask(7, 300, 50), m[300*dim:350*dim]) {
			t.Error("a row's elements depend on more than its place")
		}
		if slices.Equal(mask(8, 0, rows), m) {
			t.Error("another seed drops the same")
		}
		if l.Adapters[0].Stream++; slices.Equal(mask(7, 0, rows), m) {
			t.Error("another layer drops the same")
		}
	})
}

// TestDropoutGradient compares with the formulas in float64, for the elements that the
// layer with identities was seen to drop, with and without computing again in backward.
func TestDropoutGradient(t *testing.T) {
	const rows, r = 9, 3
	each(t, func(t *testing.T, b backend.Backend) {
		c := newContext(t, b)
		layout := backend.Documents(rows)
		m := step(t, c, layout, backend.KV{}, func() *tensor.Tensor {
			c.SetNoise(5)
			return dropping(t, b, dim, identity(), identity()).Forward(c, write(c, slices.Repeat([]float32{1}, rows*dim), rows, dim))
		})
		av, bv, xv, dyv := random(r*dim), random(dim*r), random(rows*dim), random(rows*dim)
		l := dropping(t, b, r, av, bv)
		var dxs [2][]float32
		for again := range 2 {
			grads := gradients(t, b, []*tensor.Param{l.Adapters[0].A, l.Adapters[0].B})
			zero := make([]byte, 4*r*dim)
			for _, p := range []*tensor.Param{l.Adapters[0].A, l.Adapters[0].B} {
				check(t, b.Upload(p.Grad().Buf, 0, zero))
			}
			dxs[again] = make([]float32, rows*dim)
			check(t, c.Step(t.Context(), layout, backend.KV{}, func() error {
				tape := tensor.NewTape()
				c.Record(tape)
				x, dy := write(c, xv, rows, dim), write(c, dyv, rows, dim)
				tape.Watch(x)
				c.SetNoise(5)
				y := l.Forward
				if again == 1 {
					y = func(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
						return tensor.Checkpoint(c, x, func(x *tensor.Tensor) *tensor.Tensor { return l.Forward(c, x) })
					}
				}
				out := y(c, x)
				c.SetNoise(6) // of another pass, before backward
				tape.Backward(tensor.Seed{Y: out, DY: dy})
				c.Read(dxs[again], tape.Grad(x))
				return nil
			}))
			da, db, dx := dropoutGradients(m, xv, av, bv, dyv, rows, r)
			closeTo(t, "A", grads[0](), da)
			closeTo(t, "B", grads[1](), db)
			closeTo(t, "x", dxs[again], dx)
		}
		if !slices.Equal(dxs[0], dxs[1]) {
			t.Error("computing again gives other bits")
		}
	})
}

// dropoutGradients are those of y = ((x m) A^T) B^T.
func dropoutGradients(m, x, a, b, dy []float32, rows, r int) (da, db, dx []float64) {
	da, db, dx = make([]float64, len(a)), make([]float64, len(b)), make([]float64, len(x))
	for i := range rows {
		for k := range r {
			h, dh := 0.0, 0.0
			for j := range dim {
				h += float64(x[i*dim+j]) * float64(m[i*dim+j]) * float64(a[k*dim+j])
				dh += float64(dy[i*dim+j]) * float64(b[j*r+k])
			}
			for j := range dim {
				db[j*r+k] += float64(dy[i*dim+j]) * h
				da[k*dim+j] += dh * float64(x[i*dim+j]) * float64(m[i*dim+j])
				dx[i*dim+j] += dh * float64(a[k*dim+j]) * float64(m[i*dim+j])
			}
		}
	}
	return da, db, dx
}

// closeTo compares float32 sums of few products with float64.
func closeTo(t *testing.T, what string, got []float32, want []float64) {
	t.Helper()
	largest := 0.0
	for _, w := range want {
		largest = max(largest, math.Abs(w))
	}
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w); !(d <= 1e-5*largest) {
			t.Fatalf("gradient %d of %s is %v, want %v", i, what, got[i], w)
		}
	}
}
