package checkpoint

import (
	"errors"
	"fmt"
	"math"
)

// Config is the resolved shape of a model: what the files say, in one
// vocabulary. Names in other projects: Dim is hidden_size, HiddenDim is
// intermediate_size (feed_forward_length in GGUF), KVHeads is
// num_key_value_heads, NormEps is rms_norm_eps.
type Config struct {
	Layers    int // transformer layers
	Dim       int // width of the residual stream
	Heads     int // query heads
	KVHeads   int // key-value heads; Heads is a multiple of it
	HeadDim   int // width of a head; even
	HiddenDim int // width of the feed-forward layer
	Vocab     int // rows of the embedding table
	Context   int // positions the model was trained for

	NormEps     float64 // added under the root in RMSNorm
	RopeTheta   float64 // base of the rotation frequencies
	RopeScaling RopeScaling

	// SlidingWindow is how many positions a row sees, itself included; 0 is all.
	SlidingWindow int

	// Factors of models that are a Llama but for them; 0 is none.
	EmbeddingScale float64 // embeddings are multiplied by it
	ResidualScale  float64 // so is what each half of a layer adds
	AttentionScale float64 // so are scores, in the place of 1/sqrt(HeadDim)
	LogitsScale    float64 // logits are divided by it

	TiedEmbeddings      bool // the output layer is the embedding table
	AttentionBias       bool // biases on q, k and v
	AttentionOutputBias bool // a bias on the attention's output
	MLPBias             bool // biases in the feed-forward layer
}

// limits that no real model comes near; they keep sums of sizes in 63 bits.
const (
	maxLayers = 1 << 12
	maxDim    = 1 << 20
	maxVocab  = 1 << 24
)

// Validate lists every violation.
func (c Config) Validate() error {
	var errs []error
	bad := func(ok bool, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	size := func(name string, v, most int) { bad(v > 0 && v <= most, "%s is %d, want 1 to %d", name, v, most) }
	size("Layers", c.Layers, maxLayers)
	size("Dim", c.Dim, maxDim)
	size("Heads", c.Heads, maxDim)
	size("KVHeads", c.KVHeads, maxDim)
	size("HeadDim", c.HeadDim, maxDim)
	size("HiddenDim", c.HiddenDim, maxDim)
	size("Vocab", c.Vocab, maxVocab)
	size("Context", c.Context, math.MaxInt32)
	bad(c.HeadDim%2 == 0, "HeadDim is %d, want an even number", c.HeadDim)
	bad(c.KVHeads <= 0 || c.Heads%c.KVHeads == 0, "Heads is %d, not a multiple of KVHeads %d", c.Heads, c.KVHeads)
	bad(c.Heads <= 0 || c.HeadDim <= maxDim/c.Heads, "Heads %d times HeadDim %d is above %d", c.Heads, c.HeadDim, maxDim)
	bad(c.NormEps > 0 && c.NormEps < 1, "NormEps is %v, want between 0 and 1", c.NormEps)
	bad(c.RopeTheta > 0 && !math.IsInf(c.RopeTheta, 0), "RopeTheta is %v, want a positive number", c.RopeTheta)
	bad(c.SlidingWindow >= 0 && c.SlidingWindow <= math.MaxInt32, "SlidingWindow is %d, want a number of positions, or 0 for all", c.SlidingWindow)
	scale := func(name string, v float64) {
		bad(v == 0 || v > 1e-6 && v < 1e6, "%s is %v, want a factor of 1e-6 to 1e6, or 0 for none", name, v)
	}
	scale("EmbeddingScale", c.EmbeddingScale)
	scale("ResidualScale", c.ResidualScale)
	scale("AttentionScale", c.AttentionScale)
	scale("LogitsScale", c.LogitsScale)
	if err := c.RopeScaling.validate(c.HeadDim); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// scaled reports whether the model has factors that a Llama does not have.
func (c Config) scaled() bool {
	return c.EmbeddingScale != 0 || c.ResidualScale != 0 || c.AttentionScale != 0 || c.LogitsScale != 0
}

// Params is the number of parameters, tied ones once.
func (c Config) Params() int64 {
	d, q, kv, h := int64(c.Dim), int64(c.Heads*c.HeadDim), int64(c.KVHeads*c.HeadDim), int64(c.HiddenDim)
	layer := d*(2*q+2*kv) + 3*d*h + 2*d
	if c.AttentionBias {
		layer += q + 2*kv
	}
	if c.AttentionOutputBias {
		layer += d
	}
	if c.MLPBias {
		layer += 2*h + d
	}
	n := int64(c.Layers)*layer + int64(c.Vocab)*d + d
	if !c.TiedEmbeddings {
		n += int64(c.Vocab) * d
	}
	return n
}
