package tensor_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/tensor"
)

// world is a function to be differentiated: inputs, matrices and vectors.
type world struct {
	t      *testing.T
	b      *unrounded
	c      *tensor.Context
	layout *backend.Layout
	kv     backend.KV
	inputs [][]float64
	shapes []backend.Shape
	params []*tensor.Param
}

// param makes a trainable matrix or vector of random numbers.
func (w *world) param(dims ...int) *tensor.Param {
	w.t.Helper()
	p := tensor.NewParam(dims...)
	n := p.Shape.Elems()
	buf, err := w.b.Alloc(int64(8 * n))
	check(w.t, err)
	v := backend.Contiguous(buf, backend.F32, 0, p.Shape)
	if p.Matrix() {
		m, err := w.b.Float("w", v)
		check(w.t, err)
		p.BindMatrix(m, v)
	} else {
		p.BindValue(v)
	}
	p.BindGrad(backend.Contiguous(buf, backend.F32, n, p.Shape))
	w.set(v, random(n), nil)
	w.set(p.Grad(), make([]float32, n), nil)
	w.params = append(w.params, p)
	return p
}

// set writes numbers, plus what delta adds in float64.
func (w *world) set(v backend.View, x []float32, delta map[int]float64) {
	e, err := w.b.NewExec()
	check(w.t, err)
	defer e.Close()
	check(w.t, backend.Step(w.t.Context(), e, func() error {
		e.Write(v, x)
		if delta != nil {
			y := make([]float64, len(x))
			for i := range x {
				y[i] = float64(x[i]) + delta[i]
			}
			w.b.set(v, y)
			f := make([]float32, len(x))
			for i := range y {
				f[i] = float32(y[i])
			}
			e.Write(v, f)
			w.b.set(v, y)
		}
		return nil
	}))
}

func (w *world) input(dims ...int) {
	s := backend.Dims(dims...)
	x := make([]float64, s.Elems())
	for i, v := range random(len(x)) {
		x[i] = float64(v)
	}
	w.inputs, w.shapes = append(w.inputs, x), append(w.shapes, s)
}

// place puts the inputs in the step.
func (w *world) place() []*tensor.Tensor {
	var list []*tensor.Tensor
	for i, x := range w.inputs {
		t := w.c.New(backend.F32, w.shapes[i])
		f := make([]float32, len(x))
		for j := range x {
			f[j] = float32(x[j])
		}
		w.c.Write(t, f)
		w.b.set(t.View(), x)
		list = append(list, t)
	}
	return list
}

// exactly reads a tensor in float64.
func (w *world) exactly(v backend.View) []float64 {
	x := make([]float64, v.Shape.Elems())
	for i, at := range positions(v) {
		x[i] = w.b.numbers[v.Buf][at]
	}
	return x
}

type function = func(c *tensor.Context, in []*tensor.Tensor) []*tensor.Tensor

// differentiate checks the gradients of sum <f, dy>, dy random, with respect to every
// input and parameter against central differences in float64. Backward runs in two
// steps, so that gradients of parameters must have been added up.
func (w *world) differentiate(name string, f function) {
	w.t.Helper()
	w.t.Run(name, func(t *testing.T) {
		w.t = t
		var dy [][]float32
		value := func() (sum float64) {
			w.run(func(in []*tensor.Tensor) {
				for i, y := range f(w.c, in) {
					if i == len(dy) {
						dy = append(dy, random(y.Shape().Elems()))
					}
					for j, v := range w.exactly(y.View()) {
						sum += v * float64(dy[i][j])
					}
				}
			})
			return sum
		}
		value()
		w.backward(f, dy)
		grads := w.backward(f, dy)
		for k, x := range w.inputs {
			base := append([]float64(nil), x...)
			compareDifferences(t, fmt.Sprint("input ", k), grads[k], value, func(i int, d float64) { x[i] = base[i] + d })
		}
		for k, p := range w.params {
			base := make([]float32, p.Shape.Elems())
			for i, v := range w.exactly(p.Numbers()) {
				base[i] = float32(v)
			}
			got := w.exactly(p.Grad())
			for i := range got {
				got[i] /= 2 // of two backward passes
			}
			compareDifferences(t, fmt.Sprint("parameter ", k), got, value, func(i int, d float64) {
				w.set(p.Numbers(), base, map[int]float64{i: d})
			})
		}
	})
}

