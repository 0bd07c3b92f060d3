package quantize

import (
	"math"
	"slices"
)

// A Divergence says how far what a model thinks of a text is from what another, the base,
// thinks of it. Errors are standard errors of means, as if positions were independent.
type Divergence struct {
	Tokens, Chunks int
	// NLL is the mean negative log-likelihood of the text's tokens, in nats, PPL exp(NLL).
	NLL, PPL         float64
	BaseNLL, BasePPL float64
	// PPLRatio is PPL / BasePPL.
	PPLRatio, PPLRatioError float64
	// KL is the mean over positions of the Kullback-Leibler divergence from the base,
	//
	//	sum over tokens of p_base (log p_base - log p)
	//
	// in nats, and Percentiles are of its values.
	KL, KLError float64
	Percentiles []Percentile
	// SameTop is the share of positions where both think the same token most likely.
	SameTop, SameTopError float64
	// DeltaP is the mean of how much more likely the text's token is than for the base,
	// and DeltaPRMS the root of the mean square of that.
	DeltaP, DeltaPRMS float64
}

// A Percentile is a value that so many in a hundred are not above.
type Percentile struct{ Percent, Value float64 }

// percents are those of Divergence.Percentiles.
var percents = []float64{0, 1, 5, 10, 50, 90, 95, 99, 99.9, 100}

// A Comparison makes a Divergence, position by position. The zero value is ready.
type Comparison struct {
	nll, base     []float64
	kl            []float64
	same          int
	delta, deltas float64 // sum and sum of squares
}

// Add adds a position: the log-probabilities of the base and of the model, and the text's
// token there.
func (c *Comparison) Add(base, model []float32, token int32) {
	model = model[:len(base)]
	kl := 0.0
	bestBase, best := 0, 0
	for i, b := range base {
		// Where the base has no probability at all, p log p is 0.
		if p := math.Exp(float64(b)); p > 0 {
			kl += p * (float64(b) - float64(model[i]))
		}
		if b > base[bestBase] {
			bestBase = i
		}
		if model[i] > model[best] {
			best = i
		}
	}
	c.kl = append(c.kl, kl)
	if best == bestBase {
		c.same++
	}
	c.nll, c.base = append(c.nll, -float64(model[token])), append(c.base, -float64(base[token]))
	d := math.Exp(float64(model[token])) - math.Exp(float64(base[token]))
	c.delta += d
	c.deltas += d * d
}

// Result is the comparison of the positions added, of which there must be one.
func (c *Comparison) Result(chunks int) Divergence {
	n := float64(len(c.kl))
	d := Divergence{Tokens: len(c.kl), Chunks: chunks, DeltaP: c.delta / n, DeltaPRMS: math.Sqrt(c.deltas / n), SameTop: float64(c.same) / n}
	d.NLL, _ = meanError(c.nll)
	d.BaseNLL, _ = meanError(c.base)
	d.PPL, d.BasePPL = math.Exp(d.NLL), math.Exp(d.BaseNLL)
	differences := make([]float64, len(c.nll))
	for i, x := range c.nll {
		differences[i] = x - c.base[i]
	}
	ratio, err := meanError(differences)
	d.PPLRatio = math.Exp(ratio)
	d.PPLRatioError = d.PPLRatio * err // to first order
	d.KL, d.KLError = meanError(c.kl)
	d.SameTopError = math.Sqrt(d.SameTop * (1 - d.SameTop) / max(n-1, 1))
	sorted := slices.Sorted(slices.Values(c.kl))
	for _, p := range percents {
		at := p / 100 * (n - 1)
		i := int(at)
		low, high := sorted[i], sorted[min(i+1, len(sorted)-1)]
		d.Percentiles = append(d.Percentiles, Percentile{p, low + (high-low)*(at-float64(i))})
	}
	return d
}

// meanError is the mean of numbers and its standard error, 0 of one number.
func meanError(x []float64) (mean, err float64) {
	n := float64(len(x))
	for _, v := range x {
		mean += v / n
	}
	for _, v := range x {
		err += (v - mean) * (v - mean) / n
	}
	return mean, math.Sqrt(err / max(n-1, 1))
}
