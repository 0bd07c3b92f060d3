package tensor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/tensor"
)

// matrix makes a parameter of numbers in memory; loaders give Pack a function
// that reads a file.
func matrix(b backend.Backend, values []float32, rows, cols int) *tensor.Param {
	w, err := b.Pack(context.Background(), backend.WeightSource{
		Name: "example", Type: backend.F32, Rows: rows, Cols: cols,
		ReadRows: func(dst []byte, row, n int) error {
			block.Encode(backend.F32, dst, values[row*cols:(row+n)*cols])
			return nil
		},
	})
	if err != nil {
		panic(err)
	}
	p := tensor.NewParam(rows, cols)
	p.BindWeight(w)
	return p
}

// values makes a parameter that is a vector.
func values(b backend.Backend, x ...float32) *tensor.Param {
	buf, err := b.Alloc(int64(4 * len(x)))
	if err != nil {
		panic(err)
	}
	p := tensor.NewParam(len(x))
	p.BindValue(backend.Contiguous(buf, backend.F32, 0, backend.Dims(len(x))))
	if err := tensor.Upload(b, p.Numbers(), x); err != nil {
		panic(err)
	}
	return p
}

// run does work as a step of its own: what the other examples leave out.
func run(l *backend.Layout, kv backend.KV, work func(c *tensor.Context)) {
	c, err := tensor.NewContext(cpu.Default(), tensor.Options{})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	err = c.Step(context.Background(), l, kv, func() error {
		work(c)
		return nil
	})
	if err != nil {
		panic(err)
	}
}

// A step: numbers in, one operation, numbers out.
func ExampleContext_Step() {
	c, err := tensor.NewContext(cpu.Default(), tensor.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	sum := make([]float32, 4)
	err = c.Step(context.Background(), nil, backend.KV{}, func() error {
		x, y := c.New(backend.F32, backend.Dims(2, 2)), c.New(backend.F32, backend.Dims(2, 2))
		c.Write(x, []float32{1, 2, 3, 4})
		c.Write(y, []float32{10, 20, 30, 40})
		c.Read(sum, tensor.Add(c, x, y))
		return nil
	})
	fmt.Println(sum, err)
	// Output: [11 22 33 44] <nil>
}

func ExampleMatMul() {
	w := matrix(cpu.Default(), []float32{1, 0, 0, 1, 1, 1}, 3, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		fmt.Println(read(c, tensor.MatMul(c, write(c, []float32{5, 7}, 1, 2), w)))
	})
	// Output: [5 7 12]
}

// Queries and keys of one input, without values.
func ExampleMatMuls() {
	b := cpu.Default()
	q, k := matrix(b, []float32{1, 2}, 1, 2), matrix(b, []float32{3, 4}, 1, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		y := tensor.MatMuls(c, write(c, []float32{1, 1}, 1, 2), [backend.MaxWeights]*tensor.Param{q, k})
		fmt.Println(read(c, y[0]), read(c, y[1]), y[2] == nil)
	})
	// Output: [3] [7] true
}

func ExampleEmbedding() {
	table := matrix(cpu.Default(), []float32{0, 1, 10, 11, 20, 21}, 3, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		fmt.Println(read(c, tensor.Embedding(c, c.IDs([]int32{2, 0}), table)))
	})
	// Output: [20 21 0 1]
}

func ExampleRMSNorm() {
	w := values(cpu.Default(), 1, 10)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		// The mean of the squares is 25.
		fmt.Println(read(c, tensor.RMSNorm(c, write(c, []float32{1, 7}, 1, 2), w, 0)))
	})
	// Output: [0.2 14]
}

func ExampleLayerNorm() {
	b := cpu.Default()
	w, bias := values(b, 1, 10), values(b, 0, 1)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		// The mean is 4, the standard deviation 3.
		fmt.Println(read(c, tensor.LayerNorm(c, write(c, []float32{1, 7}, 1, 2), w, bias, 0)))
	})
	// Output: [-1 11]
}

// Three moments of a sequence around every second one.
func ExampleUnfold() {
	run(backend.Documents(4), backend.KV{}, func(c *tensor.Context) {
		x := write(c, []float32{1, 2, 3, 4}, 4, 1)
		fmt.Println(read(c, tensor.Unfold(c, x, backend.Along(3, 2, 1), nil)))
	})
	// Output: [0 1 2 2 3 4]
}