// backward is one pass, which adds to the gradients of parameters; it returns those of
// the inputs.
func (w *world) backward(f function, dy [][]float32) (grads [][]float64) {
	w.t.Helper()
	w.run(func(in []*tensor.Tensor) {
		tape := tensor.NewTape()
		w.c.Record(tape)
		for _, x := range in {
			tape.Watch(x)
		}
		var seeds []tensor.Seed
		for i, y := range f(w.c, in) {
			d := w.c.New(backend.F32, y.Shape())
			w.c.Write(d, dy[i])
			seeds = append(seeds, tensor.Seed{Y: y, DY: d})
		}
		tape.Backward(seeds...)
		for i, x := range in {
			g := make([]float64, w.shapes[i].Elems())
			if d := tape.Grad(x); d != nil {
				g = w.exactly(d.View())
			}
			grads = append(grads, g)
		}
	})
	return grads
}

// compareDifferences compares gradients with central differences of a value; nudge
// changes number i by d, which is 0 at the end.
func compareDifferences(t *testing.T, what string, got []float64, value func() float64, nudge func(i int, d float64)) {
	t.Helper()
	const h = 1e-5 // the error of the formula is h^2, that of float64 2^-53/h
	want, largest := make([]float64, len(got)), 0.0
	for i := range got {
		nudge(i, h)
		up := value()
		nudge(i, -h)
		down := value()
		nudge(i, 0)
		want[i] = (up - down) / (2 * h)
		largest = max(largest, math.Abs(want[i]))
	}
	if largest == 0 {
		t.Errorf("%s: no gradient, no check", what)
	}
	for i := range got {
		if d := math.Abs(got[i] - want[i]); !(d <= 1e-7*largest) {
			t.Fatalf("%s: gradient %d is %v, differences say %v", what, i, got[i], want[i])
		}
	}
}

func (w *world) run(work func(in []*tensor.Tensor)) {
	w.t.Helper()
	step(w.t, w.c, w.layout, w.kv, func() { work(w.place()) })
}

func newWorld(t *testing.T) *world {
	b := newUnrounded()
	c, err := tensor.NewContext(b, tensor.Options{Precision: backend.PrecisionF32})
	check(t, err)
	t.Cleanup(c.Close)
	return &world{t: t, b: b, c: c}
}

func one(y ...*tensor.Tensor) []*tensor.Tensor { return y }

