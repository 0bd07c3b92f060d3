package block

import (
	"encoding/binary"
	"math"
)

// The types whose nibbles are looked up in a fixed list of 16 values.

// valuesIQ4 are the values of the codes of IQ4_NL and IQ4_XS.
var valuesIQ4 = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// valuesFP4 are those of E2M1, a float of 4 bits, times 2
// (https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf, 5.3.3).
// Code 8 is +0 in these formats. The scales are halved to make up for the 2.
var valuesFP4 = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// lookup32 writes 32 weights from 16 bytes: d times the value of each nibble,
// low nibbles first.
func lookup32(y *[32]float32, q *[16]byte, v *[16]float32, d float32) {
	for j, c := range q {
		y[j] = d * v[c&15]
		y[j+16] = d * v[c>>4]
	}
}

// decodeIQ4_NL: d; 16 bytes of nibbles.
func decodeIQ4_NL(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[18:] {
		b := (*[18]byte)(src)
		lookup32((*[32]float32)(dst), (*[16]byte)(b[2:]), &valuesIQ4, scale(b[:]))
	}
}

// decodeIQ4_XS: d; 8 pairs of high scale bits; 8 nibbles of low ones; 128 bytes
// of nibbles. Each 32 weights have the scale d (s-32).
func decodeIQ4_XS(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[136:] {
		y, b := (*[256]float32)(dst), (*[136]byte)(src)
		d, high := scale(b[:]), binary.LittleEndian.Uint16(b[2:])
		for i := range 8 {
			s := b[4+i/2]>>(i&1*4)&15 | byte(high>>(2*i)&3)<<4
			lookup32((*[32]float32)(y[32*i:]), (*[16]byte)(b[8+16*i:]), &valuesIQ4, d*float32(int32(s)-32))
		}
	}
}

// decodeMXFP4: a power of two, e; 16 bytes of nibbles. The scale is 2^(e-127).
func decodeMXFP4(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[17:] {
		b := (*[17]byte)(src)
		half := uint32(0x00200000) << b[0] // 2^(e-128) for e < 2, where it is subnormal
		if b[0] >= 2 {
			half = uint32(b[0]-1) << 23
		}
		lookup32((*[32]float32)(dst), (*[16]byte)(b[1:]), &valuesFP4, math.Float32frombits(half))
	}
}

// decodeNVFP4: 4 scales of 8 bits; 4 times 8 bytes of nibbles. The scale of each
// 16 weights is a float of 4 exponent (bias 7) and 3 fraction bits, UE4M3; its
// NaN, 0x7f, means 0.
func decodeNVFP4(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[64:], src[36:] {
		y, b := (*[64]float32)(dst), (*[36]byte)(src)
		for i := range 4 {
			var d float32
			if b[i] != 0x7f {
				// In float32's place the bits are 2^120 too small (biases 127 and 7).
				d = math.Float32frombits(uint32(b[i]&0x7f)<<20) * 0x1p119
			}
			q, z := (*[8]byte)(b[4+8*i:]), (*[16]float32)(y[16*i:])
			for j, c := range q {
				z[j] = d * valuesFP4[c&15]
				z[j+8] = d * valuesFP4[c>>4]
			}
		}
	}
}
