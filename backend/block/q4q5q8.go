package block

import "encoding/binary"

// The blocks of 32 weights with one scale. Weights j and j+16 are the low and
// the high nibble of byte j; a fifth bit of weight j is bit j of a 32-bit word.

// decodeQ4_0: d; 16 bytes of nibbles. w = d (q-8).
func decodeQ4_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[18:] {
		y, b := (*[32]float32)(dst), (*[18]byte)(src)
		d := scale(b[:])
		for j := range 16 {
			q := int32(b[2+j])
			y[j] = d * float32(q&15-8)
			y[j+16] = d * float32(q>>4-8)
		}
	}
}

// decodeQ4_1: d; m; 16 bytes of nibbles. w = d q + m.
func decodeQ4_1(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[20:] {
		y, b := (*[32]float32)(dst), (*[20]byte)(src)
		d, m := scale(b[:]), scale(b[2:])
		for j := range 16 {
			q := int32(b[4+j])
			y[j] = float32(d*float32(q&15)) + m
			y[j+16] = float32(d*float32(q>>4)) + m
		}
	}
}

// decodeQ5_0: d; 32 fifth bits; 16 bytes of nibbles. w = d (q-16).
func decodeQ5_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[22:] {
		y, b := (*[32]float32)(dst), (*[22]byte)(src)
		d, h := scale(b[:]), binary.LittleEndian.Uint32(b[2:])
		for j := range 16 {
			q := int32(b[6+j])
			y[j] = d * float32(q&15|int32(h<<4&16)-16)
			y[j+16] = d * float32(q>>4|int32(h>>12&16)-16)
			h >>= 1
		}
	}
}

// decodeQ5_1: d; m; 32 fifth bits; 16 bytes of nibbles. w = d q + m.
func decodeQ5_1(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[24:] {
		y, b := (*[32]float32)(dst), (*[24]byte)(src)
		d, m, h := scale(b[:]), scale(b[2:]), binary.LittleEndian.Uint32(b[4:])
		for j := range 16 {
			q := int32(b[8+j])
			y[j] = float32(d*float32(q&15|int32(h<<4&16))) + m
			y[j+16] = float32(d*float32(q>>4|int32(h>>12&16))) + m
			h >>= 1
		}
	}
}

// decodeQ8_0: d; 32 int8. w = d q.
func decodeQ8_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[34:] {
		y, b := (*[32]float32)(dst), (*[34]byte)(src)
		d := scale(b[:])
		for j := range y {
			y[j] = d * float32(int8(b[2+j]))
		}
	}
}
