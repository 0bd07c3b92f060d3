package nn_test

import (
	"context"
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// load gives every parameter of a layer the numbers 0, 1/10, 2/10, ... as a
// loader would give it those of a file.
func load(b backend.Backend, layer any) {
	for _, p := range nn.Params(layer) {
		values := make([]float32, p.Param.Shape.Elems())
		for i := range values {
			values[i] = float32(i) / 10
		}
		if !p.Param.Matrix() {
			buf, err := b.Alloc(int64(4 * len(values)))
			if err != nil {
				panic(err)
			}
			p.Param.BindValue(backend.Contiguous(buf, backend.F32, 0, p.Param.Shape))
			if err := tensor.Upload(b, p.Param.Numbers(), values); err != nil {
				panic(err)
			}
			continue
		}
		cols := p.Param.Shape.Dim[1]
		w, err := b.Pack(context.Background(), backend.WeightSource{
			Name: p.Name, Type: backend.F32, Rows: p.Param.Shape.Dim[0], Cols: cols,
			ReadRows: func(dst []byte, row, n int) error {
				block.Encode(backend.F32, dst, values[row*cols:(row+n)*cols])
				return nil
			},
		})
		if err != nil {
			panic(err)
		}
		p.Param.BindWeight(w)
	}
}

// show runs a layer in a step of its own and prints what it returns.
func show(l *backend.Layout, kv backend.KV, work func(c *tensor.Context) *tensor.Tensor) {
	c, err := tensor.NewContext(cpu.Default(), tensor.Options{})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	err = c.Step(context.Background(), l, kv, func() error {
		y := work(c)
		out := make([]float32, y.Shape().Elems())
		c.Read(out, y)
		fmt.Printf("%v %.2f\n", y.Shape(), out)
		return nil
	})
	if err != nil {
		panic(err)
	}
}

// A network is a struct of layers; the tags name its parameters.
func Example() {
	type network struct {
		Embed *nn.Embedding   `name:"embed"`
		Norms []*nn.RMSNorm   `name:"norms"`
		FFN   *nn.FeedForward `name:"mlp"`
	}
	net := &network{nn.NewEmbedding(5, 4), []*nn.RMSNorm{nn.NewRMSNorm(4, 1e-5)}, nn.NewFeedForward(4, 6, false)}
	for _, p := range nn.Params(net) {
		fmt.Println(p.Name, p.Param.Shape)
	}
	load(cpu.Default(), net)
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		x := net.Embed.Forward(c, c.IDs([]int32{1, 2, 3}))
		return tensor.SliceRows(c, tensor.Add(c, x, net.FFN.Forward(c, net.Norms[0].Forward(c, x))), 0, 1)
	})
	// Output:
	// embed.weight [5 4]
	// norms.0.weight [4]
	// mlp.gate_proj.weight [6 4]
	// mlp.up_proj.weight [6 4]
	// mlp.down_proj.weight [4 6]
	// [1 4] [2.11 4.77 7.42 10.07]
}

func ExampleLinear() {
	l := nn.NewLinear(2, 3, true)
	load(cpu.Default(), l) // weight [[0 .1] [.2 .3] [.4 .5]], bias [0 .1 .2]
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor { return l.Forward(c, write(c, []float32{1, 2}, 1, 2)) })
	// Output: [1 3] [0.20 0.90 1.60]
}

func ExampleEmbedding() {
	l := nn.NewEmbedding(3, 2)
	load(cpu.Default(), l)
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor { return l.Forward(c, c.IDs([]int32{2, 0})) })
	// Output: [2 2] [0.40 0.50 0.00 0.10]
}

func ExampleRMSNorm() {
	l := nn.NewRMSNorm(2, 0)
	load(cpu.Default(), l) // weight [0 .1]
	// The mean of the squares is 25.
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor { return l.Forward(c, write(c, []float32{1, 7}, 1, 2)) })
	// Output: [1 2] [0.00 0.14]
}

