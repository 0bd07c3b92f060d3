package block

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

// equal reports whether two values have the same bits, or are both NaN.
func equal(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

// typeOf returns the type that a golden file is named after.
func typeOf(t *testing.T, path string) backend.DType {
	t.Helper()
	typ, err := backend.ParseDType(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

// bytesOf returns the bytes of a golden tensor, as a file would hold them.
func bytesOf(x golden.Tensor) []byte {
	if x.U16 == nil {
		return x.U8
	}
	var b []byte
	for _, h := range x.U16 {
		b = binary.LittleEndian.AppendUint16(b, h)
	}
	return b
}

func TestDecodeGolden(t *testing.T) {
	for _, path := range golden.Glob(t, "quant/dequant/*.safetensors") {
		t.Run(golden.Name(path), func(t *testing.T) {
			typ, file := typeOf(t, path), golden.Safetensors(t, path)
			want, src := file["value"].F32, bytesOf(file["raw"])
			if len(want) == 0 || len(src)/typ.BlockBytes()*typ.BlockElems() != len(want) {
				t.Fatalf("%v: %d bytes for %d values", typ, len(src), len(want))
			}
			if shape := file["raw"].Shape; typ.Quantized() &&
				(shape[1] != typ.BlockBytes() || file["value"].Shape[1] != typ.BlockElems()) {
				t.Fatalf("%v has blocks of %d in %d bytes, the file of %d in %d", typ,
					typ.BlockElems(), typ.BlockBytes(), file["value"].Shape[1], shape[1])
			}
			got := make([]float32, len(want))
			Decode(typ, got, src)
			wrong := 0
			for i := range want {
				if !equal(got[i], want[i]) {
					if wrong++; wrong <= 3 {
						t.Errorf("block %d, weight %d is %g (%#x), want %g (%#x)", i/typ.BlockElems(), i%typ.BlockElems(),
							got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
					}
				}
			}
			if wrong > 3 {
				t.Errorf("%d of %d weights are wrong", wrong, len(want))
			}
		})
	}
}

// Every valid type has a decoder, and every quantised or 16-bit one a golden file.
func TestEveryType(t *testing.T) {
	files := map[backend.DType]bool{}
	for _, path := range golden.Glob(t, "quant/dequant/*.safetensors") {
		files[typeOf(t, path)] = true
	}
	for _, typ := range backend.DTypes() {
		if Decoder(typ) == nil {
			t.Errorf("%v has no decoder", typ)
		}
		exact := typ == backend.F32 || typ == backend.I8 || typ == backend.I32
		if rows := typ.RowHead() > 0; !exact && !rows && !files[typ] { // of rows: TestGoldenE4M3Rows
			t.Errorf("%v has no golden file", typ)
		}
	}
	if Decoder(backend.Invalid) != nil || Decoder(255) != nil {
		t.Error("an invalid type has a decoder")
	}
}

// A run of blocks decodes to the same values as its blocks one by one, and a
// decoder writes nothing beyond dst.
func TestDecodeBlockByBlock(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, typ := range backend.DTypes() {
		const blocks, guard = 7, 12345
		n, size := typ.BlockElems(), typ.BlockBytes()
		src, all := make([]byte, blocks*size), make([]float32, blocks*n+1)
		for i := range src {
			src[i] = byte(rng.Uint32())
		}
		all[blocks*n] = guard
		Decode(typ, all[:blocks*n], src)
		if all[blocks*n] != guard {
			t.Errorf("%v: wrote beyond dst", typ)
		}
		one := make([]float32, n)
		for i := range blocks {
			Decode(typ, one, src[i*size:(i+1)*size])
			for j := range one {
				if !equal(one[j], all[i*n+j]) {
					t.Fatalf("%v: block %d, weight %d is %g alone, %g in a row", typ, i, j, one[j], all[i*n+j])
				}
			}
		}
	}
}

func TestDecodeIntegers(t *testing.T) {
	got := make([]float32, 4)
	Decode(backend.I8, got, []byte{0, 127, 128, 255})
	for i, want := range []float32{0, 127, -128, -1} {
		if got[i] != want {
			t.Errorf("I8 %d: %g, want %g", i, got[i], want)
		}
	}
	ints := []int32{math.MinInt32, -7, 1 << 24, 1<<24 + 1}
	var src []byte
	for _, x := range ints {
		src = binary.LittleEndian.AppendUint32(src, uint32(x))
	}
	Decode(backend.I32, got, src)
	for i, x := range ints {
		if got[i] != float32(x) {
			t.Errorf("I32 %d: %g, want %g", x, got[i], float32(x))
		}
	}
}

func TestDecodePanics(t *testing.T) {
	for _, typ := range append(backend.DTypes(), backend.Invalid, 255) {
		elems, size := 1, 1
		if typ.Valid() {
			elems, size = typ.BlockElems(), typ.BlockBytes()
		}
		for _, c := range []struct{ dst, src int }{
			{elems, 0}, {elems, 2 * size}, {2 * elems, 2*size - 1}, {0, size}, {2*elems + 1, 2 * size},
		} {
			func() {
				defer func() {
					if text, ok := recover().(string); !ok || !strings.HasPrefix(text, "block: ") {
						t.Errorf("%v: Decode of %d values from %d bytes: no panic of ours", typ, c.dst, c.src)
					}
				}()
				Decode(typ, make([]float32, c.dst), make([]byte, c.src))
			}()
		}
	}
}

// No block content makes a decoder panic.
func FuzzDecode(f *testing.F) {
	for _, typ := range backend.DTypes() {
		f.Add(byte(typ), []byte(strings.Repeat("\xff", typ.BlockBytes())))
	}
	f.Fuzz(func(t *testing.T, typ byte, data []byte) {
		types := backend.DTypes()
		d := types[int(typ)%len(types)]
		n := len(data) / d.BlockBytes()
		Decode(d, make([]float32, n*d.BlockElems()), data[:n*d.BlockBytes()])
	})
}

func BenchmarkDecode(b *testing.B) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, typ := range backend.DTypes() {
		b.Run(typ.String(), func(b *testing.B) {
			const n = 4096 // one row of an 8B model
			dst, src := make([]float32, n), make([]byte, n/typ.BlockElems()*typ.BlockBytes())
			for i := range src {
				src[i] = byte(rng.Uint32())
			}
			decode := Decoder(typ)
			for b.Loop() {
				decode(dst, src)
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
		})
	}
}
