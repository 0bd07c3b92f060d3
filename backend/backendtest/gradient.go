package backendtest

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// Gradients checks the backward of every operation that has one: the gradients
// that b computes, for a random gradient of the outputs, against central
// differences of the oracle in float64. Every backward runs twice, so that
// gradients of activations must be overwritten and those of weights added to.
//
// RoundI8, RoundBF16 and RoundE4M3 are steps: their gradient is Copy by definition.
func Gradients(t *testing.T, b backend.Backend) {
	covered := map[backend.Op]bool{backend.RoundI8: true, backend.RoundBF16: true, backend.RoundE4M3: true}
	for _, g := range gradients() {
		covered[g.c.op] = true
		t.Run(g.c.op.String()+"/"+g.c.name, func(t *testing.T) {
			for _, op := range g.c.op.Backward() {
				if err := b.Supports(op); err != nil {
					t.Skip(err)
				}
			}
			if err := g.check(b); errors.Is(err, backend.ErrUnsupported) {
				t.Skip(err)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	for _, op := range backend.Ops() {
		if len(op.Backward()) > 0 && !covered[op] {
			t.Errorf("no gradient check of %v", op)
		}
	}
}

const (
	// step of the central differences, relative to max(1, |x|): the error of
	// the formula is step^2, that of float64 2^-53/step, both near 1e-10.
	step = 1e-5
	// gradientError is allowed relative to the largest gradient of an operand.
	// The operands are small: sums of at most 64 terms in float32, whose
	// condition (sum |terms| / |largest sum|) is below 20.
	gradientError = 64 * 20 * u
)

// gradient is a forward case and the operations that make its gradient.
type gradient struct {
	c        *testCase
	backward func(g *tape) // adds to g.got
}

// tape is a backward pass on a backend: views of inputs, of outputs and of the
// outputs' gradients.
type tape struct {
	backend.Exec
	fwd     *backend.Args
	in, out []backend.View
	dy      []backend.View
	got     []got // filled by the first pass, used again by the second
	next    int   // of got, in this pass
}

// got is a computed gradient of input in, or where w is set, of weight in.
type got struct {
	in   int
	w    bool
	adds bool // added to, not overwritten
	v    backend.View
}

// to returns memory for a gradient: zeros in the first pass, what the first
// pass left in the second.
func (g *tape) to(in int, w, adds bool, s backend.Shape) backend.View {
	g.next++
	if g.next <= len(g.got) {
		return g.got[g.next-1].v
	}
	v := g.zeros(s)
	g.got = append(g.got, got{in, w, adds, v})
	return v
}

// dx is memory for the gradient of an input, dw for that of a weight.
func (g *tape) dx(i int) backend.View { return g.to(i, false, false, g.in[i].Shape) }
func (g *tape) dw(i int) backend.View {
	return g.to(i, true, true, backend.Dims(g.fwd.W[i].Rows(), g.fwd.W[i].Cols()))
}

func (g *tape) zeros(s backend.Shape) backend.View { return g.put(make([]float64, s.Elems()), s) }

func (g *tape) put(x []float64, s backend.Shape) backend.View {
	v, f := g.Alloc(backend.F32, s), make([]float32, len(x))
	for i, y := range x {
		f[i] = float32(y)
	}
	g.Write(v, f)
	return v
}

// run runs an operation with the numbers and weights of the forward one.
func (g *tape) run(op backend.Op, in []backend.View, out ...backend.View) {
	a := *g.fwd
	a.In, a.Out = [backend.MaxIn]backend.View{}, [backend.MaxOut]backend.View{}
	copy(a.In[:], in)
	copy(a.Out[:], out)
	g.Run(op, &a)
}

// check compares the gradients of b with central differences.
func (g *gradient) check(b backend.Backend) error {
	c := g.c
	p, err := c.place(oracle)
	if err != nil {
		return err
	}
	defer p.free()
	d := newDifferences(c, &p.args)
	grads, values, err := g.run(b, d)
	if err != nil {
		return err
	}
	for n, grad := range grads {
		want, largest := d.of(grad), 0.0
		for _, v := range want {
			largest = max(largest, math.Abs(v))
		}
		if largest == 0 {
			return fmt.Errorf("the gradient of operand %d is zero: no check", grad.in)
		}
		passes := 1.0
		if grad.adds {
			passes = 2
		}
		if len(want) != len(values[n]) {
			return fmt.Errorf("%d gradients of operand %d, want %d", len(values[n]), grad.in, len(want))
		}
		for i, v := range want {
			if diff := math.Abs(float64(values[n][i])/passes - v); !(diff <= gradientError*largest) {
				return fmt.Errorf("gradient of operand %d (weight %v), element %d: %v after %v passes, want %v each",
					grad.in, grad.w, i, values[n][i], passes, v)
			}
		}
	}
	return nil
}

// run runs the backward operations on b twice and returns what they computed.
func (g *gradient) run(b backend.Backend, d *differences) (grads []got, values [][]float32, err error) {
	p, err := g.c.place(b)
	if err != nil {
		return nil, nil, err
	}
	defer p.free()
	e, err := b.NewExec()
	if err != nil {
		return nil, nil, err
	}
	defer e.Close()
	t := &tape{Exec: e, fwd: &p.args, in: p.args.In[:]}
	err = within(e, func() {
		if p.args.Layout != nil {
			e.Layout(p.args.Layout)
		}
		for i, dy := range d.dy {
			s := p.args.Out[i].Shape
			t.out, t.dy = append(t.out, t.put(d.y[i], s)), append(t.dy, t.put(dy, s))
		}
		for range 2 {
			t.next = 0
			g.backward(t)
		}
		for _, grad := range t.got {
			x := make([]float32, grad.v.Shape.Elems())
			e.Read(x, grad.v)
			values = append(values, x)
		}
	})
	return t.got, values, err
}

// differences evaluates sum dy*y of the forward operation in float64.
type differences struct {
	c     *testCase
	x     *ref.Values
	w     [][]float64 // weights, [rows, cols]
	y, dy [][]float64
}

func newDifferences(c *testCase, a *backend.Args) *differences {
	d := &differences{c: c, x: ref.Load(a)}
	for i := range a.Weights() {
		rows, cols := a.W[i].Rows(), a.W[i].Cols()
		w := make([]float64, 0, rows*cols)
		for n := range rows {
			w = append(w, d.x.W[i](n)...)
		}
		d.w = append(d.w, w)
		d.x.W[i] = func(n int) []float64 { return w[n*cols:][:cols] }
	}
	for _, o := range c.out {
		if o == nil {
			break
		}
		dy := make([]float64, o.view.Shape.Elems())
		for j := range dy {
			dy[j] = float64(float32(c.rng.NormFloat64()))
		}
		d.dy = append(d.dy, dy)
	}
	d.loss()
	for i := range d.dy {
		d.y = append(d.y, append([]float64(nil), d.x.Out[i]...))
	}
	return d
}

func (d *differences) loss() float64 {
	for i := range d.dy {
		clear(d.x.Out[i])
	}
	d.x.Eval(d.c.op)
	s := 0.0
	for i, dy := range d.dy {
		for j, v := range dy {
			s += v * d.x.Out[i][j]
		}
	}
	return s
}

// of is the gradient of an operand. All elements that a broadcast repeats move
// together.
func (d *differences) of(g got) []float64 {
	var x []float64
	period := 0
	if g.w {
		x = d.w[g.in]
		period = len(x)
	} else {
		x = d.x.In[g.in]
		period = len(x)
		if v := d.c.in[g.in].view; v.Stride[0] == 0 {
			period /= v.Shape.Dim[0]
		}
	}
	grad := make([]float64, period)
	for i := range grad {
		h := step * math.Max(1, math.Abs(x[i]))
		move := func(by float64) {
			for j := i; j < len(x); j += period {
				x[j] += by
			}
		}
		old := x[i]
		move(h)
		up := d.loss()
		move(-2 * h)
		down := d.loss()
		for j := i; j < len(x); j += period {
			x[j] = old
		}
		grad[i] = (up - down) / (2 * h)
	}
	return grad
}
