package checkpoint

// Tensor names inside are Hugging Face's. The other two formats differ in
// names and in the order of the rows of q and k.

import (
	"fmt"
	"strings"
)

// Format is a kind of checkpoint on disk.
type Format string

// The three formats.
const (
	FormatGGUF Format = "gguf"        // a .gguf file
	FormatHF   Format = "safetensors" // a Hugging Face folder
	FormatMeta Format = "meta"        // a Meta folder
)

// nameTable translates one format's names; a layer's entries stand for all
// layers.
type nameTable struct {
	global map[string]string // Hugging Face name -> name
	layer  map[string]string // part after "model.layers.N." -> part after prefix
	prefix string            // of a layer's names, with %d
}

var ggufNames = nameTable{
	prefix: "blk.%d.",
	global: map[string]string{
		"model.embed_tokens.weight": "token_embd.weight",
		"model.norm.weight":         "output_norm.weight",
		"lm_head.weight":            "output.weight",
	},
	layer: map[string]string{
		"input_layernorm.weight":          "attn_norm.weight",
		"post_attention_layernorm.weight": "ffn_norm.weight",
		"self_attn.q_proj.weight":         "attn_q.weight",
		"self_attn.k_proj.weight":         "attn_k.weight",
		"self_attn.v_proj.weight":         "attn_v.weight",
		"self_attn.o_proj.weight":         "attn_output.weight",
		"self_attn.q_proj.bias":           "attn_q.bias",
		"self_attn.k_proj.bias":           "attn_k.bias",
		"self_attn.v_proj.bias":           "attn_v.bias",
		"self_attn.o_proj.bias":           "attn_output.bias",
		"mlp.gate_proj.weight":            "ffn_gate.weight",
		"mlp.up_proj.weight":              "ffn_up.weight",
		"mlp.down_proj.weight":            "ffn_down.weight",
		"mlp.gate_proj.bias":              "ffn_gate.bias",
		"mlp.up_proj.bias":                "ffn_up.bias",
		"mlp.down_proj.bias":              "ffn_down.bias",
	},
}

// Meta's w1, w2, w3 are gate, down, up.
var metaNames = nameTable{
	prefix: "layers.%d.",
	global: map[string]string{
		"model.embed_tokens.weight": "tok_embeddings.weight",
		"model.norm.weight":         "norm.weight",
		"lm_head.weight":            "output.weight",
	},
	layer: map[string]string{
		"input_layernorm.weight":          "attention_norm.weight",
		"post_attention_layernorm.weight": "ffn_norm.weight",
		"self_attn.q_proj.weight":         "attention.wq.weight",
		"self_attn.k_proj.weight":         "attention.wk.weight",
		"self_attn.v_proj.weight":         "attention.wv.weight",
		"self_attn.o_proj.weight":         "attention.wo.weight",
		"mlp.gate_proj.weight":            "feed_forward.w1.weight",
		"mlp.up_proj.weight":              "feed_forward.w3.weight",
		"mlp.down_proj.weight":            "feed_forward.w2.weight",
	},
}

// name translates a Hugging Face name; false where the format has none for it.
func (t *nameTable) name(hf string) (string, bool) {
	if n, ok := t.global[hf]; ok {
		return n, true
	}
	i, part, ok := LayerName(hf)
	if !ok {
		return "", false
	}
	n, ok := t.layer[part]
	return fmt.Sprintf(t.prefix, i) + n, ok
}

// LayerName splits "model.layers.3.mlp.up_proj.weight" at the layer's number.
func LayerName(hf string) (layer int, part string, ok bool) {
	rest, ok := strings.CutPrefix(hf, "model.layers.")
	if !ok {
		return 0, "", false
	}
	number, part, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, "", false
	}
	if _, err := fmt.Sscanf(number, "%d", &layer); err != nil {
		return 0, "", false
	}
	return layer, part, true
}

// rotatedHeads returns the heads of a tensor whose rows RoPE pairs, 0 for
// others. GGUF and Meta files hold row 2i+j of such a head where Hugging Face
// has row i + j*hd/2.
func rotatedHeads(hf string, c Config) int {
	switch {
	case strings.Contains(hf, "self_attn.q_proj"):
		return c.Heads
	case strings.Contains(hf, "self_attn.k_proj"):
		return c.KVHeads
	}
	return 0
}

// interleaved is the row of a GGUF or Meta file that holds row hf.
func interleaved(row, headDim int) int {
	head, r := row/headDim, row%headDim
	i, j := r%(headDim/2), r/(headDim/2)
	return head*headDim + 2*i + j
}

// halved is the inverse: the Hugging Face row that row of a GGUF or Meta file
// holds.
func halved(row, headDim int) int {
	head, r := row/headDim, row%headDim
	return head*headDim + r%2*(headDim/2) + r/2
}

// GGUFName is the name in GGUF files of a Hugging Face name; false where there is none.
func GGUFName(hf string) (string, bool) { return ggufNames.name(hf) }
