package block

import (
	"encoding/binary"
	"math"
)

// The encoders of the types in q4q5q8.go. Without weights a block's scale follows from
// its extremes; codes are rounded with the inverse of that scale before it is a float16.
// With weights it is searched for: see symmetric_encode.go and affine_encode.go.

// inverse returns 1/d, or 0 where d is 0 or so small that its inverse is infinite: such a
// d is 0 as a float16.
func inverse(d float32) float32 {
	if i := 1 / d; i-i == 0 {
		return i
	}
	return 0
}

// farthest returns the value of the largest magnitude, with its sign: the first of equals.
func farthest(x []float32) float32 {
	var best uint64 // magnitude, then the distance to the end
	for j, v := range x {
		best = max(best, uint64(math.Float32bits(v)&^(1<<31))<<32|uint64(len(x)-1-j))
	}
	return x[len(x)-1-int(uint32(best))]
}

// extremes returns the least and the largest value.
func extremes(x []float32) (low, high float32) {
	low, high = x[0], x[0]
	for _, v := range x {
		if v < low {
			low = v
		}
		if v > high {
			high = v
		}
	}
	return low, high
}

func putF16(b []byte, f float32) { binary.LittleEndian.PutUint16(b, F32ToF16(f)) }

// code returns x*inverse+shift cut to an integer of at most most. That is at least 0.
func code(x, inverse, shift float32, most int32) uint32 {
	return uint32(min(int32(float32(x*inverse)+shift), most))
}

// encodeQ4_0: the value farthest from 0 gets code 0, d = that / -8.
func encodeQ4_0(g *grid, dst []byte, src, w []float32) {
	if w != nil {
		searchQ4_0(g, dst, src, w)
		return
	}
	for ; len(src) > 0; dst, src = dst[18:], src[32:] {
		x, b := (*[32]float32)(src), (*[18]byte)(dst)
		d := farthest(x[:]) / -8
		id := inverse(d)
		putF16(b[:], d)
		for j := range 16 {
			b[2+j] = byte(code(x[j], id, 8.5, 15) | code(x[j+16], id, 8.5, 15)<<4)
		}
	}
}

// encodeQ4_1: m is the least value, d = (largest - m) / 15.
func encodeQ4_1(g *grid, dst []byte, src, w []float32) {
	if w != nil {
		searchQ4_1(g, dst, src, w)
		return
	}
	for ; len(src) > 0; dst, src = dst[20:], src[32:] {
		x, b := (*[32]float32)(src), (*[20]byte)(dst)
		m, high := extremes(x[:])
		d := (high - m) / 15
		id := inverse(d)
		putF16(b[:], d)
		putF16(b[2:], m)
		for j := range 16 {
			b[4+j] = byte(code(x[j]-m, id, 0.5, 15) | code(x[j+16]-m, id, 0.5, 15)<<4)
		}
	}
}

// encodeQ5_0: the value farthest from 0 gets code 0, d = that / -16.
func encodeQ5_0(g *grid, dst []byte, src, w []float32) {
	if w != nil {
		searchQ5_0(g, dst, src, w)
		return
	}
	for ; len(src) > 0; dst, src = dst[22:], src[32:] {
		x, b := (*[32]float32)(src), (*[22]byte)(dst)
		d := farthest(x[:]) / -16
		id := inverse(d)
		putF16(b[:], d)
		var h uint32
		for j := range 16 {
			lo, hi := code(x[j], id, 16.5, 31), code(x[j+16], id, 16.5, 31)
			b[6+j] = byte(lo&15 | hi<<4)
			h |= lo>>4<<j | hi>>4<<(j+16)
		}
		binary.LittleEndian.PutUint32(b[2:], h)
	}
}

// encodeQ5_1: m is the least value, d = (largest - m) / 31.
func encodeQ5_1(g *grid, dst []byte, src, w []float32) {
	if w != nil {
		searchQ5_1(g, dst, src, w)
		return
	}
	for ; len(src) > 0; dst, src = dst[24:], src[32:] {
		x, b := (*[32]float32)(src), (*[24]byte)(dst)
		m, high := extremes(x[:])
		d := (high - m) / 31
		id := inverse(d)
		putF16(b[:], d)
		putF16(b[2:], m)
		var h uint32
		for j := range 16 {
			lo, hi := code(x[j]-m, id, 0.5, 31), code(x[j+16]-m, id, 0.5, 31)
			b[8+j] = byte(lo&15 | hi<<4)
			h |= lo>>4<<j | hi>>4<<(j+16)
		}
		binary.LittleEndian.PutUint32(b[4:], h)
	}
}

// encodeQ8_0: d is the largest magnitude / 127. Halves are rounded away from 0.
func encodeQ8_0(_ *grid, dst []byte, src, _ []float32) {
	for ; len(src) > 0; dst, src = dst[34:], src[32:] {
		x, b := (*[32]float32)(src), (*[34]byte)(dst)
		d := largest(x[:]) / 127
		id := inverse(d)
		putF16(b[:], d)
		for j, v := range x {
			b[2+j] = byte(roundAway(v, id))
		}
	}
}

// roundAway rounds x*inverse, of a magnitude below 2^22, to the nearest integer, halves
// away from 0.
func roundAway(x, inverse float32) int32 {
	x = float32(x * inverse)
	n := int32(x)
	rest := x - float32(n) // exact
	if rest >= 0.5 {
		n++
	}
	if rest <= -0.5 {
		n--
	}
	return n
}

func searchQ4_0(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	for w = g.weigh(w, 32); len(src) > 0; dst, src = dst[18:], src[32:] {
		kindQ4_0.encode(g, c, src[:32], w)
		binary.LittleEndian.PutUint16(dst, c.d)
		putNibbles((*[16]byte)(dst[2:]), (*[32]byte)(c.codes[:]))
	}
}

func searchQ4_1(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	for w = g.weigh(w, 32); len(src) > 0; dst, src = dst[20:], src[32:] {
		kindQ4_1.encode32(g, c, (*[32]float32)(src), w)
		binary.LittleEndian.PutUint16(dst, c.d)
		binary.LittleEndian.PutUint16(dst[2:], c.m)
		putNibbles((*[16]byte)(dst[4:]), (*[32]byte)(c.codes[:]))
	}
}

func searchQ5_0(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	for w = g.weigh(w, 32); len(src) > 0; dst, src = dst[22:], src[32:] {
		kindQ5_0.encode(g, c, src[:32], w)
		binary.LittleEndian.PutUint16(dst, c.d)
		putFifths((*[20]byte)(dst[2:]), (*[32]byte)(c.codes[:]))
	}
}

func searchQ5_1(g *grid, dst []byte, src, w []float32) {
	c := &g.coded
	for w = g.weigh(w, 32); len(src) > 0; dst, src = dst[24:], src[32:] {
		kindQ5_1.encode32(g, c, (*[32]float32)(src), w)
		binary.LittleEndian.PutUint16(dst, c.d)
		binary.LittleEndian.PutUint16(dst[2:], c.m)
		putFifths((*[20]byte)(dst[4:]), (*[32]byte)(c.codes[:]))
	}
}

// putFifths writes 32 codes of 5 bits: the fifth bits, then the nibbles.
func putFifths(b *[20]byte, codes *[32]byte) {
	var h uint32
	for j, q := range codes {
		h |= uint32(q>>4) << j
	}
	binary.LittleEndian.PutUint32(b[:], h)
	for j := range 16 {
		b[4+j] = codes[j]&15 | codes[j+16]<<4
	}
}