// TestGradients: every function of the package that has a gradient.
func TestGradients(t *testing.T) {
	type in = []*tensor.Tensor
	for _, g := range []struct {
		name   string
		shapes [][]int
		f      function
	}{
		{"Add", [][]int{{3, 4}, {3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Add(c, x[0], x[1])) }},
		{"Add to itself", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Add(c, x[0], x[0])) }},
		{"Add of a vector", [][]int{{3, 4}, {4}}, func(c *tensor.Context, x in) in { return one(tensor.Add(c, x[0], x[1])) }},
		{"Add of a column", [][]int{{2, 3, 4}, {3, 1}}, func(c *tensor.Context, x in) in { return one(tensor.Add(c, x[0], x[1])) }},
		{"AddTo", [][]int{{3, 4}, {3, 4}}, func(c *tensor.Context, x in) in {
			y := tensor.Mul(c, x[0], x[1])
			return one(tensor.AddTo(c, y, x[1]))
		}},
		{"Mul", [][]int{{3, 4}, {3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Mul(c, x[0], x[1])) }},
		{"Mul by itself", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Mul(c, x[0], x[0])) }},
		{"Mul by a scalar", [][]int{{3, 4}, {1}}, func(c *tensor.Context, x in) in { return one(tensor.Mul(c, x[0], x[1])) }},
		{"Scale", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Scale(c, x[0], -1.5)) }},
		{"Exp", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Exp(c, x[0])) }},
		{"Log", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Log(c, tensor.Exp(c, x[0]))) }},
		{"Sigmoid", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Sigmoid(c, x[0])) }},
		{"Tanh", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Tanh(c, x[0])) }},
		{"GELU", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.GELU(c, x[0])) }},
		{"Softmax", [][]int{{3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Softmax(c, x[0])) }},
		{"Sum", [][]int{{2, 3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Sum(c, x[0], 1)) }},
		{"Max", [][]int{{2, 3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Max(c, x[0], 1)) }},
		{"BatchMatMul", [][]int{{2, 3, 4}, {2, 4, 5}}, func(c *tensor.Context, x in) in { return one(tensor.BatchMatMul(c, x[0], x[1])) }},
		{"Gather", [][]int{{4, 3}}, func(c *tensor.Context, x in) in { return one(tensor.Gather(c, x[0], []int32{2, 0, 2})) }},
		{"ScatterAdd", [][]int{{3, 4}}, func(c *tensor.Context, x in) in {
			return one(tensor.ScatterAdd(c, x[0], []int32{1, 4, 1}, 5))
		}},
		{"SliceRows", [][]int{{5, 3}}, func(c *tensor.Context, x in) in {
			return one(tensor.Mul(c, tensor.SliceRows(c, x[0], 1, 2), tensor.SliceRows(c, x[0], 2, 2)))
		}},
		{"Slice", [][]int{{3, 5}}, func(c *tensor.Context, x in) in { return one(tensor.Slice(c, x[0], 1, 1, 3)) }},
		{"Transpose", [][]int{{2, 3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Transpose(c, x[0], 0, 2)) }},
		{"Reshape", [][]int{{2, 3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.Reshape(c, x[0], backend.Dims(6, 4))) }},
		{"Concat", [][]int{{2, 3}, {2, 1}}, func(c *tensor.Context, x in) in {
			return one(tensor.Concat(c, 1, x[0], x[1], x[0]))
		}},
		{"SwiGLU", [][]int{{3, 4}, {3, 4}}, func(c *tensor.Context, x in) in { return one(tensor.SwiGLU(c, x[0], x[1])) }},
		{"Custom", [][]int{{3, 4}, {3, 4}}, func(c *tensor.Context, x in) in {
			var y *tensor.Tensor
			c.NoGrad(func() { y = tensor.Mul(c, x[0], x[1]) })
			tensor.Custom(c, tensor.Operation{Name: "product", In: x, Out: one(y), Backward: func(c *tensor.Context, dy []*tensor.Tensor) []*tensor.Tensor {
				return one(tensor.Mul(c, dy[0], x[1]), tensor.Mul(c, dy[0], x[0]))
			}})
			return one(y)
		}},
		{"Checkpoint", [][]int{{3, 4}}, func(c *tensor.Context, x in) in {
			y := tensor.Tanh(c, x[0])
			z := tensor.Checkpoint(c, y, func(y *tensor.Tensor) *tensor.Tensor {
				return tensor.AddTo(c, tensor.Exp(c, tensor.Sigmoid(c, y)), y)
			})
			return one(tensor.Mul(c, z, y))
		}},
	} {
		w := newWorld(t)
		for _, s := range g.shapes {
			w.input(s...)
		}
		w.differentiate(g.name, g.f)
	}
}

// TestParameterGradients: functions of parameters, one of them shared.
func TestParameterGradients(t *testing.T) {
	type in = []*tensor.Tensor
	w := newWorld(t)
	w.input(3, 4)
	m := w.param(5, 4)
	w.differentiate("MatMul twice", func(c *tensor.Context, x in) in {
		return one(tensor.MatMul(c, x[0], m), tensor.MatMul(c, tensor.Tanh(c, x[0]), m))
	})

	w = newWorld(t)
	w.input(3, 4)
	q, k, v := w.param(6, 4), w.param(2, 4), w.param(3, 4)
	w.differentiate("MatMuls", func(c *tensor.Context, x in) in {
		y := tensor.MatMuls(c, x[0], [3]*tensor.Param{q, k, v})
		return y[:]
	})

	w = newWorld(t)
	w.input(3, 4)
	w.input(3, 5)
	a := w.param(5, 4)
	w.differentiate("MatMulAdd", func(c *tensor.Context, x in) in {
		return one(tensor.MatMulAdd(c, x[1], x[0], a))
	})

	w = newWorld(t)
	w.input(3, 4)
	gate, up, down := w.param(6, 4), w.param(6, 4), w.param(4, 6)
	norm := w.param(4)
	block := func(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
		h := tensor.RMSNorm(c, x, norm, 0.01)
		act := tensor.MatMulSwiGLU(c, h, gate, up)
		c.Drop(h)
		x = tensor.MatMulAdd(c, x, act, down)
		c.Drop(act)
		return x
	}
	w.differentiate("feed-forward, dropped", func(c *tensor.Context, x in) in { return one(block(c, block(c, x[0]))) })

	w = newWorld(t)
	w.input(3, 4)
	gate, up, down, norm = w.param(6, 4), w.param(6, 4), w.param(4, 6), w.param(4)
	w.differentiate("feed-forward, checkpoints", func(c *tensor.Context, x in) in {
		f := func(x *tensor.Tensor) *tensor.Tensor { return block(c, x) }
		return one(tensor.Checkpoint(c, tensor.Checkpoint(c, x[0], f), f))
	})

	w = newWorld(t)
	w.input(3, 4)
	bias := w.param(4)
	w.differentiate("bias", func(c *tensor.Context, x in) in {
		return one(tensor.AddTo(c, tensor.Tanh(c, x[0]), bias.Value()))
	})

	w = newWorld(t)
	table := w.param(5, 4)
	w.differentiate("tied embedding", func(c *tensor.Context, _ in) in {
		x := tensor.Embedding(c, c.IDs([]int32{3, 1, 3}), table)
		logp, lse, entropy := tensor.LogProbEntropy(c, x, []int32{0, 4, 3}, table)
		return one(logp, lse, entropy)
	})
}

