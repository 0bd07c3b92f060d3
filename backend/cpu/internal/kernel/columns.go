package kernel

import "github.com/herd-ml/herd/backend/block"

// The functions of attention whose elements are scores of one key with a query each.
// Their exponentials are those of Exp to a few ulp, of arguments up to 89.

// Mul is y = a * b, all of the length of y.
func (s *Set) Mul(y, a, b []float32) {
	if n := len(y); n > 0 {
		s.mul(y, a[:n], b[:n])
	}
}

func mulGeneric(y, a, b []float32) {
	for i := range y {
		y[i] = a[i] * b[i]
	}
}

// MaxInto makes m the larger of m and x, elements of the length of x that are NaN
// being none.
func (s *Set) MaxInto(m, x []float32) {
	if n := len(x); n > 0 {
		s.maxInto(m[:n], x)
	}
}

func maxIntoGeneric(m, x []float32) {
	for i, v := range x {
		if v > m[i] {
			m[i] = v
		}
	}
}

// ExpInto is x = exp(x - m), sum += x, all of the length of x.
func (s *Set) ExpInto(x, m, sum []float32) {
	if n := len(x); n > 0 {
		s.expInto(x, m[:n], sum[:n])
	}
}

func expIntoGeneric(x, m, sum []float32) {
	for i := range x {
		x[i] = Exp(x[i] - m[i])
		sum[i] += x[i]
	}
}

// ScoreGrads is s = exp(s - lse), the probabilities, and ds = s * (ds - d), all of
// the length of s.
func (s *Set) ScoreGrads(scores, ds, lse, d []float32) {
	if n := len(scores); n > 0 {
		s.scoreGrads(scores, ds[:n], lse[:n], d[:n])
	}
}

func scoreGradsGeneric(scores, ds, lse, d []float32) {
	for i := range scores {
		scores[i] = Exp(scores[i] - lse[i])
		ds[i] = scores[i] * (ds[i] - d[i])
	}
}

// ScoreGrads16 is ScoreGrads that rounds to bfloat16: the probabilities to p, ds to g.
// ds gets what it does there, scores have no value afterwards. Denormal numbers may be
// zeros in p and g. The length of scores is a multiple of 16.
func (s *Set) ScoreGrads16(p, g []uint16, scores, ds, lse, d []float32) {
	n := len(scores)
	if n%Panel != 0 {
		panic("kernel: ScoreGrads16 of half a panel")
	}
	if n > 0 {
		s.scoreGrads16(p[:n], g[:n], scores, ds[:n], lse[:n], d[:n])
	}
}

func scoreGrads16Generic(p, g []uint16, scores, ds, lse, d []float32) {
	scoreGradsGeneric(scores, ds, lse, d)
	roundBF16Generic(p, scores)
	roundBF16Generic(g, ds)
}

// Dot is the sum of the products of a and b, of the length of a, rounded: sums of every
// sixteenth.
func (s *Set) Dot(a, b []float32) float32 {
	if len(a) == 0 {
		return 0
	}
	return s.dot(a, b[:len(a)])
}

func dotGeneric(a, b []float32) float32 {
	var t [lanes]float32
	addDots(&t, a, b)
	return total(&t)
}

// addDots adds the product of elements i to t[i%16].
func addDots(t *[lanes]float32, a, b []float32) {
	for i, v := range a {
		t[i%lanes] += float32(v * b[i])
	}
}

// Scale is y = x * scale, all of the length of y.
func (s *Set) Scale(y, x []float32, scale float32) {
	if n := len(y); n > 0 {
		s.scale(y, x[:n], scale)
	}
}

func scaleGeneric(y, x []float32, scale float32) {
	for i := range y {
		y[i] = x[i] * scale
	}
}

// ExpPairs is ExpInto of two rows, which it rounds to bfloat16 and puts side by side:
// pairs[2*i] and pairs[2*i+1] are exp(a[i] - m[i]) and exp(b[i] - m[i]), a and b have no
// value afterwards. Denormal numbers may be zeros. The length of a, a multiple of 16, is
// that of all others, half that of pairs.
func (s *Set) ExpPairs(pairs []uint16, a, b, m, sum []float32) {
	n := len(a)
	if n%Panel != 0 {
		panic("kernel: ExpPairs of half a panel")
	}
	if n > 0 {
		s.expPairs(pairs[:2*n], a, b[:n], m[:n], sum[:n])
	}
}

func expPairsGeneric(pairs []uint16, a, b, m, sum []float32) {
	expIntoGeneric(a, m, sum)
	expIntoGeneric(b, m, sum)
	for i, v := range a {
		pairs[2*i], pairs[2*i+1] = block.F32ToBF16(v), block.F32ToBF16(b[i])
	}
}

// ScaleBF16 rounds x * scale, all of the length of x, a multiple of 16, to bfloat16 for
// BF16Dot: denormal numbers may be zeros.
func (s *Set) ScaleBF16(y []uint16, x []float32, scale float32) {
	n := len(x)
	if n%Panel != 0 {
		panic("kernel: ScaleBF16 of half a panel")
	}
	if n > 0 {
		s.scaleBF16(y[:n], x, scale)
	}
}

func scaleBF16Generic(y []uint16, x []float32, scale float32) {
	for i, v := range x {
		y[i] = block.F32ToBF16(v * scale)
	}
}

// Interleave is y[2*i] = a[i], y[2*i+1] = b[i], for all of a, a multiple of 16.
func (s *Set) Interleave(y, a, b []uint16) {
	n := len(a)
	if n%Panel != 0 {
		panic("kernel: Interleave of half a panel")
	}
	if n > 0 {
		s.interleave(y[:2*n], a, b[:n])
	}
}

func interleaveGeneric(y, a, b []uint16) {
	for i, v := range a {
		y[2*i], y[2*i+1] = v, b[i]
	}
}
