package backendtest

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"

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
	rs := []backend.Rounding{backend.RoundNone, backend.RoundToBF16, backend.RoundBothBF16, backend.RoundToE4M3}
	for _, r := range []backend.Rounding{backend.RoundI8x32, backend.RoundI8x256, backend.RoundI16x32, backend.RoundI16x256} {
		if k%r.Group() == 0 {
			rs = append(rs, r)
		}
	}
	return rs
}

// pools hold for every weight type random blocks whose values are all finite,
// the largest between 2^-5 and 8.
var pools = sync.OnceValue(func() map[backend.DType][][]byte {
	m := map[backend.DType][][]byte{}
	for _, t := range weightTypes() {
		rng, x := rand.New(rand.NewPCG(uint64(t), 2)), make([]float32, t.BlockElems())
		for len(m[t]) < 64 {
			b := anyBlock(rng, t)
			if t.Float() {
				block.Encode(t, b, []float32{float32(rng.NormFloat64())})
			}
			block.Decode(t, x, b)
			if l := largestOf(x); t.Float() || l >= 1./32 && l <= 8 {
				m[t] = append(m[t], b)
			}
		}
	}
	return m
})

// rowHead is what a row of random blocks begins with: a scale, for a type that has
// one.
func (c *testCase) rowHead(t backend.DType) []byte {
	head := make([]byte, t.RowHead())
	if len(head) > 0 {
		block.Encode(backend.F32, head, []float32{float32(c.rng.NormFloat64()) / 64})
	}
	return head
}

// anyBlock is a block of random bytes.
func anyBlock(rng *rand.Rand, t backend.DType) []byte {
	b := make([]byte, t.BlockBytes())
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// largestOf is the largest magnitude in x, infinite where one is not finite.
func largestOf(x []float32) float64 {
	m := 0.0
	for _, v := range x {
		if m = max(m, math.Abs(float64(v))); math.IsNaN(m) {
			return math.Inf(1)
		}
	}
	return m
}

// weight makes a packed weight [rows, cols].
func (c *testCase) weight(t backend.DType, rows, cols int) *matrix {
	return c.weightOf(pools()[t], t, rows, cols)
}

// weightOf makes a packed weight of blocks drawn from a pool.
func (c *testCase) weightOf(pool [][]byte, t backend.DType, rows, cols int) *matrix {
	m := &matrix{t: t, rows: rows, cols: cols}
	for range rows {
		m.raw = append(m.raw, c.rowHead(t)...)
		for range cols / t.BlockElems() {
			m.raw = append(m.raw, pool[c.rng.IntN(len(pool))]...)
		}
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

// matMul multiplies rows of x with the weights.
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
				for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
					c := newCase(backend.MatMul, "float %v/%dx%dx%d/round %v", t, r, n, k, round)
					cs = append(cs, c.matMul(round, place(i%3), c.normal, r, c.floatWeight(t, place(i%3), n, k)))
				}
			}
		}
	}
	return slices.Concat(cs, longMatMulCases(), mixedMatMulCases(), edgeMatMulCases())
}

// longMatMulCases have more inputs than a backend multiplies at once.
func longMatMulCases() (cs []*testCase) {
	const r, n, k = 13, 35, 4352
	for _, t := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q4_0, backend.Q6_K} {
		for _, round := range roundings(k) {
			c := newCase(backend.MatMul, "long %v/round %v", t, round)
			cs = append(cs, c.matMul(round, 0, c.normal, r, c.weight(t, n, k)))
		}
	}
	for _, t := range []backend.DType{backend.F32, backend.BF16} {
		odd := newCase(backend.MatMul, "long and odd %v", t)
		cs = append(cs, odd.matMul(backend.RoundToBF16, 0, odd.normal, r, odd.weight(t, n, k+3)))
		for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
			float := newCase(backend.MatMul, "long float %v/round %v", t, round)
			cs = append(cs, float.matMul(round, 0, float.normal, r, float.floatWeight(t, gaps, n, k+3)))
		}
	}
	return cs
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

// edgeMatMulCases have values at the ends of the formats. Weights of block
// types are of any bytes: where the oracle is not finite a backend must not be
// either, though it may be infinite for NaN, since scales multiply sums.
func edgeMatMulCases() (cs []*testCase) {
	for _, t := range []backend.DType{backend.F32, backend.F16, backend.BF16} {
		for _, round := range roundings(64) {
			c := newCase(backend.MatMul, "edges times %v/round %v", t, round)
			x := func(i int) float64 { // one edge in a row, in one group
				if i%64 == i/64 {
					return edges[i/64]
				}
				return c.rng.NormFloat64()
			}
			cs = append(cs, c.matMul(round, dense, x, len(edges), c.weight(t, 17, 64)))
		}
		for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
			if t == backend.F16 {
				continue
			}
			c := newCase(backend.MatMul, "float %v of edges/round %v", t, round)
			w := c.floatWeight(t, gaps, len(edges), 64)
			x := read(w.float.view)
			for i, e := range edges {
				x[64*i+i] = e
			}
			write(w.float.view, x)
			cs = append(cs, c.matMul(round, dense, c.normal, 13, w))
		}
		c := newCase(backend.MatMul, "%v with infinity, NaN and zero", t)
		w := c.weight(t, 20, 33)
		block.Encode(t, w.raw[5*w.rowBytes():][:t.BlockBytes()], []float32{float32(math.Inf(1))})
		block.Encode(t, w.raw[9*w.rowBytes():][:t.BlockBytes()], []float32{float32(math.NaN())})
		x := func(i int) float64 { return float64(i % 33 % 3) } // zeros meet infinity
		cs = append(cs, c.matMul(backend.RoundNone, odd, x, 3, w))
		c = newCase(backend.MatMul, "no rows, %v", t)
		cs = append(cs, c.matMul(backend.RoundNone, dense, c.normal, 0, c.weight(t, 20, 33)))
	}
	for _, t := range weightTypes() {
		if !t.Quantized() {
			continue
		}
		for _, round := range roundings(256) {
			c := newCase(backend.MatMul, "broken scales/%v/round %v", t, round)
			c.loose = true
			w := c.weight(t, 33, 256)
			for _, row := range []int{0, 13, 32} {
				copy(w.raw[row*w.rowBytes():], brokenBlock(c.rng, t, round))
			}
			cs = append(cs, c.matMul(round, dense, c.normal, 3, w))
		}
	}
	return cs
}

