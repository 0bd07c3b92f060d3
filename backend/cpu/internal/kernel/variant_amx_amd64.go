//go:build !noasm

package kernel

import (
	"unsafe"

	"github.com/klauspost/cpuid/v2"
)

// The tiles of AMX are eight registers of at most 16 rows of 64 bytes. A product
// of tiles adds to an output of 16 rows and 16 words what a tile of inputs and
// one of weights give; panels are such tiles as they lie in memory. A function
// that uses them loads their shapes and clears them, and gives them back at its
// end, so that no state outlives a run of assembly.

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
			finish := finisher(f)
			tiled.tiled = func(c *Call, f *Format, panels int) { productTiles(c, f, panels, finish) }
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
	case [3]bool{true, false, false}:
		return finishx32x16AVX512
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

// tileShapes is what LDTILECFG reads (Intel SDM, volume 2): of each tile the bytes
// of a row and the number of rows.
type tileShapes struct {
	palette, startRow uint8
	_                 [14]byte
	rowBytes          [16]uint16
	rows              [16]uint8
}

// shapes are those of a product of at most two tiles of rows, first and second of
// them, with tiles of k words a row of input: tiles 0 to 3 are outputs, 4 and 5
// inputs, 6 and 7 weights. Where only the first rows count all four outputs may
// be theirs.
func shapes(first, second, k int) tileShapes {
	s := tileShapes{palette: 1}
	for t, v := range [8]struct{ rows, words int }{
		{first, tileSide}, {first, tileSide}, {second, tileSide}, {second, tileSide},
		{first, k}, {second, k}, {k, tileSide}, {k, tileSide},
	} {
		s.rows[t], s.rowBytes[t] = uint8(v.rows), uint16(4*v.words)
	}
	return s
}

// tileArgs is laid out as backend/cpu/_asm/amx.go says; strides and steps are bytes.
type tileArgs struct {
	config               unsafe.Pointer
	x                    unsafe.Pointer
	xStride, xStep       int
	w                    unsafe.Pointer
	wStride, wStep       int
	out                  unsafe.Pointer
	outStride, k, blocks int
	accumulate           int
}

const (
	finishRows = 16 // rows whose products of codes become sums at once

	// dotSubs is the number of sub-blocks whose products of codes are kept in the
	// first-level cache, 16 KiB: a whole block has no more.
	dotSubs = 16
)

// productTiles is Product of at most 16 rows with one or two panels: c.c is its operands,
// as those of any integer product, and comes back as it was. finish makes sums of products
// of codes.
func productTiles(c *Call, f *Format, panels int, finish func(c *int64)) {
	if c.dots == nil {
		c.dots = make([]int32, dotSubs*tileSide*tileSide)
	}
	a, whole := &c.c, c.c
	subs := f.Group / f.Sub // of a block
	s := shapes(whole.rows, whole.rows, f.Sub/4)
	for p := range panels {
		for b := 0; b < whole.blocks; b += dotSubs / subs {
			n := min(dotSubs/subs, whole.blocks-b)
			callDots(&tileArgs{
				config: unsafe.Pointer(&s),
				x:      unsafe.Add(whole.x, b*f.Group), xStride: whole.xStride, xStep: f.Sub,
				w: unsafe.Add(whole.codes, p*whole.codesStep+b*f.Group*Panel), wStep: f.Sub * Panel,
				out: unsafe.Pointer(&c.dots[0]), k: n * subs,
			})
			for r := 0; r < whole.rows; r += a.rows {
				a.rows, a.blocks = tileRows(finishRows, whole.rows-r), n
				a.out = unsafe.Add(whole.out, r*whole.outStride+p*4*Panel)
				a.meta = unsafe.Add(whole.meta, r*whole.metaStride+b*subs*int(unsafe.Sizeof(Meta{})))
				a.scales = unsafe.Add(whole.scales, p*whole.scalesStep+b*4*f.Scales(f.Group))
				a.dots = unsafe.Pointer(&c.dots[r*tileSide])
				callProduct(finish, a)
			}
		}
	}
	*a = whole
}

// callDots is a framed function as callProduct is.
//
//go:noinline
func callDots(a *tileArgs) { dotsAMX((*int64)(unsafe.Pointer(a))) }
