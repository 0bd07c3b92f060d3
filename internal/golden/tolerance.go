package golden

import "math"

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

// Tolerances of training in float32, relative to the largest value of a tensor
// unless it says absolute. The files are computed in float64; "seen" is how far
// other float32 implementations are from them.
const (
	// TrainLoss: absolute; seen 1e-6. Packing without a mask between documents
	// moves the loss by 3e-3, and so does leaving out the z-loss.
	TrainLoss = 5e-6
	// TrainLogits, those of models with adapters and log-probabilities: seen 3e-6.
	TrainLogits = 1e-5
	// TrainGrad: seen 3e-6. Leaving out the z-loss changes some tensors by only 4e-5.
	TrainGrad = 1e-5
	// AdapterGrad: of the matrices of an adapter; seen 1e-5 (rsLoRA).
	AdapterGrad = 3e-5
	// MergedWeights: seen 2e-7.
	MergedWeights = 1e-6
	// Moments of AdamW: seen 5e-6.
	Moments = 3e-5
	// WeightMean of the differences after AdamW, absolute: seen 4e-8. An eps 10
	// times larger gives 8e-6, a wrong decay or beta 7e-5.
	WeightMean = 2e-7
	// WeightLargest of these differences, absolute: seen 2e-5. The first update is
	// g/(|g| + eps), uncertain where a gradient is near eps.
	WeightLargest = 2e-4
)

// Tolerances of operations and their gradients in float32, relative to the largest
// value of the tensor.
const (
	// Operation: seen 3e-7.
	Operation = 2e-6
	// LogSoftmax, and what is computed from a log-sum-exp in float32: seen 3e-6. A row
	// is shifted by 100, where float32 numbers are 8e-6 apart: the log-sum-exp is off
	// by half of that, which is the relative error of exp(x - lse).
	LogSoftmax = 1e-5
)

// Rotation is the tolerance of rotations by positions up to most: an angle, the position
// times a frequency of at most 1, is off by half a unit in the last place of the frequency
// and half a unit of the product, together 2^-24 of it, and what is rotated by as much. The
// reference's angle is too.
func Rotation(most float64) float64 { return Operation + most*0x1p-23 }

// Loss is the tolerance of losses and their gradients in float32, relative to
// max(1, |value|): 1e-5, but two units in the last place of the largest logit
// where that is more (1e-3 for logits near 5000), as logits are differences of such.
func Loss(largest float64) float64 {
	x := float32(largest)
	return max(1e-5, 2*float64(math.Nextafter32(x, float32(math.Inf(1)))-x))
}
