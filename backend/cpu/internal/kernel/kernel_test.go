package kernel

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/herd-ml/herd/backend/block"
)

// forAll runs f with every variant; one that cannot run here is skipped with
// the name of what is missing.
func forAll(t *testing.T, f func(t *testing.T, s *Set)) {
	for _, v := range emulatedTiles(Variants()) {
		t.Run(v.Name, func(t *testing.T) {
			if v.Err != nil {
				t.Skip(v.Err)
			}
			f(t, v.Set)
		})
	}
}

// guard is the number of elements before and after a slice under test. It is
// odd, so that slices are not aligned to vectors.
const guard = 33

// guarded returns n elements inside a buffer and that whole buffer.
func guarded[T any](n int, fill func() T) (s, whole []T) {
	whole = make([]T, n+2*guard)
	for i := range whole {
		whole[i] = fill()
	}
	return whole[guard : guard+n : guard+n], whole
}

// raw is the memory of s.
func raw[T any](s []T) []byte {
	var e T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(e)))
}

// same compares bits; all NaNs are one.
func same(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

// A problem is a product in any weight type. A step is an input or a block.
type problem struct {
	rows, steps, outStride int
	panels                 int      // 0 is one
	inputs                 [][]byte // with their guards
	// run multiplies rows r to r+rows by steps from to to.
	run func(s *Set, out []float32, r, rows, from, to int, accumulate bool)
	// term is the exact addend of a step. It and the sum of its factors'
	// magnitudes bound the error.
	term func(r, j, i int) float64
	// size bounds the magnitudes that are added up in a term; nil is that of the
	// term itself.
	size func(r, j, i int) float64
	// tiny is how far underflow moves a term.
	tiny float64
	// tile is the steps that a tile of amx adds up at once; else 0.
	tile int
}

// width is the number of outputs of a row.
func (p *problem) width() int { return max(p.panels, 1) * Panel }

// check runs the whole problem, and then again row by row and cut in two.
func (p *problem) check(t *testing.T, s *Set, rnd *rand.Rand, accumulate bool) {
	t.Helper()
	out, whole := guarded(max(0, p.rows-1)*p.outStride+p.width(), func() float32 { return float32(rnd.NormFloat64()) })
	if rnd.IntN(4) == 0 {
		out[rnd.IntN(Panel)] = float32(math.Copysign(0, -1))
	}
	before := bytes.Clone(raw(whole))
	start := append([]float32(nil), out...)
	inputs := make([][]byte, len(p.inputs))
	for i, in := range p.inputs {
		inputs[i] = bytes.Clone(in)
	}
	p.run(s, out, 0, p.rows, 0, p.steps, accumulate)
	got := append([]float32(nil), out...)
	for i, in := range p.inputs {
		if !bytes.Equal(in, inputs[i]) {
			t.Fatalf("%d rows, %d steps: input %d was written", p.rows, p.steps, i)
		}
	}
	for r := range p.rows {
		copy(out[r*p.outStride:][:p.width()], start[r*p.outStride:][:p.width()])
	}
	if !bytes.Equal(raw(whole), before) {
		t.Fatalf("%d rows, %d steps: written outside of the output", p.rows, p.steps)
	}
	for r := range p.rows {
		for j := range p.width() {
			want := 0.0
			if accumulate {
				want = float64(start[r*p.outStride+j])
			}
			size := math.Abs(want)
			for i := range p.steps {
				v := p.term(r, j, i)
				want, size = want+v, size+math.Abs(v)
				if p.size != nil {
					size += p.size(r, j, i)
				}
			}
			if g := float64(got[r*p.outStride+j]); !p.near(g, want, size) {
				t.Fatalf("%d rows, %d steps, accumulate %v: out[%d,%d] = %g, want %g", p.rows, p.steps, accumulate, r, j, g, want)
			}
		}
	}
	p.again(t, s, rnd, start, got, accumulate)
}

// near says whether got is the sum want of terms of the given total size. Each
// of the n additions and each term are rounded at most twice, by half of
// 2^-23, which moves the result by no more than (n+2) 2^-23 size.
func (p *problem) near(got, want, size float64) bool {
	switch {
	case want != want:
		return got != got
	case math.IsInf(want, 0):
		return got == want
	case size == 0:
		return got == 0 && (p.size != nil || math.Signbit(got) == math.Signbit(want)) // a product's parts may be zeros of either sign
	}
	n := float64(p.steps)
	return math.Abs(got-want) <= (n+2)*0x1p-23*size+n*p.tiny
}

// again wants the bits of got from calls of one row each and of two parts.
func (p *problem) again(t *testing.T, s *Set, rnd *rand.Rand, start, got []float32, accumulate bool) {
	t.Helper()
	one := append([]float32(nil), start...)
	for r := range p.rows {
		p.run(s, one[r*p.outStride:], r, 1, 0, p.steps, accumulate)
	}
	cut := append([]float32(nil), start...)
	at := rnd.IntN(p.steps + 1)
	if p.tile > 0 && s.Name() == "amx" {
		at -= at % p.tile
	}
	p.run(s, cut, 0, p.rows, 0, at, accumulate)
	p.run(s, cut, 0, p.rows, at, p.steps, true)
	for i := range got {
		if !same(got[i], one[i]) {
			t.Fatalf("%d rows, %d steps: element %d is %g, and %g from rows alone", p.rows, p.steps, i, got[i], one[i])
		}
		if !same(got[i], cut[i]) {
			t.Fatalf("%d rows, %d steps: element %d is %g, and %g cut at %d", p.rows, p.steps, i, got[i], cut[i], at)
		}
	}
}

// grid calls f with steps 0..most and every third number of rows to beyond a
// tile, which pairs all rows with all remainders of steps by 2, 4 and 8; then
// with a few large numbers of steps. With -short it takes every fifth of the steps.
func grid(most int, large []int, f func(rows, steps int)) {
	step := 1
	if testing.Short() {
		step = 5
	}
	for steps := 0; steps <= most; steps += step {
		for rows := steps % 3; rows < MaxRows+4; rows += 3 {
			f(rows, steps)
		}
	}
	f(MaxRows+3, large[0])
	for i, steps := range large {
		f(1+i, steps)
	}
}

var inf = float32(math.Inf(1))

// edges are values that kernels like to get wrong.
var edges = []float32{0, float32(math.Copysign(0, -1)), 0x1p-149, -0x1p-149, 0x1p-127, 0x1p-14, -0x1p-24, 0x1p-26, 1, -1}

// values returns a source of numbers; with wild, one in four is an edge.
func values(rnd *rand.Rand, wild bool) func() float32 {
	return func() float32 {
		if wild && rnd.IntN(4) == 0 {
			return edges[rnd.IntN(len(edges))]
		}
		return float32(rnd.NormFloat64())
	}
}

// poison puts an infinity or a NaN somewhere.
func poison(rnd *rand.Rand, s []float32) {
	if len(s) > 0 {
		s[rnd.IntN(len(s))] = []float32{inf, -inf, float32(math.NaN())}[rnd.IntN(3)]
	}
}

// A floatKind is a product of float weights W with inputs X, unit of them a step.
type floatKind[X, W float32 | uint16] struct {
	unit    int
	daz     bool // denormal numbers count as zeros, in and out
	narrowX func(float32) X
	widenX  func(X) float32
	narrow  func(float32) W
	widen   func(W) float32
	run     func(s *Set, panels int, out []float32, outStride int, x []X, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool)
}

// problem makes one of random sizes of the strides.
func (f floatKind[X, W]) problem(rnd *rand.Rand, panels, rows, steps int, wild bool) *problem {
	extra, k := rnd.IntN(2)*5, steps*f.unit
	outStride, xStride := panels*Panel+extra, k+extra
	wStride, wStep := Panel*f.unit, k*Panel+extra
	if extra > 0 && panels > 0 { // panels side by side
		wStride, wStep = panels*Panel*f.unit+extra, Panel*f.unit
	}
	v := values(rnd, wild)
	x, wholeX := guarded(max(0, rows-1)*xStride+k, func() X { return f.narrowX(v()) })
	w, wholeW := guarded(max(0, panels-1)*wStep+max(0, steps-1)*wStride+Panel*f.unit, func() W { return f.narrow(v()) })
	if wild && k > 0 && rnd.IntN(2) == 0 {
		bad := []float32{v(), v()}
		poison(rnd, bad)
		if len(x) > 0 {
			x[rnd.IntN(len(x))] = f.narrowX(bad[0])
		}
		w[rnd.IntN(len(w))] = f.narrow(bad[1])
	}
	value := func(v float32) float64 {
		if f.daz && math.Abs(float64(v)) < 0x1p-126 {
			return 0
		}
		return float64(v)
	}
	p := &problem{
		rows: rows, steps: steps, outStride: outStride, panels: panels, inputs: [][]byte{raw(wholeX), raw(wholeW)}, tiny: 0x1p-149,
		run: func(s *Set, out []float32, r, rows, from, to int, accumulate bool) {
			f.run(s, panels, out, outStride, x[min(r*xStride+from*f.unit, len(x)):], xStride, w[min(from*wStride, len(w)):], wStride, wStep, rows, (to-from)*f.unit, accumulate)
		},
		term: func(r, j, i int) float64 {
			sum := math.Copysign(0, -1) // keeps the sign of a zero
			for u := range f.unit {
				sum += value(f.widenX(x[r*xStride+i*f.unit+u])) * value(f.widen(w[j/Panel*wStep+i*wStride+j%Panel*f.unit+u]))
			}
			return sum
		},
	}
	if f.unit > 1 {
		p.size = func(r, j, i int) float64 { // its factors' magnitudes, where products cancel
			sum := 0.0
			for u := range f.unit {
				sum += math.Abs(value(f.widenX(x[r*xStride+i*f.unit+u])) * value(f.widen(w[j/Panel*wStep+i*wStride+j%Panel*f.unit+u])))
			}
			return 2 * sum
		}
	}
	if f.daz {
		p.tiny, p.tile = 0x1p-126, tileSide
	}
	return p
}

func TestFloat(t *testing.T) {
	id := func(f float32) float32 { return f }
	f32 := floatKind[float32, float32]{1, false, id, id, id, id, (*Set).F32}
	f16 := floatKind[float32, uint16]{1, false, id, id, block.F32ToF16, block.F16ToF32, (*Set).F16}
	bf16 := floatKind[float32, uint16]{1, false, id, id, block.F32ToBF16, block.BF16ToF32, bf16Panels}
	pairs := floatKind[float32, uint16]{2, false, id, id, block.F32ToBF16, block.BF16ToF32, (*Set).BF16Pairs}
	dot := floatKind[uint16, uint16]{2, true, block.F32ToBF16, block.BF16ToF32, block.F32ToBF16, block.BF16ToF32, (*Set).BF16Dot}
	kinds := map[string]func(rnd *rand.Rand, panels, rows, steps int, wild bool) *problem{
		"F32": f32.problem, "F16": f16.problem, "BF16": bf16.problem, "BF16Pairs": pairs.problem, "BF16Dot": dot.problem,
	}
	forAll(t, func(t *testing.T, s *Set) {
		for name, make := range kinds {
			t.Run(name, func(t *testing.T) {
				if name == "BF16Dot" && !s.HasBF16Dot() {
					t.Skip("no AVX512_BF16, or a variant without it")
				}
				rnd := rand.New(rand.NewPCG(1, 2))
				panels := 0
				grid(35, []int{chunkLen + 3, 255, chunkLen, chunkLen/2 + 1}, func(rows, k int) {
					panels = panels%7 + 1
					make(rnd, panels, rows, k, false).check(t, s, rnd, k%2 == 0)
					make(rnd, panels, rows, k, true).check(t, s, rnd, k%2 == 1)
				})
			})
		}
	})
}

// TestWiden multiplies every 16-bit pattern by one, so that the result is the
// weight itself, and widens it.
func TestWiden(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		var out [Panel]float32
		w, wide, pairs := make([]uint16, 2*Panel), make([]float32, 2*Panel), make([]float32, 2*Panel)
		for base := 0; base < 1<<16; base += 2 * Panel {
			for j := range w {
				w[j] = uint16(base + j)
			}
			s.WidenF16(wide[:2*Panel-3], w)
			s.WidenPairs(pairs, w)
			for i := range 2 {
				s.F16(1, out[:], Panel, []float32{1}, 1, w[i*Panel:], Panel, 0, 1, 1, false)
				for j, h := range w[i*Panel:][:Panel] {
					want, at := block.F16ToF32(h), i*Panel+j
					if !same(out[j], want+0) || at < 2*Panel-3 && !same(wide[at], want) {
						t.Fatalf("float16 %#x is %g and %g, want %g", h, out[j], wide[at], want)
					}
				}
				bf16Panels(s, 1, out[:], Panel, []float32{1}, 1, w[i*Panel:], Panel, 0, 1, 1, false)
				for j, h := range w[i*Panel:][:Panel] {
					want, at := block.BF16ToF32(h), i*Panel+j
					if !same(out[j], want+0) || !same(pairs[at%2*Panel+at/2], want) {
						t.Fatalf("bfloat16 %#x is %g and %g, want %g", h, out[j], pairs[at%2*Panel+at/2], want)
					}
				}
			}
		}
	})
}

