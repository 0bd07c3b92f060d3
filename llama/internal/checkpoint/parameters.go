package checkpoint

import (
	"fmt"
	"strings"

	"github.com/herd-ml/herd/backend"
)

// A Parameter is a tensor that a model of some Config has, under its Hugging
// Face name.
type Parameter struct {
	Name  string
	Shape backend.Shape // [n], or [rows, cols] with a row for each output
}

// Matrix reports whether the parameter is a matrix.
func (p Parameter) Matrix() bool { return p.Shape.Rank == 2 }

// The two matrices of the vocabulary.
const (
	embedding = "model.embed_tokens"
	lmHead    = "lm_head"
)

// Parameters lists what files of a configuration hold, in the order of the
// network. The output layer is not among them where it is the embedding.
func Parameters(c Config) []Parameter {
	var list []Parameter
	add := func(name string, dims ...int) { list = append(list, Parameter{name, backend.Dims(dims...)}) }
	linear := func(name string, in, out int, bias bool) {
		add(name+".weight", out, in)
		if bias {
			add(name+".bias", out)
		}
	}
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	add(embedding+".weight", c.Vocab, c.Dim)
	for i := range c.Layers {
		layer := fmt.Sprintf("model.layers.%d.", i)
		add(layer+"input_layernorm.weight", c.Dim)
		linear(layer+"self_attn.q_proj", c.Dim, q, c.AttentionBias)
		linear(layer+"self_attn.k_proj", c.Dim, kv, c.AttentionBias)
		linear(layer+"self_attn.v_proj", c.Dim, kv, c.AttentionBias)
		linear(layer+"self_attn.o_proj", q, c.Dim, c.AttentionOutputBias)
		add(layer+"post_attention_layernorm.weight", c.Dim)
		linear(layer+"mlp.gate_proj", c.Dim, c.HiddenDim, c.MLPBias)
		linear(layer+"mlp.up_proj", c.Dim, c.HiddenDim, c.MLPBias)
		linear(layer+"mlp.down_proj", c.HiddenDim, c.Dim, c.MLPBias)
	}
	add("model.norm.weight", c.Dim)
	if !c.TiedEmbeddings {
		linear(lmHead, c.Dim, c.Vocab, false)
	}
	return list
}

// Linears are the shapes [out, in] of the layers that adapters go on, by their
// names: those of the matrices, less the embedding and with the output layer
// even where it is the embedding.
func Linears(c Config) map[string]backend.Shape {
	layers := map[string]backend.Shape{lmHead: backend.Dims(c.Vocab, c.Dim)}
	for _, p := range Parameters(c) {
		if name, weight := strings.CutSuffix(p.Name, ".weight"); weight && p.Matrix() && name != embedding {
			layers[name] = p.Shape
		}
	}
	return layers
}