// brokenBlock is the beginning of a row with values that are not finite, where the
// type has such; else a usual one. All scales of MXFP4 are numbers: its largest weights
// are not, in F32, but a product of codes does not have them in F32.
func brokenBlock(rng *rand.Rand, t backend.DType, round backend.Rounding) []byte {
	if t == backend.MXFP4 && round.Group() > 0 {
		return pools()[t][0]
	}
	if t.RowHead() > 0 {
		head := make([]byte, t.RowHead())
		block.Encode(backend.F32, head, []float32{float32(math.Inf(1))})
		return head
	}
	x := make([]float32, t.BlockElems())
	for range 1 << 12 {
		b := anyBlock(rng, t)
		block.Decode(t, x, b)
		if math.IsInf(largestOf(x), 1) {
			return b
		}
	}
	return pools()[t][0]
}

func roundCases() (cs []*testCase) {
	for i, k := range []int{32, 64, 96, 256, 320, 512} {
		for f, fill := range []func(*testCase) func(int) float64{normals, allEdges, halves} {
			r := rowCounts[i]
			for _, round := range roundings(k) {
				if round.Group() == 0 || round.Twice() {
					continue // not of RoundI8
				}
				c := newCase(backend.RoundI8, "%dx%d/round %v/fill %d", r, k, round, f)
				c.args.Round = round
				c.in[0] = newOperand(backend.F32, place(i%3), fill(c), r, k)
				c.out[0] = fresh(backend.I8, place(i%3), r, k)
				c.out[1] = fresh(backend.F32, place(i%3), r, k/round.Group())
				c.out[2] = fresh(backend.I32, place(i%3), r, k/16)
				cs = append(cs, c)
			}
			c := newCase(backend.RoundBF16, "%dx%d/fill %d", r, k+i, f)
			c.in[0] = newOperand(backend.F32, place(i%3), fill(c), r, k+i)
			c.out[0] = fresh(backend.BF16, place(i%3), r, k+i)
			cs = append(cs, c)
		}
	}
	return cs
}

// roundE4M3Cases have rows with every kind of largest value.
func roundE4M3Cases() (cs []*testCase) {
	for i, k := range widths {
		c := newCase(backend.RoundE4M3, "%d columns", k)
		c.in[0] = newOperand(backend.F32, place(i%3), c.rowsOfE4M3(k), 24, k)
		c.out[0], c.out[1] = fresh(backend.I8, place(i%3), 24, k), fresh(backend.F32, place(i%3), 24, 1)
		cs = append(cs, c)
	}
	return cs
}

// rowsOfE4M3 fill rows of k.
func (c *testCase) rowsOfE4M3(k int) func(int) float64 {
	return func(i int) float64 {
		switch first := i%k == 0; i / k % 8 {
		case 0: // as most are
		case 1: // beyond the bound
			return 3000 * c.rng.NormFloat64()
		case 2: // at it and around, once to either side
			return float64(backend.E4M3Bound) * []float64{1, 0.5, -0.25, 1 + 0x1p-23}[(i+i/k)%4]
		case 3: // a scale of 1: values halfway between two codes, and codes
			if first {
				return -448
			}
			return float64(c.rng.IntN(1793)-896) / 2
		case 4:
			if first {
				return math.Inf(i/k%3 - 1)
			}
		case 5:
			if i%k == k/2 {
				return math.NaN()
			}
		case 6: // zeros
			return math.Copysign(0, float64(i%2)-0.5)
		case 7: // below 1e-12, subnormal numbers among them
			return c.rng.NormFloat64() * []float64{1e-13, 1e-41}[i%2]
		}
		return c.rng.NormFloat64()
	}
}

// halves are ties of RoundI8: multiples of a half up to 127, some groups zero
// or tiny.
func halves(c *testCase) func(int) float64 {
	return func(i int) float64 {
		switch i / 32 % 4 {
		case 1:
			return 0
		case 2:
			return 1e-40 * float64(i%32)
		}
		if i%32 == 0 {
			return 127
		}
		return float64(c.rng.IntN(509)-254) / 2
	}
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
	for i, d := range widths {
		r, vocab := rowCounts[i%len(rowCounts)], 1+i%7 // ids come more than once
		c := newCase(backend.EmbeddingBackward, "%d ids, %dx%d", r, vocab, d)
		c.in[0] = newOperand(backend.I32, place(i%2), c.below(vocab), r)
		c.in[1] = newOperand(backend.F32, place((i+1)%3), c.normal, r, d)
		c.out[0] = newOperand(backend.F32, place(i%3), c.normal, vocab, d)
		cs = append(cs, c)
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
