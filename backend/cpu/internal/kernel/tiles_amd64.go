//go:build !noasm

package kernel

import (
	"unsafe"

	"github.com/klauspost/cpuid/v2"
)

// AMX returns the kernels for AMX, whose tiles multiply bytes and bfloat16, and
// AVX-512 for the rest, or why they do not run here. It asks the system for leave
// to use tiles, which the whole process then has: threads that are signalled while
// they use them need 8 KiB more of stack for it.
//
// They have not run on a processor that has tiles, so Best never returns them.
func AMX() (*Set, error) {
	s, err := AVX512()
	if err != nil {
		return nil, err
	}
	if err := missing(cpuid.AMXTILE, cpuid.AMXINT8, cpuid.AMXBF16); err != nil {
		return nil, err
	}
	if err := permitTiles(); err != nil {
		return nil, err
	}
	return withTiles(s), nil
}

// withTiles makes a set of avx512 one of amx.
func withTiles(avx512 *Set) *Set {
	s := *avx512
	s.name = "amx"
	s.bf16Dot = product[uint16, uint16]{{4, 1, bf16Tilesx4}, {2, tiledRows, bf16Tilesx2}, {1, tiledRows, bf16Tilesx1}}
	s.formats = nil
	for _, f := range avx512.formats {
		if f != nil {
			tiled := *f
			tiled.finish = finisher(f)
			f = &tiled
		}
		s.formats = append(s.formats, f)
	}
	s.peakBF16 = Peak{4 * 8192 * 2, func(n int) { peakTiles(peakBF16AMX, n) }}
	s.peakInt8 = Peak{4 * 16384 * 2, func(n int) { peakTiles(peakInt8AMX, n) }}
	return &s
}

// finisher is the function that makes sums of a format's products of codes.
func finisher(f *Format) func(c *int64) {
	switch of := [3]bool{f.Group == 32, f.Sub == 32, f.Mins}; of {
	case [3]bool{true, true, false}:
		return finishx32AVX512
	case [3]bool{true, true, true}:
		return finishx32MinsAVX512
	case [3]bool{false, true, false}:
		return finishx256x32AVX512
	case [3]bool{false, true, true}:
		return finishx256x32MinsAVX512
	case [3]bool{false, false, false}:
		return finishx256x16AVX512
	default:
		return finishx256x16MinsAVX512
	}
}

func peakTiles(f func(int, *int64), n int) {
	s := shapes(tileSide, tileSide, tileSide)
	a := tileArgs{config: unsafe.Pointer(&s)}
	f(n, (*int64)(unsafe.Pointer(&a)))
}

func bf16Tilesx1(out []float32, outStride int, x []uint16, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
	bf16Tiles(1, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

func bf16Tilesx2(out []float32, outStride int, x []uint16, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
	bf16Tiles(2, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

func bf16Tilesx4(out []float32, outStride int, x []uint16, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
	bf16Tiles(4, out, outStride, x, xStride, w, wStride, wStep, rows, k, accumulate)
}

// bf16Tiles multiplies rows by panels of k > 0 pairs of inputs, 16 of which a tile
// adds up at once; the last tile may have fewer. k is cut alike for all rows, so
// that a row gives the same bits alone and among others.
func bf16Tiles(panels int, out []float32, outStride int, x []uint16, xStride int, w []uint16, wStride, wStep, rows, k int, accumulate bool) {
	a := tileArgs{xStride: 2 * xStride, wStride: 2 * wStride, wStep: 2 * wStep, outStride: 4 * outStride}
	for r := 0; r < rows; {
		run := runOf(rows-r, panels)
		a.accumulate = 0
		if accumulate {
			a.accumulate = 1
		}
		for i := 0; i < k; i += a.k * tileSide {
			pairs := min(k-i, tileSide)
			a.k, a.blocks = (k-i)/pairs, run.blocks
			a.x, a.w, a.out = unsafe.Pointer(&x[r*xStride+2*i]), unsafe.Pointer(&w[i*wStride]), unsafe.Pointer(&out[r*outStride])
			s := shapes(run.first, run.second, pairs)
			a.config = unsafe.Pointer(&s)
			run.multiply(panels, &a)
			a.accumulate = 1
		}
		r += run.rows
	}
}

// A tileRun is rows for one configuration of tiles: blocks of one or two tiles.
type tileRun struct {
	rows, blocks  int
	first, second int // rows of the tiles, of the second too where there is but one
	two           bool
}

// runOf is the longest run that at most n rows start with.
func runOf(n, panels int) tileRun {
	switch {
	case n <= tileSide || panels > 2: // four panels are for one row
		n = min(n, tileSide)
		return tileRun{n, 1, n, n, false}
	case n < 2*tileSide:
		return tileRun{n, 1, tileSide, n - tileSide, true}
	}
	blocks := n / (2 * tileSide)
	return tileRun{blocks * 2 * tileSide, blocks, tileSide, tileSide, true}
}

// multiply runs the function for the run's tiles and a number of panels.
func (run tileRun) multiply(panels int, a *tileArgs) {
	c := (*int64)(unsafe.Pointer(a))
	switch {
	case panels == 4:
		bf16Tiles1x4AMX(c)
	case run.two && panels == 2:
		bf16Tiles2x2AMX(c)
	case run.two:
		bf16Tiles2x1AMX(c)
	case panels == 2:
		bf16Tiles1x2AMX(c)
	default:
		bf16Tiles1x1AMX(c)
	}
}
