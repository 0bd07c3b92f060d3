package checkpoint

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/jsontext"
)

// Families are Llamas by another name: what their files add to Llama's settings becomes
// settings of Config, and what a Config says beyond Llama decides the name under which it
// is written.
const (
	familyLlama   = "llama"
	familyMistral = "mistral" // a sliding window
	familyQwen2   = "qwen2"   // biases on q, k and v alone; GGUF has their rows as they are
	familyGranite = "granite" // four factors
)

// architectures are the classes of the reference that config.json names.
var architectures = map[string]string{
	familyLlama: "LlamaForCausalLM", familyMistral: "MistralForCausalLM", familyQwen2: "Qwen2ForCausalLM", familyGranite: "GraniteForCausalLM",
}

// lacking are families that are no Llama, and what they would need.
var lacking = map[string]string{
	"apertus":     "norms of queries and keys, and another activation",
	"arcee":       "a feed-forward layer of squared ReLU",
	"cohere":      "layers whose halves run side by side, and LayerNorm",
	"cohere2":     "layers whose halves run side by side, and LayerNorm",
	"deepseek2":   "latent attention and experts",
	"deepseek_v2": "latent attention and experts",
	"deepseek_v3": "latent attention and experts",
	"exaone":      "its names of tensors, and rows of q and k in another order",
	"exaone4":     "norms of queries and keys and after each half of a layer, and layers without rotation",
	"falcon":      "LayerNorm, and layers whose halves run side by side",
	"gemma":       "norms by 1 + weight, and GELU",
	"gemma2":      "norms by 1 + weight and after each half of a layer, GELU, and bounded scores",
	"gemma3":      "norms by 1 + weight, of queries and keys and after each half of a layer, GELU, and layers with windows",
	"gemma3_text": "norms by 1 + weight, of queries and keys and after each half of a layer, GELU, and layers with windows",
	"glm4":        "norms after each half of a layer, and a rotation of half a head",
	"gpt2":        "LayerNorm, GELU and learned positions",
	"gpt_neox":    "LayerNorm, GELU, and layers whose halves run side by side",
	"gpt_oss":     "experts, and scores with a sink",
	"granitemoe":  "experts",
	"helium":      "a rotation of neighbouring pairs",
	"internlm2":   "one matrix for q, k and v to be taken apart",
	"llama4":      "experts, and layers without rotation",
	"minicpm":     "factors of its own names",
	"ministral":   "layers with and without a window in one model",
	"mistral3":    "an encoder of pictures around the text model",
	"mixtral":     "experts",
	"mllama":      "an encoder of pictures and cross-attention",
	"nemotron":    "LayerNorm by 1 + weight, and squared ReLU",
	"olmo":        "LayerNorm without weights",
	"olmo2":       "norms of queries and keys, and norms after each half of a layer",
	"phi":         "LayerNorm, GELU, and layers whose halves run side by side",
	"phi3":        "one matrix for q, k and v, and one for gate and up, to be taken apart",
	"qwen2_moe":   "experts",
	"qwen3":       "norms of queries and keys",
	"qwen3_moe":   "experts, and norms of queries and keys",
	"smollm3":     "layers without rotation",
	"stablelm":    "LayerNorm, and a rotation of part of a head",
	"starcoder2":  "LayerNorm and GELU",
}

// unsupported is the error of a family that is no Llama; what is the word of the files for
// it.
func unsupported(what, family string) error {
	need, ok := lacking[family]
	if !ok {
		return fmt.Errorf("%s %q is %w; llama, mistral, qwen2 and granite are", what, family, backend.ErrUnsupported)
	}
	return fmt.Errorf("%s %q is %w: it needs %s; llama, mistral, qwen2 and granite are supported", what, family, backend.ErrUnsupported, need)
}

// hfFamily are the keys of config.json that only some families have.
type hfFamily struct {
	SlidingWindow       json.RawMessage `json:"sliding_window"` // null is none, and a missing one the class's
	UseSlidingWindow    bool            `json:"use_sliding_window"`
	EmbeddingMultiplier *float64        `json:"embedding_multiplier"`
	ResidualMultiplier  *float64        `json:"residual_multiplier"`
	AttentionMultiplier *float64        `json:"attention_multiplier"`
	LogitsScaling       *float64        `json:"logits_scaling"`
}

