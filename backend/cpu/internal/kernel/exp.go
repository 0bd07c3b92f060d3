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

// half is what avx2 takes of them at a time.
const half = lanes / 2

// Exps replaces x by exp(scale*x - top), top the largest of scale*x, and returns
// top and the sum. Where all are minus infinity it writes zeros; where one is
// NaN, NaN.
func (s *Set) Exps(x []float32, scale float32) (top, sum float32) {
	if s.wide && len(x) > 0 {
		if top = scaleMaxAVX512(x, scale); math.IsInf(float64(top), -1) {
			clear(x)
			return top, 0
		}
		return top, expSumAVX512(x, top)
	}
	var m, t [lanes]float32
	for i := range m {
		m[i] = float32(math.Inf(-1))
	}
	n := s.whole(len(x), half)
	for i := 0; i < min(n, lanes); i += half {
		scaleMaxAVX2(x[i:n], scale, &m[i])
	}
	for i := n; i < len(x); i++ {
		x[i] *= scale
		m[i%lanes] = max(m[i%lanes], x[i])
	}
	top = m[0]
	for _, v := range m[1:] {
		top = max(top, v)
	}
	if math.IsInf(float64(top), -1) {
		clear(x)
		return top, 0
	}
	for i := 0; i < min(n, lanes); i += half {
		expSumAVX2(x[i:n], top, &t[i])
	}
	for i := n; i < len(x); i++ {
		x[i] = Exp(x[i] - top)
		t[i%lanes] += x[i]
	}
	return top, total(&t)
}

// ExpsFrom replaces x by exp(x - from), which is NaN where both are the same infinity.
func (s *Set) ExpsFrom(x []float32, from float32) {
	if s.wide && len(x) > 0 {
		expSumAVX512(x, from)
		return
	}
	var t [lanes]float32
	n := s.whole(len(x), half)
	for i := 0; i < min(n, lanes); i += half {
		expSumAVX2(x[i:n], from, &t[i])
	}
	for i := n; i < len(x); i++ {
		x[i] = Exp(x[i] - from)
	}
}

// total adds the lanes up by halves, and spoils them.
func total[T float32 | float64](t *[lanes]T) T {
	for n := lanes / 2; n > 0; n /= 2 {
		for i := range n {
			t[i] += t[n+i]
		}
	}
	return t[0]
}

// whole is how many of n elements assembly takes, step of them at a time; without
// assembly none.
func (s *Set) whole(n, step int) int {
	if !s.vector {
		return 0
	}
	return n / step * step
}

// SwiGLU is y = gate / (1 + exp(-gate)) * up, all of the length of y.
func (s *Set) SwiGLU(y, gate, up []float32) {
	gate, up = gate[:len(y)], up[:len(y)]
	if s.wide && len(y) > 0 {
		swigluAVX512(y, gate, up)
		return
	}
	n := s.whole(len(y), half)
	if n > 0 {
		swigluAVX2(y[:n], gate, up)
	}
	for i := n; i < len(y); i++ {
		z := gate[i]
		y[i] = z / (1 + Exp(-z)) * up[i]
	}
}

// SwiGLUBackward is, with s = 1 / (1 + exp(-gate)), dup = dy*gate*s and dgate =
// dy*up*s * (1 + gate*(1-s)), all of the length of gate. dgate may be gate.
func (s *Set) SwiGLUBackward(dgate, dup, gate, up, dy []float32) {
	n := len(gate)
	dgate, dup, up, dy = dgate[:n], dup[:n], up[:n], dy[:n]
	whole := s.whole(n, half)
	switch {
	case s.wide && n > 0:
		swigluBackwardAVX512(dgate, dup, gate, up, dy)
		return
	case whole > 0:
		swigluBackwardAVX2(dgate[:whole], dup, gate, up, dy)
	}
	for i := whole; i < n; i++ {
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
	a, b = a[:len(y)], b[:len(y)]
	n := s.whole(len(y), half)
	if n > 0 {
		addAVX2(y[:n], a, b)
	}
	for i := n; i < len(y); i++ {
		y[i] = a[i] + b[i]
	}
}

// Mix is y = y*p + x*q, products rounded, all of the length of y.
func (s *Set) Mix(y, x []float32, p, q float32) {
	x = x[:len(y)]
	n := s.whole(len(y), half)
	if n > 0 {
		mixAVX2(y[:n], x, p, q)
	}
	for i := n; i < len(y); i++ {
		y[i] = float32(y[i]*p) + float32(x[i]*q)
	}
}
