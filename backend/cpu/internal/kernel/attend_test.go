package kernel

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"

	"fmt"
	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"testing"
)

// BenchmarkAhead is what one query head group does with a page in the cache.
func BenchmarkAhead(b *testing.B) {
	s := Best()
	for _, rows := range []int{1, 3, 4, 6, 8} {
		out, x, f, h := make([]float32, rows*64), make([]float32, rows*64), make([]float32, 64*64), make([]uint16, 64*64)
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%s/%d", name, rows), func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(float64(b.N*rows)*2*64*64/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
		run("F32", func() { s.F32Ahead(4, out, 64, x, 64, f, 64, nil, rows, 64, false) })
		run("F16", func() { s.F16Ahead(4, out, 64, x, 64, h, 64, nil, rows, 64, false) })
		run("BF16", func() { s.BF16Ahead(4, out, 64, x, 64, h, 64, nil, rows, 64, false) })
		run("F16 plain", func() { s.F16(4, out, 64, x, 64, h, 64, Panel, rows, 64, false) })
	}
}

// TestExps wants the bits of plain Go from all variants, for all lengths around
// their vectors, with edges of exp, infinities and NaN.
func TestExps(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	wild := append(edges, 88.7, 89, 89.1, 90, -87.4, -103, -104, -104.1, -105, 1000, -1000, inf, -inf, float32(math.NaN()))
	forAll(t, func(t *testing.T, s *Set) {
		for n := range 150 {
			for try := range 8 {
				fill := func() float32 {
					switch {
					case try == 6:
						return -inf
					case try > 2 && rnd.IntN(20) == 0:
						return wild[rnd.IntN(len(wild)-try%4)] // without NaN and infinities, too
					}
					return float32(30 * rnd.NormFloat64())
				}
				x, whole := guarded(n, fill)
				before, want := bytes.Clone(raw(whole)), append([]float32(nil), x...)
				scale := []float32{1, 0.125, 3}[try%3]
				top, sum := s.Exps(x, scale)
				wantTop, wantSum := Generic().Exps(want, scale)
				if !same(top, wantTop) || !same(sum, wantSum) {
					t.Fatalf("%d numbers: top %g and sum %g, want %g and %g", n, top, sum, wantTop, wantSum)
				}
				for i := range want {
					if !same(x[i], want[i]) {
						t.Fatalf("%d numbers: element %d is %g, want %g", n, i, x[i], want[i])
					}
				}
				if got := raw(whole); !bytes.Equal(got[:4*guard], before[:4*guard]) || !bytes.Equal(got[4*(guard+n):], before[4*(guard+n):]) {
					t.Fatalf("%d numbers: written outside", n)
				}
			}
		}
	})
}

