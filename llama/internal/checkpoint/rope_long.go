package checkpoint

import (
	"errors"
	"fmt"
	"math"
)

// The two ways of long contexts that also change how large scores are. Formulas and the
// order of roundings are those of
// https://github.com/huggingface/transformers, modeling_rope_utils.py.

func (s RopeScaling) validateYarn() error {
	var errs []error
	bad := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("yarn RopeScaling: "+format, a...))
		}
	}
	bad(s.Factor >= 1 && !math.IsInf(s.Factor, 0), "Factor is %v, want at least 1", s.Factor)
	bad(s.OriginalContext > 0, "OriginalContext is %d, want a positive number", s.OriginalContext)
	fast, slow := s.betas()
	bad(slow > 0 && fast >= slow && !math.IsInf(fast, 0), "BetaFast is %v and BetaSlow %v, want positive numbers, the first not the lesser", fast, slow)
	bad(s.AttentionFactor >= 0 && s.AttentionFactor < 1e6, "AttentionFactor is %v, want a positive number, or 0 for what follows from Factor", s.AttentionFactor)
	return errors.Join(errs...)
}

func (s RopeScaling) validateLong(headDim int) error {
	for _, list := range [][]float32{s.Factors, s.LongFactors} {
		if err := validFactors(list, headDim); err != nil {
			return fmt.Errorf("longrope %w", err)
		}
	}
	switch {
	case s.OriginalContext < 2:
		return fmt.Errorf("longrope RopeScaling: OriginalContext is %d, want at least 2", s.OriginalContext)
	case !(s.Factor >= 0) || math.IsInf(s.Factor, 0):
		return fmt.Errorf("longrope RopeScaling: Factor is %v, want a positive number, or 0 for none", s.Factor)
	case !(s.AttentionFactor >= 0 && s.AttentionFactor < 1e6):
		return fmt.Errorf("longrope RopeScaling: AttentionFactor is %v, want a positive number, or 0 for what follows from Factor", s.AttentionFactor)
	}
	return nil
}

func (s RopeScaling) betas() (fast, slow float64) {
	fast, slow = s.BetaFast, s.BetaSlow
	if fast == 0 {
		fast = 32
	}
	if slow == 0 {
		slow = 1
	}
	return fast, slow
}

// yarn writes frequencies [HeadDim/2] (https://arxiv.org/abs/2309.00071, section 3.2): pairs
// that turn more than BetaFast times within the original context keep theirs, those that
// turn less than BetaSlow times have it divided by Factor, and between a ramp over the
// number of the pair mixes both.
func (c Config) yarn(f []float32) {
	s := c.RopeScaling
	pair := func(turns float64) float64 {
		return float64(c.HeadDim) * math.Log(float64(s.OriginalContext)/(turns*2*math.Pi)) / (2 * math.Log(c.RopeTheta))
	}
	fast, slow := s.betas()
	low, high := pair(fast), pair(slow)
	if !s.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(c.HeadDim-1))
	if low == high {
		high += 0.001
	}
	for i := range f {
		power := float32(math.Pow(c.RopeTheta, float64(float32(2*i)/float32(c.HeadDim))))
		kept, divided := 1/power, 1/(float32(s.Factor)*power)
		keep := 1 - min(max((float32(i)-float32(low))/float32(high-low), 0), 1)
		f[i] = float32(divided*(1-keep)) + float32(kept*keep)
	}
}

// RopeFactor multiplies the rotation of queries and keys.
func RopeFactor(c Config) float32 {
	switch s := c.RopeScaling; s.Type {
	case "yarn", "longrope":
		return float32(s.attentionFactor())
	}
	return 1
}

// attentionFactor is AttentionFactor, or what follows from the other settings: of "yarn"
// mscale(Factor), of "longrope" sqrt(1 + ln Factor / ln OriginalContext).
func (s RopeScaling) attentionFactor() float64 {
	switch {
	case s.AttentionFactor > 0:
		return s.AttentionFactor
	case s.Factor <= 1:
		return 1
	case s.Type == "yarn":
		return mscale(s.Factor, 1)
	}
	return math.Sqrt(1 + math.Log(s.Factor)/math.Log(float64(s.OriginalContext)))
}

// mscale is how much larger the rotation gets by a factor of the context
// (https://arxiv.org/abs/2309.00071, section 3.3), with a weight on its logarithm.
func mscale(factor, weight float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*weight*math.Log(factor) + 1
}

// hfLongRope are the keys of config.json that only yarn and longrope have.
type hfLongRope struct {
	BetaFast        float64   `json:"beta_fast"`
	BetaSlow        float64   `json:"beta_slow"`
	AttentionFactor *float64  `json:"attention_factor"`
	MScale          float64   `json:"mscale"`
	MScaleAllDim    float64   `json:"mscale_all_dim"`
	Truncate        *bool     `json:"truncate"`
	ShortFactor     []float32 `json:"short_factor"`
	LongFactor      []float32 `json:"long_factor"`
}

// resolve fills in settings of kind "yarn" or "longrope", for a model of a context.
func (h hfLongRope) resolve(s RopeScaling, context int) (RopeScaling, error) {
	if s.Factor == 0 && s.OriginalContext > 0 {
		s.Factor = float64(context) / float64(s.OriginalContext)
	}
	switch {
	case h.AttentionFactor != nil && !(*h.AttentionFactor > 0):
		return s, fmt.Errorf("attention_factor is %v, want a positive number", *h.AttentionFactor)
	case h.AttentionFactor != nil:
		s.AttentionFactor = *h.AttentionFactor
	case s.Type == "yarn" && h.MScale != 0 && h.MScaleAllDim != 0:
		s.AttentionFactor = mscale(s.Factor, h.MScale) / mscale(s.Factor, h.MScaleAllDim)
	}
	if s.Type == "longrope" {
		s.Factors, s.LongFactors = h.ShortFactor, h.LongFactor
		return s, nil
	}
	s.BetaFast, s.BetaSlow, s.NoTruncate = h.BetaFast, h.BetaSlow, h.Truncate != nil && !*h.Truncate
	return s, nil
}

// hfLongRope is the value of rope_scaling for yarn and longrope.
func (s RopeScaling) hfLongRope() map[string]any {
	out := map[string]any{"rope_type": s.Type, "factor": shortest(s.Factor), "original_max_position_embeddings": s.OriginalContext}
	if s.AttentionFactor > 0 {
		out["attention_factor"] = shortest(s.AttentionFactor)
	}
	if s.Type == "longrope" {
		out["short_factor"], out["long_factor"] = s.Factors, s.LongFactors
		if s.Factor == 0 {
			delete(out, "factor")
		}
		return out
	}
	fast, slow := s.betas()
	out["beta_fast"], out["beta_slow"] = shortest(fast), shortest(slow)
	if s.NoTruncate {
		out["truncate"] = false
	}
	return out
}
