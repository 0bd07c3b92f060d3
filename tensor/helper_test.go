package tensor_test

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/tensor"
)

// each runs a test on the oracle, on portable code and on this processor's
// vector kernels.
func each(t *testing.T, test func(t *testing.T, b backend.Backend)) {
	backends := map[string]backend.Backend{"ref": ref.New()}
	for _, o := range []cpu.Options{{Workers: 2}, {Workers: 1, Variant: "generic"}} {
		b, err := cpu.New(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		backends["cpu "+o.Variant] = b
	}
	for name, b := range backends {
		t.Run(name, func(t *testing.T) { test(t, b) })
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newContext(t testing.TB, b backend.Backend, o tensor.Options) *tensor.Context {
	t.Helper()
	c, err := tensor.NewContext(b, o)
	check(t, err)
	t.Cleanup(c.Close)
	return c
}

// step runs work as a step of its own.
func step(t testing.TB, c *tensor.Context, l *backend.Layout, kv backend.KV, work func()) {
	t.Helper()
	check(t, c.Step(t.Context(), l, kv, func() error {
		work()
		return nil
	}))
}

// alone runs work as the one step of a context without a layout.
func alone(t testing.TB, b backend.Backend, work func(c *tensor.Context)) {
	t.Helper()
	c := newContext(t, b, tensor.Options{Precision: backend.PrecisionF32})
	step(t, c, nil, backend.KV{}, func() { work(c) })
}

var rng = rand.New(rand.NewPCG(7, 11))

// random returns n numbers of a normal distribution.
func random(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// write makes a tensor of the step with these numbers.
func write(c *tensor.Context, values []float32, dims ...int) *tensor.Tensor {
	x := c.New(backend.F32, backend.Dims(dims...))
	c.Write(x, values)
	return x
}

func read(c *tensor.Context, x *tensor.Tensor) []float32 {
	out := make([]float32, x.Shape().Elems())
	c.Read(out, x)
	return out
}

// pack makes a matrix of F32 numbers.
func pack(t testing.TB, b backend.Backend, values []float32, rows, cols int) *tensor.Param {
	t.Helper()
	raw := make([]byte, 4*len(values))
	block.Encode(backend.F32, raw, values)
	return packRaw(t, b, backend.F32, raw, rows, cols)
}

// packQ8 makes a matrix of random blocks, and returns its numbers too.
func packQ8(t testing.TB, b backend.Backend, rows, cols int) (*tensor.Param, []float32) {
	t.Helper()
	size := backend.Q8_0.BlockBytes()
	raw := make([]byte, rows*cols/backend.Q8_0.BlockElems()*size)
	for i := range raw {
		raw[i] = byte(rng.Uint32())
	}
	for i := 0; i < len(raw); i += size { // the scale of a block
		binary.LittleEndian.PutUint16(raw[i:], block.F32ToF16(rng.Float32()/64))
	}
	values := make([]float32, rows*cols)
	block.Decode(backend.Q8_0, values, raw)
	return packRaw(t, b, backend.Q8_0, raw, rows, cols), values
}

// packAny makes a matrix of random numbers.
func packAny(t testing.TB, b backend.Backend, typ backend.DType, rows, cols int) *tensor.Param {
	t.Helper()
	if typ == backend.Q8_0 {
		p, _ := packQ8(t, b, rows, cols)
		return p
	}
	raw := make([]byte, rows*cols*typ.BlockBytes())
	block.Encode(typ, raw, random(rows*cols))
	return packRaw(t, b, typ, raw, rows, cols)
}

func packRaw(t testing.TB, b backend.Backend, typ backend.DType, raw []byte, rows, cols int) *tensor.Param {
	t.Helper()
	rowBytes, err := typ.RowBytes(int64(cols))
	check(t, err)
	w, err := b.Pack(t.Context(), backend.WeightSource{
		Name: "w", Type: typ, Rows: rows, Cols: cols,
		ReadRows: func(dst []byte, row, n int) error {
			copy(dst, raw[row*int(rowBytes):(row+n)*int(rowBytes)])
			return nil
		},
	})
	check(t, err)
	t.Cleanup(w.Free)
	p := tensor.NewParam(rows, cols)
	p.BindWeight(w)
	return p
}

// vector makes a parameter whose numbers lie stride elements apart.
func vector(t testing.TB, b backend.Backend, values []float32, stride int) *tensor.Param {
	t.Helper()
	buf, err := b.Alloc(int64(4 * stride * len(values)))
	check(t, err)
	t.Cleanup(buf.Free)
	for i, x := range values {
		check(t, tensor.Upload(b, backend.Contiguous(buf, backend.F32, stride*i, backend.Dims(1)), []float32{x}))
	}
	p := tensor.NewParam(len(values))
	v := backend.Contiguous(buf, backend.F32, 0, backend.Dims(len(values)))
	v.Stride[0] = stride
	p.BindValue(v)
	return p
}

// u is half the distance of float32 numbers at 1: the relative error of one
// rounding.
const u = 0x1p-24

// A number is what an element should be and how far off it may be.
type number struct{ want, bound float64 }

// exact is a number without tolerance.
func exact(x float32) number { return number{float64(x), 0} }

// relative is a number that n roundings have changed.
func relative(x float64, n int) number { return number{x, float64(n) * u * math.Abs(x)} }

// dot is a sum of products, in any order: off by a rounding for each of its
// terms, of the sum of their absolute values.
func dot(x, y []float32) number {
	var sum, size float64
	for i := range x {
		p := float64(x[i]) * float64(y[i])
		sum += p
		size += math.Abs(p)
	}
	return number{sum, float64(len(x)+8) * u * size}
}

// compare checks every element.
func compare(t *testing.T, what string, got []float32, want []number) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w.want); !(d <= w.bound) {
			t.Fatalf("%s: element %d is %v, want %v within %.2g", what, i, got[i], w.want, w.bound)
		}
	}
}

// panics runs work and wants a panic with an error of type E, whose text has
// all the parts.
func panics[E error](t *testing.T, what string, parts []string, work func()) {
	t.Helper()
	defer func() {
		t.Helper()
		err, _ := recover().(error)
		var typed E
		if !errors.As(err, &typed) {
			t.Errorf("%s: panics with %v, want a %T", what, err, typed)
			return
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", what, err, part)
			}
		}
	}()
	work()
}
