package block

import (
	"math"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
)

// float8 is what the tests below need of an 8-bit float.
type float8 struct {
	round func(x float32, saturate bool) uint8
	widen func(uint8) float32
}

// float8s are by their name in fp8.json.
var float8s = map[string]float8{
	"e4m3": {F32ToE4M3, E4M3ToF32},
	"e5m2": {F32ToE5M2, E5M2ToF32},
}

func TestGoldenFloat8(t *testing.T) {
	for _, path := range golden.Glob(t, "losses/fp8.json") {
		for name, file := range formats[struct {
			Largest  float32  `json:"largest"`
			Normal   float32  `json:"smallest_normal"`
			Smallest float32  `json:"smallest_subnormal"`
			NaN      []uint8  `json:"nan_codes"`
			Infinity []uint8  `json:"infinity_codes"`
			Decode   []uint32 `json:"decode_f32_bits"`
			Encode   struct {
				Bits     []uint32 `json:"f32_bits"`
				Saturate []uint8  `json:"code_saturating"`
				Overflow []uint8  `json:"code_nonsaturating"`
			} `json:"encode"`
		}](t, path) {
			f, ok := float8s[name]
			if !ok {
				t.Fatalf("there is no format %s", name)
			}
			if len(file.Decode) != 256 {
				t.Fatalf("%s: %d codes", name, len(file.Decode))
			}
			for code, bits := range file.Decode {
				if got, want := f.widen(uint8(code)), math.Float32frombits(bits); !equal(got, want) {
					t.Errorf("%s %#x is %g, want %g", name, code, got, want)
				}
			}
			e := file.Encode
			if len(e.Bits) == 0 || len(e.Saturate) != len(e.Bits) || len(e.Overflow) != len(e.Bits) {
				t.Fatalf("%s: %d numbers, %d and %d codes", name, len(e.Bits), len(e.Saturate), len(e.Overflow))
			}
			for i, bits := range e.Bits {
				x := math.Float32frombits(bits)
				for saturate, want := range map[bool]uint8{true: e.Saturate[i], false: e.Overflow[i]} {
					if got := f.round(x, saturate); !equal(f.widen(got), f.widen(want)) {
						t.Errorf("%s of %g (%#x), saturate %v, is %#x, want %#x", name, x, bits, saturate, got, want)
					}
				}
			}
			for _, x := range []float32{file.Largest, file.Normal, file.Smallest} {
				if got := f.widen(f.round(x, false)); x == 0 || got != x {
					t.Errorf("%s of %g is %g", name, x, got)
				}
			}
			for _, code := range file.NaN {
				if !isNaN(f.widen(code)) {
					t.Errorf("%s %#x is no NaN", name, code)
				}
			}
			for _, code := range file.Infinity {
				if x := f.widen(code); !math.IsInf(float64(x), 0) {
					t.Errorf("%s %#x is %g, want an infinity", name, code, x)
				}
			}
		}
	}
}

// Every code survives there and back, but a NaN's payload.
func TestEveryFloat8(t *testing.T) {
	for name, f := range float8s {
		for i := range 256 {
			x := f.widen(uint8(i))
			if got := f.round(x, false); got != uint8(i) && !isNaN(x) {
				t.Errorf("%s %#x: there %g, back %#x", name, i, x, got)
			}
			if got := f.widen(f.round(x, true)); isNaN(got) != isNaN(x) || math.IsInf(float64(got), 0) {
				t.Errorf("%s %#x: %g saturates to %g", name, i, x, got)
			}
		}
	}
}

// Between two neighbours the nearer one is taken, in the middle the even one.
func TestFloat8BetweenNeighbours(t *testing.T) {
	for name, f := range float8s {
		for i := range uint8(0x7f) {
			lo, hi := f.widen(i), f.widen(i+1)
			if !(hi <= math.MaxFloat32) {
				break
			}
			mid := (lo + hi) / 2 // exact: three or four bits
			even := i + i&1
			for x, want := range map[float32]uint8{mid: even, math.Nextafter32(mid, lo): i, math.Nextafter32(mid, hi): i + 1} {
				for _, saturate := range []bool{false, true} {
					if got := f.round(x, saturate); got != want {
						t.Errorf("%s of %g is %#x, want %#x", name, x, got, want)
					}
					if got := f.round(-x, saturate); got != want|0x80 {
						t.Errorf("%s of %g is %#x, want %#x", name, -x, got, want|0x80)
					}
				}
			}
		}
	}
}

func isNaN(x float32) bool { return x != x }