func ExampleFeedForward() {
	l := nn.NewFeedForward(2, 3, false)
	load(cpu.Default(), l)
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor { return l.Forward(c, write(c, []float32{1, 2}, 1, 2)) })
	// Output: [1 2] [0.36 0.97]
}

// A prompt of two rows and then one more, in a page of keys and values.
func ExampleAttention() {
	b := cpu.Default()
	kv := backend.KV{Type: backend.F16, Layers: 1, Heads: 1, HeadDim: 2}
	l, rope := nn.NewAttention(4, 2, kv.Heads, kv.HeadDim, false, false), nn.NewRoPE(kv.HeadDim)
	load(b, l)
	load(b, struct {
		Freqs *tensor.Param `name:"freqs"`
	}{rope.Freqs})
	page, err := b.Alloc(b.PageBytes(kv))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer page.Free()
	held := 0
	for _, rows := range []int{2, 1} {
		layout := &backend.Layout{Segments: []backend.Segment{{
			Rows: rows, Pages: []backend.Buffer{page}, Spans: []backend.Span{{Len: held + rows}},
		}}}
		for i := range rows {
			layout.Pos = append(layout.Pos, int32(held+i))
		}
		held += rows
		show(layout, kv, func(c *tensor.Context) *tensor.Tensor {
			x := write(c, []float32{1, 0, 1, 0, 0, 1, 0, 1}[:4*rows], rows, 4)
			return l.Forward(c, x, rope.Table(c, nil), tensor.AttentionOptions{})
		})
	}
	// Output:
	// [2 4] [0.44 1.40 2.36 3.32 0.52 1.67 2.83 3.98]
	// [1 4] [0.50 1.59 2.69 3.79]
}

func ExampleRoPE() {
	l := nn.NewRoPE(4)
	load(cpu.Default(), struct {
		Freqs *tensor.Param `name:"freqs"`
	}{l.Freqs}) // 0 and 0.1 radians a position
	layout := &backend.Layout{Pos: []int32{10}}
	show(layout, backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		return tensor.RoPE(c, write(c, []float32{1, 1, 0, 0}, 1, 4), l.Table(c, nil))
	})
	// Output: [1 4] [1.00 0.54 0.00 0.84]
}

func ExampleParams() {
	for _, p := range nn.Params(nn.NewAttention(8, 4, 2, 2, true, false)) {
		fmt.Println(p.Name, p.Param.Shape)
	}
	// Output:
	// q_proj.weight [8 8]
	// q_proj.bias [8]
	// k_proj.weight [4 8]
	// k_proj.bias [4]
	// v_proj.weight [4 8]
	// v_proj.bias [4]
	// o_proj.weight [8 8]
}

// The residual stream of a model.
func ExampleLinear_AddTo() {
	l := nn.NewLinear(2, 3, true)
	load(cpu.Default(), l)
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		return l.AddTo(c, write(c, []float32{10, 20, 30}, 1, 3), write(c, []float32{1, 2}, 1, 2))
	})
	// Output: [1 3] [10.20 20.90 31.60]
}

func ExampleFeedForward_AddTo() {
	l := nn.NewFeedForward(2, 3, false)
	load(cpu.Default(), l)
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		return l.AddTo(c, write(c, []float32{10, 20}, 1, 2), write(c, []float32{1, 2}, 1, 2))
	})
	// Output: [1 2] [10.36 20.97]
}

func ExampleLoRA() {
	l := nn.NewLinear(2, 3, false)
	load(cpu.Default(), l) // [[0 .1] [.2 .3] [.4 .5]]
	a := nn.NewLoRA(2, 3, 1, false)
	load(cpu.Default(), a) // A [[0 .1]], B [[0] [.1] [.2]]
	a.Scale = 10           // alpha / r
	l.Adapters = append(l.Adapters, a)
	for _, p := range nn.Params(l) {
		fmt.Println(p.Name, p.Param.Shape)
	}
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor { return l.Forward(c, write(c, []float32{1, 2}, 1, 2)) })
	// Output:
	// weight [3 2]
	// adapters.0.lora_A.weight [1 2]
	// adapters.0.lora_B.weight [3 1]
	// [1 3] [0.20 1.00 1.80]
}

