package backendtest

import (
	"math"
	"slices"
	"testing"

	"gonum.org/v1/gonum/diff/fd"

	"github.com/herd-ml/herd/backend/ref"
)

// TestGradientsByGonum: the oracle's gradients of every operation are those that gonum's
// finite differences find, which share nothing with ours but the operation itself.
func TestGradientsByGonum(t *testing.T) {
	for _, g := range gradients() {
		t.Run(g.c.op.String()+"/"+g.c.name, func(t *testing.T) {
			p, err := g.c.place(oracle)
			if err != nil {
				t.Fatal(err)
			}
			defer p.free()
			d := newDifferences(g.c, &p.args)
			grads, values, err := g.run(ref.New(), d)
			if err != nil {
				t.Fatal(err)
			}
			for n, grad := range grads {
				passes := 1.0
				if grad.adds {
					passes = 2
				}
				want := d.byGonum(grad)
				if len(want) != len(values[n]) {
					t.Fatalf("operand %d: %d gradients, want %d", grad.in, len(values[n]), len(want))
				}
				largest := max(slices.Max(want), -slices.Min(want))
				for i, v := range want {
					if diff := math.Abs(float64(values[n][i])/passes - v); !(diff <= gradientError*largest) {
						t.Fatalf("operand %d (weight %v), element %d: %v after %v passes, gonum has %v each", grad.in, grad.w, i, values[n][i], passes, v)
					}
				}
			}
		})
	}
}

// byGonum is the gradient of an operand, whose elements all move with those that a
// broadcast repeats.
func (d *differences) byGonum(g got) []float64 {
	x := d.x.In[g.in]
	n := len(x)
	if g.w {
		x = d.w[g.in]
		n = len(x)
	} else if v := d.c.in[g.in].view; v.Stride[0] == 0 {
		n /= v.Shape.Dim[0]
	}
	old := slices.Clone(x)
	defer copy(x, old)
	return fd.Gradient(nil, func(at []float64) float64 {
		for i := range x {
			x[i] = at[i%n]
		}
		return d.loss()
	}, old[:n], &fd.Settings{Formula: fd.Central})
}