// resolve adds what a family has to settings that are read as Llama's.
func (h hfFamily) resolve(family string, c *Config) error {
	switch family {
	case familyLlama:
	case familyMistral:
		// Its classes know no biases, whatever the file says.
		c.AttentionBias, c.AttentionOutputBias, c.MLPBias = false, false, false
		c.SlidingWindow = 4096
		if len(h.SlidingWindow) > 0 {
			var window whole
			if err := jsontext.Unmarshal(h.SlidingWindow, &window); err != nil {
				return fmt.Errorf("sliding_window is %.40s, want a number or null", h.SlidingWindow)
			}
			c.SlidingWindow = int(window)
		}
	case familyQwen2:
		c.AttentionBias, c.AttentionOutputBias, c.MLPBias = true, false, false
		if h.UseSlidingWindow {
			return fmt.Errorf("use_sliding_window is %w: it needs layers with and without a window in one model", backend.ErrUnsupported)
		}
	case familyGranite:
		c.AttentionScale = 1
		for _, s := range []struct {
			dst *float64
			src *float64
		}{{&c.EmbeddingScale, h.EmbeddingMultiplier}, {&c.ResidualScale, h.ResidualMultiplier},
			{&c.AttentionScale, h.AttentionMultiplier}, {&c.LogitsScale, h.LogitsScaling}} {
			set(s.dst, s.src)
		}
	default:
		return unsupported("model_type", family)
	}
	return nil
}

// hfFamily is the name of the family that says all of a configuration, the files' own where
// it does, and what config.json says beyond Llama's keys.
func (c *Checkpoint) hfFamily() (family string, extra map[string]any, err error) {
	cfg, biases := c.Config, c.Config.AttentionBias || c.Config.AttentionOutputBias || c.Config.MLPBias
	refuse := func(what string) (string, map[string]any, error) {
		return "", nil, fmt.Errorf("%s: config.json cannot say %s: %w", c.Path, what, backend.ErrUnsupported)
	}
	switch {
	case cfg.scaled() && cfg.SlidingWindow > 0:
		return refuse("both granite's factors and a sliding window")
	case cfg.scaled() && cfg.AttentionBias != cfg.AttentionOutputBias:
		return refuse("that only some attention layers have biases, beside granite's factors")
	case cfg.scaled():
		extra = map[string]any{}
		for key, v := range map[string]float64{"embedding_multiplier": cfg.EmbeddingScale, "residual_multiplier": cfg.ResidualScale,
			"attention_multiplier": cfg.AttentionScale, "logits_scaling": cfg.LogitsScale} {
			switch {
			case v == 0 && key == "attention_multiplier":
				v = 1 / math.Sqrt(float64(cfg.HeadDim))
			case v == 0:
				v = 1
			}
			extra[key] = shortest(v)
		}
		return familyGranite, extra, nil
	case cfg.SlidingWindow > 0 && biases:
		return refuse("both biases and a sliding window")
	case cfg.SlidingWindow > 0:
		return familyMistral, map[string]any{"sliding_window": cfg.SlidingWindow}, nil
	case c.Architecture == familyMistral && !biases:
		return familyMistral, map[string]any{"sliding_window": nil}, nil
	case cfg.AttentionBias && !cfg.AttentionOutputBias && !cfg.MLPBias:
		return familyQwen2, map[string]any{"use_sliding_window": false}, nil
	case cfg.AttentionBias != cfg.AttentionOutputBias:
		return refuse("that only some attention layers have biases")
	}
	return familyLlama, nil, nil
}

// family reads what a family has beyond Llama.
func (g *ggufConfig) family(cfg *Config) {
	cfg.SlidingWindow = g.sizeOr("llama.attention.sliding_window", 0)
	if g.arch != familyGranite {
		return
	}
	cfg.EmbeddingScale = g.floatOr("llama.embedding_scale", 0)
	cfg.ResidualScale = g.floatOr("llama.residual_scale", 0)
	cfg.AttentionScale = g.floatOr("llama.attention.scale", 0)
	cfg.LogitsScale = g.floatOr("llama.logit_scale", 0)
}

// ggufFamily are the keys of what a model has beyond Llama.
func (v *converter) ggufFamily() (keys []ggufKey) {
	c := v.c.Config
	if c.SlidingWindow > 0 {
		keys = append(keys, ggufKey{"llama.attention.sliding_window", uint32(c.SlidingWindow)})
		if c.SlidingWindow < c.Context {
			v.warn("llama.attention.sliding_window is %d; other readers of GGUF do not look at it in a Llama: beyond as many positions they will differ", c.SlidingWindow)
		}
	}
	if !c.scaled() {
		return keys
	}
	logits := c.LogitsScale
	if logits == 0 {
		logits = 1 // the one key that every granite has
	}
	for _, s := range []struct {
		key   string
		value float64
	}{{"llama.embedding_scale", c.EmbeddingScale}, {"llama.residual_scale", c.ResidualScale}, {"llama.attention.scale", c.AttentionScale}, {"llama.logit_scale", logits}} {
		if s.value != 0 {
			keys = append(keys, ggufKey{s.key, float32(s.value)})
		}
	}
	return keys
}

// noteWindow says how long contexts may be.
func (c *Checkpoint) noteWindow() {
	if w := c.Config.SlidingWindow; w > 0 && w < c.Config.Context {
		c.problem("attention sees the last %d positions only: contexts of at most as many are run, longer ones are refused", w)
	}
}
