package checkpoint

import (
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
)

// RopeScaling stretches the rotation frequencies for long contexts. The zero
// value leaves them as they are.
type RopeScaling struct {
	// Type is "" (none), "linear", "llama3", "yarn", "longrope" or "factors".
	Type string
	// Factor is what the frequencies are divided by, in full or in part. Of "longrope"
	// only AttentionFactor follows from it.
	Factor float64
	// LowFreqFactor, HighFreqFactor are for "llama3": see Frequencies.
	LowFreqFactor, HighFreqFactor float64
	// OriginalContext is for "llama3", "yarn" and "longrope".
	OriginalContext int
	// BetaFast and BetaSlow are for "yarn", turns within the original context; 0 is 32
	// and 1. NoTruncate does not make whole numbers of the pairs that they are of.
	BetaFast, BetaSlow float64
	NoTruncate         bool
	// AttentionFactor multiplies the rotation of "yarn" and "longrope"; 0 is what follows
	// from Factor.
	AttentionFactor float64
	// Factors [HeadDim/2] divide each frequency, for "factors": GGUF files hold
	// the outcome of "llama3" instead of its settings. LongFactors take their place in
	// contexts of more than OriginalContext positions, for "longrope".
	Factors, LongFactors []float32
}

func (s RopeScaling) validate(headDim int) error {
	positive := func(x float64) bool { return x > 0 && !math.IsInf(x, 0) }
	switch s.Type {
	case "":
		return nil
	case "linear":
		if !positive(s.Factor) {
			return fmt.Errorf("linear RopeScaling: Factor is %v, want a positive number", s.Factor)
		}
		return nil
	case "llama3":
		if !positive(s.Factor) || !positive(s.LowFreqFactor) || !(s.HighFreqFactor > s.LowFreqFactor) || math.IsInf(s.HighFreqFactor, 0) || s.OriginalContext <= 0 {
			return fmt.Errorf("llama3 RopeScaling: Factor %v, LowFreqFactor %v < HighFreqFactor %v and OriginalContext %d must be positive",
				s.Factor, s.LowFreqFactor, s.HighFreqFactor, s.OriginalContext)
		}
		return nil
	case "yarn":
		return s.validateYarn()
	case "longrope":
		return s.validateLong(headDim)
	case "factors":
		return validFactors(s.Factors, headDim)
	case "dynamic":
		return fmt.Errorf("RopeScaling type dynamic is %w: it needs frequencies that change with the length of each sequence", backend.ErrUnsupported)
	}
	return fmt.Errorf("RopeScaling type %q is %w: none, linear, llama3, yarn and longrope are", s.Type, backend.ErrUnsupported)
}

// validFactors checks factors of all pairs.
func validFactors(factors []float32, headDim int) error {
	if len(factors) != headDim/2 {
		return fmt.Errorf("RopeScaling: %d factors for %d pairs", len(factors), headDim/2)
	}
	for i, f := range factors {
		if !(f > 0) || math.IsInf(float64(f), 0) {
			return fmt.Errorf("RopeScaling: factor %d is %v, want a positive number", i, f)
		}
	}
	return nil
}

// Frequencies returns the angle [HeadDim/2] by which a position advances each
// pair, in radians: f_i = theta^(-2i/hd) (https://arxiv.org/abs/2104.09864,
// section 3.2.2), then scaled. With wavelength l = 2 pi / f and L the original
// context, "llama3" keeps f where l < L/high, divides it by Factor where
// l > L/low, and between mixes both with weight s = (L/l - low)/(high - low)
// on f (https://github.com/meta-llama/llama-models, apply_scaling). The factors of
// "longrope" depend on whether a context of so many positions is longer than the original
// one; see yarn for "yarn".
func Frequencies(c Config, positions int) []float32 {
	f := make([]float32, c.HeadDim/2)
	s := c.RopeScaling
	switch {
	case s.Type == "yarn":
		c.yarn(f)
		return f
	case s.Type == "longrope" && positions > s.OriginalContext:
		s.Type, s.Factors = "factors", s.LongFactors
	case s.Type == "longrope":
		s.Type = "factors"
	}
	for i := range f {
		// The reference rounds to float32 after each of these steps.
		f[i] = float32(1 / float64(float32(math.Pow(c.RopeTheta, float64(float32(2*i)/float32(c.HeadDim))))))
		switch s.Type {
		case "linear":
			f[i] /= float32(s.Factor)
		case "factors":
			f[i] /= s.Factors[i]
		case "llama3":
			x, l := float64(f[i]), float64(s.OriginalContext)
			wave := 2 * math.Pi / x
			switch {
			case wave < l/s.HighFreqFactor:
			case wave > l/s.LowFreqFactor:
				f[i] = float32(x / s.Factor)
			default:
				mix := (l/wave - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
				f[i] = float32((1-mix)*x/s.Factor + mix*x)
			}
		}
	}
	return f
}

// ropeFactors are what llama3 scaling divides each frequency by, [HeadDim/2],
// as GGUF files hold them.
func (c Config) ropeFactors() []float32 {
	if c.RopeScaling.Type == "factors" {
		return c.RopeScaling.Factors
	}
	plain := c
	plain.RopeScaling = RopeScaling{}
	f, g := Frequencies(plain, 0), Frequencies(c, 0)
	for i := range f {
		f[i] /= g[i]
	}
	return f
}

// llama3Scaling returns the settings of llama3 scaling. For factors from a GGUF
// file it takes settings that give them: hint, or ones of the published form
// (low 1, high 4, an original context that is a power of two).
func (c Config) llama3Scaling(hint RopeScaling) (RopeScaling, bool) {
	if c.RopeScaling.Type != "factors" {
		return c.RopeScaling, c.RopeScaling.Type == "llama3"
	}
	if c.scalesAs(hint) {
		return hint, true
	}
	for original := 16; original <= 1<<20; original *= 2 {
		s := RopeScaling{Type: "llama3", LowFreqFactor: 1, HighFreqFactor: 4, OriginalContext: original}
		if s.Factor = c.solveFactor(s); c.scalesAs(s) {
			return s, true
		}
	}
	return RopeScaling{}, false
}

// solveFactor finds the Factor that explains the largest of the file's factors,
// which belongs to the lowest frequency: 1/f = (1-mix)/Factor + mix, with the
// mix of Frequencies.
func (c Config) solveFactor(s RopeScaling) float64 {
	last := len(c.RopeScaling.Factors) - 1
	plain := c
	plain.RopeScaling = RopeScaling{}
	wave := 2 * math.Pi / float64(Frequencies(plain, 0)[last])
	mix := (float64(s.OriginalContext)/wave - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
	mix = min(max(mix, 0), 1)
	if mix == 1 {
		return 1
	}
	factor := (1 - mix) / (1/float64(c.RopeScaling.Factors[last]) - mix)
	if whole := math.Round(factor); math.Abs(factor-whole) < 1e-3*whole {
		return whole // what float32 blurred
	}
	return factor
}

// scalesAs tells whether settings give the factors of the file, to float32.
func (c Config) scalesAs(s RopeScaling) bool {
	if s.Type != "llama3" || s.validate(c.HeadDim) != nil {
		return false
	}
	try := c
	try.RopeScaling = s
	for i, f := range try.ropeFactors() {
		if !(math.Abs(float64(f/c.RopeScaling.Factors[i])-1) < 1e-5) {
			return false
		}
	}
	return true
}
