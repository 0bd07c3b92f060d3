package backend_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
)

// A step: a packed matrix [3,2] times a row.
func ExampleStep() {
	b := cpu.Default()
	w, err := pack(b, backend.F32, []float32{1, 0, 0, 1, 1, 1}, 3, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Free()
	e, err := b.NewExec()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer e.Close()
	out := make([]float32, 3)
	err = backend.Step(context.Background(), e, func() error {
		x, y := e.Alloc(backend.F32, backend.Dims(1, 2)), e.Alloc(backend.F32, backend.Dims(1, 3))
		e.Write(x, []float32{5, 7})
		a := backend.Args{In: [backend.MaxIn]backend.View{x}, W: [backend.MaxWeights]backend.Weight{w}, Out: [backend.MaxOut]backend.View{y}}
		e.Run(backend.MatMul, &a)
		e.Read(out, y)
		return nil
	})
	fmt.Println(out, err)
	// Output: [5 7 12] <nil>
}

// What a step would take: two tensors, and nothing beside them for a product of one row.
func ExampleMeasure() {
	b := backend.Measure(cpu.Default())
	w, err := b.Pack(context.Background(), backend.WeightSource{Type: backend.F32, Rows: 128256, Cols: 4096})
	if err != nil {
		fmt.Println(err)
		return
	}
	e, err := b.NewExec()
	if err != nil {
		fmt.Println(err)
		return
	}
	err = backend.Step(context.Background(), e, func() error {
		x, y := e.Alloc(backend.F32, backend.Dims(1, 4096)), e.Alloc(backend.F32, backend.Dims(1, 128256))
		a := backend.Args{In: [backend.MaxIn]backend.View{x}, W: [backend.MaxWeights]backend.Weight{w}, Out: [backend.MaxOut]backend.View{y}}
		e.Run(backend.MatMul, &a)
		return nil
	})
	fmt.Println(e.Scratch() == 4*(4096+128256), err)
	// Output: true <nil>
}

// pack makes a weight of numbers in memory; a loader's ReadRows reads a file.
func pack(b backend.Backend, t backend.DType, values []float32, rows, cols int) (backend.Weight, error) {
	return b.Pack(context.Background(), backend.WeightSource{
		Name: "example", Type: t, Rows: rows, Cols: cols,
		ReadRows: func(dst []byte, row, n int) error {
			block.Encode(t, dst, values[row*cols:(row+n)*cols])
			return nil
		},
	})
}

// A packed weight gives back the bytes it was made of, and any block as
// numbers.
func ExampleWeight() {
	values := []float32{1, 2, 3, 4, 5, 6}
	w, err := pack(cpu.Default(), backend.BF16, values, 3, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Free()
	file, back := make([]byte, 12), make([]byte, 12)
	block.Encode(backend.BF16, file, values)
	w.Unpack(back, 0, 3)
	tile := make([]float32, 2)
	w.Tile(tile, 1, 2, 1, 1) // column 1 of rows 1 and 2
	fmt.Println(w.Packed(), bytes.Equal(file, back), tile)
	// Output: true true [4 6]
}

func ExampleParseDType() {
	t, err := backend.ParseDType("q4_k")
	if err != nil {
		fmt.Println(err)
		return
	}
	n, err := t.RowBytes(4096)
	fmt.Println(t, t.BlockElems(), t.BlockBytes(), n, err)
	_, err = t.RowBytes(100)
	fmt.Println(err)
	// Output:
	// Q4_K 256 144 2304 <nil>
	// a row of 100 elements is not a whole number of Q4_K blocks of 256
}

func ExampleDescription() {
	b, err := cpu.New(cpu.Options{Workers: 1, Variant: "generic"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	d := b.Describe()
	d.CPU = "" // differs
	fmt.Println(d)
	// Output: cpu/generic, 1 workers
}

// Prefill of 3 more positions of a sequence that holds 70: its rows see all
// keys up to their own.
func ExampleLayout() {
	pages := []backend.Buffer{page{}, page{}}
	l := backend.Layout{
		Segments: []backend.Segment{{Rows: 3, Pages: pages, Spans: []backend.Span{{Len: 73}}}},
		Pos:      []int32{70, 71, 72},
		Logits:   []int32{2}, // of the last row only
	}
	for j := range l.Rows() {
		row := l.Segments[0].KeyRow(j)
		fmt.Println("row", j, "is slot", row%backend.PageLen, "of page", row/backend.PageLen)
	}
	// Output:
	// row 0 is slot 6 of page 1
	// row 1 is slot 7 of page 1
	// row 2 is slot 8 of page 1
}

// One step for two sequences that decode a token each and share their first
// page.
func ExampleLayout_decode() {
	shared, a, b := page{}, page{}, page{}
	l := backend.Layout{Pos: []int32{70, 100}}
	for i, p := range []page{a, b} {
		l.Segments = append(l.Segments, backend.Segment{
			Row: i, Rows: 1, Seq: i,
			Pages: []backend.Buffer{shared, p},
			Spans: []backend.Span{{Len: int(l.Pos[i]) + 1}},
		})
	}
	for i := range l.Segments {
		fmt.Println(l.Segments[i].KeyRow(0))
	}
	// Output:
	// 70
	// 100
}

// page stands for what Backend.Alloc returns.
type page struct{}

func (page) Size() int64 { return 1 << 20 }
func (page) Free()       {}

// Training on two answers to one prompt, in one step without pages: the rows
// of an answer see the prompt and, of their own answer, what came before.
func ExampleSegment() {
	prompt := backend.Span{Start: 0, Len: 4}
	l := backend.Layout{
		Segments: []backend.Segment{
			{Row: 0, Rows: 4, Spans: []backend.Span{prompt}},
			{Row: 4, Rows: 2, Spans: []backend.Span{prompt, {Start: 4, Len: 2}}},
			{Row: 6, Rows: 3, Spans: []backend.Span{prompt, {Start: 6, Len: 3}}},
		},
		Pos: []int32{0, 1, 2, 3, 4, 5, 4, 5, 6},
	}
	last := l.Segments[2]
	fmt.Println("row 7 is key row", last.KeyRow(1), "at position", l.Pos[7])
	// Output: row 7 is key row 7 at position 5
}

func ExampleKV() {
	kv := backend.KV{Type: backend.F16, Layers: 32, Heads: 8, HeadDim: 128} // Llama 3.1 8B
	fmt.Println(cpu.Default().PageBytes(kv)>>20, "MiB for", backend.PageLen, "positions,", kv.Elems(), "numbers")
	// Output: 8 MiB for 64 positions, 4194304 numbers
}

// Slices, transposes and repeated rows are views: no number moves.
func ExampleView() {
	v := backend.Contiguous(page{}, backend.F32, 0, backend.Dims(3, 4))
	t := v.Slice(0, 1, 2).Transpose(0, 1)
	fmt.Println(t.Shape, t.Stride[:2], t.Off, t.IsContiguous())
	r := v.Reshape(backend.Dims(2, 6))
	fmt.Println(r.Shape, r.Stride[:2])
	// Output:
	// [4 2] [1 4] 4 false
	// [2 6] [6 1]
}

// Operands that do not fit panic with an error that says how.
func ExampleShapeError() {
	defer func() { fmt.Println(recover()) }()
	v := backend.Contiguous(page{}, backend.F32, 0, backend.Dims(3, 4))
	v.Slice(0, 2, 2)
	// Output: backend: Slice: axis 0 [2:4] of [3 4]
}

func ExampleOp_Backward() {
	fmt.Println(backend.RMSNorm.Backward(), backend.Gather.Backward())
	// Output: [RMSNormBackward] [ScatterAdd]
}

// All backends refuse the same mistakes in the same words.
func ExampleCheck() {
	defer func() { fmt.Println(recover()) }()
	view := func(dims ...int) backend.View {
		return backend.Contiguous(page{}, backend.F32, 0, backend.Dims(dims...))
	}
	backend.Check(backend.Add, &backend.Args{
		In: [backend.MaxIn]backend.View{view(2, 3), view(3, 2)}, Out: [backend.MaxOut]backend.View{view(2, 3)},
	}, cpu.Default())
	// Output: backend: Add: an input is [3 2], the first input [2 3]
}

// Two documents of 3 and 2 tokens in one step of five rows.
func ExampleDocuments() {
	l := backend.Documents(3, 2)
	fmt.Println(l.Rows(), l.Pos, l.Segments[1].Row)
	// Output: 5 [0 1 2 0 1] 3
}

// One step for three sequences: one decodes a token and wants logits of its one row, one
// is scored, one only fills its pages.
func ExampleResults() {
	l := backend.Layout{Pos: []int32{70, 0, 1, 2, 64, 65}, Segments: []backend.Segment{
		{Row: 0, Rows: 1, Results: backend.Results{Kind: backend.ResultLogits, Last: 1}},
		{Row: 1, Rows: 3, Results: backend.Results{Kind: backend.ResultLogprobs, Last: 2, Targets: []int32{17, -1}}},
		{Row: 4, Rows: 2},
	}}
	l.FillLogits()
	fmt.Println(l.Logits)
	// Output: [0 2]
}
