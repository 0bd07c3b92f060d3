package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/pth"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// vectorTypesKey is the metadata key under which the types of vectors travel
// through GGUF, as "name=TYPE".
const vectorTypesKey = "herd.vector_types"

// ropeScalingKey is the metadata key under which the settings of llama3 scaling
// travel, as [factor, low, high, original context]; rope_freqs.weight holds
// only what follows from them.
const ropeScalingKey = "herd.rope_scaling"

// fileTypes are the labels general.file_type; only labels.
var fileTypes = map[backend.DType]uint32{backend.F32: 0, backend.F16: 1, backend.BF16: 32}

func (v *converter) writeGGUF(out string) error {
	list, err := v.outputs()
	if err != nil {
		return err
	}
	w := &gguf.Writer{}
	if err := v.ggufMetadata(w, list); err != nil {
		return err
	}
	if v.c.Config.RopeScaling.Type == "llama3" || v.c.Config.RopeScaling.Type == "factors" {
		factors := v.c.Config.ropeFactors()
		raw := make([]byte, 4*len(factors))
		for i, f := range factors {
			binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(f))
		}
		if err := w.Add("rope_freqs.weight", backend.F32, []int{len(factors)}, strings.NewReader(string(raw))); err != nil {
			return err
		}
	}
	for _, t := range list {
		size := v.report.size(t.name)
		if err := w.Add(t.name, t.dtype, t.shape, io.NewSectionReader(t.data, 0, size)); err != nil {
			return err
		}
	}
	return w.WriteFile(out)
}

func (r *ConvertReport) size(name string) int64 {
	i := slices.IndexFunc(r.Tensors, func(t TensorInfo) bool { return t.Name == name })
	return r.Tensors[i].Bytes
}

