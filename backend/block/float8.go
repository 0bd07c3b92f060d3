package block

import "math"

// The two 8-bit floats of the OCP 8-bit Floating Point Specification, revision 1.0
// (https://www.opencompute.org/documents/ocp-8-bit-floating-point-specification-ofp8-revision-1-0-2023-12-01-pdf-1;
// https://arxiv.org/abs/2209.05433, table 1), for models that are stored in them:
//
//	        exponent         fraction   largest          above it
//	E4M3    4 bits, bias 7   3 bits     448   = 0x7e     0x7f is NaN; no infinity
//	E5M2    5 bits, bias 15  2 bits     57344 = 0x7b     0x7c is infinity, more is NaN
//
// The top bit is the sign, and exponent 0 is for subnormal numbers, as in IEEE 754.

// F32ToE4M3 rounds to the nearest E4M3, ties to even. What would round to more than 448
// becomes 448 if saturate is set, infinity too, and else NaN. A NaN is 0x7f with its sign.
func F32ToE4M3(x float32, saturate bool) uint8 {
	if saturate {
		return toFloat8(x, 3, 7, 0x7e, 0x7e)
	}
	return toFloat8(x, 3, 7, 0x7e, 0x7f)
}

// F32ToE5M2 rounds to the nearest E5M2, ties to even. What would round to more than
// 57344 becomes 57344 if saturate is set, infinity too, and else infinity. A NaN is 0x7f
// with its sign.
func F32ToE5M2(x float32, saturate bool) uint8 {
	if saturate {
		return toFloat8(x, 2, 15, 0x7b, 0x7b)
	}
	return toFloat8(x, 2, 15, 0x7b, 0x7c)
}

// toFloat8 rounds to a sign, an exponent of that bias and a fraction of that many bits.
// What is above the code of the largest number becomes over.
func toFloat8(x float32, fraction, bias, largest uint32, over uint8) uint8 {
	b := math.Float32bits(x)
	sign := uint8(b>>24) & 0x80
	b &= 0x7fffffff
	if b > 0x7f800000 {
		return sign | 0x7f
	}
	cut, rebias := 23-fraction, (127-bias)<<23
	if b < rebias+1<<23 { // below the smallest normal number
		// Subnormals are 2^(1-bias-fraction) apart, and so are float32 numbers from
		// 2^(24-bias-fraction) on: the addition rounds.
		magic := (127 + 24 - bias - fraction) << 23
		return sign | uint8(math.Float32bits(math.Float32frombits(b)+math.Float32frombits(magic))-magic)
	}
	code := (b - rebias + 1<<(cut-1) - 1 + b>>cut&1) >> cut
	if code > largest {
		return sign | over
	}
	return sign | uint8(code)
}

// E4M3ToF32 widens an E4M3; exact.
func E4M3ToF32(c uint8) float32 {
	w, sign := uint32(c&0x7f)<<20, uint32(c&0x80)<<24
	if c&0x7f == 0x7f {
		return math.Float32frombits(sign | 0x7fc00000)
	}
	// Read with the bias of float32 it is 2^(7-127) of its value, subnormals included.
	return math.Float32frombits(sign|w) * 0x1p120
}

// E5M2ToF32 widens an E5M2, which is the upper half of a float16; exact.
func E5M2ToF32(c uint8) float32 { return F16ToF32(uint16(c) << 8) }
