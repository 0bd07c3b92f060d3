//go:build !noasm

package kernel

import (
	"math/rand/v2"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// TestTiles wants of codes that tiles multiply the bits of avx512, and of bfloat16
// right sums for all ways to cut rows into tiles.
func TestTiles(t *testing.T) {
	forAll(t, func(t *testing.T, s *Set) {
		if s.Name() != "amx" {
			t.Skip("has no tiles")
		}
		avx512, err := AVX512()
		if err != nil {
			t.Fatal(err)
		}
		formats(t, s, func(t *testing.T, typ backend.DType, f *Format) {
			rnd := rand.New(rand.NewPCG(11, 12))
			for _, rows := range []int{7, 8, 15, 16, 17, 23, 24, 31, 33, 40} {
				n := f.Group * (1 + rnd.IntN(2*chunkLen/8/f.Group))
				tilesAsVectors(t, rnd, f, avx512.Format(typ), rows, n)
			}
			tilesAsVectors(t, rnd, f, avx512.Format(typ), 16, 512/f.Group*f.Group)
		})
		t.Run("BF16", func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(13, 14))
			dot := floatKind[uint16, uint16]{2, true, block.F32ToBF16, block.BF16ToF32, block.F32ToBF16, block.BF16ToF32, (*Set).BF16Dot}
			for i, rows := range []int{16, 17, 31, 32, 33, 47, 48, 64, 95, tiledRows, tiledRows + 1, tiledRows + 37} {
				steps := []int{16, 1, 15, 17, 32, 40}[i%6]
				dot.problem(rnd, 1+i%3, rows, steps, i%2 == 1).check(t, s, rnd, i%3 == 0)
			}
			for rows := range 8 { // the ends of panels and inputs
				for steps := range 18 {
					if (rows+steps)%3 == 0 {
						dot.problem(rnd, 1+(rows+steps)%7, rows, steps, steps%2 == 1).check(t, s, rnd, rows%2 == 1)
					}
				}
			}
			for panels := 1; panels <= 4; panels++ { // more inputs than a call takes
				dot.problem(rnd, panels, 2-panels/3, chunkLen/2+1, false).check(t, s, rnd, false)
			}
		})
	})
}

func tilesAsVectors(t *testing.T, rnd *rand.Rand, f, vectors *Format, rows, n int) {
	xStride, metaStride, outStride := n+rnd.IntN(3)*5, n/f.Sub+rnd.IntN(2), 2*Panel+rnd.IntN(3)
	x, wholeX := guarded((rows-1)*xStride+n, func() int8 { return int8(rnd.IntN(255) - 127) })
	meta, _ := guarded((rows-1)*metaStride+n/f.Sub, func() Meta {
		return Meta{rnd.Int32N(1<<20) - 1<<19, float32(rnd.NormFloat64()), float32(rnd.NormFloat64())}
	})
	codes, wholeCodes := guarded(2*n*Panel, func() byte { return byte(rnd.Uint32()) })
	scales, _ := guarded(2*f.Scales(n), func() float32 { return float32(rnd.NormFloat64()) })
	if rnd.IntN(4) == 0 { // the largest sums
		for i := range wholeX {
			wholeX[i] = -127
		}
		for i := range wholeCodes {
			wholeCodes[i] = 255
		}
	}
	start, _ := guarded((rows-1)*outStride+2*Panel, func() float32 { return float32(rnd.NormFloat64()) })
	for panels := 1; panels <= 2; panels++ {
		accumulate := rnd.IntN(2) == 0
		var outs [2][]float32
		var c Call
		for i, f := range []*Format{vectors, f} {
			out, whole := guarded(len(start), func() float32 { return 7 })
			copy(out, start)
			f.Product(&c, panels, out, outStride, x, xStride, meta, metaStride, codes, scales, rows, n, accumulate)
			outs[i] = whole
		}
		for i, want := range outs[0] {
			if !same(want, outs[1][i]) {
				t.Fatalf("%d rows, %d inputs, %d panels, accumulate %v: element %d is %g, want %g", rows, n, panels, accumulate, i-guard, outs[1][i], want)
			}
		}
	}
}

// TestShapes wants shapes at the places of Intel's manual.
func TestShapes(t *testing.T) {
	s := shapes(16, 3, 8)
	got := raw([]tileShapes{s})
	want := make([]byte, 64)
	want[0] = 1
	for i, v := range []byte{64, 64, 64, 64, 32, 32, 64, 64} {
		want[16+2*i] = v
	}
	copy(want[48:], []byte{16, 16, 3, 3, 16, 3, 8, 8})
	if string(got) != string(want) {
		t.Errorf("shapes are % x, want % x", got, want)
	}
}
