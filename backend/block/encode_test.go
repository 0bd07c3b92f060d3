package block

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

// A quantized is a golden file of a type: what the reference makes of the rows of matrix.
type quantized struct {
	typ   backend.DType
	exact bool      // the bytes are the only right ones
	rows  [][]byte  // of bytes
	rmse  []float64 // of each row, to six digits
}

// goldenQuantized returns the matrix of quant/quantize, its rows, and what the reference
// makes of it as each type.
func goldenQuantized(t *testing.T) (matrix [][]float32, types []quantized) {
	t.Helper()
	split := func(n, rows int) int {
		if rows == 0 || n%rows != 0 {
			t.Fatalf("%d numbers in %d rows", n, rows)
		}
		return n / rows
	}
	x := golden.Safetensors(t, golden.Glob(t, "quant/quantize/matrix.safetensors")[0])["x"]
	matrix = slices.Collect(slices.Chunk(x.F32, split(len(x.F32), x.Shape[0])))
	for _, path := range golden.Glob(t, "quant/quantize/[A-Z]*.safetensors") {
		var report struct {
			Quantize map[string]struct {
				Rows  []float64 `json:"rmse_per_row"`
				Exact bool
			}
		}
		golden.JSON(t, filepath.Join(filepath.Dir(path), "..", "report.json"), &report)
		typ := typeOf(t, path)
		of, ok := report.Quantize[typ.String()]
		raw := bytesOf(golden.Safetensors(t, path)["bytes"])
		if !ok || len(of.Rows) != len(matrix) {
			t.Fatalf("%s: %d errors reported for %d rows", path, len(of.Rows), len(matrix))
		}
		types = append(types, quantized{
			typ: typ, exact: of.Exact, rmse: of.Rows,
			rows: slices.Collect(slices.Chunk(raw, split(len(raw), len(matrix)))),
		})
	}
	return matrix, types
}

// encode returns row as type typ, in a slice that ends with a byte that EncodeRow must
// leave alone.
func encode(t testing.TB, typ backend.DType, row, importance []float32) []byte {
	t.Helper()
	size, err := typ.RowBytes(int64(len(row)))
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size+1)
	b[size] = 0xa5
	if err := EncodeRow(typ, b[:size], row, importance); err != nil {
		t.Fatal(err)
	}
	if b[size] != 0xa5 {
		t.Fatalf("%v: wrote beyond dst", typ)
	}
	return b[:size:size]
}

// loss returns the sum of importance, 1 where nil, times the squared error of b.
func loss(typ backend.DType, row, importance []float32, b []byte) float64 {
	decoded := make([]float32, len(row))
	DecodeRows(typ, decoded, b, len(row))
	var sum float64
	for i, x := range row {
		e, w := float64(x)-float64(decoded[i]), 1.
		if importance != nil {
			w = float64(importance[i])
		}
		sum += w * e * e
	}
	return sum
}

func rmse(typ backend.DType, row []float32, b []byte) float64 {
	return math.Sqrt(loss(typ, row, nil, b) / float64(len(row)))
}

// Every type of the golden folder has an encoder, which gives the bytes of the reference
// or an error that is no larger.
func TestEncodeGolden(t *testing.T) {
	matrix, types := goldenQuantized(t)
	for _, q := range types {
		t.Run(q.typ.String(), func(t *testing.T) {
			if !Encodable(q.typ) {
				t.Fatalf("%v has no encoder", q.typ)
			}
			var got, want float64
			for r, row := range matrix {
				b := encode(t, q.typ, row, nil)
				if q.exact {
					if !bytes.Equal(b, q.rows[r]) {
						t.Errorf("row %d differs:\n%x, want\n%x", r, b, q.rows[r])
					}
					continue
				}
				// The report has six digits.
				e, of := rmse(q.typ, row, b), q.rmse[r]
				if !(e <= of*(1+5e-6)) {
					t.Errorf("row %d has error %.6g, that of the reference %.6g", r, e, of)
				}
				if of > 0 {
					got, want = got+e/of, want+1
				}
			}
			if want > 0 {
				t.Logf("errors are %.3f of the reference's on average", got/want)
			}
		})
	}
}

