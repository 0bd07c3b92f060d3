package backendtest

import (
	"math"
	"math/rand/v2"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// weightTypes are the types that a weight may have.
func weightTypes() []backend.DType {
	var ts []backend.DType
	for _, t := range backend.DTypes() {
		if t.Float() || t.Quantized() {
			ts = append(ts, t)
		}
	}
	return ts
}

// roundings are the ways to round an input of k columns.
func roundings(k int) []backend.Rounding {
	rs := []backend.Rounding{backend.RoundNone, backend.RoundToBF16}
	for _, r := range []backend.Rounding{backend.RoundI8x32, backend.RoundI8x256} {
		if k%r.Group() == 0 {
			rs = append(rs, r)
		}
	}
	return rs
}

// blocks makes n random blocks of type t whose values are all finite, the
// largest between 2^-5 and 8, or where wild is set, blocks of any bytes.
func blocks(rng *rand.Rand, t backend.DType, n int, wild bool) [][]byte {
	pool, x := make([][]byte, 0, n), make([]float32, t.BlockElems())
	for len(pool) < n {
		b := make([]byte, t.BlockBytes())
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if t.Float() {
			block.Encode(t, b, []float32{float32(rng.NormFloat64())})
		}
		block.Decode(t, x, b)
		m := 0.0
		for _, v := range x {
			if math.IsNaN(float64(v)) {
				m = math.Inf(1)
			}
			m = max(m, math.Abs(float64(v)))
		}
		if wild || t.Float() || m >= 1./32 && m <= 8 {
			pool = append(pool, b)
		}
	}
	return pool
}

// weight makes a packed weight [rows, cols].
func (c *testCase) weight(t backend.DType, rows, cols int) *matrix {
	return c.weightOf(blocks(c.rng, t, 48, false), t, rows, cols)
}

// weightOf makes a packed weight of blocks drawn from a pool.
func (c *testCase) weightOf(pool [][]byte, t backend.DType, rows, cols int) *matrix {
	m := &matrix{t: t, rows: rows, cols: cols}
	for range rows * cols / t.BlockElems() {
		m.raw = append(m.raw, pool[c.rng.IntN(len(pool))]...)
	}
	return m
}

// floatWeight makes a float weight that lies in memory as p says.
func (c *testCase) floatWeight(t backend.DType, p place, rows, cols int) *matrix {
	o := newOperand(t, p, c.normal, rows, cols)
	x := read(o.view)
	f := make([]float32, len(x))
	for i, v := range x {
		f[i] = float32(v)
	}
	m := &matrix{t: t, rows: rows, cols: cols, float: o, raw: make([]byte, len(f)*t.BlockBytes())}
	block.Encode(t, m.raw, f)
	return m
}

// matMulCase multiplies rows of x with the weights.
func (c *testCase) matMul(round backend.Rounding, p place, x func(int) float64, rows int, weights ...*matrix) *testCase {
	c.args.Round = round
	c.in[0] = newOperand(backend.F32, p, x, rows, weights[0].cols)
	c.weights = weights
	for i, w := range weights {
		c.out[i] = fresh(backend.F32, p, rows, w.rows)
	}
	return c
}

var (
	rowCounts = []int{1, 2, 3, 7, 8, 9, 16, 33}
	outputs   = []int{100, 1, 15, 16, 17, 33, 48, 5} // panels of 16, ragged or not
	widths    = []int{1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 256, 320}
)

// inputs are numbers of columns that are whole blocks of t.
func inputs(t backend.DType) []int {
	if t.BlockElems() == 1 {
		return widths
	}
	n := t.BlockElems()
	return []int{n, 2 * n, 3 * n}
}

func matMulCases() (cs []*testCase) {
	for _, t := range weightTypes() {
		ks := inputs(t)
		for i := range max(len(rowCounts), len(ks)) {
			r, n, k := rowCounts[i%len(rowCounts)], outputs[i%len(outputs)], ks[i%len(ks)]
			for _, round := range roundings(k) {
				c := newCase(backend.MatMul, "%v/%dx%dx%d/round %v", t, r, n, k, round)
				cs = append(cs, c.matMul(round, place(i%3), c.normal, r, c.weight(t, n, k)))
			}
			if t == backend.F32 || t == backend.BF16 {
				c := newCase(backend.MatMul, "float %v/%dx%dx%d", t, r, n, k)
				cs = append(cs, c.matMul(backend.RoundNone, place(i%3), c.normal, r, c.floatWeight(t, place(i%3), n, k)))
			}
		}
	}
	return append(cs, mixedMatMulCases()...)
}

// mixedMatMulCases have several weights of different types and heights.
func mixedMatMulCases() (cs []*testCase) {
	mixes := [][]backend.DType{
		{backend.Q4_K, backend.Q4_K, backend.Q6_K}, {backend.Q8_0, backend.BF16}, {backend.F16, backend.F32, backend.Q4_0},
		{backend.Q5_K, backend.IQ4_XS}, {backend.BF16, backend.BF16, backend.BF16},
	}
	for i, mix := range mixes {
		for _, r := range []int{1, 5, 16} {
			for _, round := range roundings(256) {
				c := newCase(backend.MatMul, "mixed %v/%d rows/round %v", mix, r, round)
				var ws []*matrix
				for j, t := range mix {
					ws = append(ws, c.weight(t, outputs[(i+j)%len(outputs)], 256))
				}
				cs = append(cs, c.matMul(round, gaps, c.normal, r, ws...))
			}
		}
	}
	return cs
}

func embeddingCases() (cs []*testCase) {
	for _, t := range weightTypes() {
		for i, k := range inputs(t) {
			vocab := outputs[i%len(outputs)]
			r := rowCounts[i%len(rowCounts)]
			c := newCase(backend.Embedding, "%v/%dx%d/%d ids", t, vocab, k, r)
			c.in[0] = newOperand(backend.I32, place(i%2), c.below(vocab), r)
			c.weights = []*matrix{c.weight(t, vocab, k)}
			c.out[0] = fresh(backend.F32, place(i%3), r, k)
			cs = append(cs, c)
		}
	}
	return cs
}

// below fills with ids under n; the first two are the ends.
func (c *testCase) below(n int) func(int) float64 {
	return func(i int) float64 {
		switch i {
		case 0:
			return float64(n - 1)
		case 1:
			return 0
		}
		return float64(c.rng.IntN(n))
	}
}
