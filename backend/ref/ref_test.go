package ref

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// Values worked out by hand, from the formulas in backend/ops.go.

var ln3 = math.Log(3)

// view makes an operand.
func view(t backend.DType, s backend.Shape, x ...float64) backend.View {
	v := backend.Contiguous(newBuffer(s.Elems()*t.BlockBytes()), t, 0, s)
	if len(x) > 0 {
		store(&v, x)
	}
	return v
}

func f32(s backend.Shape, x ...float64) backend.View { return view(backend.F32, s, x...) }
func row(x ...float64) backend.View                  { return f32(backend.Dims(1, len(x)), x...) }
func vec(x ...float64) backend.View                  { return f32(backend.Dims(len(x)), x...) }
func ids(x ...float64) backend.View {
	return view(backend.I32, backend.Dims(len(x)), x...)
}

// weightOf packs a float32 matrix.
func weightOf(t *testing.T, rows, cols int, x ...float64) backend.Weight {
	t.Helper()
	raw := make([]byte, 0, 4*len(x))
	for _, v := range x {
		raw = append(raw, make([]byte, 4)...)
		block.Encode(backend.F32, raw[len(raw)-4:], []float32{float32(v)})
	}
	w, err := New().Pack(context.Background(), backend.WeightSource{Name: "w", Type: backend.F32, Rows: rows, Cols: cols,
		ReadRows: func(dst []byte, row, n int) error {
			copy(dst, raw[row*cols*4:])
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// want runs op and compares the outputs, to float32 accuracy.
func want(t *testing.T, op backend.Op, a backend.Args, outs ...[]float64) {
	t.Helper()
	Run(op, &a)
	for i, out := range outs {
		got := load(&a.Out[i])
		if len(got) != len(out) {
			t.Fatalf("%v: output %d has %d elements, want %d", op, i, len(got), len(out))
		}
		for j, w := range out {
			if g := got[j]; !(math.Abs(g-w) <= 1e-6*(1+math.Abs(w))) && (g == g || w == w) {
				t.Errorf("%v: output %d is %v, want %v", op, i, got, out)
				break
			}
		}
	}
}

type views = [backend.MaxIn]backend.View
type results = [backend.MaxOut]backend.View

func TestMatMul(t *testing.T) {
	x := f32(backend.Dims(2, 3), 1, 2, 3, 0, -1, 2)
	w := weightOf(t, 2, 3, 1, 0, -1, 2, 1, 0)
	a := backend.Args{In: views{x}, Out: results{row(0, 0, 0, 0).Reshape(backend.Dims(2, 2))}}
	a.W[0] = w
	want(t, backend.MatMul, a, []float64{-2, 4, -2, -1})

	a.In[1] = f32(backend.Dims(2, 2), 1, 2, 3, 4)
	a.Out = results{f32(backend.Dims(2, 3)), f32(backend.Dims(2, 3), 10, 10, 10, 10, 10, 10)}
	want(t, backend.MatMulBackward, a, []float64{5, 2, -1, 11, 4, -3}, []float64{11, 9, 19, 12, 10, 24})
}

func TestRoundedMatMul(t *testing.T) {
	// The largest of 32 is 254: d = 2, codes 127, 0 (from 1/2), 2 (from 3/2), -2.
	x := make([]float64, 32)
	copy(x, []float64{254, 1, 3, -3})
	w := make([]float64, 64)
	for i := range 32 {
		w[i], w[32+i] = 1, float64(i)
	}
	a := backend.Args{In: views{row(x...)}, Out: results{row(0, 0)}, Round: backend.RoundI8x32}
	a.W[0] = weightOf(t, 2, 32, w...)
	want(t, backend.MatMul, a, []float64{254 + 0 + 4 - 4, 2*4 - 3*4})

	// Near 1, bf16 has steps of 2^-7: both are halfway, and go to the even one.
	a = backend.Args{In: views{row(1+1./256, 1+3./256)}, Out: results{row(0, 0)}, Round: backend.RoundToBF16}
	a.W[0] = weightOf(t, 2, 2, 1, 0, 0, 1)
	want(t, backend.MatMul, a, []float64{1, 1 + 1./64})
}

func TestRound(t *testing.T) {
	x := make([]float64, 96)
	copy(x, []float64{254, 1, 3, -3})
	x[32] = math.Inf(1)
	x[64], x[65] = 1e-40, -1e-41 // 127/m overflows: as zeros
	codes := make([]float64, 96)
	copy(codes, []float64{127, 0, 2, -2})
	a := backend.Args{In: views{row(x...)}, Round: backend.RoundI8x32}
	a.Out = results{view(backend.I8, backend.Dims(1, 96)), row(0, 0, 0), view(backend.I32, backend.Dims(1, 6))}
	want(t, backend.RoundI8, a, codes, []float64{2, math.NaN(), 0}, []float64{127, 0, 0, 0, 0, 0})
	a = backend.Args{In: views{row(1+3./256, -2)}, Out: results{view(backend.BF16, backend.Dims(1, 2))}}
	want(t, backend.RoundBF16, a, []float64{1 + 1./64, -2})
}

func TestRMSNorm(t *testing.T) {
	a := backend.Args{In: views{row(3, 4), vec(1, 2)}, Out: results{row(0, 0)}}
	want(t, backend.RMSNorm, a, []float64{3 / math.Sqrt(12.5), 8 / math.Sqrt(12.5)})
	a.In[0], a.Eps = row(1, 1), 3
	want(t, backend.RMSNorm, a, []float64{0.5, 1})
	a.In[2], a.Out[1] = row(4, 2), vec(7, 7)
	want(t, backend.RMSNormBackward, a, []float64{1.5, 1.5}, []float64{9, 8})
}

func TestRoPE(t *testing.T) {
	a := backend.Args{In: views{vec(1, 0.5)}, Out: results{f32(backend.Dims(2, 4))}, Layout: &backend.Layout{Pos: []int32{0, 2}}}
	want(t, backend.RoPETable, a, []float64{1, 1, 0, 0, -0.41614684, 0.54030231, 0.90929743, 0.84147098})
	a = backend.Args{In: views{row(1, 2, 3, 4), row(0, -1, 1, 0)}, Out: results{row(0, 0, 0, 0)}}
	want(t, backend.RoPE, a, []float64{-3, -2, 1, -4})
	a.In[0] = row(-3, -2, 1, -4)
	want(t, backend.RoPEBackward, a, []float64{1, 2, 3, 4})
}

func TestAttentionRows(t *testing.T) {
	// Two heads share one key-value head of size 1; row 0 sees only itself.
	two := backend.Dims(2, 2)
	one := backend.Dims(2, 1)
	l := &backend.Layout{Segments: []backend.Segment{{Rows: 2, Spans: []backend.Span{{Len: 2}}}}, Pos: []int32{0, 1}}
	a := backend.Args{KV: backend.KV{Heads: 1, HeadDim: 1}, Scale: 1, Layout: l,
		In: views{f32(two, 1, 1, 1, 0), f32(one, 0, ln3), f32(one, 1, 5)}, Out: results{f32(two)}}
	want(t, backend.Attention, a, []float64{1, 1, 4, 3})

	// One head, and only row 1 has a gradient: p = 1/4, 3/4.
	a.Scale = 2
	a.In = views{f32(one, 9, 0.5), f32(one, 0, ln3), f32(one, 1, 5), f32(one, 1, 4), f32(one, 0, 1)}
	a.Out = results{f32(one), f32(one), f32(one)}
	want(t, backend.AttentionBackward, a, []float64{0, 1.5 * ln3}, []float64{-0.75, 0.75}, []float64{0.25, 0.75})
}

func TestAttentionPages(t *testing.T) {
	// Keys 0 and values 1 at 64 positions, then key ln 64 and value 3 on the
	// next page weigh one half each. Rounded to f16, ln 64 is 4.16015625.
	g := backend.KV{Type: backend.F16, Layers: 2, Heads: 1, HeadDim: 1}
	page := func(value float64) backend.Buffer {
		v := view(g.Type, backend.Dims(4, backend.PageLen))
		last := v.Slice(0, 3, 1) // values of layer 1
		x := make([]float64, backend.PageLen)
		for i := range x {
			x[i] = value
		}
		store(&last, x)
		return v.Buf
	}
	pages := []backend.Buffer{page(1), page(math.NaN())}
	l := &backend.Layout{Pos: []int32{64}, Segments: []backend.Segment{{Rows: 1, Pages: pages, Spans: []backend.Span{{Len: 65}}}}}
	a := backend.Args{KV: g, Layer: 1, Scale: 1, Layout: l, In: views{row(math.Log(64)), row(3)}}
	Run(backend.KVAppend, &a)
	a.In, a.Out = views{row(1)}, results{row(0)}
	p := math.Exp(4.16015625)
	want(t, backend.Attention, a, []float64{(64 + 3*p) / (64 + p)})

	// With the first page's positions 10 and 11 as a shared prompt: p counts once.
	l.Segments[0].Spans = []backend.Span{{Start: 10, Len: 2}, {Start: 64, Len: 1}}
	want(t, backend.Attention, a, []float64{(2 + 3*p) / (2 + p)})
}

func TestFeedForwardAndVocabulary(t *testing.T) {
	a := backend.Args{In: views{row(0, ln3), row(3, 2)}, Out: results{row(0, 0)}}
	want(t, backend.SwiGLU, a, []float64{0, 1.5 * ln3})
	a = backend.Args{In: views{row(0, ln3), row(3, 1), row(2, 4)}, Out: results{row(0, 0), row(0, 0)}}
	want(t, backend.SwiGLUBackward, a, []float64{3, 3 * (1 + ln3/4)}, []float64{0, 3 * ln3})

	three := f32(backend.Dims(3, 2))
	a = backend.Args{In: views{ids(1, 0, 1)}, Out: results{three}}
	a.W[0] = weightOf(t, 2, 2, 1, 2, 3, 4)
	want(t, backend.Embedding, a, []float64{3, 4, 1, 2, 3, 4})
	a = backend.Args{In: views{ids(1, 0, 1), f32(backend.Dims(3, 2), 1, 2, 3, 4, 5, 6)}, Out: results{f32(backend.Dims(2, 2), 1, 1, 1, 1)}}
	want(t, backend.EmbeddingBackward, a, []float64{4, 5, 7, 9})

	// Logits 0 and ln 3: probabilities 1/4 and 3/4.
	a = backend.Args{In: views{row(1), ids(1)}, Out: results{vec(0), vec(0)}}
	a.W[0] = weightOf(t, 2, 1, 0, ln3)
	want(t, backend.LogProb, a, []float64{math.Log(0.75)}, []float64{math.Log(4)})
	a.In = views{row(1), ids(1), vec(math.Log(4)), vec(2)}
	a.Out = results{row(0), f32(backend.Dims(2, 1), 1, 1)}
	want(t, backend.LogProbBackward, a, []float64{ln3 / 2}, []float64{0.5, 1.5})
}

func TestElementwise(t *testing.T) {
	for _, c := range []struct {
		op   backend.Op
		a, b float64
		want float64
	}{
		{backend.Add, 2, 3, 5}, {backend.Mul, 2, 3, 6}, {backend.Exp, 1, 0, math.E}, {backend.Log, math.E, 0, 1},
		{backend.LogBackward, 2, 3, 1.5}, {backend.Sigmoid, ln3, 0, 0.75}, {backend.SigmoidBackward, 0.75, 4, 0.75},
		{backend.Tanh, ln3 / 2, 0, 0.5}, {backend.TanhBackward, 0.5, 4, 3},
		// Phi(1) = 0.8413447, phi(1) = 0.2419707.
		{backend.GELU, 1, 0, 0.8413447}, {backend.GELU, -1, 0, -0.1586553},
		{backend.GELUBackward, 0, 2, 1}, {backend.GELUBackward, 1, 1, 1.0833155},
	} {
		want(t, c.op, backend.Args{In: views{vec(c.a), vec(c.b)}, Out: results{vec(0)}}, []float64{c.want})
	}
	want(t, backend.Softmax, backend.Args{In: views{vec(0, ln3)}, Out: results{vec(0, 0)}}, []float64{0.25, 0.75})
	want(t, backend.SoftmaxBackward, backend.Args{In: views{vec(0.25, 0.75), vec(0, 4)}, Out: results{vec(0, 0)}}, []float64{-0.75, 0.75})
}

func TestGeneral(t *testing.T) {
	x := f32(backend.Dims(2, 2), 1, 2, 3, 3)
	want(t, backend.Sum, backend.Args{In: views{x}, Out: results{row(0, 0)}}, []float64{4, 5})
	column := f32(backend.Dims(2, 1), 2, 3)
	want(t, backend.Max, backend.Args{In: views{x}, Out: results{f32(backend.Dims(2, 1))}, Axis: 1}, []float64{2, 3})
	a := backend.Args{In: views{x, column, f32(backend.Dims(2, 1), 5, 7)}, Out: results{f32(backend.Dims(2, 2))}, Axis: 1}
	want(t, backend.MaxBackward, a, []float64{0, 5, 7, 0})
	// [[1 2] [3 3]] times its transpose.
	m := x.Reshape(backend.Dims(1, 2, 2))
	a = backend.Args{In: views{m, m.Transpose(1, 2)}, Out: results{f32(backend.Dims(1, 2, 2))}}
	want(t, backend.BatchMatMul, a, []float64{5, 9, 9, 18})
	want(t, backend.Gather, backend.Args{In: views{x, ids(1, 0, 1)}, Out: results{f32(backend.Dims(3, 2))}}, []float64{3, 3, 1, 2, 3, 3})
	want(t, backend.ScatterAdd, backend.Args{In: views{x, ids(2, 2)}, Out: results{f32(backend.Dims(3, 2), 1, 1, 1, 1, 1, 1)}}, []float64{1, 1, 1, 1, 5, 6})
	half := view(backend.F16, backend.Dims(2, 2))
	want(t, backend.Copy, backend.Args{In: views{x.Transpose(0, 1)}, Out: results{half}}, []float64{1, 3, 2, 3})
}

func TestIDsOutOfRange(t *testing.T) {
	x, w := f32(backend.Dims(2, 2)), weightOf(t, 2, 2, 1, 2, 3, 4)
	for op, a := range map[backend.Op]backend.Args{
		backend.Embedding:         {In: views{ids(2)}, W: [backend.MaxWeights]backend.Weight{w}, Out: results{row(0, 0)}},
		backend.EmbeddingBackward: {In: views{ids(-1), row(0, 0)}, Out: results{x}},
		backend.Gather:            {In: views{x, ids(2)}, Out: results{row(0, 0)}},
		backend.ScatterAdd:        {In: views{row(0, 0), ids(-1)}, Out: results{x}},
		backend.LogProb:           {In: views{row(0, 0), ids(2)}, W: [backend.MaxWeights]backend.Weight{w}, Out: results{vec(0), vec(0)}},
	} {
		func() {
			defer func() {
				err, _ := recover().(error)
				var s *backend.ShapeError
				if !errors.As(err, &s) || s.Op != op.String() {
					t.Errorf("%v: panic with %v", op, err)
				}
			}()
			Run(op, &a)
		}()
	}
}

// Steps are served in the order in which they came.
func TestFirstComeFirstServed(t *testing.T) {
	b := New()
	first, _ := b.NewExec()
	if err := first.Begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	const n = 5
	served := make(chan int, n)
	for i := range n {
		e, _ := b.NewExec()
		go func() {
			if err := e.Begin(context.Background()); err != nil {
				t.Error(err)
			}
			served <- i
			e.End()
		}()
		time.Sleep(20 * time.Millisecond) // lets it get in line
	}
	first.End()
	for i := range n {
		if got := <-served; got != i {
			t.Errorf("step %d was served as number %d", got, i)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// Memory that moves: who keeps it sees NaN.
func TestOpaque(t *testing.T) {
	b := NewOpaque()
	buf, err := b.Alloc(8)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Upload(buf, 0, []byte("12345678")); err != nil {
		t.Fatal(err)
	}
	kept := memory(buf)
	e, _ := b.NewExec()
	if err := backend.Step(t.Context(), e, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := string(memory(buf)); got != "12345678" {
		t.Errorf("after a step the buffer holds %q", got)
	}
	for _, x := range kept {
		if x != 0xff {
			t.Fatalf("the old memory still holds %v", kept)
		}
	}
}