// TestRoundBF16 rounds edges and every exponent, in rows of all lengths.
func TestRoundBF16(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	forAll(t, func(t *testing.T, s *Set) {
		for n := range 70 {
			x, wholeX := guarded(n, func() float32 { return math.Float32frombits(rnd.Uint32()) })
			for i := range x {
				switch rnd.IntN(4) {
				case 0:
					x[i] = append(edges, inf, -inf, float32(math.NaN()), math.MaxFloat32)[rnd.IntN(len(edges)+4)]
				case 1: // halfway, or one off
					x[i] = math.Float32frombits(rnd.Uint32()&^0xffff | 0x8000 + uint32(rnd.IntN(3)) - 1)
				}
			}
			before := bytes.Clone(raw(wholeX))
			y, whole := guarded(n, func() uint16 { return 7 })
			s.RoundBF16(y, x)
			for i, h := range y {
				if got, want := block.BF16ToF32(h), block.BF16ToF32(block.F32ToBF16(x[i])); !same(got, want) {
					t.Fatalf("%g is %g, want %g", x[i], got, want)
				}
			}
			for i := range guard {
				if whole[i] != 7 || whole[len(whole)-1-i] != 7 {
					t.Fatalf("%d numbers: written outside of the output", n)
				}
			}
			if !bytes.Equal(before, raw(wholeX)) {
				t.Fatalf("%d numbers: the input was written", n)
			}
		}
	})
}

