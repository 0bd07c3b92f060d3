package block

import (
	"encoding/binary"
	"math"

	"github.com/herd-ml/herd/backend"
)

// Float16 is IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 fraction
// bits. Bfloat16 is the upper half of a float32.

// F16ToF32 widens a float16; exact. A NaN keeps its sign and payload.
func F16ToF32(h uint16) float32 {
	w := uint32(h&0x7fff) << 13 // the fraction where float32 has it
	switch {
	case w >= 31<<23: // infinity, NaN
		w += (255 - 31) << 23
	case w >= 1<<23:
		w += (127 - 15) << 23
	default: // subnormal, fraction x 2^-24: read it as 2^-14 + that, take 2^-14 off
		w = math.Float32bits(math.Float32frombits(w+113<<23) - 0x1p-14)
	}
	return math.Float32frombits(w | uint32(h&0x8000)<<16)
}

// F32ToF16 rounds to the nearest float16, ties to even; 65520 and above become
// infinite. A NaN keeps its sign and the part of its payload that fits.
func F32ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return sign | nan(0x7c00|uint16(b>>13)&0x3ff, 0x3ff, 0x200)
	case b >= 0x477ff000:
		return sign | 0x7c00
	case b < 113<<23: // below 2^-14; the spacing of float32 at 0.5 is 2^-24, that of subnormals
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-math.Float32bits(0.5))
	}
	return sign | uint16((b-112<<23+0xfff+b>>13&1)>>13)
}

// BF16ToF32 widens a bfloat16; exact.
func BF16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32ToBF16 rounds to the nearest bfloat16, ties to even. A NaN keeps its sign
// and the part of its payload that fits.
func F32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return nan(uint16(b>>16), 0x7f, 0x40)
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// nan sets the quiet bit of a NaN whose payload was cut down to zero, which
// would otherwise read as infinity.
func nan(h, payload, quiet uint16) uint16 {
	if h&payload == 0 {
		h |= quiet
	}
	return h
}

// DecodeF16 widens len(dst) float16 values; src must be as long.
func DecodeF16(dst []float32, src []uint16) {
	src = same(dst, src)
	for i := range dst {
		dst[i] = F16ToF32(src[i])
	}
}

// DecodeBF16 widens len(dst) bfloat16 values; src must be as long.
func DecodeBF16(dst []float32, src []uint16) {
	src = same(dst, src)
	for i := range dst {
		dst[i] = BF16ToF32(src[i])
	}
}

// EncodeF16 rounds len(src) values to float16; dst must be as long.
func EncodeF16(dst []uint16, src []float32) {
	dst = same(src, dst)
	for i, x := range src {
		dst[i] = F32ToF16(x)
	}
}

// EncodeBF16 rounds len(src) values to bfloat16; dst must be as long.
func EncodeBF16(dst []uint16, src []float32) {
	dst = same(src, dst)
	for i, x := range src {
		dst[i] = F32ToBF16(x)
	}
}

// same returns h cut to a length the compiler knows, after checking it.
func same(f []float32, h []uint16) []uint16 {
	if len(h) != len(f) {
		panic("block: lengths differ")
	}
	return h[:len(f)]
}

// Encode writes src to dst as F32, F16 or BF16, rounding to nearest, ties to
// even. len(dst) must be len(src) times the size of t; a mismatch, or a type
// that is not one of the three, panics.
func Encode(t backend.DType, dst []byte, src []float32) {
	if !t.Float() {
		panic("block: Encode takes F32, F16 and BF16 only")
	}
	if n := t.BlockBytes(); len(dst)%n != 0 || len(dst)/n != len(src) {
		panic("block: Encode lengths do not match")
	}
	for i, x := range src {
		switch t {
		case backend.F32:
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
		case backend.F16:
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToF16(x))
		case backend.BF16:
			binary.LittleEndian.PutUint16(dst[2*i:], F32ToBF16(x))
		}
	}
}

// EncodeExact is Encode that also tells whether every value survives: it
// returns the index of the first one that t cannot hold, or -1. All of src is
// written either way. A value survives if it decodes to the same bits (so -0
// is not 0), a NaN if it decodes to a NaN.
func EncodeExact(t backend.DType, dst []byte, src []float32) (lost int) {
	Encode(t, dst, src)
	for i, x := range src {
		y := x
		switch t {
		case backend.F16:
			y = F16ToF32(F32ToF16(x))
		case backend.BF16:
			y = BF16ToF32(F32ToBF16(x))
		}
		if math.Float32bits(x) != math.Float32bits(y) && (x == x || y == y) {
			return i
		}
	}
	return -1
}
