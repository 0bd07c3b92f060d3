package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
)

// The tensors [HeadDim/2] of factors of the rotation: for every context, or for those up
// to the original one and those beyond.
const (
	ropeFreqs = "rope_freqs.weight"
	ropeShort = "rope_factors_short.weight"
	ropeLong  = "rope_factors_long.weight"
)

// rope reads the ways a file states RoPE scaling.
func (g *ggufConfig) rope(cfg *Config) {
	kind := ""
	if g.has("llama.rope.scaling.type") {
		kind, g.err = g.f.String(g.key("llama.rope.scaling.type"))
	}
	old := g.floatOr("llama.rope.scale_linear", 1)
	factor := g.floatOr("llama.rope.scaling.factor", old)
	if g.has("llama.rope.scale_linear") && factor != old {
		g.problems = append(g.problems, fmt.Sprintf("%s is %v, and %s %v: the first is used, as llama.cpp does",
			g.key("llama.rope.scaling.factor"), factor, g.key("llama.rope.scale_linear"), old))
	}
	switch {
	case kind == "linear" && factor == 1: // nothing is scaled
	case kind == "" && factor != 1, kind == "linear":
		cfg.RopeScaling = RopeScaling{Type: "linear", Factor: factor}
	case kind == "yarn":
		g.yarn(cfg, factor)
	case kind == "longrope":
		// A missing factor of the rotation is 1 here, not one that follows.
		cfg.RopeScaling = RopeScaling{Type: kind, OriginalContext: g.sizeOr("llama.rope.scaling.original_context_length", cfg.Context),
			AttentionFactor: g.floatOr("llama.rope.scaling.attn_factor", 1)}
		if g.has("llama.rope.scaling.factor") {
			cfg.RopeScaling.Factor = factor
		}
		cfg.RopeScaling.Factors, cfg.RopeScaling.LongFactors = g.factors(ropeShort, cfg), g.factors(ropeLong, cfg)
	case kind != "" && kind != "none":
		cfg.RopeScaling.Type = kind // refused by name in Validate
	}
	factors := g.factors(ropeFreqs, cfg)
	if factors == nil || g.err != nil {
		return
	}
	if cfg.RopeScaling.Type != "" {
		g.err = Errorf(g.file, ropeFreqs, "scales RoPE, and %s %q does too", g.key("llama.rope.scaling.type"), cfg.RopeScaling.Type)
		return
	}
	cfg.RopeScaling = RopeScaling{Type: "factors", Factors: factors}
}

// yarn reads settings of yarn. Readers of GGUF multiply the rotation by 1 + 0.1 ln factor
// themselves, and by attn_factor on top.
func (g *ggufConfig) yarn(cfg *Config, factor float64) {
	s := RopeScaling{Type: "yarn", Factor: factor, OriginalContext: g.sizeOr("llama.rope.scaling.original_context_length", cfg.Context),
		BetaFast: g.floatOr("llama.rope.scaling.yarn_beta_fast", 32), BetaSlow: g.floatOr("llama.rope.scaling.yarn_beta_slow", 1)}
	if ext := g.floatOr("llama.rope.scaling.yarn_ext_factor", 1); ext != 1 && ext >= 0 && g.err == nil {
		g.err = &FileError{File: g.file, Err: fmt.Errorf("%s %v is %w; only 1 is", g.key("llama.rope.scaling.yarn_ext_factor"), ext, backend.ErrUnsupported)}
		return
	}
	attn := g.floatOr("llama.rope.scaling.attn_factor", 1) * g.floatOr("llama.rope.scaling.yarn_attn_factor", 1)
	weight := g.floatOr("llama.rope.scaling.yarn_log_multiplier", 0)
	if attn != 1 || weight != 0 {
		s.AttentionFactor = attn * mscale(factor, 1) / mscale(factor, weight)
		if weight == 0 {
			s.AttentionFactor = attn * mscale(factor, 1)
		}
	}
	cfg.RopeScaling = s
}

// factors reads a tensor of factors, nil where there is none.
func (g *ggufConfig) factors(name string, cfg *Config) []float32 {
	t := g.f.Tensor(name)
	if t == nil || g.err != nil {
		return nil
	}
	shape := t.Shape
	for len(shape) > 1 && shape[0] == 1 {
		shape = shape[1:]
	}
	if len(shape) != 1 || shape[0] != cfg.HeadDim/2 || !t.Type.Float() {
		g.err = Errorf(g.file, t.Name, "is %v of %v, want [%d] of a float type", t.Type, t.Shape, cfg.HeadDim/2)
		return nil
	}
	raw := make([]byte, t.Bytes)
	if _, g.err = vfs.ReadFull(t, raw, 0); g.err != nil {
		return nil
	}
	factors := make([]float32, shape[0])
	block.Decode(t.Type, factors, raw)
	return factors
}

// ggufRope are the keys that state RoPE scaling.
func (v *converter) ggufRope() ([]ggufKey, error) {
	const scaling = "llama.rope.scaling."
	switch s := v.c.Config.RopeScaling; s.Type {
	case "linear":
		return []ggufKey{{scaling + "type", "linear"}, {scaling + "factor", float32(s.Factor)}}, nil
	case "yarn":
		if s.NoTruncate {
			return nil, fmt.Errorf("%s: GGUF cannot say yarn RoPE scaling with truncate false: %w", v.c.Path, backend.ErrUnsupported)
		}
		fast, slow := s.betas()
		keys := []ggufKey{{scaling + "type", "yarn"}, {scaling + "factor", float32(s.Factor)}, {scaling + "original_context_length", uint32(s.OriginalContext)},
			{scaling + "yarn_beta_fast", float32(fast)}, {scaling + "yarn_beta_slow", float32(slow)}}
		if s.AttentionFactor > 0 {
			keys = append(keys, ggufKey{scaling + "attn_factor", float32(s.AttentionFactor / mscale(s.Factor, 1))})
		}
		return keys, nil
	case "longrope":
		keys := []ggufKey{{scaling + "type", "longrope"}, {scaling + "original_context_length", uint32(s.OriginalContext)},
			{scaling + "attn_factor", float32(s.attentionFactor())}}
		if s.Factor > 0 {
			keys = append(keys, ggufKey{scaling + "factor", float32(s.Factor)})
		}
		return keys, nil
	}
	return nil, nil
}

// ggufFactors writes the tensors of factors.
func (v *converter) ggufFactors(w *gguf.Writer) error {
	add := func(name string, factors []float32) error {
		raw := make([]byte, 4*len(factors))
		for i, f := range factors {
			binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(f))
		}
		return w.Add(name, backend.F32, []int{len(factors)}, strings.NewReader(string(raw)))
	}
	switch s := v.c.Config.RopeScaling; s.Type {
	case "llama3", "factors":
		return add(ropeFreqs, v.c.Config.ropeFactors())
	case "longrope":
		if err := add(ropeShort, s.Factors); err != nil {
			return err
		}
		return add(ropeLong, s.LongFactors)
	}
	return nil
}