// Types whose bytes do not depend on importance, as EncodeRow says.
var regardless = []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0,
	backend.TQ1_0, backend.TQ2_0, backend.MXFP4, backend.E4M3}

// Importance lowers the error that it weights, of each matrix as a whole, and no row gets
// much worse in it or without it.
func TestEncodeImportance(t *testing.T) {
	matrix, types := goldenQuantized(t)
	rng := rand.New(rand.NewPCG(7, 8))
	importance := make([]float32, len(matrix[0]))
	for i := range importance {
		importance[i] = float32(math.Exp(2 * rng.NormFloat64()))
	}
	for _, q := range types {
		var with, without float64 // sums of what each row has of its own without importance
		for r, row := range matrix {
			plain, weighted := encode(t, q.typ, row, nil), encode(t, q.typ, row, importance)
			if slices.Contains(regardless, q.typ) {
				if !bytes.Equal(plain, weighted) {
					t.Errorf("%v: row %d is another with importance", q.typ, r)
				}
				continue
			}
			was, is := loss(q.typ, row, importance, plain), loss(q.typ, row, importance, weighted)
			if was > 0 {
				with, without = with+is/was, without+1
			}
			if !(is <= was) {
				t.Errorf("%v: row %d has weighted error %g, %g without", q.typ, r, is, was)
			}
			if a, b := rmse(q.typ, row, weighted), rmse(q.typ, row, plain); !(a <= 4*b+1e-12) {
				t.Errorf("%v: row %d has error %g with importance, %g without", q.typ, r, a, b)
			}
		}
		if without > 0 {
			t.Logf("%v: weighted squared error is %.3f of that without importance", q.typ, with/without)
			if !(with < 0.95*without) {
				t.Errorf("%v: weighted error is %g of that without", q.typ, with/without)
			}
		}
	}
}

// encodables are the types that EncodeRow writes.
func encodables() (types []backend.DType) {
	for _, typ := range backend.DTypes() {
		if Encodable(typ) {
			types = append(types, typ)
		}
	}
	return types
}

// Rows at the edges are written, to an error in proportion to their largest value, and the
// same twice.
func TestEncodeEdges(t *testing.T) {
	const n = 512
	rng := rand.New(rand.NewPCG(9, 10))
	rows := map[string]func(i int) float64{
		"zeros":           func(i int) float64 { return 0 },
		"minus zeros":     func(i int) float64 { return math.Copysign(0, -1) },
		"ones":            func(i int) float64 { return 1 },
		"minus ones":      func(i int) float64 { return -1 },
		"subnormals":      func(i int) float64 { return float64(i%7-3) * 1e-45 },
		"tiny":            func(i int) float64 { return rng.NormFloat64() * 1e-20 },
		"large":           func(i int) float64 { return rng.NormFloat64() * 4000 },
		"one of each":     func(i int) float64 { return math.Ldexp(1, -i%30) },
		"a spike":         func(i int) float64 { return []float64{1e-3, 30000}[max(0, i%256-254)] },
		"zeros and noise": func(i int) float64 { return rng.NormFloat64() * float64(i/64%2) },
		"two values":      func(i int) float64 { return float64(i&1*2 - 1) },
		"far from zero":   func(i int) float64 { return 1000 + rng.NormFloat64() },
	}
	weights := map[string]func(i int) float64{
		"none":     nil,
		"zeros":    func(i int) float64 { return 0 },
		"some":     func(i int) float64 { return float64(i % 3) },
		"huge":     func(i int) float64 { return 1e38 * rng.Float64() },
		"tiny":     func(i int) float64 { return 1e-42 * rng.Float64() },
		"one":      func(i int) float64 { return float64(max(0, i%256-254)) },
		"a half":   func(i int) float64 { return float64(i / 16 & 1) },
		"far from": func(i int) float64 { return math.Exp(20 * rng.NormFloat64()) },
	}
	fill := func(f func(i int) float64) []float32 {
		if f == nil {
			return nil
		}
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(min(f(i), math.MaxFloat32))
		}
		return x
	}
	for rowName, f := range rows {
		row := fill(f)
		most := float64(largest(row))
		for weightName, g := range weights {
			importance := fill(g)
			for _, typ := range encodables() {
				b := encode(t, typ, row, importance)
				if !bytes.Equal(b, encode(t, typ, row, importance)) {
					t.Errorf("%v of %s, importance %s: two results", typ, rowName, weightName)
				}
				decoded := make([]float32, n)
				DecodeRows(typ, decoded, b, n)
				if i := firstNonFinite(decoded); i >= 0 {
					t.Errorf("%v of %s, importance %s: value %d is %g", typ, rowName, weightName, i, decoded[i])
				}
				// A float16 scale has an error of up to 2^-25, and a code of up to 128.
				if e := rmse(typ, row, b); !(e <= most+0x1p-17) {
					t.Errorf("%v of %s, importance %s: error %g, largest value %g", typ, rowName, weightName, e, most)
				}
			}
		}
	}
}

