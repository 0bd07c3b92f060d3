package kernel

import "unsafe"

// The tiles of AMX are eight registers of at most 16 rows of 64 bytes. A product
// of tiles adds to an output of 16 rows and 16 words what a tile of inputs and
// one of weights give; panels are such tiles as they lie in memory. A function
// that uses them loads their shapes and clears them, and gives them back at its
// end, so that no state outlives a run of assembly.
const (
	tileSide = 16 // rows, and words of a row

	// tilesFrom is the number of rows from which codes are multiplied by tiles: the
	// time of a product is that of its rows, and fewer do not make up for what is
	// written to memory in between. The bits are the same.
	tilesFrom = 8

	// tiledRows is the most rows of bfloat16 between two safepoints of Go: 2 panels
	// of 2048 inputs take 10 us.
	tiledRows = 128

	finishRows = 16 // rows whose products of codes become sums at once

	// dotSubs is the number of sub-blocks whose products of codes are kept in the
	// first-level cache, 16 KiB: a whole block has no more.
	dotSubs = 16
)

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

// dots is room for the products of the codes of dotSubs sub-blocks.
type dots [dotSubs * tileSide * tileSide]int32

// tiled is Product of at most 16 rows with one or two panels: c.c is its operands,
// as those of any integer product, and comes back as it was.
func (c *Call) tiled(f *Format, panels int) {
	if c.dots == nil {
		c.dots = new(dots)
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
				out: unsafe.Pointer(c.dots), k: n * subs,
			})
			for r := 0; r < whole.rows; r += a.rows {
				a.rows, a.blocks = tileRows(finishRows, whole.rows-r), n
				a.out = unsafe.Add(whole.out, r*whole.outStride+p*4*Panel)
				a.meta = unsafe.Add(whole.meta, r*whole.metaStride+b*subs*int(unsafe.Sizeof(Meta{})))
				a.scales = unsafe.Add(whole.scales, p*whole.scalesStep+b*4*f.Scales(f.Group))
				a.dots = unsafe.Pointer(&c.dots[r*tileSide])
				callProduct(f.finish, a)
			}
		}
	}
	*a = whole
}

// callDots is a framed function as callProduct is.
//
//go:noinline
func callDots(a *tileArgs) { dotsAMX((*int64)(unsafe.Pointer(a))) }