// TestAttentionGradients: packed documents, one of which reads the prompt of another.
func TestAttentionGradients(t *testing.T) {
	w := newWorld(t)
	w.kv = backend.KV{Heads: 2, HeadDim: 4}
	w.layout = &backend.Layout{
		Segments: []backend.Segment{
			{Row: 0, Rows: 3, Spans: []backend.Span{{Start: 0, Len: 3}}},
			{Row: 3, Rows: 2, Spans: []backend.Span{{Start: 0, Len: 2}, {Start: 3, Len: 2}}},
		},
		Pos: []int32{0, 1, 2, 2, 3},
	}
	w.input(5, 16)
	w.input(5, 8)
	w.input(5, 8)
	freqs := w.param(2)
	freqs.BindGrad(backend.View{})
	w.params = nil
	w.differentiate("RoPE and Attention", func(c *tensor.Context, x []*tensor.Tensor) []*tensor.Tensor {
		table := tensor.RoPETable(c, freqs, nil)
		q := tensor.RoPETo(c, tensor.Tanh(c, x[0]), table)
		return one(tensor.Attention(c, q, tensor.RoPE(c, x[1], table), x[2], tensor.AttentionOptions{Scale: 0.5}))
	})
}

// TestCrossAttentionGradients: rows that see nothing, all, or parts of a source, in a
// layout and a geometry of its own beside the causal ones of the step.
func TestCrossAttentionGradients(t *testing.T) {
	w := newWorld(t)
	w.kv = backend.KV{Heads: 1, HeadDim: 8}
	w.layout = &backend.Layout{Pos: []int32{0, 1, 2, 3}, Segments: []backend.Segment{{Rows: 4, Spans: []backend.Span{{Len: 4}}}}}
	cross := &backend.Layout{Pos: w.layout.Pos, Keys: 7, Segments: []backend.Segment{
		{Row: 0, Rows: 1, Spans: []backend.Span{{}}, Whole: true},
		{Row: 1, Rows: 2, Spans: []backend.Span{{Len: 7}}, Whole: true},
		{Row: 3, Rows: 1, Spans: []backend.Span{{Len: 2}, {Start: 4, Len: 3}}, Whole: true},
	}}
	w.input(4, 8)
	w.input(7, 4)
	w.input(7, 4)
	w.differentiate("two layouts", func(c *tensor.Context, x []*tensor.Tensor) []*tensor.Tensor {
		q := tensor.Attention(c, x[0], tensor.Tanh(c, x[0]), x[0], tensor.AttentionOptions{})
		return one(tensor.Attention(c, q, tensor.Tanh(c, x[1]), x[2], tensor.AttentionOptions{Layout: cross, KV: backend.KV{Heads: 2, HeadDim: 2}}))
	})
}