// At position 1 a frequency of pi/2 turns the pair by a quarter.
func ExampleRoPE() {
	freqs := values(cpu.Default(), math.Pi/2)
	layout := &backend.Layout{Pos: []int32{0, 1}}
	run(layout, backend.KV{}, func(c *tensor.Context) {
		table := tensor.RoPETable(c, freqs, nil)
		y := read(c, tensor.RoPE(c, write(c, []float32{1, 0, 1, 0}, 2, 2), table))
		fmt.Printf("%.1f %.1f\n", y[:2], []float64{math.Abs(float64(y[2])), float64(y[3])})
	})
	// Output: [1.0 0.0] [0.0 1.0]
}

// Two rows of one sequence: the second sees both, and all keys are alike.
func ExampleAttention() {
	layout := &backend.Layout{
		Pos:      []int32{0, 1},
		Segments: []backend.Segment{{Rows: 2, Spans: []backend.Span{{Len: 2}}}},
	}
	run(layout, backend.KV{Heads: 1, HeadDim: 2}, func(c *tensor.Context) {
		q, k := write(c, []float32{1, 0, 0, 1}, 2, 2), write(c, make([]float32, 4), 2, 2)
		v := write(c, []float32{2, 4, 6, 8}, 2, 2)
		fmt.Println(read(c, tensor.Attention(c, q, k, v, tensor.AttentionOptions{Scale: 1})))
	})
	// Output: [2 4 4 6]
}

func ExampleSwiGLU() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		y := tensor.SwiGLU(c, write(c, []float32{0, 1}, 1, 2), write(c, []float32{9, 2}, 1, 2))
		fmt.Printf("%.3f\n", read(c, y))
	})
	// Output: [0.000 1.462]
}

// A vector is added to every row.
func ExampleAdd() {
	bias := values(cpu.Default(), 1, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		fmt.Println(read(c, tensor.Add(c, write(c, []float32{10, 20, 30, 40}, 2, 2), bias.Value())))
	})
	// Output: [11 22 31 42]
}

func ExampleGather() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		fmt.Println(read(c, tensor.Gather(c, write(c, []float32{0, 1, 2, 3}, 4, 1), []int32{3, 1})))
	})
	// Output: [3 1]
}

func ExampleSliceRows() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		fmt.Println(read(c, tensor.SliceRows(c, write(c, []float32{0, 1, 2, 3}, 4, 1), 1, 2)))
	})
	// Output: [1 2]
}

// A deep model takes the memory of one layer.
func ExampleContext_Mark() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		x := write(c, []float32{1}, 1, 1)
		mark := c.Mark()
		for range 10 {
			x = tensor.AddTo(c, x, tensor.Gather(c, x, []int32{0}))
			c.Release(mark)
		}
		fmt.Println(read(c, x), c.Scratch() < 1000)
	})
	// Output: [1024] true
}

func ExampleContext_Release() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		defer func() { fmt.Println(recover()) }()
		mark := c.Mark()
		x := write(c, []float32{1, 2}, 2)
		c.Release(mark)
		tensor.Add(c, x, x)
	})
	// Output: tensor: a tensor [2] is used after it was released or its step ended
}

// A session that shares a page with another writes to a copy.
func ExampleContext_CopyPage() {
	b, kv := cpu.Default(), backend.KV{Type: backend.F16, Layers: 1, Heads: 1, HeadDim: 2}
	from, err := b.Alloc(b.PageBytes(kv))
	if err != nil {
		fmt.Println(err)
		return
	}
	to, err := b.Alloc(b.PageBytes(kv))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := b.Upload(from, 0, []byte("keys and values")); err != nil {
		fmt.Println(err)
		return
	}
	run(nil, kv, func(c *tensor.Context) { c.CopyPage(to, from) })
	copied := make([]byte, 15)
	fmt.Println(b.Download(copied, to, 0), string(copied))
	// Output: <nil> keys and values
}

