package block

import (
	"encoding/binary"
	"math"
)

// The encoders of the types without minima whose scales are searched for: Q3_K, Q6_K,
// IQ4_NL and IQ4_XS, and Q4_0 and Q5_0 where there is importance.

// A symmetric type has sub-blocks of n weights, a times a value. The values are low to high,
// all integers between, or the list of valuesIQ4.
type symmetric struct {
	n         int
	low, high float32
	listed    bool
	// spread is how far the guesses of a are from what covers the values, in parts of it.
	spread float32
	// The scales are -steps to steps-1 times that of the block; 0 where a is a float16.
	steps float32
}

var (
	kindQ4_0   = symmetric{n: 32, low: -8, high: 7, spread: 0.12}
	kindQ5_0   = symmetric{n: 32, low: -16, high: 15, spread: 0.08}
	kindQ3_K   = symmetric{n: 16, low: -4, high: 3, spread: 0.25, steps: 32}
	kindQ6_K   = symmetric{n: 16, low: -32, high: 31, spread: 0.05, steps: 128}
	kindIQ4_NL = symmetric{n: 32, low: -127, high: 113, listed: true, spread: 0.15}
	kindIQ4_XS = symmetric{n: 32, low: -127, high: 113, listed: true, spread: 0.15, steps: 32}
)

// measure compares 16 guesses, whose inverses are in g.
func (p *symmetric) measure(g *grid, x, w []float32) {
	if p.listed {
		g.measureIQ4(x, w)
		return
	}
	for i := range 16 {
		g.shift[i] = -p.low
	}
	g.measure(16, x, w, p.high-p.low)
}

// fit returns the best of 16 guesses of a, and the sum of squared errors: the value of the
// largest magnitude is about low times a, or about high times a. a is 0 where all are 0.
func (p *symmetric) fit(g *grid, x, w []float32) (a, rest float32) {
	most := farthest(x)
	if math.Abs(float64(most)) < tiny {
		return 0, 0
	}
	for i := range 8 {
		// 1, then below and above it.
		r := 1 + float32(p.spread*0.25*swing(i))
		g.inverse[i], g.inverse[i+8] = p.low*r/most, p.high*r/most
		g.scale[i], g.scale[i+8] = 1/g.inverse[i], 1/g.inverse[i+8]
	}
	p.measure(g, x, w)
	i, rest := g.least(16)
	return g.scale[i], rest
}

// choose returns the best of 16 scales near a: multiples of d if d is not 0, else float16.
func (p *symmetric) choose(g *grid, x, w []float32, a, d float32) float32 {
	if a == 0 || p.steps > 0 && d == 0 {
		return 0
	}
	var s [16]float32
	near := a
	if p.steps > 0 {
		near = round(a / d)
		if near == 0 {
			near = 1
		}
		near = max(-p.steps, min(p.steps-1, near))
	}
	for i := range s {
		by := swing(i)
		if p.steps == 0 {
			s[i] = F16ToF32(F32ToF16(a * (1 + float32(p.spread*0.02*by))))
			g.scale[i], g.inverse[i] = s[i], inverse(s[i])
			continue
		}
		s[i] = near + by
		if s[i] == 0 || s[i] < -p.steps || s[i] >= p.steps {
			s[i] = near
		}
		g.scale[i] = d * s[i]
		g.inverse[i] = inverse(g.scale[i])
	}
	p.measure(g, x, w)
	i, _ := g.least(16)
	return s[i]
}

// encode finds the scales and codes of a block. Scales are int8, codes count from low.
func (p *symmetric) encode(g *grid, c *coded, x, w []float32) {
	var as [16]float32
	var a, rest, all float32
	for j := range len(x) / p.n {
		var r float32
		as[j], r = p.fit(g, x[j*p.n:][:p.n], w[j*p.n:])
		if math.Abs(float64(as[j])) > math.Abs(float64(a)) {
			a = as[j]
		}
		rest += r
	}
	for _, v := range x {
		all += float32(v * v)
	}
	var d float32
	if p.steps > 0 {
		c.d = step(a, -p.steps, rest <= float32(all*0x1p-32))
		d = F16ToF32(c.d)
	}
	var scales [16]float32
	for j := range len(x) / p.n {
		z := x[j*p.n:][:p.n]
		s := p.choose(g, z, w[j*p.n:], as[j], d)
		if p.steps == 0 {
			c.d, d, s = F32ToF16(s), s, 1
		}
		scales[j], c.scales[j] = s, byte(int8(s))
	}
	p.putCodes(c, x, d, &scales)
	if h := p.refit(c, x, w, &scales); p.steps > 0 && h != c.d {
		c.d = h
		p.putCodes(c, x, F16ToF32(h), &scales)
	}
}

// putCodes writes the codes of x for the scale d of the block.
func (p *symmetric) putCodes(c *coded, x []float32, d float32, scales *[16]float32) {
	for j := range len(x) / p.n {
		z, inverse := x[j*p.n:][:p.n], inverse(d*scales[j])
		if p.listed {
			putCodesIQ4(c.codes[j*p.n:], z, inverse)
		} else {
			putCodes(c.codes[j*p.n:], z, inverse, -p.low, p.high-p.low)
		}
	}
}

