package tensor_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/tensor"
)

func TestReadWrite(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		alone(t, b, func(c *tensor.Context) {
			for _, dims := range [][]int{{1}, {7}, {3, 5}, {2, 3, 4}, {0, 4}} {
				x := c.New(backend.F32, backend.Dims(dims...))
				values := random(x.Shape().Elems())
				c.Write(x, values)
				if got := read(c, x); !slices.Equal(got, values) {
					t.Errorf("%v: wrote %v, read %v", dims, values, got)
				}
				if rows, cols := x.Rows(), x.Cols(); cols != dims[len(dims)-1] || rows*cols != len(values) {
					t.Errorf("%v is a matrix of %d by %d", dims, rows, cols)
				}
			}
			if v := c.IDs([]int32{4, 5}).View(); v.Type != backend.I32 || v.Shape != backend.Dims(2) {
				t.Errorf("IDs are %v %v", v.Type, v.Shape)
			}
		})
	})
}

// TestManyTensors: more tensors than are allocated at once stay apart.
func TestManyTensors(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		c := newContext(t, b, tensor.Options{})
		for range 3 {
			step(t, c, nil, backend.KV{}, func() {
				var xs []*tensor.Tensor
				for i := range 600 {
					xs = append(xs, write(c, []float32{float32(i)}, 1))
				}
				for i, x := range xs {
					compare(t, "a tensor", read(c, x), []number{exact(float32(i))})
				}
			})
		}
	})
}

// TestAddTo: what a layer adds takes the place of its input, the layer's memory is
// used again, and what was made before stays.
func TestAddTo(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const n = 4096
		c := newContext(t, b, tensor.Options{})
		var peak [2]int64
		for i, layers := range []int{2, 50} {
			step(t, c, nil, backend.KV{}, func() {
				before := write(c, random(3), 3)
				held := read(c, before)
				x, one, zero := write(c, make([]float32, n), n), write(c, slices.Repeat([]float32{1}, n), n), write(c, make([]float32, n), n)
				mark := c.Mark()
				for layer := range layers {
					input := x
					y := tensor.Add(c, one, zero)
					x = tensor.AddTo(c, x, y)
					c.Release(mark)
					if x != input {
						t.Fatal("AddTo returns another tensor")
					}
					compare(t, "the residual", read(c, x), slices.Repeat([]number{exact(float32(layer + 1))}, n))
					panics[*tensor.StaleError](t, "a tensor of the layer", nil, func() { read(c, y) })
				}
				if !slices.Equal(read(c, before), held) {
					t.Error("AddTo changed another tensor")
				}
				p := vector(t, b, []float32{1, 2}, 1)
				tensor.AddTo(c, p.Value(), p.Value())
				tensor.AddTo(c, tensor.SliceRows(c, p.Value(), 1, 1), tensor.SliceRows(c, p.Value(), 0, 1))
				compare(t, "a parameter", read(c, p.Value()), []number{exact(1), exact(2)})
				w, y := pack(t, b, []float32{0, 1, 1, 0}, 2, 2), write(c, []float32{1, 2}, 1, 2)
				compare(t, "a product added to its input", read(c, tensor.MatMulAdd(c, y, y, w)), []number{exact(3), exact(3)})
			})
			peak[i] = c.Scratch()
		}
		if peak[0] < 4*4*n || peak[0] != peak[1] {
			t.Errorf("2 layers take %d bytes, 50 take %d", peak[0], peak[1])
		}
	})
}

