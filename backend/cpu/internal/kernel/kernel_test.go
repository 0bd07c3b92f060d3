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
	for _, v := range Variants() {
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
}

// check runs the whole problem, and then again row by row and cut in two.
func (p *problem) check(t *testing.T, s *Set, rnd *rand.Rand, accumulate bool) {
	t.Helper()
	out, whole := guarded(max(0, p.rows-1)*p.outStride+Panel, func() float32 { return float32(rnd.NormFloat64()) })
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
		copy(out[r*p.outStride:][:Panel], start[r*p.outStride:][:Panel])
	}
	if !bytes.Equal(raw(whole), before) {
		t.Fatalf("%d rows, %d steps: written outside of the output", p.rows, p.steps)
	}
	for r := range p.rows {
		for j := range Panel {
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
// with a few large numbers of steps.
func grid(most int, large []int, f func(rows, steps int)) {
	for steps := range most + 1 {
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

// floatProblem is a product whose weights are stored as W.
func floatProblem[W float32 | uint16](rnd *rand.Rand, rows, k int, wild bool, narrow func(float32) W, widen func(W) float32,
	run func(s *Set, out []float32, outStride int, x []float32, xStride int, w []W, wStride, rows, k int, accumulate bool)) *problem {
	extra := rnd.IntN(2) * 5
	outStride, xStride := Panel+extra, k+extra
	v := values(rnd, wild)
	x, wholeX := guarded(max(0, rows-1)*xStride+k, v)
	w, wholeW := guarded(k*Panel, func() W { return narrow(v()) })
	if wild && k > 0 && rnd.IntN(2) == 0 {
		poison(rnd, x)
		bad := []float32{v()}
		poison(rnd, bad)
		w[rnd.IntN(len(w))] = narrow(bad[0])
	}
	return &problem{
		rows: rows, steps: k, outStride: outStride, inputs: [][]byte{raw(wholeX), raw(wholeW)}, tiny: 0x1p-149,
		run: func(s *Set, out []float32, r, rows, from, to int, accumulate bool) {
			run(s, out, outStride, x[min(r*xStride+from, len(x)):], xStride, w[from*Panel:to*Panel], Panel, rows, to-from, accumulate)
		},
		term: func(r, j, i int) float64 { return float64(x[r*xStride+i]) * float64(widen(w[i*Panel+j])) },
	}
}

func TestFloat(t *testing.T) {
	id := func(f float32) float32 { return f }
	types := map[string]func(rnd *rand.Rand, rows, k int, wild bool) *problem{
		"F32": func(rnd *rand.Rand, rows, k int, wild bool) *problem {
			return floatProblem(rnd, rows, k, wild, id, id, (*Set).F32)
		},
		"F16": func(rnd *rand.Rand, rows, k int, wild bool) *problem {
			return floatProblem(rnd, rows, k, wild, block.F32ToF16, block.F16ToF32, (*Set).F16)
		},
		"BF16": func(rnd *rand.Rand, rows, k int, wild bool) *problem {
			return floatProblem(rnd, rows, k, wild, block.F32ToBF16, block.BF16ToF32, (*Set).BF16)
		},
	}
	forAll(t, func(t *testing.T, s *Set) {
		for name, make := range types {
			t.Run(name, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(1, 2))
				grid(67, []int{chunkLen + 3, 255, chunkLen, 2*chunkLen + 1}, func(rows, k int) {
					make(rnd, rows, k, false).check(t, s, rnd, k%2 == 0)
					make(rnd, rows, k, true).check(t, s, rnd, k%2 == 1)
				})
			})
		}
	})
}

// TestWiden multiplies every 16-bit pattern by one, so that the result is the
// weight itself.
func TestWiden(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		var out [Panel]float32
		w := make([]uint16, Panel)
		for base := 0; base < 1<<16; base += Panel {
			for j := range w {
				w[j] = uint16(base + j)
			}
			s.F16(out[:], Panel, []float32{1}, 1, w, Panel, 1, 1, false)
			for j, h := range w {
				if want := block.F16ToF32(h); !same(out[j], want+0) {
					t.Fatalf("float16 %#x is %g, want %g", h, out[j], want)
				}
			}
			s.BF16(out[:], Panel, []float32{1}, 1, w, Panel, 1, 1, false)
			for j, h := range w {
				if want := block.BF16ToF32(h); !same(out[j], want+0) {
					t.Fatalf("bfloat16 %#x is %g, want %g", h, out[j], want)
				}
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
					s.F32(f32(0, 2*20+16), n(1, 20), f32(2, 2*70+k), n(3, 70), f32(4, k*Panel), Panel, rows, k, false)
				},
				"F16": func() {
					s.F16(f32(0, 2*20+16), n(1, 20), f32(2, 2*70+k), n(3, 70), make([]uint16, n(4, k*Panel)), Panel, rows, k, false)
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
			"overlap": func() { s.F32(make([]float32, 64), 15, make([]float32, 64), 8, make([]float32, 128), 16, 2, 8, false) },
			"huge rows": func() {
				s.F32(make([]float32, 64), 16, make([]float32, 64), 8, make([]float32, 128), 16, math.MaxInt, 8, false)
			},
			"huge k": func() {
				s.F32(make([]float32, 64), 16, make([]float32, 64), 8, make([]float32, 128), 16, 1, math.MaxInt, false)
			},
			"negative": func() { s.F32(make([]float32, 64), 16, make([]float32, 64), 8, make([]float32, 128), 16, -1, 8, false) },
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
		if v.Name != []string{"generic", "avx2", "avx512"}[i] || (v.Set == nil) != (v.Err != nil) {
			t.Errorf("variant %d is %+v", i, v)
		}
		if v.Set != nil {
			if last = v.Set; last.Name() != v.Name {
				t.Errorf("set of %s is called %s", v.Name, last.Name())
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
	forAll(t, func(t *testing.T, s *Set) {
		if s.Name() == "generic" {
			t.Skip("Go code can be interrupted anywhere")
		}
		out, x := make([]float32, MaxRows*Panel), make([]float32, MaxRows*chunkLen)
		q, sums := make([]int8, MaxRows*chunkLen), make([]int32, MaxRows*chunkLen/sumLen)
		w, h := make([]float32, chunkLen*Panel), make([]uint16, chunkLen*Panel)
		for name, run := range map[string]func(){
			"F32":  func() { s.f32.run(out, Panel, x, chunkLen, w, Panel, s.f32.rows, chunkLen, true) },
			"F16":  func() { s.f16.run(out, Panel, x, chunkLen, h, Panel, s.f16.rows, chunkLen, true) },
			"BF16": func() { s.bf16.run(out, Panel, x, chunkLen, h, Panel, s.bf16.rows, chunkLen, true) },
			"Peak": func() {
				if p, ok := s.PeakInt8(); ok {
					p.run(1000)
				}
			},
			"RoundI8": func() { s.round(q, x[chunkLen:], sums, x[:chunkLen], 32) },
		} {
			best := time.Hour
			for range 20 {
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
