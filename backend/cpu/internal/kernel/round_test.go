package kernel

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

// wantGroup is the formula of RoundI8 for one group.
func wantGroup(codes []int8, x []float32) (d float32) {
	m := float32(0)
	for _, v := range x {
		if v != v || math.IsInf(float64(v), 0) {
			return float32(math.NaN())
		}
		m = max(m, float32(math.Abs(float64(v))))
	}
	if math.IsInf(float64(127/m), 1) {
		return 0
	}
	for i, v := range x {
		scaled := float32(v * (127 / m))
		codes[i] = int8(math.RoundToEven(float64(scaled)))
	}
	return m / 127
}

func TestRoundI8(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		rnd := rand.New(rand.NewPCG(5, 6))
		for _, group := range []int{16, 32, 256, 2 * chunkLen} {
			for groups := range 9 {
				for kind := range 8 {
					x, wholeX := guarded(group*groups, func() float32 { return roundValue(rnd, kind) })
					if kind == 7 {
						poison(rnd, x)
					}
					checkRound(t, s, x, raw(wholeX), group)
				}
			}
		}
		long, whole := guarded(3*chunkLen+32, values(rnd, true))
		checkRound(t, s, long, raw(whole), 32)
	})
}

// roundValue draws ordinary numbers, ties, zeros, numbers around the smallest
// that can be rounded, and very large ones.
func roundValue(rnd *rand.Rand, kind int) float32 {
	switch kind {
	case 1: // mostly ties once 127 is among them
		return []float32{127, float32(rnd.IntN(254)-127) + 0.5}[min(1, rnd.IntN(8))]
	case 2:
		return float32(math.Copysign(0, float64(rnd.IntN(2)-1)))
	case 3:
		return float32(rnd.NormFloat64()) * 0x1p-121
	case 4:
		return float32(rnd.NormFloat64()) * 0x1p-140
	case 5:
		return (rnd.Float32() - 0.5) * math.MaxFloat32
	case 6:
		return edges[rnd.IntN(len(edges))]
	}
	return float32(rnd.NormFloat64())
}

func checkRound(t *testing.T, s *Set, x []float32, wholeX []byte, group int) {
	t.Helper()
	before := bytes.Clone(wholeX)
	codes, wholeC := guarded(len(x), func() int8 { return 77 })
	d, wholeD := guarded(len(x)/group, func() float32 { return 77 })
	sums, wholeS := guarded(len(x)/sumLen, func() int32 { return 77 })
	s.RoundI8(codes, d, sums, x, group)
	if !bytes.Equal(wholeX, before) {
		t.Fatal("input was written")
	}
	for i := range guard {
		if wholeC[i] != 77 || wholeD[i] != 77 || wholeS[i] != 77 ||
			wholeC[len(wholeC)-1-i] != 77 || wholeD[len(wholeD)-1-i] != 77 || wholeS[len(wholeS)-1-i] != 77 {
			t.Fatal("written outside of the output")
		}
	}
	want := make([]int8, len(x))
	for g := range d {
		if v := wantGroup(want[g*group:][:group], x[g*group:][:group]); !same(d[g], v) {
			t.Fatalf("group %d of %d: d = %g, want %g", g, group, d[g], v)
		}
	}
	for i, c := range want {
		if codes[i] != c {
			t.Fatalf("group of %d: %g becomes %d, want %d", group, x[i], codes[i], c)
		}
	}
	for i, got := range sums {
		sum := int32(0)
		for _, c := range want[i*sumLen:][:sumLen] {
			sum += int32(c)
		}
		if got != sum {
			t.Fatalf("sum %d is %d, want %d", i, got, sum)
		}
	}
}
