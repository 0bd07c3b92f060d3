package block

import "math"

// The encoders of the types in nibble.go.

// encodeMXFP4: the scale is 2^(floor(log2 of the largest magnitude) - 2), which maps that
// to 4 up to 8, of which 6 is the most that there is
// (https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf, 6.3).
func encodeMXFP4(_ *grid, dst []byte, src, _ []float32) {
	for ; len(src) > 0; dst, src = dst[17:], src[32:] {
		x, b := (*[32]float32)(src), (*[17]byte)(dst)
		b[0] = 0
		if most := largest(x[:]); most > 0 {
			// The logarithm is rounded to float32 first, which makes that of a value just
			// below a power of two whole.
			e := math.Floor(float64(float32(math.Log2(float64(most)))))
			b[0] = byte(max(e+125, 0))
		}
		inverse := math.Ldexp(1, 127-int(b[0]))
		for j := range 16 {
			b[1+j] = codeE2M1(float64(x[j])*inverse) | codeE2M1(float64(x[j+16])*inverse)<<4
		}
	}
}

// codeE2M1 returns the code of the value of E2M1 nearest to x; of two, the one nearer to 0.
func codeE2M1(x float64) byte {
	a := math.Abs(x)
	var c byte
	for _, middle := range [7]float64{0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5} {
		if a > middle {
			c++
		}
	}
	if x < 0 && c > 0 {
		c |= 8
	}
	return c
}