// What cannot be written is an EncodeError that says where it is.
func TestEncodeRefuses(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	set := func(i int, v float32) []float32 {
		x := make([]float32, 512)
		for j := range x {
			x[j] = float32(j%5) - 2
		}
		x[i] = v
		return x
	}
	refused := func(what string, typ backend.DType, size int64, row, importance []float32, index int) {
		t.Helper()
		err := EncodeRow(typ, make([]byte, size), row, importance)
		var e *EncodeError
		if !errors.As(err, &e) || e.Index != index || e.Type != typ || e.Reason == "" {
			t.Errorf("%v: %s: %v, want an error of column %d", typ, what, err, index)
		}
	}
	for _, typ := range encodables() {
		row := set(0, 1)
		size, err := typ.RowBytes(int64(len(row)))
		if err != nil {
			t.Fatal(err)
		}
		refused("NaN", typ, size, set(17, nan), nil, 17)
		refused("infinity", typ, size, set(511, inf), nil, 511)
		refused("minus infinity", typ, size, set(0, -inf), row, 0)
		refused("a byte too few", typ, size-1, row, nil, -1)
		refused("a byte too many", typ, size+1, row, nil, -1)
		refused("no bytes", typ, 0, row, nil, -1)
		ones := slices.Repeat([]float32{1}, len(row))
		refused("importance of fewer", typ, size, row, ones[1:], -1)
		refused("importance of none", typ, size, row, []float32{}, -1)
		for _, bad := range []float32{-1, nan, inf} {
			ones[300] = bad
			refused("bad importance", typ, size, row, ones, 300)
		}
		if n := typ.BlockElems(); n > 1 {
			refused("a part of a block", typ, size, row[:len(row)-1], nil, -1)
		}
		if err := EncodeRow(typ, make([]byte, typ.RowHead()), nil, nil); err != nil {
			t.Errorf("%v: a row of no columns: %v", typ, err)
		}
		// Either the value fits, more or less, or there is an error that names its block.
		for _, huge := range []float32{7e4, 1e6, 1e9, -1e9, 1e20, -math.MaxFloat32} {
			row, b := set(200, huge), make([]byte, size)
			for name, w := range map[string][]float32{"none": nil, "ones": slices.Repeat([]float32{1}, len(row))} {
				err := EncodeRow(typ, b, row, w)
				var e *EncodeError
				if errors.As(err, &e) {
					if e.Index != 200 {
						t.Errorf("%v of %g: %v", typ, huge, err)
					}
					continue
				}
				decoded := make([]float32, len(row))
				DecodeRows(typ, decoded, b, len(row))
				if r := decoded[200] / huge; !(r > 0.6 && r < 1.4) {
					t.Errorf("%v with importance %s: %g becomes %g", typ, name, huge, decoded[200])
				}
			}
		}
	}
	for _, typ := range []backend.DType{backend.Invalid, backend.I8, backend.I32, 255} {
		if Encodable(typ) {
			t.Errorf("%v is encodable", typ)
		}
		refused("no encoder", typ, 512, set(0, 1), nil, -1)
	}
}