// refit returns the scale of the block with the least squared error for its codes.
func (p *symmetric) refit(c *coded, x, w []float32, scales *[16]float32) uint16 {
	var xv, vv float32
	for j := range len(x) / p.n {
		s := scales[j]
		for i, q := range c.codes[j*p.n:][:p.n] {
			v := float32(int32(q)) + p.low
			if p.listed {
				v = valuesIQ4[q&15]
			}
			v *= s
			wv := w[j*p.n+i] * v
			xv += float32(wv * x[j*p.n+i])
			vv += float32(wv * v)
		}
	}
	if vv == 0 {
		return c.d
	}
	off := func(h uint16) float64 { return math.Abs(float64(F16ToF32(h)) - float64(xv)/float64(vv)) }
	h := F32ToF16(xv / vv)
	if off(h) < off(c.d) {
		return h
	}
	return c.d
}

func encodeQ3_K(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	w = g.weigh(w, 256)
	for ; len(src) > 0; dst, src = dst[110:], src[256:] {
		kindQ3_K.encode(g, c, src[:256], w)
		b := (*[110]byte)(dst)
		h := (*[32]byte)(b[:])
		*h = [32]byte{}
		for i, q := range c.codes {
			h[i&31] |= q >> 2 << (i >> 5)
		}
		putPairs((*[64]byte)(b[32:]), &c.codes)
		sc := (*[12]byte)(b[96:])
		*sc = [12]byte{}
		for i := range 16 {
			s := c.scales[i] + 32
			sc[i&7] |= s & 15 << (i >> 3 * 4)
			sc[8+i&3] |= s >> 4 << (i >> 2 * 2)
		}
		binary.LittleEndian.PutUint16(b[108:], c.d)
	}
}

func encodeQ6_K(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	w = g.weigh(w, 256)
	for ; len(src) > 0; dst, src = dst[210:], src[256:] {
		kindQ6_K.encode(g, c, src[:256], w)
		b := (*[210]byte)(dst)
		for half := range 2 {
			z := (*[128]byte)(c.codes[128*half:])
			q, h := (*[64]byte)(b[64*half:]), (*[32]byte)(b[128+32*half:])
			for j := range h {
				q[j] = z[j]&15 | z[j+64]<<4
				q[j+32] = z[j+32]&15 | z[j+96]<<4
				h[j] = z[j]>>4 | z[j+32]>>4<<2 | z[j+64]>>4<<4 | z[j+96]>>4<<6
			}
		}
		copy(b[192:208], c.scales[:])
		binary.LittleEndian.PutUint16(b[208:], c.d)
	}
}

func encodeIQ4_NL(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	w = g.weigh(w, 32)
	for ; len(src) > 0; dst, src = dst[18:], src[32:] {
		kindIQ4_NL.encode(g, c, src[:32], w)
		binary.LittleEndian.PutUint16(dst, c.d)
		putNibbles((*[16]byte)(dst[2:]), (*[32]byte)(c.codes[:]))
	}
}

func encodeIQ4_XS(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	w = g.weigh(w, 256)
	for ; len(src) > 0; dst, src = dst[136:], src[256:] {
		kindIQ4_XS.encode(g, c, src[:256], w)
		b := (*[136]byte)(dst)
		binary.LittleEndian.PutUint16(b[:], c.d)
		var high uint16
		*(*[4]byte)(b[4:]) = [4]byte{}
		for i := range 8 {
			s := c.scales[i] + 32
			high |= uint16(s>>4) << (2 * i)
			b[4+i/2] |= s & 15 << (i & 1 * 4)
			putNibbles((*[16]byte)(b[8+16*i:]), (*[32]byte)(c.codes[32*i:]))
		}
		binary.LittleEndian.PutUint16(b[2:], high)
	}
}

// putNibbles writes 32 codes, two in a byte, as lookup32 reads them.
func putNibbles(b *[16]byte, codes *[32]byte) {
	for j := range b {
		b[j] = codes[j] | codes[j+16]<<4
	}
}

// nearestIQ4 is the code of the value nearest to t at index 2t+256 rounded down: the middles
// between values are whole or halves.
var nearestIQ4 = func() (codes [512]byte) {
	c := 0
	for i := range codes {
		for c < 15 && float32(i-256) >= valuesIQ4[c]+valuesIQ4[c+1] {
			c++
		}
		codes[i] = byte(c)
	}
	return codes
}()

// codeIQ4 returns the code of the value nearest to t.
func codeIQ4(t float32) byte { return nearestIQ4[int32(clamp(float32(t*2)+256, 511))&511] }

// measureIQ4 is measure for the values of IQ4, without a shift.
func (g *grid) measureIQ4(x, w []float32) {
	w = w[:len(x)]
	for c, inverse := range g.inverse[:16] {
		var sum float32
		for i, v := range x {
			t := float32(v * inverse)
			e := t - valuesIQ4[codeIQ4(t)&15]
			sum += float32(float32(e*e) * w[i])
		}
		g.errs[c] = sum
	}
}

func putCodesIQ4(codes []byte, x []float32, inverse float32) {
	codes = codes[:len(x)]
	for i, v := range x {
		codes[i] = codeIQ4(float32(v * inverse))
	}
}
