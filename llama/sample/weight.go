package sample

import "math"

// Weights are probabilities relative to the largest, in units of 2^-40. Fewer
// than 2^24 of them cannot overflow 64 bits.
const (
	weightOne     = 1 << 40
	maxCandidates = 1 << 24
	minExponent   = -29 // exp(-29) < 2^-41 rounds to 0
)

// weight returns exp(logit - max) as a weight, rounded to nearest; max itself
// weighs weightOne even if it is +Inf, and NaN weighs nothing.
func weight(logit, max float32) uint64 {
	if logit == max {
		return weightOne
	}
	if !(logit-max > minExponent) {
		return 0
	}
	return uint64(int64(float64(expDiff(logit, max)*weightOne) + 0.5))
}

// expDiff returns exp(a - b) for a - b in [-700, 0], to a relative 2e-12: with
// a - b = (n ln 2)/32 + r and |r| <= ln(2)/64 it is 2^(n/32) times the Taylor
// sum of e^r to r^4. Source: Tang 1989, "Table-driven implementation of the
// exponential function in IEEE floating-point arithmetic".
//
// Unlike math.Exp it gives the same bits on every platform: the conversions
// keep the compiler from fusing multiplications with additions. It takes two
// float32 because a conversion before the call would make each call wait for
// the result of the one before (CVTSS2SD keeps the upper half of its target),
// at a third of the speed.
func expDiff(a, b float32) float64 {
	const (
		perLn2 = 32 / math.Ln2
		ln2Hi  = 0x1.62e42fefap-6 // upper bits of ln(2)/32: n*ln2Hi is exact
		ln2Lo  = math.Ln2/32 - ln2Hi
		shift  = 3 << 51 // adding it rounds to an integer, held in the low bits
	)
	x := float64(a) - float64(b)
	t := float64(x*perLn2) + shift
	n := t - shift
	r := (x - float64(n*ln2Hi)) - float64(n*ln2Lo)
	r2 := float64(r * r)
	p := 1 + r + float64(r2*(1.0/2+float64(r*(1.0/6))+float64(r2*(1.0/24))))
	i := math.Float64bits(t)
	return p * math.Float64frombits(math.Float64bits(exp2[i%32])+i>>5<<52)
}

// exp2[j] is 2^(j/32), rounded to nearest.
var exp2 = [32]float64{
	0x1.0000000000000p+0, 0x1.059b0d3158574p+0, 0x1.0b5586cf9890fp+0, 0x1.11301d0125b51p+0,
	0x1.172b83c7d517bp+0, 0x1.1d4873168b9aap+0, 0x1.2387a6e756238p+0, 0x1.29e9df51fdee1p+0,
	0x1.306fe0a31b715p+0, 0x1.371a7373aa9cbp+0, 0x1.3dea64c123422p+0, 0x1.44e086061892dp+0,
	0x1.4bfdad5362a27p+0, 0x1.5342b569d4f82p+0, 0x1.5ab07dd485429p+0, 0x1.6247eb03a5585p+0,
	0x1.6a09e667f3bcdp+0, 0x1.71f75e8ec5f74p+0, 0x1.7a11473eb0187p+0, 0x1.82589994cce13p+0,
	0x1.8ace5422aa0dbp+0, 0x1.93737b0cdc5e5p+0, 0x1.9c49182a3f090p+0, 0x1.a5503b23e255dp+0,
	0x1.ae89f995ad3adp+0, 0x1.b7f76f2fb5e47p+0, 0x1.c199bdd85529cp+0, 0x1.cb720dcef9069p+0,
	0x1.d5818dcfba487p+0, 0x1.dfc97337b9b5fp+0, 0x1.ea4afa2a490dap+0, 0x1.f50765b6e4540p+0,
}
