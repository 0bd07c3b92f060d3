package kernel

import "math"

// Exp is e^x to less than 2 ulp; denormals, infinities and NaN included.
// With n = round(x/ln 2) and r = x - n ln 2, |r| <= 0.35, it is 2^n times the
// Taylor series of e^r, whose first missing term r^8/8! is below 6e-9. ln 2 is
// taken off in two parts, the first short enough for n*ln2Hi to be exact
// (Cody and Waite, Software Manual for the Elementary Functions, 1980, ch. 6).
// Conversions keep compilers from fusing, so all machines agree.
func Exp(x float32) float32 {
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

// lanes is the number of sums that the functions below keep, of every sixteenth
// element each: all variants add in the same order and give the same bits.
const lanes = 16

// Exps replaces x by exp(scale*x - top), top the largest of scale*x, and returns
// top and the sum. Where all are minus infinity it writes zeros; where one is
// NaN, NaN.
func (s *Set) Exps(x []float32, scale float32) (top, sum float32) {
	if len(x) == 0 {
		return float32(math.Inf(-1)), 0
	}
	if top = s.scaleMax(x, scale); math.IsInf(float64(top), -1) {
		clear(x)
		return top, 0
	}
	return top, s.expSum(x, top)
}

// ExpsFrom replaces x by exp(x - from), which is NaN where both are the same infinity.
func (s *Set) ExpsFrom(x []float32, from float32) {
	if len(x) > 0 {
		s.expSum(x, from)
	}
}

// scaleMaxGeneric multiplies x by scale and returns the largest, or NaN where one is.
func scaleMaxGeneric(x []float32, scale float32) (top float32) {
	top = float32(math.Inf(-1))
	for i := range x {
		x[i] *= scale
		top = max(top, x[i])
	}
	return top
}

// expSumGeneric replaces x by exp(x - from) and returns the sum.
func expSumGeneric(x []float32, from float32) (sum float32) {
	var t [lanes]float32
	addExps(&t, x, from, 0)
	return total(&t)
}

// addExps replaces x[i] by exp(x[i] - from), for i from at on, and adds it to t[i%16].
func addExps(t *[lanes]float32, x []float32, from float32, at int) {
	for i := at; i < len(x); i++ {
		x[i] = Exp(x[i] - from)
		t[i%lanes] += x[i]
	}
}

// Sums are sums of every sixteenth element each. They go on from call to call if all but
// the last have a multiple of 16 elements.
type Sums [lanes]float64

// Total is the sum of all.
func (t Sums) Total() float64 { return total((*[lanes]float64)(&t)) }

// total adds the lanes up by halves, and spoils them.
func total[T float32 | float64](t *[lanes]T) T {
	for n := lanes / 2; n > 0; n /= 2 {
		for i := range n {
			t[i] += t[n+i]
		}
	}
	return t[0]
}

// SwiGLU is y = gate / (1 + exp(-gate)) * up, all of the length of y.
func (s *Set) SwiGLU(y, gate, up []float32) {
	if n := len(y); n > 0 {
		s.swiglu(y, gate[:n], up[:n])
	}
}

func swigluGeneric(y, gate, up []float32) {
	for i, z := range gate {
		y[i] = z / (1 + Exp(-z)) * up[i]
	}
}

// SwiGLUBackward is, with s = 1 / (1 + exp(-gate)), dup = dy*gate*s and dgate =
// dy*up*s * (1 + gate*(1-s)), all of the length of gate. dgate may be gate.
func (s *Set) SwiGLUBackward(dgate, dup, gate, up, dy []float32) {
	if n := len(gate); n > 0 {
		s.swigluBackward(dgate[:n], dup[:n], gate, up[:n], dy[:n])
	}
}

func swigluBackwardGeneric(dgate, dup, gate, up, dy []float32) {
	for i := range gate {
		dgate[i], dup[i] = SwiGLUBackward(gate[i], up[i], dy[i])
	}
}

// SwiGLUBackward is that of one element.
func SwiGLUBackward(gate, up, dy float32) (dgate, dup float32) {
	s := 1 / (1 + Exp(-gate))
	return float32(float32(dy*up)*s) * (1 + float32(gate*(1-s))), float32(dy*gate) * s
}

// Add is y = a + b, all of the length of y.
func (s *Set) Add(y, a, b []float32) {
	if n := len(y); n > 0 {
		s.add(y, a[:n], b[:n])
	}
}

func addGeneric(y, a, b []float32) {
	for i := range y {
		y[i] = a[i] + b[i]
	}
}

// Mix is y = y*p + x*q, products rounded, all of the length of y.
func (s *Set) Mix(y, x []float32, p, q float32) {
	if n := len(y); n > 0 {
		s.mix(y, x[:n], p, q)
	}
}

func mixGeneric(y, x []float32, p, q float32) {
	for i := range y {
		y[i] = float32(y[i]*p) + float32(x[i]*q)
	}
}
