package kernel

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/x448/float16"
)

// TestFloat16Oracle compares all variants with github.com/x448/float16: every code, and
// numbers of all exponents, most of them halfway between two codes or beside that.
func TestFloat16Oracle(t *testing.T) {
	codes, rnd := make([]uint16, 1<<16), rand.New(rand.NewPCG(41, 42))
	for i := range codes {
		codes[i] = uint16(i)
	}
	x := []float32{0x1p-25, math.Nextafter32(0x1p-25, 1), 65519.996, 65520, 65536, math.MaxFloat32, inf, float32(math.NaN()), 0x1p-149}
	for range 1 << 17 {
		bits := rnd.Uint32()
		if rnd.IntN(4) > 0 { // the codes have 13 bits less
			bits = bits&^0x1fff | 0x1000 + uint32(rnd.IntN(3)) - 1
			bits = bits&^(0xff<<23) | uint32(127-26+rnd.IntN(44))<<23
		}
		x = append(x, math.Float32frombits(bits))
	}
	for _, v := range x {
		x = append(x, -v)
	}
	forAll(t, func(t *testing.T, s *Set) {
		wide := make([]float32, len(codes))
		s.WidenF16(wide, codes)
		for i, got := range wide {
			if want := float16.Frombits(codes[i]).Float32(); !same(got, want) {
				t.Fatalf("%#x is %g, want %g", codes[i], got, want)
			}
		}
		y := make([]uint16, len(x))
		s.RoundF16(y, x)
		for i, got := range y {
			if want := float16.Fromfloat32(x[i]); got != want.Bits() && !(want.IsNaN() && float16.Frombits(got).IsNaN()) {
				t.Fatalf("%g (%#x) is %#x, want %#x", x[i], math.Float32bits(x[i]), got, want.Bits())
			}
		}
	})
}
