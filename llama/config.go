package llama

import "github.com/herd-ml/herd/llama/internal/checkpoint"

// Config is the resolved shape of a model: what the files say, in one
// vocabulary. Names in other projects: Dim is hidden_size, HiddenDim is
// intermediate_size (feed_forward_length in GGUF), KVHeads is
// num_key_value_heads, NormEps is rms_norm_eps.
//
//	Layers    int // transformer layers
//	Dim       int // width of the residual stream
//	Heads     int // query heads
//	KVHeads   int // key-value heads; Heads is a multiple of it
//	HeadDim   int // width of a head; even
//	HiddenDim int // width of the feed-forward layer
//	Vocab     int // rows of the embedding table
//	Context   int // positions the model was trained for
//
//	NormEps     float64 // added under the root in RMSNorm
//	RopeTheta   float64 // base of the rotation frequencies
//	RopeScaling RopeScaling
//
//	SlidingWindow int // positions a row sees, itself included; 0 is all
//
//	EmbeddingScale float64 // embeddings are multiplied by it; of all four 0 is none
//	ResidualScale  float64 // so is what each half of a layer adds
//	AttentionScale float64 // so are scores, in the place of 1/sqrt(HeadDim)
//	LogitsScale    float64 // logits are divided by it
//
//	TiedEmbeddings      bool // the output layer is the embedding table
//	AttentionBias       bool // biases on q, k and v
//	AttentionOutputBias bool // a bias on the attention's output
//	MLPBias             bool // biases in the feed-forward layer
//
// Validate lists every violation. Params is the number of parameters, tied ones
// once.
type Config = checkpoint.Config

// RopeScaling stretches the rotation frequencies for long contexts. The zero
// value leaves them as they are.
//
//	Type            string    // "" (none), "linear", "llama3", "yarn", "longrope" or "factors"
//	Factor          float64   // what frequencies are divided by, in full or in part
//	LowFreqFactor   float64   // for "llama3"
//	HighFreqFactor  float64   // for "llama3"
//	OriginalContext int       // for "llama3", "yarn" and "longrope", in positions
//	BetaFast        float64   // for "yarn"; 0 is 32
//	BetaSlow        float64   // for "yarn"; 0 is 1
//	NoTruncate      bool      // for "yarn": where the ramp begins and ends is not made whole
//	AttentionFactor float64   // of the rotation, for "yarn" and "longrope"; 0 follows from Factor
//	Factors         []float32 // [HeadDim/2]: each divides a frequency, for "factors" and, up to OriginalContext, "longrope"
//	LongFactors     []float32 // [HeadDim/2]: so do these for longer contexts, for "longrope"
type RopeScaling = checkpoint.RopeScaling

// The published sizes. Each is numbers only; table 3 of
// https://arxiv.org/abs/2407.21783 and, for 1B and 3B, the Llama 3.2 model card.

func llama31(layers, dim, heads, kvHeads, hidden int) Config {
	return Config{
		Layers: layers, Dim: dim, Heads: heads, KVHeads: kvHeads, HeadDim: dim / heads, HiddenDim: hidden,
		Vocab: 128256, Context: 131072, NormEps: 1e-5, RopeTheta: 500000,
		RopeScaling: RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalContext: 8192},
	}
}

func llama32(layers, dim, heads, hidden int) Config {
	c := llama31(layers, dim, heads, 8, hidden)
	c.TiedEmbeddings = true
	c.RopeScaling.Factor = 32
	return c
}

// Config1B is Llama 3.2 1B.
func Config1B() Config { return llama32(16, 2048, 32, 8192) }

// Config3B is Llama 3.2 3B.
func Config3B() Config { return llama32(28, 3072, 24, 8192) }

// Config8B is Llama 3.1 8B.
func Config8B() Config { return llama31(32, 4096, 32, 8, 14336) }

// Config70B is Llama 3.1 70B.
func Config70B() Config { return llama31(80, 8192, 64, 8, 28672) }

// Config405B is Llama 3.1 405B.
func Config405B() Config { return llama31(126, 16384, 128, 8, 53248) }

// Config135M is the small model of https://arxiv.org/abs/2502.02737, of the
// same architecture.
func Config135M() Config {
	return Config{
		Layers: 30, Dim: 576, Heads: 9, KVHeads: 3, HeadDim: 64, HiddenDim: 1536,
		Vocab: 49152, Context: 8192, NormEps: 1e-5, RopeTheta: 100000, TiedEmbeddings: true,
	}
}
