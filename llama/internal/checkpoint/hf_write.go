package checkpoint

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/llama/tokenizer"
)

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
		if err := v.copyFiles(dir, hfFiles...); err != nil {
			return err
		}
		return v.templateFiles(dir)
	}
	return v.vocabulary("tokenizer.json", (*tokenizer.Tokenizer).JSON, func(b []byte) error {
		if err := vfs.WriteBytes(filepath.Join(dir, "tokenizer.json"), b); err != nil {
			return err
		}
		only := v.c.ChatTemplates[chat.DefaultTemplate]
		if len(v.c.ChatTemplates) > 1 {
			only = "" // they get files of their own
		}
		if b, err = v.c.Tokenizer.ConfigJSON(only); err != nil {
			return err
		}
		if err := v.templateFiles(dir); err != nil {
			return err
		}
		return vfs.WriteBytes(filepath.Join(dir, "tokenizer_config.json"), b)
	})
}

// templateFiles writes the chat templates of a model that has several to files of their
// own, unless the files that were copied hold them.
func (v *converter) templateFiles(dir string) error {
	_, only := v.c.ChatTemplates[chat.DefaultTemplate]
	if len(v.c.ChatTemplates) == 0 || only && len(v.c.ChatTemplates) == 1 || v.c.Format == FormatHF && !v.c.templatesInFiles {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(v.c.ChatTemplates)) {
		file := filepath.Join(dir, templateFolder, name+".jinja")
		switch {
		case name == chat.DefaultTemplate:
			file = filepath.Join(dir, "chat_template.jinja")
		case !filepath.IsLocal(name) || filepath.Base(name) != name || strings.ContainsAny(name, `/\`):
			v.warn("the chat template %.40q is left out: no file can have that name", name)
			continue
		default:
			if err := os.MkdirAll(filepath.Join(dir, templateFolder), 0o755); err != nil {
				return err
			}
		}
		if err := vfs.WriteBytes(file, []byte(v.c.ChatTemplates[name])); err != nil {
			return err
		}
	}
	return nil
}

// hfFiles are those of a Hugging Face folder that are copied as they are.
var hfFiles = []string{"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
	"tokenizer.model", "chat_template.jinja", "added_tokens.json"}

// torchTypes are the names that config.json has for element types.
var torchTypes = map[backend.DType]string{backend.F32: "float32", backend.F16: "float16", backend.BF16: "bfloat16"}

func (v *converter) hfConfigJSON(matrix backend.DType) ([]byte, error) {
	c := v.c.Config
	family, extra, err := v.c.hfFamily()
	if err != nil {
		return nil, err
	}
	out := map[string]any{
		"architectures": []string{architectures[family]}, "model_type": family, "hidden_act": "silu", "torch_dtype": torchTypes[matrix],
		"num_hidden_layers": c.Layers, "hidden_size": c.Dim, "num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads,
		"head_dim": c.HeadDim, "intermediate_size": c.HiddenDim, "vocab_size": c.Vocab, "max_position_embeddings": c.Context,
		"rms_norm_eps": shortest(c.NormEps), "rope_theta": shortest(c.RopeTheta), "tie_word_embeddings": c.TiedEmbeddings,
		"attention_bias": c.AttentionBias, "mlp_bias": c.MLPBias, "rope_scaling": nil,
	}
	maps.Copy(out, extra)
	switch s := c.RopeScaling; s.Type {
	case "yarn", "longrope":
		out["rope_scaling"] = s.hfLongRope()
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