// Blocks do not depend on their neighbours, and nothing is allocated.
func TestEncodeBlockByBlock(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	row := make([]float32, 1024)
	for i := range row {
		row[i] = float32(rng.NormFloat64())
	}
	for _, typ := range encodables() {
		if typ.RowHead() > 0 {
			continue
		}
		all := encode(t, typ, row, nil)
		n, size := typ.BlockElems(), typ.BlockBytes()
		for i := 0; i < len(row)/n; i++ {
			if b := encode(t, typ, row[i*n:][:n], nil); !bytes.Equal(b, all[i*size:][:size]) {
				t.Errorf("%v: block %d differs alone", typ, i)
			}
		}
		var e Encoder
		ones := slices.Repeat([]float32{1}, len(row))
		for _, w := range [][]float32{nil, ones} {
			if n := testing.AllocsPerRun(3, func() { e.Row(typ, all, row, w) }); n > 0 {
				t.Errorf("%v: %g allocations", typ, n)
			}
		}
	}
}

// Values that a type can hold exactly but for the rounding of scales are found, also where
// they have fewer steps than the codes, and where all have one sign.
func TestEncodeSteps(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	for _, typ := range []backend.DType{backend.Q4_K, backend.Q5_K} {
		for _, steps := range []int{2, 3, 7, 13, 16} {
			for _, offset := range []float32{-2, 0, 3} {
				row := make([]float32, 256)
				for i := range row {
					row[i] = offset + 0.25*float32(rng.IntN(steps))
				}
				for i := 0; i < len(row); i += 32 { // each sub-block has the extremes
					row[i], row[i+1] = offset, offset+0.25*float32(steps-1)
				}
				if e := rmse(typ, row, encode(t, typ, row, nil)); !(e < 0.01) {
					t.Errorf("%v of %d steps from %g: error %g", typ, steps, offset, e)
				}
			}
		}
	}
}

func FuzzEncodeRow(f *testing.F) {
	f.Add(byte(0), []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, which byte, data []byte) {
		types := encodables()
		typ := types[int(which)%len(types)]
		x := make([]float32, 512)
		raw := make([]byte, 2048)
		copy(raw, data)
		Decode(backend.F32, x, raw)
		row, importance := x[:256], x[256:]
		size, _ := typ.RowBytes(256)
		b := make([]byte, size)
		for _, w := range [][]float32{nil, importance} {
			if EncodeRow(typ, b, row, w) != nil {
				continue
			}
			decoded := make([]float32, 256)
			DecodeRows(typ, decoded, b, 256)
			if i := firstNonFinite(decoded); i >= 0 {
				t.Errorf("%v: column %d, %g, becomes %g", typ, i, row[i], decoded[i])
			}
		}
	})
}

func BenchmarkEncodeRow(b *testing.B) {
	rng := rand.New(rand.NewPCG(13, 14))
	const n = 2048
	row, importance := make([]float32, n), make([]float32, n)
	for i := range row {
		row[i] = float32(rng.NormFloat64()) / 50
		importance[i] = float32(rng.ExpFloat64())
	}
	for _, typ := range encodables() {
		for name, w := range map[string][]float32{"plain": nil, "importance": importance} {
			b.Run(typ.String()+"/"+name, func(b *testing.B) {
				size, err := typ.RowBytes(n)
				if err != nil {
					b.Fatal(err)
				}
				dst := make([]byte, size)
				for b.Loop() {
					if err := EncodeRow(typ, dst, row, w); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/weight")
			})
		}
	}
}
