package kernel

import (
	"unsafe"

	"github.com/herd-ml/herd/backend"
)

const (
	tileSide = 16 // rows of a tile of tiled, and words of a row

	// tilesFrom is the number of rows from which codes are multiplied by tiles: the
	// time of a product is that of its rows, and fewer do not make up for what is
	// written to memory in between. The bits are the same.
	tilesFrom = 8

	// tiledRows is the most rows of bfloat16 between two safepoints of Go, by a tile that
	// consists of others: 2 panels of 2048 inputs take 10 us.
	tiledRows = 128
)

// A Format says how a variant multiplies with a block type: its codes are
// spread to bytes in a small buffer, which then serves any number of rows.
//
// Unpacked, a panel is codes [inputs/4][16][4], unsigned bytes (signed ones in
// avx2 where a type needs all 8 bits), and for each sub-block of Sub inputs 16
// scales and, with Mins, 16 minima. Weight i of output j is
//
//	scale[i/Sub][j] * (code - Offset) (+ min[i/Sub][j]).
type Format struct {
	Block  int  // inputs of a block
	Bytes  int  // of a block of a panel
	Sub    int  // inputs that share a scale
	Group  int  // inputs of a row that share a scale: 32 or 256
	Mins   bool // the type has minima
	Offset int32

	flip   int // makes codes unsigned for tile
	unpack func(codes []byte, scales []float32, src []byte, blocks int)
	recipe
	fused [2]func(c *int64) // of one and of two rows; nil where there are none
	// tiled multiplies from tilesFrom to tileSide rows where nothing else is faster; else
	// nil.
	tiled func(c *Call, f *Format, panels int)
	tile  func(dst []float32, codes []byte, scales []float32, subs, groups, flip, offset, mins int)
}

// A recipe is the integer products of one panel and, unless nil, of two at once,
// each with the most rows that it takes.
type recipe struct {
	product, pair         func(c *int64)
	productRows, pairRows int
}

// Scales is the number of scales and minima of n inputs of a panel.
func (f *Format) Scales(n int) int {
	if f.Mins {
		return n / f.Sub * 2 * Panel
	}
	return n / f.Sub * Panel
}

// Unpack spreads n inputs of a panel, whole blocks, from src: codes [n*16],
// scales [Scales(n)]. Slices too short panic.
func (f *Format) Unpack(codes []byte, scales []float32, src []byte, n int) {
	blocks := n / f.Block
	if n < 0 || n%f.Block != 0 || n > len(codes)/Panel || len(scales) < f.Scales(n) || blocks > len(src)/f.Bytes {
		panic("kernel: Unpack operands too short")
	}
	if n > 0 {
		callUnpack(f.unpack, codes, scales, src, blocks)
	}
}

// Tile turns n unpacked inputs into weights dst [n][16], those of package block
// to the bit.
func (f *Format) Tile(dst []float32, codes []byte, scales []float32, n int) {
	if n < 0 || n%f.Sub != 0 || n > min(len(codes), len(dst))/Panel || len(scales) < f.Scales(n) {
		panic("kernel: Tile operands too short")
	}
	if n == 0 {
		return
	}
	mins, offset := 0, int(f.Offset)
	if f.Mins {
		mins = 1
	}
	if f.flip != 0 {
		offset += 128
	}
	f.tile(dst, codes, scales, n/f.Sub, f.Sub/4, f.flip, offset, mins)
}

// Meta is what a product needs to know of Sub inputs of a row.
type Meta struct {
	Start int32   // minus Offset times the sum of the codes
	Sum   float32 // the sum of the codes; with groups of 32 times D
	D     float32 // scale
}

// Metas fills meta [K/Sub] for a row rounded by RoundI8 in groups of Group.
func (f *Format) Metas(meta []Meta, sums []int32, d []float32) {
	per, group := f.Sub/sumLen, f.Group/f.Sub // sums of a meta, metas of a scale
	for len(meta) > 0 {
		scale, some := d[0], meta[:min(group, len(meta))]
		for i := range some {
			n := sums[0]
			if per == 2 {
				n += sums[1]
			}
			sums = sums[per:]
			m := Meta{-f.Offset * n, float32(n), scale}
			if group == 1 {
				m.Sum *= scale
			}
			some[i] = m
		}
		d, meta = d[1:], meta[len(some):]
	}
}

// Call is the operands of Product; it lives with the worker, so that calling
// assembly allocates nothing.
type Call struct {
	c callArgs
	//lint:ignore U1000 a build without assembly has no tiles
	dots []int32 // of tiled: made when first needed
}

// callArgs is laid out as backend/cpu/_asm/int8.go says.
type callArgs struct {
	out        unsafe.Pointer // [rows][16] float32
	outStride  int            // bytes, as all strides here
	x          unsafe.Pointer // [rows][blocks*Group] int8
	xStride    int
	meta       unsafe.Pointer // [rows][subs] Meta
	metaStride int
	codes      unsafe.Pointer
	scales     unsafe.Pointer
	blocks     int // of Group inputs; counted down
	rows       int // of the product; panels of ProductRows
	codesStep  int // from a panel to the next
	scalesStep int
	dots       unsafe.Pointer // of tiled: [blocks*Group/Sub][16][16] int32
}

// Panels is how many panels Product takes at once: 2, or 1 where that is no
// different.
func (f *Format) Panels() int {
	if f.pair == nil {
		return 1
	}
	return 2
}