// elementKernels are functions of numbers, one by one or of all of a line.
var elementKernels = []struct {
	name string
	run  func(s *Set, y, a, b []float32)
}{
	{"SwiGLU", (*Set).SwiGLU}, {"Add", (*Set).Add},
	{"Scaled", func(s *Set, y, a, b []float32) { s.Scaled(y, a, b, 0.7) }},
	{"AddSquares", func(s *Set, y, a, b []float32) {
		for i := range y {
			var t Sums
			s.AddSquares(&t, a[i:])
			y[i] = float32(t.Total())
		}
	}},
	{"Rotate", func(s *Set, y, a, b []float32) {
		half := len(y) / 2
		clear(y[2*half:])
		s.Rotate(y[:2*half], a, b[:half], b[len(b)-half:])
	}},
	{"RotateBack", func(s *Set, y, a, b []float32) {
		half := len(y) / 2
		clear(y[2*half:])
		s.RotateBack(y[:2*half], a, b[:half], b[len(b)-half:])
	}},
	{"AddNormSums", func(s *Set, y, a, b []float32) {
		for i := range y {
			var t [2]Sums
			s.AddNormSums(&t, a[i:], b, b[i:])
			y[i] = float32(t[0].Total() - t[1].Total())
		}
	}},
	{"NormBackward dx", func(s *Set, y, a, b []float32) {
		s.NormBackward(y, append([]float32(nil), b...), a, b, a, 0.7, -1.3)
	}},
	{"NormBackward dw", func(s *Set, y, a, b []float32) {
		copy(y, b)
		s.NormBackward(make([]float32, len(y)), y, a, a, b, 0.7, -1.3)
	}},
	{"SwiGLUBackward dgate", func(s *Set, y, a, b []float32) {
		copy(y, a) // in place
		s.SwiGLUBackward(y, make([]float32, len(y)), y, b, b)
	}},
	{"SwiGLUBackward dup", func(s *Set, y, a, b []float32) {
		s.SwiGLUBackward(make([]float32, len(y)), y, a, b, b)
	}},
	{"AdamW", func(s *Set, y, a, b []float32) {
		p := NewAdamW(&backend.AdamWArgs{LR: 0.1, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Decay: 0.1, Scale: 0.7, Correct1: 0.5, Correct2: 0.3})
		w, m, v := slices.Clone(b), slices.Clone(a), slices.Clone(b)
		clear(y)
		s.AdamW(p, w, m, v, a)
		s.AdamW(p, y, w, m, v) // y is in front of other memory
		for i := range y {
			y[i] += w[i] + 3*m[i] + 5*v[i]
		}
	}},
	{"MeasureScales", func(s *Set, y, a, b []float32) {
		var errs, inverse, shift [16]float32
		for i := range inverse { // codes are below, within and above their range
			inverse[i], shift[i] = float32(i-4), float32(5*i-20)/3
		}
		for i := range y {
			s.MeasureScales(&errs, a[i:], b[i:], &inverse, &shift, 15)
			y[i] = errs[i%16]
		}
	}},
	{"Mix", func(s *Set, y, a, b []float32) { copy(y, b); s.Mix(y, a, 0.7, -1.3) }},
}

// TestElements does the same with the other functions of elements.
func TestElements(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for _, f := range elementKernels {
		forAll(t, func(t *testing.T, s *Set) {
			for n := range 100 {
				v := values(rnd, true)
				a, _ := guarded(n, func() float32 { return 40 * v() })
				b, _ := guarded(n, v)
				poison(rnd, a)
				y, whole := guarded(n, func() float32 { return 7 })
				want := make([]float32, n)
				f.run(s, y, a, b)
				f.run(Generic(), want, a, b)
				for i := range want {
					if !same(y[i], want[i]) {
						t.Fatalf("%s of %d numbers: element %d is %g, want %g", f.name, n, i, y[i], want[i])
					}
				}
				for i := range guard {
					if whole[i] != 7 || whole[len(whole)-1-i] != 7 {
						t.Fatalf("%s of %d numbers: written outside of the output", f.name, n)
					}
				}
			}
		})
	}
}

// TestAhead wants the bits of the plain products.
func TestAhead(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	id := func(f float32) float32 { return f }
	kinds := map[string]func(rnd *rand.Rand, panels, rows, steps int, wild bool) *problem{
		"F32":  aheadKind(id, id, (*Set).F32Ahead, (*Set).F32).problem,
		"F16":  aheadKind(block.F32ToF16, block.F16ToF32, (*Set).F16Ahead, (*Set).F16).problem,
		"BF16": aheadKind(block.F32ToBF16, block.BF16ToF32, (*Set).BF16Ahead, bf16Panels).problem,
	}
	forAll(t, func(t *testing.T, s *Set) {
		for name, make := range kinds {
			t.Run(name, func(t *testing.T) {
				panels := 0
				grid(35, []int{chunkLen + 3, 255, 256, 64}, func(rows, k int) {
					panels = panels%9 + 1
					make(rnd, panels, rows, k, false).check(t, s, rnd, k%2 == 0)
					make(rnd, panels, rows, k, true).check(t, s, rnd, k%2 == 1)
				})
			})
		}
	})
}

