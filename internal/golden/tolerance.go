package golden

// Tolerances of whole-model tests, relative to the largest logit of the case.
// Those of single operations are in backend/backendtest.
const (
	// F32Logits: a float64 forward pass differs from the stored float32 logits by
	// at most 1e-5; a factor of 20 is left for another order of summation, and
	// the effect of any wrong constant is 100 times larger.
	F32Logits = 2e-4
	// Auto16Logits: activations rounded to f16 or bf16; llama.cpp shows 1.6e-2.
	Auto16Logits = 3e-2
	// AutoQuantLogits: activations rounded to 8 bits; llama.cpp shows 5.4e-2.
	AutoQuantLogits = 6e-2
	// IncrementalLogits: decoding and prefill sum in the same order, but a
	// variant may fuse differently for one row and for many.
	IncrementalLogits = 1e-4
	// RealLogprob: a float32 forward over decoded weights against the stored
	// log-probabilities of the real model, absolute.
	RealLogprob = 2e-3
	// RealPerplexity: relative, for 8-bit activations; llama.cpp shows 1.2e-2.
	RealPerplexity = 2e-2
)
