package nn_test

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// loadAll binds the parameters of a layer to the tensors of a file below a prefix.
func loadAll(t *testing.T, b backend.Backend, layer any, file map[string]golden.Tensor, prefix string) {
	t.Helper()
	for _, p := range nn.Params(layer) {
		x, ok := file[prefix+p.Name]
		if !ok || len(x.F32) != p.Param.Shape.Elems() {
			t.Fatalf("the file has no %s%s of %v", prefix, p.Name, p.Param.Shape)
		}
		bind(t, b, p.Param, x.F32)
	}
}

// resampler merges the patches of some frames into a few latents (paper, section 7.4; the
// definition is in the README of the golden folder).
type resampler struct {
	Layers    []*resamplerLayer `name:"layers"`
	Norm      *nn.LayerNorm     `name:"norm"`
	Projector *nn.Linear        `name:"projector"`
}

type resamplerLayer struct {
	MediaNorm  *nn.LayerNorm `name:"norm_media"`
	LatentNorm *nn.LayerNorm `name:"norm_latents"`
	Attention  *nn.CrossAttention
	WQ         *nn.Linear `name:"q_proj"`
	WK         *nn.Linear `name:"k_proj"`
	WV         *nn.Linear `name:"v_proj"`
	WO         *nn.Linear `name:"o_proj"`
	FFN        struct {
		Norm *nn.LayerNorm `name:"norm"`
		FC1  *nn.Linear    `name:"fc1"`
		FC2  *nn.Linear    `name:"fc2"`
	} `name:"ff"`
	mlp *nn.MLP
}

func newResamplerLayer(dim, heads, headDim, hidden int) *resamplerLayer {
	a, m := nn.NewCrossAttention(dim, dim, heads, heads, headDim), nn.NewMLP(dim, hidden, false)
	l := &resamplerLayer{MediaNorm: nn.NewLayerNorm(dim, 1e-5), LatentNorm: nn.NewLayerNorm(dim, 1e-5),
		Attention: a, WQ: a.WQ, WK: a.WK, WV: a.WV, WO: a.WO, mlp: m}
	l.FFN.Norm, l.FFN.FC1, l.FFN.FC2 = nn.NewLayerNorm(dim, 1e-5), m.FC1, m.FC2
	return l
}