// TestEncoderGradients: a norm that is computed again, windows over two sequences, the
// first of which gives a row less, and over a picture.
func TestEncoderGradients(t *testing.T) {
	w := newWorld(t)
	w.layout = backend.Documents(3, 4)
	w.input(7, 4)
	weight, bias := w.param(4), w.param(4)
	w.differentiate("LayerNorm, Unfold", func(c *tensor.Context, x []*tensor.Tensor) []*tensor.Tensor {
		h := tensor.LayerNorm(c, x[0], weight, bias, 0.1)
		y := tensor.Unfold(c, tensor.Mul(c, h, h), backend.Along(3, 2, 1), nil)
		c.Drop(h)
		return one(tensor.Tanh(c, y))
	})

	w = newWorld(t)
	w.input(12, 2)
	picture := backend.Documents(12)
	w.differentiate("Unfold of a picture", func(c *tensor.Context, x []*tensor.Tensor) []*tensor.Tensor {
		y := tensor.Unfold(c, tensor.Tanh(c, x[0]), backend.Window{Width: 4, Kernel: [2]int{2, 3}, Stride: [2]int{1, 2}, Pad: [2]int{0, 1}}, picture)
		return one(tensor.Mul(c, y, y))
	})
}

// TestCrossEntropyGradients: the one-pass loss has the gradients of its parts.
func TestCrossEntropyGradients(t *testing.T) {
	w := newWorld(t)
	w.input(4, 3)
	out := w.param(7, 3)
	y := tensor.Targets{IDs: []int32{2, -1, 6, 2}, Weights: []float32{1, 5, 0.5, 0}, Scale: 0.25, ZLoss: 0.125}
	grads := func(f func(c *tensor.Context, x *tensor.Tensor) tensor.Seed) (value float32, dx, dw []float32) {
		w.set(out.Grad(), make([]float32, 21), nil)
		w.run(func(x []*tensor.Tensor) {
			tape := tensor.NewTape()
			w.c.Record(tape)
			tape.Watch(x[0])
			seed := f(w.c, x[0])
			value = read(w.c, seed.Y)[0]
			tape.Backward(seed)
			dx = read(w.c, tape.Grad(x[0]))
		})
		for _, v := range w.exactly(out.Grad()) {
			dw = append(dw, float32(v))
		}
		return value, dx, dw
	}
	v1, dx1, dw1 := grads(func(c *tensor.Context, x *tensor.Tensor) tensor.Seed {
		loss, _, _ := tensor.CrossEntropy(c, x, out, y)
		return tensor.Seed{Y: loss}
	})
	v2, dx2, dw2 := grads(func(c *tensor.Context, x *tensor.Tensor) tensor.Seed {
		logp, lse := tensor.LogProb(c, x, []int32{2, 0, 6, 2}, out)
		weights := write(c, []float32{0.25, 0, 0.125, 0}, 4)
		loss := tensor.Add(c, tensor.Scale(c, logp, -1), tensor.Scale(c, tensor.Mul(c, lse, lse), 0.125))
		return tensor.Seed{Y: tensor.Sum(c, tensor.Mul(c, loss, weights), 0)}
	})
	close := func(what string, got, want []float32) {
		t.Helper()
		for i := range want {
			if d := math.Abs(float64(got[i] - want[i])); !(d < 1e-6) {
				t.Errorf("%s %d: %v, want %v", what, i, got[i], want[i])
			}
		}
	}
	close("loss", []float32{v1}, []float32{v2})
	close("dx", dx1, dx2)
	close("dW", dw1, dw2)
}

// TestTapesAtOnce: goroutines with a context and a tape each do not disturb each other;
// their parameters may be the same, as steps run one after the other.
func TestTapesAtOnce(t *testing.T) {
	b, err := cpu.New(cpu.Options{Workers: 2})
	check(t, err)
	t.Cleanup(func() { b.Close() })
	w := weight(b, []float32{1, 2, 3, 4}, 2, 2)
	const goroutines, steps = 4, 25
	var wg sync.WaitGroup
	for range goroutines {
		c := newContext(t, b, tensor.Options{Precision: backend.PrecisionF32})
		wg.Go(func() {
			for range steps {
				err := c.Step(context.Background(), nil, backend.KV{}, func() error {
					tape := tensor.NewTape()
					c.Record(tape)
					x := write(c, []float32{1, -1}, 1, 2)
					tape.Watch(x)
					tape.Backward(tensor.Seed{Y: tensor.MatMul(c, tensor.Tanh(c, x), w)})
					if g := read(c, tape.Grad(x)); g[0] == 0 {
						t.Error("no gradient")
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := float32(goroutines*steps) * float32(math.Tanh(1))
	for i, g := range gradOf(b, w) {
		if i%2 == 1 {
			g = -g
		}
		if math.Abs(float64(g-want)) > 1e-3 { // 100 roundings of sums below 100
			t.Errorf("gradient %d is %v, want %v", i, g, want)
		}
	}
}