// TestStale: a tensor is refused after Release, after End, in the next step,
// although that step's tensors take its place, and in another context.
func TestStale(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		c, other := newContext(t, b, tensor.Options{}), newContext(t, b, tensor.Options{})
		uses := func(c *tensor.Context, x *tensor.Tensor) {
			t.Helper()
			w, v := pack(t, b, random(4), 2, 2), vector(t, b, random(2), 1)
			fresh := v.Value()
			for name, use := range map[string]func(){
				"Read":         func() { read(c, x) },
				"Write":        func() { c.Write(x, []float32{1, 2}) },
				"MatMul":       func() { tensor.MatMul(c, x, w) },
				"RMSNorm":      func() { tensor.RMSNorm(c, x, v, 1) },
				"Embedding":    func() { tensor.Embedding(c, x, w) },
				"RoPE":         func() { tensor.RoPE(c, x, fresh) },
				"its table":    func() { tensor.RoPE(c, fresh, x) },
				"RoPETo":       func() { tensor.RoPETo(c, x, fresh) },
				"Attention":    func() { tensor.Attention(c, x, fresh, fresh, tensor.AttentionOptions{Scale: 1}) },
				"its keys":     func() { tensor.Attention(c, fresh, x, fresh, tensor.AttentionOptions{Scale: 1}) },
				"its values":   func() { tensor.Attention(c, fresh, fresh, x, tensor.AttentionOptions{Scale: 1}) },
				"SwiGLU":       func() { tensor.SwiGLU(c, x, fresh) },
				"its up":       func() { tensor.SwiGLU(c, fresh, x) },
				"Add":          func() { tensor.Add(c, x, fresh) },
				"Add's second": func() { tensor.Add(c, fresh, x) },
				"Gather":       func() { tensor.Gather(c, x, []int32{0}) },
				"SliceRows":    func() { tensor.SliceRows(c, x, 0, 1) },
				"AddTo":        func() { tensor.AddTo(c, x, fresh) },
				"what it adds": func() { tensor.AddTo(c, fresh, x) },
				"MatMulAdd":    func() { tensor.MatMulAdd(c, x, fresh, w) },
				"its input":    func() { tensor.MatMulAdd(c, fresh, x, w) },
				"MatMulSwiGLU": func() { tensor.MatMulSwiGLU(c, x, w, w) },
			} {
				panics[*tensor.StaleError](t, name, []string{"[1 2]", "used after"}, use)
			}
		}
		var x, released *tensor.Tensor
		step(t, c, nil, backend.KV{}, func() {
			x = write(c, []float32{1, 2}, 1, 2)
			outer := c.Mark()
			first := write(c, []float32{3, 4}, 1, 2)
			inner := c.Mark()
			released = write(c, []float32{5, 6}, 1, 2)
			c.Release(inner)
			uses(c, released)
			write(c, []float32{7, 8}, 1, 2)
			uses(c, released)
			compare(t, "what is older than the mark", read(c, first), []number{{3, 0}, {4, 0}})
			c.Release(outer)
			uses(c, first)
			compare(t, "what is older than both marks", read(c, x), []number{{1, 0}, {2, 0}})
		})
		uses(c, x)
		step(t, c, nil, backend.KV{}, func() {
			write(c, []float32{9, 9}, 1, 2)
			write(c, []float32{9, 9}, 1, 2)
			uses(c, x)
			uses(c, released)
			x = write(c, []float32{1, 2}, 1, 2)
		})
		// As many steps as x's context has seen.
		step(t, other, nil, backend.KV{}, func() {})
		step(t, other, nil, backend.KV{}, func() { uses(other, x) })
	})
}

