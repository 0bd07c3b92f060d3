package cpu

import "math"

// exp32 is e^x to less than 2 ulp; denormals, infinities and NaN included.
// With n = round(x/ln 2) and r = x - n ln 2, |r| <= 0.35, it is 2^n times the
// Taylor series of e^r, whose first missing term r^8/8! is below 6e-9. ln 2 is
// taken off in two parts, the first short enough for n*ln2Hi to be exact
// (Cody and Waite, Software Manual for the Elementary Functions, 1980, ch. 6).
// Conversions keep compilers from fusing, so all machines agree.
func exp32(x float32) float32 {
	const (
		ln2Hi = 0.693359375 // 10 bits
		ln2Lo = math.Ln2 - ln2Hi
		round = 1.5 * (1 << 23) // x + round - round is the integer nearest x
	)
	switch {
	case x > 89:
		return float32(math.Inf(1))
	case x < -104:
		return 0
	case x != x:
		return x
	}
	n := float32(float32(x*math.Log2E)+round) - round
	r := float32(x-float32(n*ln2Hi)) - float32(n*ln2Lo)
	p := float32(1.0/5040)*r + 1.0/720
	p = float32(p*r) + 1.0/120
	p = float32(p*r) + 1.0/24
	p = float32(p*r) + 1.0/6
	p = float32(p*r) + 0.5
	p = float32(float32(p*r)*r) + r
	p += 1
	// 2^n may not be a float32, its two halves are.
	i := int32(n)
	return p * pow2(i>>1) * pow2(i-i>>1)
}

// pow2 is 2^n for -126 <= n <= 127.
func pow2(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }
