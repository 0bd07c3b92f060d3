package block

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/herd-ml/herd/backend"
)

// The IQ types: 256 weights; each group of 8 (or 4) is one entry of a codebook
// in tables.go, times a scale, with signs. An entry holds the codes of its
// weights, the first in the lowest bits; v holds the values of the codes, scale
// included, so that a weight costs one look-up.

// Codebook returns what the indices of an IQ1, IQ2 or IQ3 type stand for, or nil where t
// is no such type: the codes of 8 weights of 2 bits each or, of IQ3 types, of 4 weights of
// 4 bits, the first in the lowest bits. Code q is -1, 0 or 1 of IQ1 types, 8, 25 or 43 of
// IQ2 types, 4, 12, 20, 28, 36, 44, 52 or 62 of IQ3_XXS, and 2q+1 of IQ3_S.
func Codebook(t backend.DType) []uint16 {
	switch t {
	case backend.IQ1_S, backend.IQ1_M:
		return slices.Clone(gridIQ1[:])
	case backend.IQ2_XXS:
		return slices.Clone(gridIQ2XXS[:])
	case backend.IQ2_XS:
		return slices.Clone(gridIQ2XS[:])
	case backend.IQ2_S:
		return slices.Clone(gridIQ2S[:])
	case backend.IQ3_XXS:
		return slices.Clone(gridIQ3XXS[:])
	case backend.IQ3_S:
		return slices.Clone(gridIQ3S[:])
	}
	return nil
}

// grid8 writes the eight weights of entry g, whose codes have 2 bits. Bit j of
// signs negates weight j.
func grid8(y *[8]float32, v *[4]float32, g uint16, signs byte) {
	for j := range y {
		y[j] = math.Float32frombits(math.Float32bits(v[g&3]) ^ uint32(signs)<<31)
		g >>= 2
		signs >>= 1
	}
}

// grid4 writes the four weights of entry g, whose codes have 4 bits of which 3
// are used.
func grid4(y *[4]float32, v *[8]float32, g uint16, signs byte) {
	for j := range y {
		y[j] = math.Float32frombits(math.Float32bits(v[g&7]) ^ uint32(signs)<<31)
		g >>= 4
		signs >>= 1
	}
}

// signs7 completes 7 stored signs by an eighth that makes their number even.
func signs7(s uint32) byte {
	s &= 127
	return byte(s | uint32(bits.OnesCount32(s))<<7)
}

// values2 are the magnitudes of the IQ2 types' codes times d (1/2 + s) / 4.
func values2(d float32, s byte) [4]float32 {
	d = d * (0.5 + float32(s)) * 0.25
	return [4]float32{d * 8, d * 25, d * 43}
}

// decodeIQ2_XXS: d; 8 times (4 bytes of codebook indices, 32 bits: 4 times 7
// signs, then a 4-bit scale for the 32 weights).
func decodeIQ2_XXS(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[66:] {
		y, b := (*[256]float32)(dst), (*[66]byte)(src)
		d := scale(b[:])
		for i := range 8 {
			q := (*[8]byte)(b[2+8*i:])
			s := binary.LittleEndian.Uint32(q[4:])
			v := values2(d, byte(s>>28))
			for l := range 4 {
				grid8((*[8]float32)(y[32*i+8*l:]), &v, gridIQ2XXS[q[l]], signs7(s>>(7*l)))
			}
		}
	}
}

// decodeIQ2_XS: d; 32 times 16 bits: 9 of codebook index, 7 signs; 8 bytes of
// 4-bit scales, one for each 16 weights.
func decodeIQ2_XS(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[74:] {
		y, b := (*[256]float32)(dst), (*[74]byte)(src)
		d := scale(b[:])
		for i := range 16 {
			v := values2(d, b[66+i/2]>>(i&1*4)&15)
			for l := range 2 {
				q := binary.LittleEndian.Uint16(b[2+4*i+2*l:])
				grid8((*[8]float32)(y[16*i+8*l:]), &v, gridIQ2XS[q&511], signs7(uint32(q>>9)))
			}
		}
	}
}

// decodeIQ2_S: d; 32 bytes of low index bits; 32 bytes of signs; 8 bytes of two
// high index bits; 8 bytes of 4-bit scales, one for each 16 weights.
func decodeIQ2_S(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[82:] {
		y, b := (*[256]float32)(dst), (*[82]byte)(src)
		d := scale(b[:])
		for i := range 16 {
			v := values2(d, b[74+i/2]>>(i&1*4)&15)
			for l := range 2 {
				g := 2*i + l
				q := uint16(b[2+g]) | uint16(b[66+g/4]>>(g&3*2)&3)<<8
				grid8((*[8]float32)(y[8*g:]), &v, gridIQ2S[q&1023], b[34+g])
			}
		}
	}
}