// TestShapes: operands that do not fit panic with the operation and both
// shapes.
func TestShapes(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		layout := &backend.Layout{Pos: make([]int32, 2), Segments: []backend.Segment{{Rows: 2, Spans: []backend.Span{{Len: 2}}}}}
		c := newContext(t, b, tensor.Options{})
		zeros := func(dims ...int) *tensor.Tensor {
			return write(c, make([]float32, backend.Dims(dims...).Elems()), dims...)
		}
		w := pack(t, b, make([]float32, 20), 4, 5)
		v := vector(t, b, make([]float32, 3), 1)
		for name, test := range map[string]struct {
			parts []string
			work  func()
		}{
			"MatMul":            {[]string{"MatMul", "3 columns", "[4 5]"}, func() { tensor.MatMul(c, zeros(2, 3), w) }},
			"MatMul, unbound":   {[]string{"MatMul", "[2 3]", "no numbers"}, func() { tensor.MatMul(c, zeros(2, 3), tensor.NewParam(2, 3)) }},
			"Embedding":         {[]string{"Embedding", "id 4 of 4"}, func() { tensor.Embedding(c, c.IDs([]int32{4}), w) }},
			"Embedding, below":  {[]string{"Embedding", "id -1 of 4"}, func() { tensor.Embedding(c, c.IDs([]int32{-1}), w) }},
			"Embedding, type":   {[]string{"Embedding", "F32", "I32"}, func() { tensor.Embedding(c, zeros(2), w) }},
			"Embedding unbound": {[]string{"Embedding", "[4 5]", "no numbers"}, func() { tensor.Embedding(c, c.IDs([]int32{1}), tensor.NewParam(4, 5)) }},
			"RMSNorm":           {[]string{"RMSNorm", "[3]", "4]"}, func() { tensor.RMSNorm(c, zeros(2, 4), v, 1) }},
			"RMSNorm, unbound":  {[]string{"[4]", "no numbers"}, func() { tensor.RMSNorm(c, zeros(2, 4), tensor.NewParam(4), 1) }},
			"RoPE":              {[]string{"RoPE", "[2 6]", "[2 4]"}, func() { tensor.RoPE(c, zeros(2, 6), zeros(2, 4)) }},
			"RoPE, rows":        {[]string{"RoPE", "[3 4]", "[2 4]"}, func() { tensor.RoPE(c, zeros(2, 4), zeros(3, 4)) }},
			"Attention, keys":   {[]string{"Attention", "[2 8]", "[2 4]"}, func() { tensor.Attention(c, zeros(2, 4), zeros(2, 8), zeros(2, 4), tensor.AttentionOptions{Scale: 1}) }},
			"Attention, rows":   {[]string{"Attention", "2 rows", "3 rows"}, func() { tensor.Attention(c, zeros(3, 4), zeros(3, 4), zeros(3, 4), tensor.AttentionOptions{Scale: 1}) }},
			"Attention, heads":  {[]string{"Attention", "[2 6]", "1 heads of 4"}, func() { tensor.Attention(c, zeros(2, 6), zeros(2, 4), zeros(2, 4), tensor.AttentionOptions{Scale: 1}) }},
			"SwiGLU":            {[]string{"SwiGLU", "[2 3]", "[3 2]"}, func() { tensor.SwiGLU(c, zeros(2, 3), zeros(3, 2)) }},
			"Add":               {[]string{"Add", "[2 3]", "[3 2]"}, func() { tensor.Add(c, zeros(2, 3), zeros(3, 2)) }},
			"Add, vector":       {[]string{"Add", "[2 4]", "[3]"}, func() { tensor.Add(c, zeros(2, 4), v.Value()) }},
			"Add, rank":         {[]string{"Add", "[3 2 4]", "[2 4]"}, func() { tensor.Add(c, zeros(2, 4), zeros(3, 2, 4)) }},
			"Gather":            {[]string{"Gather", "2 of 2"}, func() { tensor.Gather(c, zeros(2, 3), []int32{2}) }},
			"SliceRows":         {[]string{"Slice", "[1:3]", "[2 4]"}, func() { tensor.SliceRows(c, zeros(2, 4), 1, 2) }},
			"AddTo":             {[]string{"Add", "[2 4]", "[4 2]"}, func() { tensor.AddTo(c, zeros(2, 4), zeros(4, 2)) }},
			"Read":              {[]string{"Read", "3", "[2 2]"}, func() { c.Read(make([]float32, 3), zeros(2, 2)) }},
			"Write":             {[]string{"Write", "3", "[2 2]"}, func() { c.Write(zeros(2, 2), make([]float32, 3)) }},
			"Write ids":         {[]string{"Write", "F32", "I32"}, func() { c.Write(c.IDs([]int32{1}), make([]float32, 1)) }},
			"BindWeight":        {[]string{"BindWeight", "[5 4]", "[4 5]"}, func() { tensor.NewParam(5, 4).BindWeight(w.Weight()) }},
			"BindValue":         {[]string{"BindValue", "[4]", "[3]"}, func() { tensor.NewParam(4).BindValue(v.Value().View()) }},
		} {
			panics[*backend.ShapeError](t, name, test.parts, func() {
				step(t, c, layout, backend.KV{Layers: 1, Heads: 1, HeadDim: 4}, test.work)
			})
		}
		// The context is as good as before.
		step(t, c, nil, backend.KV{}, func() {
			compare(t, "Add after all that", read(c, tensor.Add(c, zeros(1, 2), zeros(1, 2))), []number{{}, {}})
		})
	})
}

// TestNoLayout: what needs a layout says so where the step has none.
func TestNoLayout(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		alone(t, b, func(c *tensor.Context) {
			x := write(c, make([]float32, 8), 2, 4)
			panics[*backend.ShapeError](t, "Attention", []string{"Attention"}, func() { tensor.Attention(c, x, x, x, tensor.AttentionOptions{Scale: 1}) })
			table := tensor.RoPETable(c, vector(t, b, make([]float32, 2), 1), nil)
			panics[*backend.ShapeError](t, "RoPE", []string{"RoPE", "[0 4]", "[2 4]"}, func() { tensor.RoPE(c, x, table) })
		})
	})
}

