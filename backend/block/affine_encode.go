package block

import (
	"encoding/binary"
	"math"
)

// The encoders of the types with minima: Q2_K, Q4_K and Q5_K, and Q4_1 and Q5_1 where
// there is importance.

// An affine type has sub-blocks of n weights with codes up to most, and scales and minima
// that are 0 to steps times those of the block.
type affine struct {
	n           int
	most, steps float32
	spans, each [32]float32 // the codes that the values span by each guess, and 1/that
}

var (
	kindQ4_1 = newAffine(32, 15, 0)
	kindQ5_1 = newAffine(32, 31, 0)
	kindQ2_K = newAffine(16, 3, 15)
	kindQ4_K = newAffine(32, 15, 63)
	kindQ5_K = newAffine(32, 31, 63)
)

func newAffine(n int, most, steps float32) *affine {
	p := &affine{n: n, most: most, steps: steps}
	for i, g := range guesses {
		p.spans[i] = max(most+g.spread, 1)
		p.each[i] = 1 / p.spans[i]
	}
	return p
}

// A line is a scale and a minimum for a sub-block, with the sums of its codes.
type line struct {
	a, b float32
	sums sums
}

// The guesses of scale and minimum: the codes 0 to most span the values and a little more
// (spread, in codes) or less, and the least value is above the least code by a part of it
// (start). Whole spreads find values that have fewer steps.
var guesses = [32]struct{ spread, start float32 }{
	{0, 0}, {-1.75, 0}, {-1.5, 0}, {-1.25, 0}, {-1, 0}, {-0.75, 0}, {-0.5, 0}, {-0.25, 0},
	{0.25, 0}, {0.5, 0}, {-1.5, 0.4}, {-1.2, 0.4}, {-0.9, 0.4}, {-0.6, 0.4}, {-0.3, 0.4}, {0, 0.4},
	{-2, 0}, {-3, 0}, {-4, 0}, {-5, 0}, {-6, 0}, {-7, 0}, {-8, 0}, {-9, 0},
	{-1.6, 0.6}, {-1.2, 0.6}, {-0.8, 0.6}, {-0.4, 0.6}, {-1.2, 0.2}, {-0.8, 0.2}, {-0.4, 0.2}, {0, 0.2},
}

// parts are 1/i.
var parts = func() (r [64]float32) {
	for i := 1; i < len(r); i++ {
		r[i] = 1 / float32(i)
	}
	return r
}()

// fit finds the three best guesses, and the least squares for their codes. Values are a q - b.
// All minima b of a block have one sign: b is at most 0 if no value of the block is negative,
// which up says, and at least 0 otherwise. rest is the smallest sum of squared errors. Where
// a is 0 all values are -b, and rest is 0.
func (p *affine) fit(g *grid, best *[3]line, x, w []float32, up bool) (rest float32) {
	low, high := extremes(x)
	if !up {
		low = min(low, 0)
	}
	*best = [3]line{{b: -low}, {b: -low}, {b: -low}}
	if high-low < tiny {
		return 0
	}
	r := 1 / (high - low)
	for i := range guesses {
		g.scale[i], g.inverse[i] = p.each[i]*(high-low), p.spans[i]*r
		g.shift[i] = float32(-low*g.inverse[i]) - guesses[i].start
		if !up {
			g.shift[i] = max(g.shift[i], 0)
		}
	}
	g.measure(len(guesses), x, w, p.most)
	var sw float32
	for _, v := range w[:len(x)] {
		sw += v
	}
	var sums [3]float32
	for k := range best {
		i, _ := g.least(len(guesses))
		inverse, shift := g.inverse[i], g.shift[i]
		a := g.scale[i]
		s := measure(x, w, inverse, shift, p.most, sw, g.errs[i])
		g.errs[i] = math.MaxFloat32 // done
		e, h := s.fit()
		if up != (shift < h) { // the minimum would have the other sign
			h = shift
			e = 0
			if s.qq > 0 {
				e = (s.qe - float32(h*s.q)) / s.qq
			}
		}
		if !(e > -0.5 && e < 1) {
			e, h = 0, 0
		}
		best[k] = line{float32(a * (1 + e)), float32(a * (shift - h)), s.moved(e, h)}
		sums[k] = float32(best[k].sums.ee*best[k].a) * best[k].a
		if sums[k] < sums[0] {
			best[0], best[k] = best[k], best[0]
			sums[0], sums[k] = sums[k], sums[0]
		}
	}
	return sums[0]
}

