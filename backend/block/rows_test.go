package block

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

// Rows of activations and of weights become the codes and scales of the reference.
func TestGoldenE4M3Rows(t *testing.T) {
	for _, path := range golden.Glob(t, "multimodal/fp8/matmul.safetensors") {
		file := golden.Safetensors(t, path)
		cases := 0
		for name, x := range file {
			which, ok := strings.CutSuffix(name, "_codes")
			if !ok {
				continue
			}
			cases++
			in, inverse := file[which], file[which+"_inverse_scale"]
			k := in.Shape[1]
			for r := range in.Shape[0] {
				values, codes := in.F32[r*k:][:k], make([]byte, 4+k)
				if strings.HasSuffix(which, ".w") {
					EncodeE4M3(codes, values)
				} else {
					d := RoundE4M3(codes[4:], values, backend.E4M3Bound)
					binary.LittleEndian.PutUint32(codes, math.Float32bits(d))
				}
				got, want := math.Float32frombits(binary.LittleEndian.Uint32(codes)), inverse.F32[r]
				if !equal(got, want) {
					t.Errorf("%s: the scale of row %d is %g, want %g", which, r, got, want)
				}
				for i, c := range x.U8[r*k:][:k] {
					if got := codes[4+i]; got != c && !(isNaN(E4M3ToF32(got)) && isNaN(E4M3ToF32(c))) {
						t.Errorf("%s: code %d of row %d is %#x, want %#x", which, i, r, got, c)
					}
				}
			}
		}
		if cases < 12 {
			t.Errorf("%s: %d lists of codes", path, cases)
		}
	}
}

// Rows and columns of rows have the values of their blocks, those of E4M3 times the
// scale.
func TestDecodeRows(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, typ := range backend.DTypes() {
		const rows = 3
		e := typ.BlockElems()
		cols, head := 5*e, typ.RowHead()
		size, err := typ.RowBytes(int64(cols))
		if err != nil {
			t.Fatal(err)
		}
		src := make([]byte, rows*size)
		for i := range src {
			src[i] = byte(rng.Uint32())
		}
		got := make([]float32, rows*cols)
		DecodeRows(typ, got, src, cols)
		for r := range rows {
			row, want, scale := src[r*int(size):][:size], make([]float32, cols), float32(1)
			Decode(typ, want, row[head:])
			if head > 0 {
				scale = math.Float32frombits(binary.LittleEndian.Uint32(row))
			}
			some := make([]float32, 2*e)
			DecodeColumns(typ, some, row, 3*e)
			for i := range want {
				if x := want[i] * scale; !equal(got[r*cols+i], x) {
					t.Fatalf("%v: row %d, column %d is %g, want %g", typ, r, i, got[r*cols+i], x)
				}
				if i >= 3*e && !equal(some[i-3*e], got[r*cols+i]) {
					t.Fatalf("%v: row %d, column %d is %g among some", typ, r, i, some[i-3*e])
				}
			}
		}
	}
	defer func() {
		if text, ok := recover().(string); !ok || !strings.HasPrefix(text, "block: ") {
			t.Error("DecodeRows of a row that is short: no panic of ours")
		}
	}()
	DecodeRows(backend.E4M3, make([]float32, 8), make([]byte, 11), 8)
}