// TestShort takes one element from, or otherwise spoils, one operand at a time.
func TestShort(t *testing.T) {
	const rows, k = 3, 64
	forAll(t, func(t *testing.T, s *Set) {
		for bad := range 8 {
			n := func(i, n int) int { // n, or one less for the spoilt operand
				if i == bad {
					return n - 1
				}
				return n
			}
			f32 := func(i, size int) []float32 { return make([]float32, n(i, size)) }
			calls := map[string]func(){
				"F32": func() {
					s.F32(1, f32(0, 2*20+16), n(1, 20), f32(2, 2*70+k), n(3, 70), f32(4, k*Panel), Panel, 0, rows, k, false)
				},
				"F16": func() {
					s.F16(1, f32(0, 2*20+16), n(1, 20), f32(2, 2*70+k), n(3, 70), make([]uint16, n(4, k*Panel)), Panel, 0, rows, k, false)
				},
				"RoundI8": func() {
					s.RoundI8(make([]int8, n(0, k)), f32(2, k/32), make([]int32, n(4, k/16)), f32(5, k), n(6, 32))
				},
			}
			// Strides one shorter still fit.
			fits := map[string]string{"F32": "13567", "F16": "13567", "RoundI8": "137"}
			for name, call := range calls {
				want := !strings.Contains(fits[name], string(rune('0'+bad)))
				if got := panics(call); want != strings.HasPrefix(got, "kernel: ") || !want && got != "" {
					t.Errorf("%s with operand %d spoilt panics with %q", name, bad, got)
				}
			}
		}
		for name, call := range map[string]func(){
			"overlap": func() {
				s.F32(1, make([]float32, 64), 15, make([]float32, 64), 8, make([]float32, 128), 16, 0, 2, 8, false)
			},
			"huge rows": func() {
				s.F32(1, make([]float32, 64), 16, make([]float32, 64), 8, make([]float32, 128), 16, 0, math.MaxInt, 8, false)
			},
			"huge k": func() {
				s.F32(1, make([]float32, 64), 16, make([]float32, 64), 8, make([]float32, 128), 16, 0, 1, math.MaxInt, false)
			},
			"negative": func() {
				s.F32(1, make([]float32, 64), 16, make([]float32, 64), 8, make([]float32, 128), 16, 0, -1, 8, false)
			},
		} {
			if got := panics(call); !strings.HasPrefix(got, "kernel: ") {
				t.Errorf("%s panics with %q", name, got)
			}
		}
	})
}

