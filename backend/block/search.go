package block

import "math"

// The search for scales. The weights of a sub-block are a q - b for codes q from 0 to some
// most; types without a minimum have b = a z, where code z is that of 0. What the search
// makes small is
//
//	sum of w (a q - b - x)^2
//
// A guess of a and b gives codes, t = (x+b)/a rounded and clamped, and with e = t - q the
// sum is a^2 times that of w e^2. Guesses are compared 16 at a time: only what can be
// written, scales that are float16 or whole multiples of one, is compared at the end.

// A ScaleMeasure sets errs to the sums of w e^2 for 16 guesses, where t is
// x*inverse+shift and codes are 0 to most: see MeasureScales.
type ScaleMeasure func(errs *[16]float32, x, w []float32, inverse, shift *[16]float32, most float32)

// A grid is up to 32 guesses, how they are compared, and the memory of the search.
type grid struct {
	scale, inverse, shift, errs [32]float32 // inverse is 1/scale
	by                          ScaleMeasure

	weights [256]float32
	coded   coded
}

// tiny is so small that a scale below it is 0 as a float16.
const tiny = 0x1p-40

// magic is 1.5 2^23: adding it to a number of magnitude below 2^22 leaves no bits for a
// fraction, which rounds the number, halves to even.
const magic = 0x1.8p23

func round(x float32) float32 { return float32(x) + magic - magic }

// clamp returns a whole x within 0 to most. Minima take fewer instructions than maxima.
func clamp(x, most float32) float32 { return most - min(most-min(x, most), most) }

// MeasureScales is the ScaleMeasure in plain Go. Every operation is rounded, and sums are
// added up in the order of x, so that all others give the same bits.
func MeasureScales(errs *[16]float32, x, w []float32, inverse, shift *[16]float32, most float32) {
	w = w[:len(x)]
	for c := range errs {
		inverse, shift := inverse[c], shift[c]
		var sum float32
		for i, v := range x {
			t := float32(v*inverse) + shift
			e := t - clamp(round(t), most)
			sum += float32(float32(e*e) * w[i])
		}
		errs[c] = sum
	}
}

// measure compares the first n guesses, for codes 0 to most.
func (g *grid) measure(n int, x, w []float32, most float32) {
	for i := 0; i < n; i += 16 {
		g.by((*[16]float32)(g.errs[i:]), x, w[:len(x)],
			(*[16]float32)(g.inverse[i:]), (*[16]float32)(g.shift[i:]), most)
	}
}

// least returns which of the first n guesses has the smallest error, and that.
func (g *grid) least(n int) (at int, least float32) {
	least = math.MaxFloat32
	for i, e := range g.errs[:n] {
		a := g.scale[i]
		if e = float32(e*a) * a; e < least {
			at, least = i, e
		}
	}
	return at, least
}

// sums are those of w, w q, w q^2, w e, w q e and w e^2. They tell the error of other
// scales for the same codes: a (1+f) and b - a g make it
//
//	a^2 sum of w (e - f q - g)^2
type sums struct{ w, q, qq, e, qe, ee float32 }

// measure returns the sums of one guess, whose w and w e^2 are known.
func measure(x, w []float32, inverse, shift, most, sw, see float32) sums {
	w = w[:len(x)]
	var sq, sqq, se, sqe float32
	for i, v := range x {
		t := float32(v*inverse) + shift
		q := clamp(round(t), most)
		wi := w[i]
		wq := float32(wi * q)
		we := float32(wi * (t - q))
		sq += wq
		sqq += float32(wq * q)
		se += we
		sqe += float32(we * q)
	}
	return sums{sw, sq, sqq, se, sqe, see}
}

// at returns the sum of w (e - f q - g)^2.
func (s *sums) at(f, g float32) float32 {
	return s.ee + float32(f*(float32(f*s.qq)+float32(2*(float32(g*s.q)-s.qe)))) +
		float32(g*(float32(g*s.w)-float32(2*s.e)))
}

// shift returns the g that is best for f.
func (s *sums) shift(f float32) float32 { return (s.e - float32(f*s.q)) / s.w }

// fit returns the best f and g (least squares), or 0 where the codes leave them open.
func (s *sums) fit() (f, g float32) {
	det := float32(s.w*s.qq) - float32(s.q*s.q)
	if det <= float32(1e-5*float32(s.w*s.qq)) {
		return 0, 0
	}
	f = (float32(s.w*s.qe) - float32(s.q*s.e)) / det
	return f, s.shift(f)
}

// moved returns the sums of the same codes for the scale and minimum of f and g.
func (s sums) moved(f, g float32) sums {
	r := 1 / (1 + f)
	ee := float32(s.at(f, g)*r) * r
	e := (s.e - float32(f*s.q) - float32(g*s.w)) * r
	s.qe = (s.qe - float32(f*s.qq) - float32(g*s.q)) * r
	s.e, s.ee = e, max(ee, 0)
	return s
}

// putCodes writes the codes of x.
func putCodes(codes []byte, x []float32, inverse, shift, most float32) {
	codes = codes[:len(x)]
	for i, v := range x {
		codes[i] = byte(int32(clamp(round(float32(v*inverse)+shift), most)))
	}
}

// leastWeight is what each column has, beside its importance of 1 on average.
const leastWeight = 0x1p-10

// weigh returns the weights of a block of n columns. They are its importance, made 1 on
// average so that products stay in range, and leastWeight, so that no column is given up.
// Where there is no importance, or all of it is 0, they are 1, for every block of a row.
func (g *grid) weigh(importance []float32, n int) []float32 {
	w := g.weights[:n]
	var sum float64
	for _, x := range importance {
		sum += float64(x)
	}
	if sum == 0 {
		for i := range w {
			w[i] = 1
		}
		return w
	}
	scale := float64(n) / sum
	for i, x := range importance[:n] {
		w[i] = float32(float64(x)*scale) + leastWeight
	}
	return w
}

// swing is 0, -1, 1, -2, 2 and so on.
func swing(i int) float32 {
	if i%2 == 1 {
		return -float32(i/2 + 1)
	}
	return float32(i / 2)
}

// step returns the float16 nearest to x/n, the scale whose multiples 0 to n cover x. Where
// nothing but its rounding is an error, exact, it takes a smaller n if that is a better fit.
func step(x, n float32, exact bool) uint16 {
	best := F32ToF16(x / n)
	if !exact {
		return best
	}
	off := func(h uint16, n float32) float64 {
		return math.Abs(float64(float64(F16ToF32(h))*float64(n)) - float64(x))
	}
	least := off(best, n)
	for k := n - 1; k > n/2; k-- {
		h := F32ToF16(x / k)
		if o := off(h, k); o < least {
			best, least = h, o
		}
	}
	return best
}