// bf16Panels is BF16Ahead of panels wherever they lie.
func bf16Panels(s *Set, panels int, out []float32, outStride int, x []float32, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
	s.bf16.multiply(1, panels, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

// aheadKind is a product that asks ahead where the panels lie side by side.
func aheadKind[W float32 | uint16](narrow func(float32) W, widen func(W) float32,
	ahead func(s *Set, panels int, out []float32, outStride int, x []float32, xStride int, w []W, wStride int, next []byte, rows, k int, accumulate bool),
	plain func(s *Set, panels int, out []float32, outStride int, x []float32, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool),
) floatKind[float32, W] {
	id := func(f float32) float32 { return f }
	next := make([]byte, 1<<15)
	return floatKind[float32, W]{1, false, id, id, narrow, widen,
		func(s *Set, panels int, out []float32, outStride int, x []float32, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool) {
			if panels > 1 && wStep != Panel {
				plain(s, panels, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
				return
			}
			ahead(s, panels, out, outStride, x, xStride, w, wStride, next[:len(next)*(k%2)], rows, k, accumulate)
		}}
}

func BenchmarkExps(b *testing.B) {
	s, x := Best(), make([]float32, 256)
	for b.Loop() {
		s.Exps(x, 1)
	}
	b.ReportMetric(float64(b.N*len(x))/b.Elapsed().Seconds()/1e9, "Gexp/s")
}

// TestWidenQ8 wants every code times scales of all kinds, exactly.
func TestWidenQ8(t *testing.T) {
	rnd := rand.New(rand.NewPCG(13, 14))
	forAll(t, func(t *testing.T, s *Set) {
		for _, n := range []int{0, 32, 96, 2048, 3 * 2048} {
			codes, _ := guarded(n, func() int8 { return int8(rnd.Uint32()) })
			scales, _ := guarded(n/32, func() uint16 { return uint16(rnd.Uint32()) })
			next := make([]byte, n*(rnd.IntN(2)))
			dst, whole := guarded(n, func() float32 { return 7 })
			check := func(name string, scale func(i int) int) {
				for i, v := range dst {
					if want := float32(codes[i]) * block.F16ToF32(scales[scale(i)]); !same(v, want) {
						t.Fatalf("%s of %d: element %d is %g, want %g", name, n, i, v, want)
					}
				}
				for i := range guard {
					if whole[i] != 7 || whole[len(whole)-1-i] != 7 {
						t.Fatalf("%s of %d: written outside of the output", name, n)
					}
				}
			}
			s.WidenQ8(dst, codes, scales, next)
			check("WidenQ8", func(i int) int { return i / 32 })
			if n%2048 == 0 {
				s.WidenQ8Keys(dst, codes, scales, next)
				check("WidenQ8Keys", func(i int) int { return i/2048*64 + i%64 })
			}
		}
		for name, f := range map[string]func(){
			"part of a block": func() { s.WidenQ8(make([]float32, 31), make([]int8, 31), make([]uint16, 1), nil) },
			"no scales":       func() { s.WidenQ8(make([]float32, 32), make([]int8, 32), nil, nil) },
			"part of keys":    func() { s.WidenQ8Keys(make([]float32, 64), make([]int8, 64), make([]uint16, 2), nil) },
			"no codes":        func() { s.WidenQ8Keys(make([]float32, 2048), nil, make([]uint16, 64), nil) },
		} {
			if panics(f) == "" {
				t.Errorf("%s does not panic", name)
			}
		}
	})
}

// TestRoundF16 rounds edges and halfway numbers, in rows of all lengths.
func TestRoundF16(t *testing.T) {
	rnd := rand.New(rand.NewPCG(15, 16))
	forAll(t, func(t *testing.T, s *Set) {
		for n := range 200 {
			x, _ := guarded(n, func() float32 {
				switch rnd.IntN(4) {
				case 0:
					return append(edges, inf, -inf, float32(math.NaN()), 65519, 65520, 0x1p-25)[rnd.IntN(len(edges)+6)]
				case 1: // halfway, or one off
					return math.Float32frombits(math.Float32bits(block.F16ToF32(uint16(rnd.Uint32()))) + 0x1000 + uint32(rnd.IntN(3)) - 1)
				}
				return float32(math.Ldexp(rnd.NormFloat64(), rnd.IntN(50)-30))
			})
			y, whole := guarded(n, func() uint16 { return 7 })
			s.RoundF16(y, x)
			for i, h := range y {
				if got, want := block.F16ToF32(h), block.F16ToF32(block.F32ToF16(x[i])); !same(got, want) {
					t.Fatalf("%g is %g, want %g", x[i], got, want)
				}
			}
			for i := range guard {
				if whole[i] != 7 || whole[len(whole)-1-i] != 7 {
					t.Fatalf("%d numbers: written outside of the output", n)
				}
			}
		}
	})
}