// TestResampler: cross-attention of latents to the patches of their frames and to
// themselves, which are two spans of the source, with LayerNorm and GELU.
func TestResampler(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, file := range golden.Glob(t, "multimodal/video/video.json") {
			var v struct {
				Config struct {
					Dim, Heads, Latents, Depth, Mult, Group, Tokens, Frames int
					HeadDim                                                 int `json:"head_dim"`
					LMDim                                                   int `json:"lm_dim"`
				}
			}
			golden.JSON(t, file, &v)
			o, dir := v.Config, filepath.Dir(file)
			want := golden.Safetensors(t, filepath.Join(dir, "video.safetensors"))
			weights := golden.Safetensors(t, filepath.Join(dir, "model.safetensors"))
			m := &resampler{Norm: nn.NewLayerNorm(o.Dim, 1e-5), Projector: nn.NewLinear(o.Dim, o.LMDim, true)}
			for range o.Depth {
				m.Layers = append(m.Layers, newResamplerLayer(o.Dim, o.Heads, o.HeadDim, o.Mult*o.Dim))
			}
			loadAll(t, b, m, weights, "")

			// The media rows of all groups, then their latents; frames begin anew in a group.
			media := slices.Clone(want["frames"].F32)
			for i := range media {
				media[i] += weights["time_embedding"].F32[i/(o.Tokens*o.Dim)%o.Group*o.Dim+i%o.Dim]
			}
			patches := o.Frames * o.Tokens
			layout, latents := &backend.Layout{}, []float32(nil)
			for from := 0; from < o.Frames; from += o.Group {
				layout.Segments = append(layout.Segments, backend.Segment{Row: layout.Rows(), Rows: o.Latents, Whole: true, Spans: []backend.Span{
					{Start: from * o.Tokens, Len: min(o.Group, o.Frames-from) * o.Tokens}, {Start: patches + layout.Rows(), Len: o.Latents}}})
				layout.Pos = append(layout.Pos, make([]int32, o.Latents)...)
				latents = append(latents, weights["latents"].F32...)
			}
			layout.Keys = patches + layout.Rows()
			options := tensor.AttentionOptions{Layout: layout, KV: backend.KV{Heads: o.Heads, HeadDim: o.HeadDim}}
			c := newContext(t, b)
			step(t, c, nil, backend.KV{}, func() *tensor.Tensor {
				x, y := write(c, media, patches, o.Dim), write(c, latents, layout.Rows(), o.Dim)
				for i, l := range m.Layers {
					norm := l.LatentNorm.Forward(c, y)
					k, v := l.Attention.Keys(c, tensor.Concat(c, 0, l.MediaNorm.Forward(c, x), norm), nil)
					y = tensor.Add(c, y, l.Attention.Forward(c, norm, k, v, options))
					y = tensor.Add(c, y, l.mlp.Forward(c, l.FFN.Norm.Forward(c, y)))
					near(t, fmt.Sprint("layer ", i), numbers(c, y)[:o.Latents*o.Dim], want[fmt.Sprint("layer.", i)].F32, encoderOutput)
				}
				y = m.Norm.Forward(c, y)
				near(t, "output", numbers(c, y), want["output"].F32, encoderOutput)
				y = m.Projector.Forward(c, y)
				near(t, "projected", numbers(c, y), want["projected"].F32, encoderOutput)
				return y
			})
		}
	})
}

// conformer is a layer of a speech encoder (https://arxiv.org/abs/2005.08100; names are
// those of transformers' Wav2Vec2Conformer).
type conformer struct {
	FFN1Norm  *nn.LayerNorm `name:"ffn1_layer_norm"`
	FFN1      *swishFFN     `name:"ffn1"`
	AttnNorm  *nn.LayerNorm `name:"self_attn_layer_norm"`
	WQ        *nn.Linear    `name:"self_attn.linear_q"`
	WK        *nn.Linear    `name:"self_attn.linear_k"`
	WV        *nn.Linear    `name:"self_attn.linear_v"`
	WO        *nn.Linear    `name:"self_attn.linear_out"`
	attention *nn.Attention
	ConvNorm  *nn.LayerNorm     `name:"conv_module.layer_norm"`
	Wide      *nn.Linear        `name:"conv_module.pointwise_conv1"`
	Depthwise *nn.DepthwiseConv `name:"conv_module.depthwise_conv"`
	scale     *tensor.Param     // of BatchNorm with its running values
	shift     *tensor.Param
	Narrow    *nn.Linear    `name:"conv_module.pointwise_conv2"`
	FFN2Norm  *nn.LayerNorm `name:"ffn2_layer_norm"`
	FFN2      *swishFFN     `name:"ffn2"`
	Norm      *nn.LayerNorm `name:"final_layer_norm"`
}

type swishFFN struct {
	In  *nn.Linear `name:"intermediate_dense"`
	Out *nn.Linear `name:"output_dense"`
}

func (l *swishFFN) half(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	return tensor.Scale(c, l.Out.Forward(c, swish(c, l.In.Forward(c, x))), 0.5)
}

func swish(c *tensor.Context, x *tensor.Tensor) *tensor.Tensor {
	return tensor.Mul(c, x, tensor.Sigmoid(c, x))
}

