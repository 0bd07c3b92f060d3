package block

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

// half is what the tests below need of a 16-bit type.
type half struct {
	typ    backend.DType
	widen  func(uint16) float32
	round  func(float32) uint16
	decode func([]float32, []uint16)
	encode func([]uint16, []float32)
	golden string // name in convert.safetensors
	table  string // and in half.json
}

var halves = []half{
	{backend.F16, F16ToF32, F32ToF16, DecodeF16, EncodeF16, "f16", "float16"},
	{backend.BF16, BF16ToF32, F32ToBF16, DecodeBF16, EncodeBF16, "bf16", "bfloat16"},
}

func TestRoundGolden(t *testing.T) {
	file := golden.Safetensors(t, golden.Glob(t, "quant/convert.safetensors")[0])
	x := file["f32"].F32
	for _, h := range halves {
		want := file[h.golden].U16
		got, raw := make([]uint16, len(x)), make([]byte, 2*len(x))
		h.encode(got, x)
		Encode(h.typ, raw, x)
		if len(want) != len(x) || len(x) == 0 {
			t.Fatalf("%v: %d values, %d results", h.typ, len(x), len(want))
		}
		for i := range want {
			if got[i] != want[i] || binary.LittleEndian.Uint16(raw[2*i:]) != want[i] {
				t.Errorf("%v of %g (%#x) is %#x, want %#x", h.typ, x[i], math.Float32bits(x[i]), got[i], want[i])
			}
		}
	}
}

// formats reads a golden file with an object for each format.
func formats[T any](t *testing.T, path string) map[string]T {
	t.Helper()
	raw := map[string]json.RawMessage{}
	golden.JSON(t, path, &raw)
	delete(raw, "about")
	out := map[string]T{}
	for name, r := range raw {
		var x T
		if err := json.Unmarshal(r, &x); err != nil {
			t.Fatalf("%s: %s: %v", path, name, err)
		}
		out[name] = x
	}
	if len(out) == 0 {
		t.Fatalf("%s has no format", path)
	}
	return out
}

// The table has rounding cases of every kind; codes of NaNs compare as a class.
func TestGoldenHalf(t *testing.T) {
	type pairs struct {
		Bits []uint32 `json:"f32_bits"`
		Code []uint16 `json:"code"`
		NaN  []int    `json:"is_nan"`
	}
	for _, path := range golden.Glob(t, "losses/half.json") {
		for name, file := range formats[struct{ Encode, Decode pairs }](t, path) {
			at := slices.IndexFunc(halves, func(h half) bool { return h.table == name })
			if at < 0 {
				t.Fatalf("there is no format %s", name)
			}
			h := halves[at]
			for _, p := range []pairs{file.Encode, file.Decode} {
				if len(p.Bits) == 0 || len(p.Code) != len(p.Bits) {
					t.Fatalf("%s: %d numbers, %d codes", name, len(p.Bits), len(p.Code))
				}
				for _, i := range p.NaN {
					if x := h.widen(p.Code[i]); x == x {
						t.Errorf("%s %#x is %g, want NaN", name, p.Code[i], x)
					}
				}
			}
			for i, bits := range file.Encode.Bits {
				x := math.Float32frombits(bits)
				if got, want := h.round(x), file.Encode.Code[i]; !equal(h.widen(got), h.widen(want)) {
					t.Errorf("%s of %g (%#x) is %#x, want %#x", name, x, bits, got, want)
				}
			}
			for i, code := range file.Decode.Code {
				if got, want := h.widen(code), math.Float32frombits(file.Decode.Bits[i]); !equal(got, want) {
					t.Errorf("%s %#x is %g, want %g", name, code, got, want)
				}
			}
		}
	}
}

// Every pattern, NaNs with their payload included, survives there and back.
func TestEveryPattern(t *testing.T) {
	for _, h := range halves {
		in, out := make([]uint16, 1<<16), make([]uint16, 1<<16)
		for i := range in {
			in[i] = uint16(i)
		}
		wide := make([]float32, len(in))
		h.decode(wide, in)
		h.encode(out, wide)
		for i := range in {
			if out[i] != in[i] || !equal(wide[i], h.widen(in[i])) || h.round(wide[i]) != in[i] {
				t.Errorf("%v %#x: there %g, back %#x", h.typ, in[i], wide[i], out[i])
			}
		}
		raw := make([]byte, 2*len(in))
		if lost := EncodeExact(h.typ, raw, wide); lost != -1 {
			t.Errorf("%v: value %d (%g) is said to be lost", h.typ, lost, wide[lost])
		}
	}
}