// A coded is a block in parts.
type coded struct {
	d, m           uint16 // float16: of the scales, of the minima
	scales, minima [16]byte
	codes          [256]byte
}

// encode finds the scales, minima and codes of a block.
func (p *affine) encode(g *grid, c *coded, x *[256]float32, w []float32) {
	var lines [16][3]line
	low, _ := extremes(x[:])
	up := low >= 0
	var a, b, rest, all float32
	for j := range 256 / p.n {
		z := x[j*p.n:][:p.n]
		rest += p.fit(g, &lines[j], z, w[j*p.n:], up)
		a = max(a, lines[j][0].a)
		if up {
			b = min(b, lines[j][0].b)
		} else {
			b = max(b, lines[j][0].b)
		}
		for _, v := range z {
			all += float32(v * v)
		}
	}
	exact := rest <= float32(all*0x1p-32)
	c.d, c.m = step(a, p.steps, exact), step(b, p.steps, exact)
	d, m := F16ToF32(c.d), F16ToF32(c.m)
	for j := range 256 / p.n {
		z := x[j*p.n:][:p.n]
		s, t := p.choose(g, &lines[j], z, w[j*p.n:], d, m)
		c.scales[j], c.minima[j] = byte(s), byte(t)
		i := inverse(d * s)
		putCodes(c.codes[j*p.n:], z, i, float32(float32(m*t)*i), p.most)
	}
}

// choose returns the multiples of d and m for a sub-block: the best of 16 pairs near the
// three lines. For each scale near a line the sums tell the minimum.
func (p *affine) choose(g *grid, lines *[3]line, x, w []float32, d, m float32) (s, t float32) {
	id, im := inverse(d), inverse(m)
	if d == 0 || lines[0].a == 0 {
		return 0, clamp(round(lines[0].b*im), p.steps)
	}
	var ss, ts [16]float32
	var seen [64]uint64 // of a scale, bits of minima
	n := 0
	add := func(s, t float32) {
		if n == len(ss) || !(s > 0 && s <= p.steps && t >= 0 && t <= p.steps) {
			return
		}
		i, bit := int32(s)&63, uint64(1)<<(int32(t)&63)
		if seen[i]&bit == 0 {
			seen[i] |= bit
			ss[n], ts[n] = s, t
			n++
		}
	}
	add(max(1, min(p.steps, round(lines[0].a*id))), clamp(round(lines[0].b*im), p.steps))
	for _, by := range [...]float32{0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6} {
		if n == len(ss) {
			break
		}
		for k := range lines {
			l := &lines[k]
			s := min(p.steps, round(l.a*id)) + by
			f := (float32(d*s) - l.a) / l.a
			t := clamp(round((l.b-float32(l.a*l.sums.shift(f)))*im), p.steps)
			add(s, t)
			if m != 0 {
				add(s, t-1)
				add(s, t+1)
			}
		}
	}
	for i := range ss {
		if i >= n {
			ss[i], ts[i] = ss[0], ts[0]
		}
		g.scale[i] = d * ss[i]
		g.inverse[i] = id * parts[int32(ss[i])&63]
		g.shift[i] = float32(float32(m*ts[i]) * g.inverse[i])
	}
	g.measure(n, x, w, p.most)
	i, _ := g.least(n)
	return ss[i], ts[i]
}