// Operands that do not fit are a programmer's mistake.
func ExampleParam_BindWeight() {
	w := matrix(cpu.Default(), make([]float32, 6), 3, 2)
	defer func() {
		var shape *backend.ShapeError
		err, _ := recover().(error)
		fmt.Println(errors.As(err, &shape), err)
	}()
	tensor.NewParam(2, 3).BindWeight(w.Weight())
	// Output: true backend: BindWeight: parameter [2 3], weight [3 2]
}

func ExampleRoPETo() {
	table := []float32{0, 1} // cos and sin of a right angle
	run(nil, backend.KV{}, func(c *tensor.Context) {
		x := tensor.RoPETo(c, write(c, []float32{3, 4}, 1, 2), write(c, table, 1, 2))
		fmt.Println(read(c, x))
	})
	// Output: [-4 3]
}

func ExampleMatMulAdd() {
	w := matrix(cpu.Default(), []float32{1, 2, 3, 4}, 2, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		y := write(c, []float32{100, 200}, 1, 2)
		fmt.Println(read(c, tensor.MatMulAdd(c, y, write(c, []float32{1, 1}, 1, 2), w)))
	})
	// Output: [103 207]
}

func ExampleMatMulSwiGLU() {
	b := cpu.Default()
	gate, up := matrix(b, []float32{1, 0}, 1, 2), matrix(b, []float32{0, 1}, 1, 2)
	run(nil, backend.KV{}, func(c *tensor.Context) {
		fmt.Printf("%.3f\n", read(c, tensor.MatMulSwiGLU(c, write(c, []float32{1, 2}, 1, 2), gate, up)))
	})
	// Output: [1.462]
}

func ExampleAddTo() {
	run(nil, backend.KV{}, func(c *tensor.Context) {
		x := write(c, []float32{1, 2}, 2)
		x = tensor.AddTo(c, x, write(c, []float32{10, 20}, 2))
		fmt.Println(read(c, x))
	})
	// Output: [11 22]
}

// Numbers that outlive steps are written and read between them, whatever memory they
// are in; a file is written from a Reader.
func ExampleUpload() {
	b := cpu.Default()
	norm := values(b, 0, 0, 0) // a parameter
	if err := tensor.Upload(b, norm.Numbers(), []float32{1, 2, 3}); err != nil {
		fmt.Println(err)
		return
	}
	last := make([]float32, 1)
	err := tensor.Download(b, last, norm.Numbers().Slice(0, 2, 1))
	fmt.Println(last, err)
	raw, err := io.ReadAll(io.NewSectionReader(tensor.Reader(b, norm.Numbers()), 0, 12))
	fmt.Println(len(raw), raw[:4], err)
	// Output:
	// [3] <nil>
	// 12 [0 0 128 63] <nil>
}

func ExampleDownload() {
	b, x := cpu.Default(), make([]float32, 2)
	err := tensor.Download(b, x, values(b, 4, 5).Numbers())
	fmt.Println(x, err)
	// Output: [4 5] <nil>
}

func ExampleReader() {
	b := cpu.Default()
	first := make([]byte, 4)
	n, err := tensor.Reader(b, values(b, 1, 5).Numbers()).ReadAt(first, 0)
	fmt.Println(n, first, err)
	// Output: 4 [0 0 128 63] <nil>
}

// Keys and values are written to a page; Attention does so by itself.
func ExampleKVAppend() {
	b, kv := cpu.Default(), backend.KV{Type: backend.F32, Layers: 1, Heads: 1, HeadDim: 2}
	page, err := b.Alloc(b.PageBytes(kv))
	if err != nil {
		fmt.Println(err)
		return
	}
	layout := &backend.Layout{Pos: []int32{0}, Segments: []backend.Segment{{Rows: 1, Pages: []backend.Buffer{page}, Spans: []backend.Span{{Len: 1}}}}}
	run(layout, kv, func(c *tensor.Context) {
		k, v := c.New(backend.F32, backend.Dims(1, 2)), c.New(backend.F32, backend.Dims(1, 2))
		c.Write(k, []float32{1, 2})
		c.Write(v, []float32{3, 4})
		tensor.KVAppend(c, k, v, tensor.AttentionOptions{})
	})
	raw := make([]byte, b.PageBytes(kv))
	fmt.Println(b.Download(raw, page, 0), bytes.Count(raw, []byte{0x80, 0x3f}), "key of 1")
	// Output: <nil> 1 key of 1
}
