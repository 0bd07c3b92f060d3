package kernel

import "github.com/herd-ml/herd/backend/block"

// The functions of attention whose elements are scores of one key with a query each.
// Their exponentials are those of Exp to a few ulp, of arguments up to 89.

// Mul is y = a * b, all of the length of y.
func (s *Set) Mul(y, a, b []float32) {
	a, b = a[:len(y)], b[:len(y)]
	n := s.whole(len(y), half)
	if n > 0 {
		mulAVX2(y[:n], a, b)
	}
	for i := n; i < len(y); i++ {
		y[i] = a[i] * b[i]
	}
}

// MaxInto makes m the larger of m and x, elements of the length of x that are NaN
// being none.
func (s *Set) MaxInto(m, x []float32) {
	m = m[:len(x)]
	n := s.whole(len(x), half)
	if n > 0 {
		maxIntoAVX2(m[:n], x)
	}
	for i := n; i < len(x); i++ {
		if x[i] > m[i] {
			m[i] = x[i]
		}
	}
}

// ExpInto is x = exp(x - m), sum += x, all of the length of x.
func (s *Set) ExpInto(x, m, sum []float32) {
	m, sum = m[:len(x)], sum[:len(x)]
	if s.wide && len(x) > 0 {
		expIntoAVX512(x, m, sum)
		return
	}
	n := s.whole(len(x), half)
	if n > 0 {
		expIntoAVX2(x[:n], m, sum)
	}
	for i := n; i < len(x); i++ {
		x[i] = Exp(x[i] - m[i])
		sum[i] += x[i]
	}
}

// ScoreGrads is s = exp(s - lse), the probabilities, and ds = s * (ds - d), all of
// the length of s.
func (s *Set) ScoreGrads(scores, ds, lse, d []float32) {
	n := len(scores)
	ds, lse, d = ds[:n], lse[:n], d[:n]
	if s.wide && n > 0 {
		scoreGradsAVX512(scores, ds, lse, d)
		return
	}
	whole := s.whole(n, half)
	if whole > 0 {
		scoreGradsAVX2(scores[:whole], ds, lse, d)
	}
	for i := whole; i < n; i++ {
		scores[i] = Exp(scores[i] - lse[i])
		ds[i] = scores[i] * (ds[i] - d[i])
	}
}

// ScoreGrads16 is ScoreGrads that rounds to bfloat16: the probabilities to p, ds to g.
// ds gets what it does there, scores have no value afterwards. Denormal numbers may be
// zeros in p and g. The length of scores is a multiple of 16.
func (s *Set) ScoreGrads16(p, g []uint16, scores, ds, lse, d []float32) {
	n := len(scores)
	p, g, ds, lse, d = p[:n], g[:n], ds[:n], lse[:n], d[:n]
	if n%Panel != 0 {
		panic("kernel: ScoreGrads16 of half a panel")
	}
	if s.wide && s.HasBF16Dot() {
		if n > 0 {
			scoreGrads16AVX512(p, g, scores, ds, lse, d)
		}
		return
	}
	s.ScoreGrads(scores, ds, lse, d)
	for i, v := range scores {
		p[i], g[i] = block.F32ToBF16(v), block.F32ToBF16(ds[i])
	}
}

// Dot is the sum of the products of a and b, of the length of a, rounded: sums of every
// sixteenth.
func (s *Set) Dot(a, b []float32) float32 {
	var t [lanes]float32
	b = b[:len(a)]
	n := s.whole(len(a), lanes)
	if n > 0 {
		dotAVX2(a[:n], b, &t[0])
	}
	for i := n; i < len(a); i++ {
		t[i%lanes] += float32(a[i] * b[i])
	}
	return total(&t)
}

// Scale is y = x * scale, all of the length of y.
func (s *Set) Scale(y, x []float32, scale float32) {
	x = x[:len(y)]
	n := s.whole(len(y), half)
	if n > 0 {
		scaleAVX2(y[:n], x, scale)
	}
	for i := n; i < len(y); i++ {
		y[i] = x[i] * scale
	}
}

// ExpPairs is ExpInto of two rows, which it rounds to bfloat16 and puts side by side:
// pairs[2*i] and pairs[2*i+1] are exp(a[i] - m[i]) and exp(b[i] - m[i]), a and b have no
// value afterwards. Denormal numbers may be zeros. The length of a, a multiple of 16, is
// that of all others, half that of pairs.
func (s *Set) ExpPairs(pairs []uint16, a, b, m, sum []float32) {
	n := len(a)
	pairs, b, m, sum = pairs[:2*n], b[:n], m[:n], sum[:n]
	if n%Panel != 0 {
		panic("kernel: ExpPairs of half a panel")
	}
	if s.wide && s.HasBF16Dot() {
		if n > 0 {
			expPairsAVX512(pairs, a, b, m, sum)
		}
		return
	}
	s.ExpInto(a, m, sum)
	s.ExpInto(b, m, sum)
	for i, v := range a {
		pairs[2*i], pairs[2*i+1] = block.F32ToBF16(v), block.F32ToBF16(b[i])
	}
}

// ScaleBF16 rounds x * scale, all of the length of x, a multiple of 16, to bfloat16 for
// BF16Dot: denormal numbers may be zeros.
func (s *Set) ScaleBF16(y []uint16, x []float32, scale float32) {
	y = y[:len(x)]
	if len(x)%Panel != 0 {
		panic("kernel: ScaleBF16 of half a panel")
	}
	if s.wide && s.HasBF16Dot() {
		if len(x) > 0 {
			scale16AVX512(x, y, scale)
		}
		return
	}
	for i, v := range x {
		y[i] = block.F32ToBF16(v * scale)
	}
}

// Interleave is y[2*i] = a[i], y[2*i+1] = b[i], for all of a, a multiple of 16.
func (s *Set) Interleave(y, a, b []uint16) {
	y, b = y[:2*len(a)], b[:len(a)]
	if len(a)%Panel != 0 {
		panic("kernel: Interleave of half a panel")
	}
	if s.wide {
		if len(a) > 0 {
			interleaveAVX512(a, b, y)
		}
		return
	}
	for i, v := range a {
		y[2*i], y[2*i+1] = v, b[i]
	}
}