// Around the middle between two neighbours, rounding goes to the nearer one and
// from the middle itself to the even one.
func TestRoundBetweenNeighbours(t *testing.T) {
	for _, h := range halves {
		for i := range uint16(0x7fff) {
			lo, hi := float64(h.widen(i)), float64(h.widen(i+1))
			if math.IsInf(hi, 0) || math.IsNaN(hi) {
				break
			}
			mid := float32((lo + hi) / 2)
			if float64(mid) != (lo+hi)/2 {
				continue // below float32's own spacing
			}
			for _, c := range []struct {
				x    float32
				want uint16
			}{
				{math.Nextafter32(mid, 0), i}, {mid, i + i&1}, {math.Nextafter32(mid, float32(math.Inf(1))), i + 1},
			} {
				if got := h.round(c.x); got != c.want {
					t.Fatalf("%v of %g is %#x, want %#x", h.typ, c.x, got, c.want)
				}
				if got := h.round(-c.x); got != c.want|0x8000 {
					t.Fatalf("%v of %g is %#x, want %#x", h.typ, -c.x, got, c.want|0x8000)
				}
			}
		}
	}
}

func TestRoundNaN(t *testing.T) {
	for _, h := range halves {
		for _, b := range []uint32{0x7f800001, 0x7fc00000, 0xff800001, 0xffffffff, 0x7f801fff, 0x7f80ffff} {
			got := h.round(math.Float32frombits(b))
			if x := h.widen(got); x == x || got>>15 != uint16(b>>31) {
				t.Errorf("%v of NaN %#x is %#x, %g", h.typ, b, got, x)
			}
		}
	}
}

func TestEncodeExact(t *testing.T) {
	src := []float32{1, float32(math.Copysign(0, -1)), float32(math.NaN()), float32(math.Inf(-1)), 1 + 0x1p-9, 1e-30, 65520}
	for _, c := range []struct {
		typ  backend.DType
		n    int // of src
		lost int
	}{
		{backend.F32, 7, -1}, {backend.F16, 5, -1}, {backend.F16, 7, 5}, {backend.BF16, 4, -1}, {backend.BF16, 7, 4},
		{backend.F16, 0, -1},
	} {
		dst, plain := make([]byte, c.n*c.typ.BlockBytes()), make([]byte, c.n*c.typ.BlockBytes())
		if lost := EncodeExact(c.typ, dst, src[:c.n]); lost != c.lost {
			t.Errorf("%v: first lost is %d, want %d", c.typ, lost, c.lost)
		}
		Encode(c.typ, plain, src[:c.n])
		if string(plain) != string(dst) {
			t.Errorf("%v: Encode and EncodeExact write different bytes", c.typ)
		}
		back := make([]float32, c.n)
		Decode(c.typ, back, dst)
		for i := range back {
			if c.lost < 0 && !equal(back[i], src[i]) {
				t.Errorf("%v: %g became %g", c.typ, src[i], back[i])
			}
		}
	}
}

func TestEncodePanics(t *testing.T) {
	for name, f := range map[string]func(){
		"a block type":   func() { Encode(backend.Q4_0, make([]byte, 18), make([]float32, 32)) },
		"short dst":      func() { Encode(backend.F16, make([]byte, 3), make([]float32, 2)) },
		"long dst":       func() { Encode(backend.BF16, make([]byte, 6), make([]float32, 2)) },
		"EncodeF16":      func() { EncodeF16(make([]uint16, 3), make([]float32, 2)) },
		"DecodeBF16":     func() { DecodeBF16(make([]float32, 3), make([]uint16, 2)) },
		"DecodeF16 long": func() { DecodeF16(make([]float32, 3), make([]uint16, 4)) },
	} {
		func() {
			defer func() {
				if _, ok := recover().(string); !ok {
					t.Errorf("%s: no panic of ours", name)
				}
			}()
			f()
		}()
	}
}

func BenchmarkEncode(b *testing.B) {
	src := make([]float32, 4096)
	for i := range src {
		src[i] = float32(i-2048) / 7777
	}
	for _, typ := range []backend.DType{backend.F16, backend.BF16} {
		b.Run(typ.String(), func(b *testing.B) {
			dst := make([]byte, 2*len(src))
			for b.Loop() {
				Encode(typ, dst, src)
			}
			b.ReportMetric(float64(len(src))*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mvalues/s")
		})
	}
}