// TestStop: a context that ends stops its step, and the next one works.
func TestStop(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		c := newContext(t, b, tensor.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		err := c.Step(ctx, nil, backend.KV{}, func() error {
			x := write(c, []float32{1}, 1)
			if c.Stopped() {
				t.Error("stopped before its context ended")
			}
			cancel()
			tensor.Add(c, x, x)
			if !c.Stopped() {
				t.Error("not stopped although its context has ended")
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled step: %v", err)
		}
		err = c.Step(ctx, nil, backend.KV{}, func() error {
			t.Error("a step with a cancelled context runs")
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a step with a cancelled context: %v", err)
		}
		step(t, c, nil, backend.KV{}, func() {
			x := write(c, []float32{1}, 1)
			compare(t, "the next step", read(c, tensor.Add(c, x, x)), []number{{2, 0}})
		})
	})
}

// TestStepAllocatesNothing: after two steps the next ones use what those took.
func TestStepAllocatesNothing(t *testing.T) {
	b := cpu.Default()
	c := newContext(t, b, tensor.Options{})
	w, v := pack(t, b, random(16), 4, 4), vector(t, b, random(4), 1)
	x, ctx := random(8), t.Context()
	kv := backend.KV{Type: backend.F16, Layers: 1, Heads: 1, HeadDim: 2}
	page, err := b.Alloc(b.PageBytes(kv))
	check(t, err)
	t.Cleanup(page.Free)
	// Rows that attend to what the page of a source holds.
	cross := &backend.Layout{Pos: make([]int32, 2), Segments: []backend.Segment{
		{Rows: 2, Pages: []backend.Buffer{page}, Spans: []backend.Span{{Len: 9}}, Whole: true}}}
	work := func() {
		n := 100 // of the caller's, so that what Step is given is a closure
		check(t, c.Step(ctx, nil, backend.KV{}, func() error {
			y := c.New(backend.F32, backend.Dims(2, 4))
			c.Write(y, x)
			mark := c.Mark()
			for range n {
				z := tensor.RMSNorm(c, tensor.SwiGLU(c, tensor.MatMul(c, y, w), y), v, 1)
				z = tensor.MatMulSwiGLU(c, tensor.AddTo(c, z, v.Value()), w, w)
				z = tensor.Attention(c, z, nil, nil, tensor.AttentionOptions{Layout: cross, KV: kv})
				y = tensor.MatMulAdd(c, y, z, w)
				c.Release(mark)
			}
			return nil
		}))
	}
	work()
	if n := testing.AllocsPerRun(5, work); n != 0 {
		t.Errorf("a step makes %v allocations", n)
	}
}

func TestLayout(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		c, l := newContext(t, b, tensor.Options{}), &backend.Layout{Pos: []int32{4}}
		if c.Layout().Rows() != 0 {
			t.Error("a layout before the first step")
		}
		step(t, c, l, backend.KV{}, func() {
			if c.Layout() != l {
				t.Error("Layout is not the step's")
			}
		})
		if c.Layout().Rows() != 0 {
			t.Error("the layout outlives its step")
		}
	})
}

func TestParam(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		m, v := pack(t, b, random(6), 3, 2), vector(t, b, []float32{1, 2}, 1)
		if !m.Matrix() || v.Matrix() || m.Shape != backend.Dims(3, 2) || v.Shape != backend.Dims(2) {
			t.Errorf("shapes %v and %v", m.Shape, v.Shape)
		}
		if w := m.Weight(); w == nil || w.Rows() != 3 || w.Cols() != 2 || tensor.NewParam(3, 2).Weight() != nil {
			t.Errorf("weight %v", w)
		}
		// A vector outlives steps.
		c := newContext(t, b, tensor.Options{})
		for range 3 {
			step(t, c, nil, backend.KV{}, func() {
				compare(t, "a vector", read(c, v.Value()), []number{{1, 0}, {2, 0}})
			})
		}
	})
}

// failing makes no execution contexts.
type failing struct{ backend.Backend }

func (failing) NewExec() (backend.Exec, error) { return nil, errors.New("no memory") }

func TestNewContext(t *testing.T) {
	if _, err := tensor.NewContext(failing{}, tensor.Options{}); err == nil {
		t.Error("the backend's error is lost")
	}
}

// TestWatch: the watcher sees each product once, with its input and its matrices, and
// nothing changes by it.
func TestWatch(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		c := newContext(t, b, tensor.Options{})
		p, q := pack(t, b, random(12), 4, 3), pack(t, b, random(12), 4, 3)
		values := random(6)
		type seen struct {
			x []float32
			w [backend.MaxWeights]*tensor.Param
		}
		var got []seen
		var results [2][]float32
		for i, watcher := range []tensor.Watcher{nil, func(x *tensor.Tensor, w [backend.MaxWeights]*tensor.Param) {
			got = append(got, seen{read(c, x), w})
		}} {
			c.Watch(watcher)
			step(t, c, nil, backend.KV{}, func() {
				x := write(c, values, 2, 3)
				y := tensor.MatMul(c, x, p)
				y = tensor.MatMulAdd(c, y, x, q)
				results[i] = append(read(c, y), read(c, tensor.MatMulSwiGLU(c, x, p, q))...)
				tensor.MatMuls(c, x, [backend.MaxWeights]*tensor.Param{p, nil, q})
			})
		}
		if !slices.Equal(results[0], results[1]) {
			t.Errorf("watched, %v became %v", results[0], results[1])
		}
		want := [][backend.MaxWeights]*tensor.Param{{p}, {q}, {p, q}, {p, nil, q}}
		if len(got) != len(want) {
			t.Fatalf("%d products were seen, want %d", len(got), len(want))
		}
		for i, s := range got {
			if s.w != want[i] || !slices.Equal(s.x, values) {
				t.Errorf("product %d: %v of %v", i, s.w, s.x)
			}
		}
	})
}