func ExampleLinears() {
	for _, l := range nn.Linears(nn.NewFeedForward(4, 6, false)) {
		fmt.Println(l.Name, l.Linear.Weight.Shape)
	}
	// Output:
	// gate_proj [6 4]
	// up_proj [6 4]
	// down_proj [4 6]
}

// DoRA divides by norms that Refresh computes.
func ExampleRefresh() {
	l := nn.NewLinear(2, 1, false)
	load(cpu.Default(), l) // [[0 .1]]
	a := nn.NewLoRA(2, 1, 1, true)
	load(cpu.Default(), a) // A [[0 .1]], B [[0]], Magnitude [0]
	load(cpu.Default(), struct {
		N *tensor.Param `name:"n"`
	}{a.InverseNorm})
	l.Adapters = append(l.Adapters, a)
	if err := nn.Refresh(context.Background(), cpu.Default(), l); err != nil {
		fmt.Println(err)
	}
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor { return tensor.Scale(c, a.InverseNorm.Value(), 1) })
	// Output: [1] [10.00]
}

func ExampleLayerNorm() {
	l := nn.NewLayerNorm(3, 0)
	load(cpu.Default(), l)
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		return l.Forward(c, write(c, []float32{1, 2, 3}, 1, 3))
	})
	// Output: [1 3] [0.00 0.10 0.44]
}

func ExampleMLP() {
	l := nn.NewMLP(2, 3, false)
	load(cpu.Default(), l)
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		return l.Forward(c, write(c, []float32{1, -1}, 1, 2))
	})
	// Output: [1 2] [-0.01 -0.06]
}

// A picture of 2 by 4 pixels with one channel in two patches of 2 by 2.
func ExampleConv() {
	l := nn.NewConv(1, 1, backend.Window{Width: 4, Kernel: [2]int{2, 2}, Stride: [2]int{2, 2}}, false)
	load(cpu.Default(), l)
	show(backend.Documents(8), backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		return l.Forward(c, write(c, []float32{1, 0, 0, 0, 0, 1, 0, 10}, 8, 1), nil)
	})
	// Output: [2 1] [0.30 3.00]
}

// Two channels, three moments; each output sees the moment before and the one after.
func ExampleDepthwiseConv() {
	l := nn.NewDepthwiseConv(2, backend.Along(3, 1, 1), false)
	load(cpu.Default(), l)
	show(backend.Documents(3), backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		return l.Forward(c, write(c, []float32{1, 1, 0, 0, 10, 0}, 3, 2), nil)
	})
	// Output: [3 2] [0.10 0.40 2.00 0.30 1.00 0.00]
}

// Two rows of a text look at three rows of a picture; the first sees nothing yet.
func ExampleCrossAttention() {
	kv := backend.KV{Heads: 1, HeadDim: 2}
	l := nn.NewCrossAttention(2, 3, 1, kv.Heads, kv.HeadDim)
	load(cpu.Default(), l)
	layout := &backend.Layout{Pos: []int32{0, 1}, Keys: 3, Segments: []backend.Segment{
		{Row: 0, Rows: 1, Spans: []backend.Span{{}}, Whole: true},
		{Row: 1, Rows: 1, Spans: []backend.Span{{Len: 3}}, Whole: true},
	}}
	show(nil, backend.KV{}, func(c *tensor.Context) *tensor.Tensor {
		k, v := l.Keys(c, write(c, []float32{1, 0, 0, 0, 1, 0, 0, 0, 1}, 3, 3), nil)
		x := write(c, []float32{1, 1, 1, 1}, 2, 2)
		return l.Forward(c, x, k, v, tensor.AttentionOptions{Layout: layout, KV: kv})
	})
	// Output: [2 2] [0.00 0.00 0.04 0.14]
}