// Product adds to out the products of rows with n unpacked inputs, whole groups,
// of one or two panels:
//
//	out[r*outStride+j] += sum_g D[r,g] sum_(s in g) (scale[s][j] dot(r,s,j) + min[s][j] Sum[r,s])
//
// where dot is exact, and out is cleared first unless accumulate. Codes of x
// lie in -127..127. Of two panels codes and scales hold all of the first, then
// of the second, whose outputs go to out[16:]; the bits are those of two calls.
// Slices too short for that, and more than Panels, panic.
func (f *Format) Product(c *Call, panels int, out []float32, outStride int, x []int8, xStride int, meta []Meta, metaStride int, codes []byte, scales []float32, rows, n int, accumulate bool) {
	if rows < 0 || n < 0 || n%f.Group != 0 || panels < 1 || panels > f.Panels() {
		panic("kernel: Product of negative rows, parts of groups or too many panels")
	}
	if !fits(len(out), rows, outStride, panels*Panel) || !fits(len(x), rows, xStride, n) || !fits(len(meta), rows, metaStride, n/f.Sub) {
		panic("kernel: Product rows too short")
	}
	if n > len(codes)/Panel/panels || len(scales) < panels*f.Scales(n) {
		panic("kernel: Product weight too short")
	}
	clearRows(out, outStride, rows, panels*Panel, accumulate)
	if n == 0 {
		return
	}
	product, most := f.product, f.productRows
	if panels == 2 {
		product, most = f.pair, f.pairRows
	}
	a := &c.c
	*a = callArgs{outStride: 4 * outStride, xStride: xStride, metaStride: int(unsafe.Sizeof(Meta{})) * metaStride,
		codes: unsafe.Pointer(&codes[0]), codesStep: n * Panel, scales: unsafe.Pointer(&scales[0]), scalesStep: 4 * f.Scales(n)}
	for r := 0; r < rows; {
		a.rows, a.blocks = tileRows(most, rows-r), n/f.Group
		a.out, a.x, a.meta = unsafe.Pointer(&out[r*outStride]), unsafe.Pointer(&x[r*xStride]), unsafe.Pointer(&meta[r*metaStride])
		if f.tiled != nil && rows-r >= tilesFrom {
			a.rows = min(rows-r, tileSide)
			f.tiled(c, f, panels)
		} else {
			callProduct(product, a)
		}
		r += a.rows
	}
	*a = callArgs{}
}

// Fused reports whether ProductRows exists.
func (f *Format) Fused() bool { return f.fused[0] != nil }

// ProductRows is Product of one or two rows with n inputs, whole blocks, of panels
// that are not unpacked and lie one after the other: the same bits in the time that
// it takes to read them. scales [Scales(Block)] is scratch.
func (f *Format) ProductRows(c *Call, panels int, out []float32, outStride int, x []int8, xStride int, meta []Meta, metaStride int, src []byte, scales []float32, rows, n int) {
	if panels < 1 || rows < 1 || rows > 2 || n < 0 || n%f.Block != 0 || len(scales) < f.Scales(f.Block) {
		panic("kernel: ProductRows of too many rows, parts of blocks or without scratch")
	}
	if !fits(len(out), rows, outStride, panels*Panel) || !fits(len(x), rows, xStride, n) || !fits(len(meta), rows, metaStride, n/f.Sub) {
		panic("kernel: ProductRows rows too short")
	}
	size := n / f.Block * f.Bytes
	if len(src)/panels < size {
		panic("kernel: ProductRows weight too short")
	}
	clearRows(out, outStride, rows, panels*Panel, false)
	if n == 0 {
		return
	}
	a := &c.c
	*a = callArgs{outStride: 4 * outStride, xStride: xStride, metaStride: int(unsafe.Sizeof(Meta{})) * metaStride, scales: unsafe.Pointer(&scales[0])}
	together := max(rowChunk/n, 1)
	for p := 0; p < panels; p += together {
		a.rows = min(together, panels-p)
		for i := 0; i < n; i += rowChunk { // once, unless a panel is long
			a.out, a.x, a.meta = unsafe.Pointer(&out[p*Panel]), unsafe.Pointer(&x[i]), unsafe.Pointer(&meta[i/f.Sub])
			a.codes, a.blocks = unsafe.Pointer(&src[p*size+i/f.Block*f.Bytes]), min(rowChunk, n-i)/f.Block
			callProduct(f.fused[rows-1], a)
		}
	}
	*a = callArgs{}
}

// rowChunk is the inputs that one row goes through without a safepoint: at most
// 272 KiB of panels.
const rowChunk = 1 << 14

// tileRows is the largest tile that is built for at most n rows: all numbers of rows
// where a tile is so large that it consists of others, else powers of two.
func tileRows(most, n int) int {
	if n >= most {
		return most
	}
	if most == tiledRows {
		return n
	}
	t := 1
	for t*2 <= n {
		t *= 2
	}
	return t
}

// callProduct is a framed function of its own so that Go has a safepoint
// between two runs of assembly.
//
//go:noinline
func callProduct(f func(*int64), a *callArgs) { f((*int64)(unsafe.Pointer(a))) }

//go:noinline
func callUnpack(f func([]byte, []float32, []byte, int), codes []byte, scales []float32, src []byte, blocks int) {
	f(codes, scales, src, blocks)
}

// Format returns how a type of weight is multiplied with, or nil where it has
// no vector kernel.
func (s *Set) Format(t backend.DType) *Format {
	if int(t) >= len(s.formats) {
		return nil
	}
	return s.formats[t]
}
