package sample

import "math"

// Alt is a token with its log-probability.
type Alt struct {
	ID      int32
	Logprob float32 // natural logarithm, <= 0
}

// Logprob returns log softmax(logits)[id], in nats:
//
//	logits[id] - max - log(sum over i of exp(logits[i] - max))
//
// summed in float64. An id outside the vocabulary, or whose logit is -Inf or
// NaN, has log-probability -Inf.
func Logprob(logits []float32, id int32) float64 {
	if id < 0 || int(id) >= len(logits) || !(logits[id] > negInf) {
		return math.Inf(-1)
	}
	return newSoftmax(logits).log(logits[id])
}

// TopLogprobs returns the k most likely tokens, the most likely first, of
// equally likely ones the lowest ids first, in dst[:0]. There are fewer than k
// where fewer have a probability above 0. Up to k = 32 it allocates nothing
// if dst has the capacity.
func TopLogprobs(dst []Alt, logits []float32, k int) []Alt {
	dst = dst[:0]
	if k <= 0 || argmax(logits) < 0 {
		return dst
	}
	var buf [32]uint64
	z := newSoftmax(logits)
	for _, x := range selectTop(buf[:0], nil, logits, k) {
		dst = append(dst, Alt{keyID(x), float32(z.log(keyLogit(x)))})
	}
	return dst
}

// softmax is what the log-probabilities of one row have in common.
type softmax struct {
	max    float32 // the largest logit
	logSum float64 // log(sum exp(logit - max))
}

// newSoftmax wants at least one logit above -Inf.
func newSoftmax(logits []float32) softmax {
	max := logits[argmax(logits)]
	sum := 0.0
	for _, l := range logits {
		if l == max { // +Inf too
			sum++
		} else if l-max > -700 {
			sum += expDiff(l, max)
		}
	}
	return softmax{max, math.Log(sum)}
}

func (z softmax) log(logit float32) float64 {
	if logit == z.max {
		return -z.logSum
	}
	return float64(logit) - float64(z.max) - z.logSum
}
