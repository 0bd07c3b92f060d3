package kernel

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/herd-ml/herd/backend/block"
)

// A columnKernel is a kernel on six operands.
type columnKernel struct {
	name string
	step int     // lengths are multiples of it
	near float64 // how far results may be, relative; 0 wants the bits
	run  func(s *Set, x [6][]float32)
}

func columnKernels() []columnKernel {
	return []columnKernel{
		{"Mul", 1, 0, func(s *Set, x [6][]float32) { s.Mul(x[0], x[1], x[2]) }},
		{"MaxInto", 1, 0, func(s *Set, x [6][]float32) { s.MaxInto(x[0], x[1]) }},
		{"Scale", 1, 0, func(s *Set, x [6][]float32) { s.Scale(x[0], x[1], -1.3) }},
		{"Dot", 1, 0, func(s *Set, x [6][]float32) {
			for i := range x[0] {
				x[2][i] = s.Dot(x[0][i:], x[1][i:])
			}
		}},
		{"ScaleBF16", 16, 0, func(s *Set, x [6][]float32) {
			y := make([]uint16, len(x[0]))
			s.ScaleBF16(y, x[0], -1.3)
			for i := range y {
				x[2][i] = zeroed(y[i])
			}
		}},
		{"Interleave", 16, 0, func(s *Set, x [6][]float32) {
			a, b, y := make([]uint16, len(x[0])), make([]uint16, len(x[0])), make([]uint16, 2*len(x[0]))
			s.RoundBF16(a, x[0])
			s.RoundBF16(b, x[1])
			s.Interleave(y, a, b)
			for i := range a {
				x[2][i], x[3][i] = block.BF16ToF32(y[i]), block.BF16ToF32(y[len(a)+i])
			}
		}},
		{"ExpPairs", 16, 0x1p-7, func(s *Set, x [6][]float32) {
			pairs := make([]uint16, 2*len(x[0]))
			s.ExpPairs(pairs, x[0], x[1], x[2], x[3])
			clear(x[0])
			clear(x[1])
			for i := range x[0] {
				x[4][i], x[5][i] = zeroed(pairs[2*i]), zeroed(pairs[2*i+1])
			}
		}},
		{"ExpInto", 1, 0x1p-20, func(s *Set, x [6][]float32) { s.ExpInto(x[0], x[1], x[2]) }},
		{"ScoreGrads", 1, 0x1p-20, func(s *Set, x [6][]float32) { s.ScoreGrads(x[0], x[1], x[2], x[3]) }},
		{"ScoreGrads16", 16, 0x1p-7, func(s *Set, x [6][]float32) {
			p, g := make([]uint16, len(x[0])), make([]uint16, len(x[0]))
			s.ScoreGrads16(p, g, x[0], x[1], x[2], x[3])
			clear(x[0])
			for i := range p {
				x[4][i], x[5][i] = zeroed(p[i]), zeroed(g[i])
			}
		}},
	}
}

// TestColumns wants the bits of plain Go from all variants.
func TestColumns(t *testing.T) {
	rnd := rand.New(rand.NewPCG(21, 22))
	for _, f := range columnKernels() {
		forAll(t, func(t *testing.T, s *Set) {
			for n := 0; n < 100; n += f.step {
				f.compare(t, s, rnd, n)
			}
		})
	}
}

// compare runs a kernel on operands of n numbers, and plain Go.
func (f *columnKernel) compare(t *testing.T, s *Set, rnd *rand.Rand, n int) {
	t.Helper()
	v := values(rnd, true)
	var got, whole, want [6][]float32
	for i := range got {
		got[i], whole[i] = guarded(n, v)
		if i < 2 {
			poison(rnd, got[i])
		}
		for j, v := range got[i] {
			if f.near > 0 && v == inf { // too large for some exponentials
				got[i][j] = 80
			} else if f.near > 0 && i > 1 && v < 0 { // sums do not cancel
				got[i][j] = -v
			}
		}
		want[i] = append([]float32(nil), got[i]...)
	}
	before := whole
	for i := range before {
		before[i] = append([]float32(nil), whole[i]...)
	}
	f.run(s, got)
	f.run(Generic(), want)
	for i := range got {
		for j := range got[i] {
			if !same(got[i][j], want[i][j]) && !(math.Abs(float64(got[i][j]-want[i][j])) <= f.near*math.Abs(float64(want[i][j]))+0x1p-120) {
				t.Fatalf("%s of %d: element %d of operand %d is %g, want %g", f.name, n, j, i, got[i][j], want[i][j])
			}
		}
		for j := range guard {
			if end := len(whole[i]) - 1 - j; !same(whole[i][j], before[i][j]) || !same(whole[i][end], before[i][end]) {
				t.Fatalf("%s of %d: written outside of operand %d", f.name, n, i)
			}
		}
	}
}

// zeroed widens bfloat16; denormal numbers, which may be zeros, are.
func zeroed(h uint16) float32 {
	if h&0x7f80 == 0 {
		return 0
	}
	return block.BF16ToF32(h)
}

// BenchmarkColumns is what attention does with a row of scores in the cache.
func BenchmarkColumns(b *testing.B) {
	s := Best()
	var x [6][]float32
	for i := range x {
		x[i] = make([]float32, 192)
	}
	p, g := make([]uint16, 192), make([]uint16, 384)
	for name, f := range map[string]func(){
		"ExpInto":      func() { s.ExpInto(x[0], x[1], x[2]) },
		"ExpPairs":     func() { s.ExpPairs(g, x[0], x[3], x[1], x[2]) },
		"ScoreGrads":   func() { s.ScoreGrads(x[0], x[1], x[2], x[3]) },
		"ScoreGrads16": func() { s.ScoreGrads16(p, g, x[0], x[1], x[2], x[3]) },
		"RoundPairs":   func() { s.RoundPairs(g, 2*Panel, x[0], x[1]) },
		"RoundBF16":    func() { s.RoundBF16(g, x[0]) },
		"MaxInto":      func() { s.MaxInto(x[0], x[1]) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
			b.ReportMetric(float64(b.N*192)/b.Elapsed().Seconds()/1e9, "G/s")
		})
	}
}