func newConformer(dim, heads, hidden, kernel int) *conformer {
	norm := func() *nn.LayerNorm { return nn.NewLayerNorm(dim, 1e-5) }
	ffn := func() *swishFFN {
		return &swishFFN{nn.NewLinear(dim, hidden, true), nn.NewLinear(hidden, dim, true)}
	}
	a := nn.NewAttention(dim, heads, heads, dim/heads, true, true)
	return &conformer{FFN1Norm: norm(), FFN1: ffn(), AttnNorm: norm(), attention: a, WQ: a.WQ, WK: a.WK, WV: a.WV, WO: a.WO,
		ConvNorm: norm(), Wide: nn.NewLinear(dim, 2*dim, false), Depthwise: nn.NewDepthwiseConv(dim, backend.Along(kernel, 1, kernel/2), false),
		scale: tensor.NewParam(dim), shift: tensor.NewParam(dim),
		Narrow: nn.NewLinear(dim, dim, false), FFN2Norm: norm(), FFN2: ffn(), Norm: norm()}
}

func (l *conformer) load(t *testing.T, b backend.Backend, file map[string]golden.Tensor, prefix string) {
	loadAll(t, b, l, file, prefix)
	of := func(name string) []float32 { return file[prefix+"conv_module.batch_norm."+name].F32 }
	scale, shift := slices.Clone(of("weight")), slices.Clone(of("bias"))
	for i, v := range of("running_var") {
		scale[i] = float32(float64(scale[i]) / math.Sqrt(float64(v)+1e-5))
		shift[i] -= scale[i] * of("running_mean")[i]
	}
	bind(t, b, l.scale, scale)
	bind(t, b, l.shift, shift)
}

func (l *conformer) forward(c *tensor.Context, x, rope *tensor.Tensor) *tensor.Tensor {
	x = tensor.Add(c, x, l.FFN1.half(c, l.FFN1Norm.Forward(c, x)))
	x = l.attention.AddTo(c, x, l.AttnNorm.Forward(c, x), rope, tensor.AttentionOptions{})
	h := l.Wide.Forward(c, l.ConvNorm.Forward(c, x))
	d := x.Cols()
	h = tensor.Mul(c, tensor.Slice(c, h, 1, 0, d), tensor.Sigmoid(c, tensor.Slice(c, h, 1, d, d)))
	h = l.Depthwise.Forward(c, h, nil)
	h = tensor.Add(c, tensor.Mul(c, h, l.scale.Value()), l.shift.Value())
	x = l.Narrow.AddTo(c, x, swish(c, h))
	return l.Norm.Forward(c, tensor.Add(c, x, l.FFN2.half(c, l.FFN2Norm.Forward(c, x))))
}

// utterances is the layout of an encoder: each sees itself whole.
func utterances(lengths ...int) *backend.Layout {
	l := backend.Documents(lengths...)
	for i := range l.Segments {
		l.Segments[i].Whole = true
	}
	return l
}

// inverse are the frequencies of a rotation with base 10000.
func inverse(headDim int) []float32 {
	f := make([]float32, headDim/2)
	for i := range f {
		f[i] = float32(math.Pow(10000, -float64(2*i)/float64(headDim)))
	}
	return f
}

