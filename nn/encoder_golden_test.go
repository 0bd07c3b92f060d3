package nn_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// Tolerances relative to the largest value of a tensor, as the README files of the golden
// folders give them.
const (
	encoderOp     = 5e-6
	shiftedNorm   = 2e-5 // a row of the norm is shifted by 100
	encoderOutput = 1e-4
)

// near compares every element.
func near(t *testing.T, what string, got, want []float32, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	if worst, at := golden.MaxRelative(got, want); !(worst <= tolerance) {
		t.Errorf("%s: element %d is %v, want %v: off by %.2g of the largest, %.2g is allowed", what, at, got[at], want[at], worst, tolerance)
	}
}

// numbers reads a tensor.
func numbers(c *tensor.Context, x *tensor.Tensor) []float32 {
	out := make([]float32, x.Shape().Elems())
	c.Read(out, x)
	return out
}

// permute exchanges the axes of numbers of a shape.
func permute(x []float32, shape []int, order ...int) []float32 {
	stride := make([]int, len(shape))
	n := 1
	for i := len(shape) - 1; i >= 0; i-- {
		stride[i], n = n, n*shape[i]
	}
	y := make([]float32, 0, len(x))
	var walk func(axis, at int)
	walk = func(axis, at int) {
		if axis == len(order) {
			y = append(y, x[at])
			return
		}
		for i := range shape[order[axis]] {
			walk(axis+1, at+i*stride[order[axis]])
		}
	}
	walk(0, 0)
	return y
}

// rows makes rows of pixels of pictures by channels, and of kernels by taps.
func rows(x golden.Tensor) golden.Tensor {
	if s := x.Shape; len(s) == 4 {
		x.F32 = permute(x.F32, s, 0, 2, 3, 1)
		x.Shape = []int{s[0], s[2], s[3], s[1]}
	}
	return x
}

// An encoderCase is an operation of clip/ops: tensors by name, parameters as they are used.
type encoderCase struct {
	t      *testing.T
	b      backend.Backend
	c      *tensor.Context
	of     func(name string) golden.Tensor
	tape   *tensor.Tape
	in     map[string]*tensor.Tensor // watched
	params map[string]*tensor.Param
}

// input is an input of so many columns, whose gradient is compared.
func (e *encoderCase) input(name string, cols int) *tensor.Tensor {
	x := e.of(name)
	e.in[name] = write(e.c, x.F32, len(x.F32)/cols, cols)
	e.tape.Watch(e.in[name])
	return e.in[name]
}

// bind gives a parameter numbers of the case and memory for its gradient.
func (e *encoderCase) bind(name string, p *tensor.Param) {
	bind(e.t, e.b, p, e.of(name).F32)
	buf, err := e.b.Alloc(int64(4 * p.Shape.Elems()))
	check(e.t, err)
	e.t.Cleanup(buf.Free)
	p.BindGrad(backend.Contiguous(buf, backend.F32, 0, p.Shape))
	e.params[name] = p
}

// encoderOps prepare a case and return what computes its output, in a step.
var encoderOps = map[string]func(e *encoderCase) func() *tensor.Tensor{
	"gelu": func(e *encoderCase) func() *tensor.Tensor {
		return func() *tensor.Tensor { return tensor.GELU(e.c, e.input("x", 8)) }
	},
	"gelu_tanh": func(e *encoderCase) func() *tensor.Tensor {
		return func() *tensor.Tensor { // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
			c, x := e.c, e.input("x", 8)
			cube := tensor.Mul(c, tensor.Mul(c, x, x), x)
			in := tensor.Scale(c, tensor.Add(c, x, tensor.Scale(c, cube, 0.044715)), float32(math.Sqrt(2/math.Pi)))
			return tensor.Scale(c, tensor.Mul(c, x, tensor.Add(c, tensor.Tanh(c, in), c.Const(1))), 0.5)
		}
	},
	"quick_gelu": func(e *encoderCase) func() *tensor.Tensor {
		return func() *tensor.Tensor {
			x := e.input("x", 8)
			return tensor.Mul(e.c, x, tensor.Sigmoid(e.c, tensor.Scale(e.c, x, 1.702)))
		}
	},
	"layer_norm": func(e *encoderCase) func() *tensor.Tensor {
		l := nn.NewLayerNorm(len(e.of("weight").F32), 1e-5)
		e.bind("weight", l.Weight)
		e.bind("bias", l.Bias)
		return func() *tensor.Tensor { return l.Forward(e.c, e.input("x", l.Weight.Shape.Dim[0])) }
	},
	"patch_conv": func(e *encoderCase) func() *tensor.Tensor { return e.conv(4, 4, 0, false) },
	"conv2d":     func(e *encoderCase) func() *tensor.Tensor { return e.conv(3, 2, 1, true) },
	"cross_attention": func(e *encoderCase) func() *tensor.Tensor {
		const heads, kvHeads = 4, 2
		q, k := e.of("q").Shape, e.of("k").Shape // [1, rows, width]
		layout := &backend.Layout{Pos: make([]int32, q[1]), Keys: k[1],
			Segments: []backend.Segment{{Rows: q[1], Spans: []backend.Span{{Len: k[1]}}, Whole: true}}}
		o := tensor.AttentionOptions{Layout: layout, KV: backend.KV{Heads: kvHeads, HeadDim: q[2] / heads}}
		return func() *tensor.Tensor {
			return tensor.Attention(e.c, e.input("q", q[2]), e.input("k", k[2]), e.input("v", k[2]), o)
		}
	},
}