// panics returns the text that f panics with.
func panics(f func()) (text string) {
	defer func() {
		switch v := recover().(type) {
		case string:
			text = v
		case error:
			text = v.Error()
		}
	}()
	f()
	return ""
}

func TestVariants(t *testing.T) {
	var last *Set
	for i, v := range Variants() {
		if v.Name != []string{"generic", "avx2", "avx512", "amx"}[i] || (v.Set == nil) != (v.Err != nil) {
			t.Errorf("variant %d is %+v", i, v)
		}
		if v.Set != nil {
			if v.Name != "amx" { // never a default
				last = v.Set
			}
			if v.Set.Name() != v.Name {
				t.Errorf("set of %s is called %s", v.Name, v.Set.Name())
			}
		}
	}
	if Best().Name() != last.Name() {
		t.Errorf("best is %s, want %s", Best().Name(), last.Name())
	}
}

// TestCallTime holds the largest runs of assembly to 100 us, the best of
// several since the machine may be busy.
func TestCallTime(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it takes times")
	}
	forAll(t, func(t *testing.T, s *Set) {
		if s.Name() == "generic" {
			t.Skip("Go code can be interrupted anywhere")
		}
		out, x := make([]float32, MaxRows*4*Panel), make([]float32, MaxRows*chunkLen)
		q, sums := make([]int8, MaxRows*chunkLen), make([]int32, MaxRows*chunkLen/sumLen)
		w, h := make([]float32, chunkLen*Panel), make([]uint16, chunkLen*Panel)
		for name, run := range map[string]func(){
			"F32": func() { t := s.f32[0]; t.run(out, 4*Panel, x, chunkLen, w, Panel, 0, t.rows, chunkLen/t.panels, true) },
			"F32 pair": func() {
				t := s.f32[max(0, len(s.f32)-2)]
				t.run(out, 4*Panel, x, chunkLen, w, Panel, 0, t.rows, chunkLen/t.panels, true)
			},
			"F16": func() { t := s.f16[0]; t.run(out, 4*Panel, x, chunkLen, h, Panel, 0, t.rows, chunkLen/t.panels, true) },
			"BF16": func() {
				t := s.bf16[max(0, len(s.bf16)-2)]
				t.run(out, 4*Panel, x, chunkLen, h, Panel, 0, t.rows, chunkLen/t.panels, true)
			},
			"Peak": func() {
				if p, ok := s.PeakInt8(); ok {
					p.run(1000)
				}
			},
			"RoundI8": func() { s.roundI8(q, x[chunkLen:], sums, x[:chunkLen], 32) },
		} {
			best := time.Hour
			for range 200 {
				start := time.Now()
				run()
				best = min(best, time.Since(start))
			}
			if best > 100*time.Microsecond {
				t.Errorf("%s takes %v", name, best)
			}
		}
	})
}
