package checkpoint

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/pth"
	"github.com/herd-ml/herd/llama/tokenizer"
)

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
// head sizes other than dim / heads, a sliding window, granite's factors, linear, yarn and
// longrope RoPE scaling. Its use_scaled_rope
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
	case c.SlidingWindow > 0:
		return refuse("that attention has a sliding window of %d", c.SlidingWindow)
	case c.scaled():
		return refuse("the factors of embeddings, layers, scores or logits")
	case c.RopeScaling.Type == "linear", c.RopeScaling.Type == "yarn", c.RopeScaling.Type == "longrope":
		return refuse("%s RoPE scaling", c.RopeScaling.Type)
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