func (v *converter) ggufMetadata(w *gguf.Writer, list []output) error {
	c := v.c.Config
	matrix := backend.F32
	var vectors []string
	for _, t := range list {
		if len(t.shape) == 2 {
			matrix = t.dtype
			continue
		}
		original := v.c.Tensors[t.hf].Type
		if known := v.c.vectorTypes[t.hf]; known != backend.Invalid {
			original = known
		}
		if v.o.Type == backend.Invalid && original != backend.F32 {
			vectors = append(vectors, t.hf+"="+original.String())
		}
	}
	set := []struct {
		key   string
		value any
	}{
		{"general.architecture", "llama"},
		{"general.type", "model"},
		{"general.name", filepath.Base(v.c.Path)},
		{"general.file_type", fileTypes[matrix]},
		{"llama.block_count", uint32(c.Layers)},
		{"llama.context_length", uint32(c.Context)},
		{"llama.embedding_length", uint32(c.Dim)},
		{"llama.feed_forward_length", uint32(c.HiddenDim)},
		{"llama.attention.head_count", uint32(c.Heads)},
		{"llama.attention.head_count_kv", uint32(c.KVHeads)},
		{"llama.attention.key_length", uint32(c.HeadDim)},
		{"llama.attention.value_length", uint32(c.HeadDim)},
		{"llama.attention.layer_norm_rms_epsilon", float32(c.NormEps)},
		{"llama.rope.dimension_count", uint32(c.HeadDim)},
		{"llama.rope.freq_base", float32(c.RopeTheta)},
		{"llama.vocab_size", uint32(c.Vocab)},
	}
	for _, s := range set {
		if err := w.Set(s.key, s.value); err != nil {
			return err
		}
	}
	if c.RopeScaling.Type == "linear" {
		if err := w.Set("llama.rope.scaling.type", "linear"); err != nil {
			return err
		}
		if err := w.Set("llama.rope.scaling.factor", float32(c.RopeScaling.Factor)); err != nil {
			return err
		}
	}
	if s, ok := c.llama3Scaling(v.c.ropeHint); ok {
		settings := []float32{float32(s.Factor), float32(s.LowFreqFactor), float32(s.HighFreqFactor), float32(s.OriginalContext)}
		if err := w.Set(ropeScalingKey, settings); err != nil {
			return err
		}
	}
	if len(vectors) > 0 {
		if err := w.Set(vectorTypesKey, vectors); err != nil {
			return err
		}
	}
	if v.c.ChatTemplate != "" {
		if err := w.Set("tokenizer.chat_template", v.c.ChatTemplate); err != nil {
			return err
		}
	}
	if f := v.c.gguf; f != nil { // the same vocabulary, unchanged
		for _, key := range f.Keys() {
			if value, _ := f.Lookup(key); strings.HasPrefix(key, "tokenizer.") {
				if err := w.Set(key, value); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return v.vocabulary("vocabulary", func(t *tokenizer.Tokenizer) ([]byte, error) { return nil, t.SetGGUF(w, c.Vocab) },
		func([]byte) error { return nil })
}

func (v *converter) writeHF(dir string) error {
	list, err := v.outputs()
	if err != nil {
		return err
	}
	var sources []safetensors.Source
	matrix := backend.F32
	for _, t := range list {
		sources = append(sources, safetensors.Source{Name: t.name, Type: t.dtype, Shape: t.shape, Data: t.data})
		if len(t.shape) == 2 {
			matrix = t.dtype
		}
	}
	config, err := v.hfConfigJSON(matrix)
	if err != nil {
		return err
	}
	if err := vfs.WriteBytes(filepath.Join(dir, "config.json"), config); err != nil {
		return err
	}
	if _, err := safetensors.WriteDir(dir, sources, map[string]string{"format": "pt"}, safetensors.DefaultShardSize); err != nil {
		return err
	}
	if v.c.Format == FormatHF {
		return v.copyFiles(dir, hfFiles...)
	}
	return v.vocabulary("tokenizer.json", (*tokenizer.Tokenizer).JSON, func(b []byte) error {
		if err := vfs.WriteBytes(filepath.Join(dir, "tokenizer.json"), b); err != nil {
			return err
		}
		if b, err = v.c.Tokenizer.ConfigJSON(v.c.ChatTemplate); err != nil {
			return err
		}
		return vfs.WriteBytes(filepath.Join(dir, "tokenizer_config.json"), b)
	})
}

// hfFiles are those of a Hugging Face folder that are copied as they are.
var hfFiles = []string{"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
	"tokenizer.model", "chat_template.jinja", "added_tokens.json"}

// torchTypes are the names that config.json has for element types.
var torchTypes = map[backend.DType]string{backend.F32: "float32", backend.F16: "float16", backend.BF16: "bfloat16"}

func (v *converter) hfConfigJSON(matrix backend.DType) ([]byte, error) {
	c := v.c.Config
	if c.AttentionBias != c.AttentionOutputBias {
		return nil, fmt.Errorf("%s: config.json cannot say that only some attention layers have biases: %w", v.c.Path, backend.ErrUnsupported)
	}
	out := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_act": "silu", "torch_dtype": torchTypes[matrix],
		"num_hidden_layers": c.Layers, "hidden_size": c.Dim, "num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads,
		"head_dim": c.HeadDim, "intermediate_size": c.HiddenDim, "vocab_size": c.Vocab, "max_position_embeddings": c.Context,
		"rms_norm_eps": shortest(c.NormEps), "rope_theta": shortest(c.RopeTheta), "tie_word_embeddings": c.TiedEmbeddings,
		"attention_bias": c.AttentionBias, "mlp_bias": c.MLPBias, "rope_scaling": nil,
	}
	switch s := c.RopeScaling; s.Type {
	case "linear":
		out["rope_scaling"] = map[string]any{"type": "linear", "rope_type": "linear", "factor": shortest(s.Factor)}
	case "llama3", "factors":
		s, ok := c.llama3Scaling(v.c.ropeHint)
		if !ok {
			return nil, fmt.Errorf("%s: rope_freqs.weight holds factors that config.json cannot say: %w", v.c.Path, backend.ErrUnsupported)
		}
		out["rope_scaling"] = map[string]any{"rope_type": "llama3", "factor": shortest(s.Factor), "low_freq_factor": shortest(s.LowFreqFactor),
			"high_freq_factor": shortest(s.HighFreqFactor), "original_max_position_embeddings": s.OriginalContext}
	}
	if v.c.Tokenizer != nil {
		if id, ok := v.c.Tokenizer.BOS(); ok {
			out["bos_token_id"] = id
		}
	}
	if ids := v.c.StopTokens(); len(ids) > 0 {
		out["eos_token_id"] = ids
	}
	return json.MarshalIndent(out, "", "  ")
}

// shortest is x without the digits that float32 storage adds: 1e-05 and not
// 9.999999747378752e-06.
func shortest(x float64) float64 {
	var y float64
	if _, err := fmt.Sscan(fmt.Sprint(float32(x)), &y); err != nil || float32(y) != float32(x) || float64(float32(x)) != x {
		return x
	}
	return y
}

func (v *converter) writeMeta(dir string) error {
	params, err := v.metaParamsJSON()
	if err != nil {
		return err
	}
	list, err := v.outputs()
	if err != nil {
		return err
	}
	var sources []pth.Source
	for _, t := range list {
		sources = append(sources, pth.Source{Name: t.name, Type: t.dtype, Shape: t.shape, Data: t.data})
	}
	if err := vfs.WriteBytes(filepath.Join(dir, "params.json"), params); err != nil {
		return err
	}
	if err := pth.WriteFile(filepath.Join(dir, "consolidated.00.pth"), sources); err != nil {
		return err
	}
	if v.c.Format == FormatMeta {
		return v.copyFiles(dir, "tokenizer.model")
	}
	return v.vocabulary("tokenizer.model", (*tokenizer.Tokenizer).ModelFile, func(b []byte) error {
		return vfs.WriteBytes(filepath.Join(dir, "tokenizer.model"), b)
	})
}

// metaParamsJSON says what params.json can say, and refuses the rest: biases,
// head sizes other than dim / heads, linear RoPE scaling. Its use_scaled_rope
// means factor 8 to every reader; another factor is written as that, as Meta's
// own files do, with a warning.
func (v *converter) metaParamsJSON() ([]byte, error) {
	c := v.c.Config
	refuse := func(format string, a ...any) ([]byte, error) {
		return nil, fmt.Errorf("%s: params.json cannot say %s: %w", v.c.Path, fmt.Sprintf(format, a...), backend.ErrUnsupported)
	}
	switch {
	case c.AttentionBias || c.AttentionOutputBias || c.MLPBias:
		return refuse("that layers have biases")
	case c.HeadDim*c.Heads != c.Dim:
		return refuse("a head size of %d for %d heads and width %d", c.HeadDim, c.Heads, c.Dim)
	case c.RopeScaling.Type == "linear":
		return refuse("linear RoPE scaling")
	}
	p := map[string]any{"dim": c.Dim, "n_layers": c.Layers, "n_heads": c.Heads, "n_kv_heads": c.KVHeads,
		"vocab_size": c.Vocab, "norm_eps": shortest(c.NormEps), "rope_theta": shortest(c.RopeTheta), "max_seq_len": c.Context}
	if s := c.RopeScaling; s.Type != "" {
		s, ok := c.llama3Scaling(v.c.ropeHint)
		if !ok {
			return refuse("the RoPE factors of rope_freqs.weight")
		}
		if want := (RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalContext: 8192}); s.Factor != want.Factor ||
			s.LowFreqFactor != want.LowFreqFactor || s.HighFreqFactor != want.HighFreqFactor || s.OriginalContext != want.OriginalContext {
			v.warn("params.json can only say use_scaled_rope, which readers take as factor 8 of 8192 positions; this model has factor %v of %d: its logits will differ", s.Factor, s.OriginalContext)
		}
		p["use_scaled_rope"] = true
	}
	// int(multiplier * int(8 dim / 3)) rounded up to multiple_of is HiddenDim.
	multiple := 256
	for c.HiddenDim%multiple != 0 {
		multiple /= 2
	}
	base := 8 * c.Dim / 3
	p["multiple_of"] = multiple
	if round := (base + multiple - 1) / multiple * multiple; round != c.HiddenDim {
		p["ffn_dim_multiplier"] = (float64(c.HiddenDim) - float64(multiple)/2 + 0.5) / float64(base)
	}
	return json.MarshalIndent(p, "", "  ")
}