// decodeIQ3_XXS: d; 64 bytes of codebook indices; 8 times 32 bits: 4 times 7
// signs, then a 4-bit scale for the 32 weights.
func decodeIQ3_XXS(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[98:] {
		y, b := (*[256]float32)(dst), (*[98]byte)(src)
		d := scale(b[:])
		for i := range 8 {
			s := binary.LittleEndian.Uint32(b[66+4*i:])
			e := d * (0.5 + float32(s>>28)) * 0.5
			v := [8]float32{e * 4, e * 12, e * 20, e * 28, e * 36, e * 44, e * 52, e * 62}
			for l := range 4 {
				q, z, sign := (*[2]byte)(b[2+8*i+2*l:]), (*[8]float32)(y[32*i+8*l:]), signs7(s>>(7*l))
				grid4((*[4]float32)(z[:]), &v, gridIQ3XXS[q[0]], sign)
				grid4((*[4]float32)(z[4:]), &v, gridIQ3XXS[q[1]], sign>>4)
			}
		}
	}
}

// decodeIQ3_S: d; 64 bytes of low index bits; 8 bytes of one high index bit; 32
// bytes of signs; 4 bytes of 4-bit scales, one for each 32 weights.
func decodeIQ3_S(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[110:] {
		y, b := (*[256]float32)(dst), (*[110]byte)(src)
		d := scale(b[:])
		for i := range 8 {
			e := d * float32(1+2*(b[106+i/2]>>(i&1*4)&15))
			v := [8]float32{e * 1, e * 3, e * 5, e * 7, e * 9, e * 11, e * 13, e * 15}
			h := uint16(b[66+i])
			for l := range 4 {
				q, z, sign := (*[2]byte)(b[2+8*i+2*l:]), (*[8]float32)(y[32*i+8*l:]), b[74+4*i+l]
				grid4((*[4]float32)(z[:]), &v, gridIQ3S[uint16(q[0])|h<<8&256], sign)
				grid4((*[4]float32)(z[4:]), &v, gridIQ3S[uint16(q[1])|h<<7&256], sign>>4)
				h >>= 2
			}
		}
	}
}

// values1 are the values of the IQ1 types' codes -1, 0, 1: all moved by 1/8, up
// or (negative) down, then scaled by d (2s+1).
func values1(d float32, s uint16, negative bool) [4]float32 {
	d, delta := d*float32(2*s+1), float32(0.125)
	if negative {
		delta = -delta
	}
	return [4]float32{d * (delta - 1), d * delta, d * (delta + 1)}
}

// decodeIQ1_S: d; 32 bytes of low index bits; 8 times 16 bits for 32 weights: 4
// times 3 high index bits, a 3-bit scale, the sign of the shift.
func decodeIQ1_S(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[50:] {
		y, b := (*[256]float32)(dst), (*[50]byte)(src)
		d := scale(b[:])
		for i := range 8 {
			h := binary.LittleEndian.Uint16(b[34+2*i:])
			v := values1(d, h>>12&7, h>>15 != 0)
			for l := range 4 {
				q := uint16(b[2+4*i+l]) | h>>(3*l)&7<<8
				grid8((*[8]float32)(y[32*i+8*l:]), &v, gridIQ1[q], 0)
			}
		}
	}
}

// decodeIQ1_M: 32 bytes of low index bits; 16 bytes of nibbles, one for each 8
// weights: 3 high index bits, the sign of the shift; 4 words of 16 bits: 4
// times a 3-bit scale for 16 weights, then 4 bits of d, lowest first.
func decodeIQ1_M(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[56:] {
		y, b := (*[256]float32)(dst), (*[56]byte)(src)
		s := binary.LittleEndian.Uint64(b[48:])
		d := F16ToF32(uint16(s>>12&0xf | s>>24&0xf0 | s>>36&0xf00 | s>>48&0xf000))
		for g := range 32 {
			i := g / 2
			h := uint16(b[32+i] >> (g & 1 * 4))
			v := values1(d, uint16(s>>(i/4*16+i%4*3)&7), h&8 != 0)
			grid8((*[8]float32)(y[8*g:]), &v, gridIQ1[uint16(b[g])|h&7<<8], 0)
		}
	}
}