// conv is a convolution of square kernels over pictures.
func (e *encoderCase) conv(kernel, stride, pad int, bias bool) func() *tensor.Tensor {
	x, w := e.of("x").Shape, e.of("weight").Shape // pictures and kernels, channels last
	l := nn.NewConv(x[3], w[0], backend.Window{Width: x[2], Kernel: [2]int{kernel, kernel}, Stride: [2]int{stride, stride}, Pad: [2]int{pad, pad}}, bias)
	e.bind("weight", l.Weight)
	if bias {
		e.bind("bias", l.Bias)
	}
	pictures := make([]int, x[0])
	for i := range pictures {
		pictures[i] = x[1] * x[2]
	}
	return func() *tensor.Tensor { return l.Forward(e.c, e.input("x", x[3]), backend.Documents(pictures...)) }
}

// TestEncoderOps compares the operations of image encoders, and their gradients, with
// torch's: every case of the file.
func TestEncoderOps(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, file := range golden.Glob(t, "multimodal/clip/ops.json") {
			var list map[string]any
			golden.JSON(t, file, &list)
			tensors := golden.Safetensors(t, strings.TrimSuffix(file, ".json")+".safetensors")
			for name := range list {
				t.Run(name, func(t *testing.T) { testEncoderOp(t, b, name, tensors) })
			}
		}
	})
}

func testEncoderOp(t *testing.T, b backend.Backend, name string, tensors map[string]golden.Tensor) {
	prepare := encoderOps[name]
	if prepare == nil {
		t.Fatal("no test of the operation")
	}
	e := &encoderCase{t: t, b: b, c: newContext(t, b), tape: tensor.NewTape(), in: map[string]*tensor.Tensor{}, params: map[string]*tensor.Param{}}
	e.of = func(field string) golden.Tensor {
		x, ok := tensors[name+"."+field]
		if !ok {
			t.Fatalf("there is no tensor %s.%s", name, field)
		}
		return rows(x)
	}
	tolerance := encoderOp
	if name == "layer_norm" {
		tolerance = shiftedNorm
	}
	forward := prepare(e)
	got := map[string][]float32{}
	step(t, e.c, nil, backend.KV{}, func() *tensor.Tensor {
		e.c.Record(e.tape)
		y := forward()
		near(t, "y", numbers(e.c, y), e.of("y").F32, tolerance)
		dy := write(e.c, e.of("dy").F32, y.Rows(), y.Cols())
		e.tape.Backward(tensor.Seed{Y: y, DY: dy})
		for field, x := range e.in {
			got[field] = numbers(e.c, e.tape.Grad(x))
		}
		return dy
	})
	for field, p := range e.params {
		got[field] = slices.Repeat([]float32{0}, p.Shape.Elems())
		check(t, tensor.Download(b, got[field], p.Grad()))
	}
	for field, g := range got {
		near(t, "d"+field, g, e.of("d"+field).F32, tolerance)
	}
	for key := range tensors { // all gradients that the file has
		if field, ok := strings.CutPrefix(key, name+".d"); ok && field != "y" && got[field] == nil {
			t.Errorf("no gradient of %s", field)
		}
	}
}