// encode32 finds the scale and minimum, both float16, and the codes of a block of 32. In c
// the minimum is added, as the types have it.
func (p *affine) encode32(g *grid, c *coded, x *[32]float32, w []float32) {
	var lines [3]line
	low, _ := extremes(x[:])
	up := low >= 0
	p.fit(g, &lines, x[:], w, up)
	var ds, ms [24]float32
	for i := range ds {
		// Eight scales near each line.
		l := &lines[i%3]
		f := float32(0.005 * swing(i/3))
		b := l.b
		if l.a > 0 {
			b -= float32(l.a * l.sums.shift(f))
		}
		ds[i], ms[i] = F16ToF32(F32ToF16(float32(l.a*(1+f)))), F16ToF32(F32ToF16(-b))
		g.scale[i], g.inverse[i] = ds[i], inverse(ds[i])
		g.shift[i] = float32(-ms[i] * g.inverse[i])
	}
	g.measure(len(ds), x[:], w, p.most)
	i, _ := g.least(len(ds))
	c.d, c.m = F32ToF16(ds[i]), F32ToF16(ms[i])
	putCodes(c.codes[:32], x[:], g.inverse[i], g.shift[i], p.most)
}

func encodeQ2_K(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	w = g.weigh(w, 256)
	for ; len(src) > 0; dst, src = dst[84:], src[256:] {
		kindQ2_K.encode(g, c, (*[256]float32)(src), w)
		b := (*[84]byte)(dst)
		for i := range 16 {
			b[i] = c.scales[i] | c.minima[i]<<4
		}
		putPairs((*[64]byte)(b[16:]), &c.codes)
		binary.LittleEndian.PutUint16(b[80:], c.d)
		binary.LittleEndian.PutUint16(b[82:], c.m)
	}
}

// putPairs writes codes of 2 bits as Q2_K, Q3_K and TQ2_0 have them.
func putPairs(b *[64]byte, codes *[256]byte) {
	for i := range b {
		z := (*[97]byte)(codes[i>>5*128+i&31:])
		b[i] = z[0]&3 | z[32]&3<<2 | z[64]&3<<4 | z[96]&3<<6
	}
}

// putScaleMin writes what scaleMin reads.
func putScaleMin(b *[12]byte, c *coded) {
	for j := range 4 {
		b[j] = c.scales[j] | c.scales[j+4]>>4<<6
		b[j+4] = c.minima[j] | c.minima[j+4]>>4<<6
		b[j+8] = c.scales[j+4]&15 | c.minima[j+4]<<4
	}
}

func encodeQ4_K(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	w = g.weigh(w, 256)
	for ; len(src) > 0; dst, src = dst[144:], src[256:] {
		kindQ4_K.encode(g, c, (*[256]float32)(src), w)
		b := (*[144]byte)(dst)
		binary.LittleEndian.PutUint16(b[:], c.d)
		binary.LittleEndian.PutUint16(b[2:], c.m)
		putScaleMin((*[12]byte)(b[4:]), c)
		for i := range 4 {
			q, z := (*[32]byte)(b[16+32*i:]), (*[64]byte)(c.codes[64*i:])
			for j := range q {
				q[j] = z[j] | z[j+32]<<4
			}
		}
	}
}

func encodeQ5_K(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	w = g.weigh(w, 256)
	for ; len(src) > 0; dst, src = dst[176:], src[256:] {
		kindQ5_K.encode(g, c, (*[256]float32)(src), w)
		b := (*[176]byte)(dst)
		binary.LittleEndian.PutUint16(b[:], c.d)
		binary.LittleEndian.PutUint16(b[2:], c.m)
		putScaleMin((*[12]byte)(b[4:]), c)
		h := (*[32]byte)(b[16:])
		*h = [32]byte{}
		for i := range 4 {
			q, z := (*[32]byte)(b[48+32*i:]), (*[64]byte)(c.codes[64*i:])
			for j := range q {
				q[j] = z[j]&15 | z[j+32]<<4
				h[j] |= (z[j]>>4 | z[j+32]>>4<<1) << (2 * i)
			}
		}
	}
}