// TestConformer: the layers of a speech encoder (whole attention, depthwise convolution),
// alone and with another utterance beside it, and the adapter's strided convolution and
// layer over all utterances at once, none of which sees the others.
func TestConformer(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, file := range golden.Glob(t, "multimodal/speech/encoder.json") {
			var v struct {
				Config struct {
					D, Heads, FFN, Layers, Kernel int
					Adapter                       struct{ D, Heads, FFN int }
				}
				Lengths []struct {
					File             string
					Stacked, Adapter int
				}
			}
			golden.JSON(t, file, &v)
			o, dir := v.Config, filepath.Dir(file)
			want := golden.Safetensors(t, filepath.Join(dir, "encoder.safetensors"))
			weights := golden.Safetensors(t, filepath.Join(dir, "model.safetensors"))
			c := newContext(t, b)
			for _, u := range v.Lengths {
				if _, ok := want[u.File+".input"]; !ok {
					continue
				}
				testConformer(t, b, o.D, o.Heads, o.FFN, o.Kernel, o.Layers, u.File, want, weights)
			}

			a := o.Adapter
			conv := nn.NewConv(o.D, a.D, backend.Along(3, 2, 1), true)
			w := weights["adapter.conv.weight"]
			bind(t, b, conv.Weight, permute(w.F32, w.Shape, 0, 2, 1))
			bind(t, b, conv.Bias, weights["adapter.conv.bias"].F32)
			type adapter struct {
				AttnNorm  *nn.RMSNorm     `name:"layer.input_layernorm"`
				Attention *nn.Attention   `name:"layer.self_attn"`
				FFNNorm   *nn.RMSNorm     `name:"layer.post_attention_layernorm"`
				FFN       *nn.FeedForward `name:"layer.mlp"`
				Output    *nn.Linear      `name:"output"`
			}
			hd := a.D / a.Heads
			m := &adapter{nn.NewRMSNorm(a.D, 1e-5), nn.NewAttention(a.D, a.Heads, a.Heads, hd, false, false),
				nn.NewRMSNorm(a.D, 1e-5), nn.NewFeedForward(a.D, a.FFN, false), nn.NewLinear(a.D, a.D, true)}
			loadAll(t, b, m, weights, "adapter.")
			rope := nn.NewRoPE(hd)
			bind(t, b, rope.Freqs, inverse(hd))

			var before, after []int
			all := map[string][]float32{}
			for _, u := range v.Lengths {
				before, after = append(before, u.Stacked), append(after, u.Adapter)
				for _, part := range []string{"encoder", "adapter_conv", "adapter_layer", "adapter"} {
					all[part] = append(all[part], want[u.File+"."+part].F32...)
				}
			}
			out := utterances(after...)
			options := tensor.AttentionOptions{Layout: out, KV: backend.KV{Heads: a.Heads, HeadDim: hd}}
			step(t, c, backend.Documents(before...), backend.KV{}, func() *tensor.Tensor {
				x := conv.Forward(c, write(c, all["encoder"], len(all["encoder"])/o.D, o.D), nil)
				near(t, "adapter_conv", numbers(c, x), all["adapter_conv"], encoderOutput)
				x = m.Attention.AddTo(c, x, m.AttnNorm.Forward(c, x), rope.Table(c, out), options)
				x = m.FFN.AddTo(c, x, m.FFNNorm.Forward(c, x))
				near(t, "adapter_layer", numbers(c, x), all["adapter_layer"], encoderOutput)
				x = m.Output.Forward(c, x)
				near(t, "adapter", numbers(c, x), all["adapter"], encoderOutput)
				return x
			})
		}
	})
}

func testConformer(t *testing.T, b backend.Backend, d, heads, hidden, kernel, layers int, file string, want, weights map[string]golden.Tensor) {
	rope := nn.NewRoPE(d / heads)
	bind(t, b, rope.Freqs, inverse(d/heads))
	input := want[file+".input"].F32
	n := len(input) / d
	c := newContext(t, b)
	for _, lengths := range [][]int{{n}, {n, 5}, {n, n}} {
		layout := utterances(lengths...)
		step(t, c, layout, backend.KV{Heads: heads, HeadDim: d / heads}, func() *tensor.Tensor {
			table := rope.Table(c, nil)
			x := write(c, append(slices.Clone(input), random((layout.Rows()-n)*d)...), layout.Rows(), d)
			for i := range layers {
				l := newConformer(d, heads, hidden, kernel)
				l.load(t, b, weights, fmt.Sprintf("layers.%d.", i))
				x = l.forward(c, x, table)
				near(t, fmt.Sprint("layer ", i), numbers(c, x)[:n*d], want[fmt.Sprintf("%s.layer.%d", file, i)].F32, encoderOutput)
			}
			near(t, "encoder", numbers(c, x)[:n*d], want[file+".encoder"].F32, encoderOutput)
			return x
		})
	}
}
