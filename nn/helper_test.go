package nn_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// each runs a test on the oracle and on this processor.
func each(t *testing.T, test func(t *testing.T, b backend.Backend)) {
	t.Run("ref", func(t *testing.T) { test(t, ref.New()) })
	t.Run("cpu", func(t *testing.T) { test(t, cpu.Default()) })
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var rng = rand.New(rand.NewPCG(3, 5))

// random returns n numbers of a normal distribution.
func random(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// bind gives a parameter numbers.
func bind(t testing.TB, b backend.Backend, p *tensor.Param, values []float32) {
	t.Helper()
	raw := make([]byte, 4*len(values))
	block.Encode(backend.F32, raw, values)
	if !p.Matrix() {
		buf, err := b.Alloc(int64(len(raw)))
		check(t, err)
		t.Cleanup(buf.Free)
		check(t, b.Upload(buf, 0, raw))
		p.BindValue(backend.Contiguous(buf, backend.F32, 0, p.Shape))
		return
	}
	rows, cols := p.Shape.Dim[0], p.Shape.Dim[1]
	w, err := b.Pack(t.Context(), backend.WeightSource{
		Name: "w", Type: backend.F32, Rows: rows, Cols: cols,
		ReadRows: func(dst []byte, row, n int) error {
			copy(dst, raw[4*row*cols:4*(row+n)*cols])
			return nil
		},
	})
	check(t, err)
	t.Cleanup(w.Free)
	p.BindWeight(w)
}

// fill gives every parameter of a layer random numbers and returns them by
// name.
func fill(t testing.TB, b backend.Backend, layer any) map[string][]float32 {
	t.Helper()
	values := map[string][]float32{}
	for _, p := range nn.Params(layer) {
		values[p.Name] = random(p.Param.Shape.Elems())
		bind(t, b, p.Param, values[p.Name])
	}
	return values
}

// step runs work as a step of a context and returns the numbers of its result.
func step(t testing.TB, c *tensor.Context, l *backend.Layout, kv backend.KV, work func() *tensor.Tensor) []float32 {
	t.Helper()
	var out []float32
	check(t, c.Step(t.Context(), l, kv, func() error {
		y := work()
		out = make([]float32, y.Shape().Elems())
		c.Read(out, y)
		return nil
	}))
	return out
}

func newContext(t testing.TB, b backend.Backend) *tensor.Context {
	t.Helper()
	c, err := tensor.NewContext(b, tensor.Options{Precision: backend.PrecisionF32})
	check(t, err)
	t.Cleanup(c.Close)
	return c
}

func write(c *tensor.Context, values []float32, dims ...int) *tensor.Tensor {
	x := c.New(backend.F32, backend.Dims(dims...))
	c.Write(x, values)
	return x
}

// A matrix holds rows in float64: what layers are compared with.
type matrix [][]float64

func toMatrix(x []float32, cols int) matrix {
	m := make(matrix, len(x)/cols)
	for i := range m {
		for _, v := range x[i*cols : (i+1)*cols] {
			m[i] = append(m[i], float64(v))
		}
	}
	return m
}

// linear is x w^T + b; b may be nil.
func (x matrix) linear(w, b []float32) matrix {
	y := make(matrix, len(x))
	for r, row := range x {
		for n, wn := range toMatrix(w, len(row)) {
			sum := 0.0
			for k, v := range row {
				sum += v * wn[k]
			}
			if b != nil {
				sum += float64(b[n])
			}
			y[r] = append(y[r], sum)
		}
	}
	return y
}

// rotate turns the pairs (i, i+hd/2) of every head by pos[r] * freqs[i].
func (x matrix) rotate(pos []int32, freqs []float32) matrix {
	half := len(freqs)
	y := make(matrix, len(x))
	for r, row := range x {
		y[r] = make([]float64, len(row))
		for from := 0; from < len(row); from += 2 * half {
			for i, f := range freqs {
				sin, cos := math.Sincos(float64(float32(pos[r]) * f))
				a, b := row[from+i], row[from+i+half]
				y[r][from+i], y[r][from+i+half] = a*cos-b*sin, b*cos+a*sin
			}
		}
	}
	return y
}

// attend is causal attention of one sequence with heads of hd numbers.
func (q matrix) attend(k, v matrix, hd int) matrix {
	group := len(q[0]) / len(k[0]) // query heads of a key head
	y := make(matrix, len(q))
	for r, row := range q {
		for h := range len(row) / hd {
			from := h / group * hd
			weights, total := make([]float64, r+1), 0.0
			for t := range weights {
				for i := range hd {
					weights[t] += row[h*hd+i] * k[t][from+i] / math.Sqrt(float64(hd))
				}
			}
			most := slices.Max(weights) // exp of a large score alone is infinite
			for t := range weights {
				weights[t] = math.Exp(weights[t] - most)
				total += weights[t]
			}
			for i := range hd {
				sum := 0.0
				for t, w := range weights {
					sum += w / total * v[t][from+i]
				}
				y[r] = append(y[r], sum)
			}
		}
	}
	return y
}

// compare checks every element, to a part of the largest: the sums here have
// at most 150 terms, each of which is rounded a few times.
func compare(t *testing.T, what string, got []float32, want matrix) {
	t.Helper()
	const tolerance = 1e-5
	scale := 0.0
	for _, row := range want {
		for _, x := range row {
			scale = max(scale, math.Abs(x))
		}
	}
	i := 0
	for r, row := range want {
		for c, x := range row {
			if i == len(got) {
				t.Fatalf("%s: %d elements, want %d rows of %d", what, len(got), len(want), len(row))
			}
			if d := math.Abs(float64(got[i]) - x); !(d <= tolerance*scale) {
				t.Fatalf("%s: row %d, column %d is %v, want %v", what, r, c, got[i], x)
			}
			i++
		}
	}
	if i != len(got) {
		t.Fatalf("%s: %d elements, want %d", what, len(got), i)
	}
}
