package block

import (
	"math"
	"testing"

	"github.com/x448/float16"
)

// TestFloat16Oracle compares with github.com/x448/float16: every code, and the numbers
// halfway between two codes, the last bits beside them, and one in 9973 of all float32,
// denormals, overflow and NaN among them.
func TestFloat16Oracle(t *testing.T) {
	for i := range 1 << 16 {
		code := uint16(i)
		if got, want := F16ToF32(code), float16.Frombits(code).Float32(); math.Float32bits(got) != math.Float32bits(want) && (got == got || want == want) {
			t.Fatalf("%#x is %g, want %g", code, got, want)
		}
	}
	check := func(x float32) {
		got, want := F32ToF16(x), float16.Fromfloat32(x)
		if got != want.Bits() && !(x != x && want.IsNaN() && got&0x7c00 == 0x7c00 && got&0x3ff != 0) {
			t.Fatalf("%g (%#x) is %#x, want %#x", x, math.Float32bits(x), got, want.Bits())
		}
	}
	for i := range uint16(0x7c00) {
		lo, hi := float64(F16ToF32(i)), float64(F16ToF32(i+1))
		if i == 0x7bff {
			hi = 65536 // what would follow the largest
		}
		mid := float32((lo + hi) / 2) // exact
		for _, x := range []float32{mid, math.Nextafter32(mid, 0), math.Nextafter32(mid, math.MaxFloat32)} {
			check(x)
			check(-x)
		}
	}
	for b := uint64(0); b < 1<<32; b += 9973 {
		check(math.Float32frombits(uint32(b)))
	}
}
