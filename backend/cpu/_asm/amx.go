package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The tiles of AMX are eight registers of at most 16 rows of 64 bytes, whose
// shapes LDTILECFG reads from memory (Intel SDM, volume 1, chapter 18; volume 2,
// LDTILECFG, TILELOADD, TDPBF16PS, TDPBSUD). Operands of all functions here are
// fields of a struct, at these offsets; strides and steps are in bytes.
const (
	tileConfig = 8 * iota
	tileX
	tileXStride // from a row to the next
	tileXStep   // int8: from a sub-block to the next
	tileW
	tileWStride // bf16: from a pair of inputs to the next
	tileWStep   // bf16: from a panel to the next; int8: from a sub-block to the next
	tileOut
	tileOutStride
	tileK      // bf16: tiles of inputs; int8: sub-blocks
	tileBlocks // bf16: runs of rows, one or two tiles each; counted down
	tileAccumulate
)

const tileSide = 16 // rows of a tile, and its words in a row

// A tmm is a tile register.
type tmm byte

func (t tmm) String() string { return fmt.Sprintf("TMM%d", byte(t)) }

// Both products hold outputs in the first four tiles, rows of the input in the next
// two, and weights in the last two.
const (
	tileSums    tmm = 0
	tileRows    tmm = 4
	tileWeights tmm = 6
)

// The prefixes of VEX instructions.
const (
	vexNone = iota
	_       // 66
	vexF3
	vexF2
)

// vex is the first three bytes of an instruction of map 0F38 with L and W 0, whose
// second operand is v; base and index extend a memory operand's registers.
func vex(pp, v, base, index, opcode byte) []byte {
	return []byte{0xc4, 1<<7 | (^index>>3&1)<<6 | (^base>>3&1)<<5 | 2, ^v&15<<3 | pp, opcode}
}

// tile writes an instruction between a tile and the rows that start at base and
// are stride bytes apart. A base of BP or R13 has another encoding.
func (g gen) tile(pp byte, t tmm, base, stride reg.GPPhysical) []byte {
	b, s := byte(base.PhysicalIndex()), byte(stride.PhysicalIndex())
	if b&7 == 5 || s == 4 {
		panic("no such address")
	}
	return append(vex(pp, 0, b, s, 0x4b), byte(t)<<3|4, s&7<<3|b&7)
}

func (g gen) tileLoad(base, stride reg.GPPhysical, t tmm) {
	g.raw(g.tile(vexF2, t, base, stride), "TILELOADD (%s)(%s*1), %s", base.Asm(), stride.Asm(), t)
}

func (g gen) tileStore(t tmm, base, stride reg.GPPhysical) {
	g.raw(g.tile(vexF3, t, base, stride), "TILESTORED %s, (%s)(%s*1)", t, base.Asm(), stride.Asm())
}

func (g gen) tileZero(t tmm) {
	g.raw(append(vex(vexF2, 0, 0, 0, 0x49), 0xc0|byte(t)<<3), "TILEZERO %s", t)
}

// tileProduct writes sum += x*w.
func (g gen) tileProduct(name string, opcode byte, w, x, sum tmm) {
	g.raw(append(vex(vexF3, byte(w), 0, 0, opcode), 0xc0|byte(sum)<<3|byte(x)), "%s %s, %s, %s", name, w, x, sum)
}

// bf16Product multiplies bfloat16 pairs.
func (g gen) bf16Product(w, x, sum tmm) { g.tileProduct("TDPBF16PS", 0x5c, w, x, sum) }

// int8Product multiplies signed bytes of x by unsigned ones of w.
func (g gen) int8Product(w, x, sum tmm) { g.tileProduct("TDPBSUD", 0x5e, w, x, sum) }

// configure loads the shapes of all tiles and clears them.
func (g gen) configure(c, base reg.GPPhysical) {
	g.MOVQ(at(c, tileConfig), base)
	b := byte(base.PhysicalIndex())
	if b&7 == 4 || b&7 == 5 {
		panic("no such address")
	}
	g.raw(append(vex(vexNone, 0, b, 0, 0x49), b&7), "LDTILECFG (%s)", base.Asm())
}

// release gives the tiles back: the system then need not save them. A function
// that configures tiles ends with it.
func (g gen) release() {
	g.raw(append(vex(vexNone, 0, 0, 0, 0x49), 0xc0), "TILERELEASE")
	g.RET()
}

func amx(g gen) {
	for _, p := range []int{1, 2} {
		for rows := range 2 {
			g.bf16Tiles(rows+1, p)
		}
	}
	g.bf16Tiles(1, 4)
	g.int8Tiles()
	for _, r := range recipes512 {
		g.finish512(r)
	}
	g.peakTiles("peakBF16AMX", "TDPBF16PS, 8192 products of bfloat16 each,", g.bf16Product)
	g.peakTiles("peakInt8AMX", "TDPBSUD, 16384 products of bytes each,", g.int8Product)
}

// bf16Tiles is the product of runs of rows, of one or two tiles each, with some
// panels: its registers.
type bf16Tiles struct {
	gen
	rows, panels          int               // tiles of rows
	c, xStride, outStride reg.GPPhysical    // the operands and strides
	wStride, wTile        reg.GPPhysical    // from a pair and from 16 to the next
	n, tmp                reg.GPPhysical    // what counts tiles of inputs or is the address of outputs, and a free one
	x                     [2]reg.GPPhysical // of a tile of rows each
	w                     [4]reg.GPPhysical // of a panel each
}

func (bf16Tiles) sum(r, p int) tmm { return tileSums + tmm(2*r+p) }

func (g gen) bf16Tiles(rows, panels int) {
	d := bf16Tiles{g, rows, panels, reg.RAX, reg.R8, reg.R14, reg.RBX, reg.RDX, reg.RCX, reg.R13,
		[2]reg.GPPhysical{reg.RSI, reg.R9}, [4]reg.GPPhysical{reg.RDI, reg.R10, reg.R11, reg.R12}}
	name := fmt.Sprintf("bf16Tiles%dx%dAMX", rows, panels)
	g.begin(name, "func(c *int64)", fmt.Sprintf("%s multiplies c.blocks runs of %d rows, of one run fewer, by panels, %d of them,", name, tileSide*rows, panels),
		"of c.k > 0 tiles of bfloat16 pairs. c.config says how many rows and pairs a tile has:", "",
		"\tfor t := range c.k {",
		"\t\teven, odd := float32(0), float32(0)",
		"\t\tfor k := range pairs {",
		"\t\t\teven = fma(c.x[r][t][k][0], c.w[p][t][k][j][0], even)",
		"\t\t\todd = fma(c.x[r][t][k][1], c.w[p][t][k][j][1], odd)",
		"\t\t}",
		"\t\tc.out[r][p][j] += even + odd",
		"\t}", "",
		"where denormal numbers are zeros and c.out starts at zero unless c.accumulate.")
	g.Load(g.Param("c"), d.c)
	g.configure(d.c, tmpConfig)
	g.MOVQ(at(d.c, tileXStride), d.xStride)
	g.MOVQ(at(d.c, tileWStride), d.wStride)
	g.MOVQ(d.wStride, d.wTile)
	g.SHLQ(U8(4), d.wTile)
	g.MOVQ(at(d.c, tileOutStride), d.outStride)
	g.Label("rows")
	d.start()
	g.MOVQ(at(d.c, tileK), d.n)
	g.Label("inputs")
	d.inputs()
	g.DECQ(d.n)
	g.JNE(LabelRef("inputs"))
	d.eachSum(func(t tmm) { g.tileStore(t, d.n, d.outStride) })
	d.next(d.xStride, tileX)
	d.next(d.outStride, tileOut)
	g.DECQ(at(d.c, tileBlocks))
	g.JNE(LabelRef("rows"))
	g.release()
}

// eachSum calls f for every tile of outputs, at n.
func (d bf16Tiles) eachSum(f func(t tmm)) {
	d.MOVQ(at(d.c, tileOut), d.n)
	for r := range d.rows {
		for p := range d.panels {
			if p > 0 {
				d.ADDQ(U8(64), d.n)
			}
			f(d.sum(r, p))
		}
		if r < d.rows-1 {
			d.MOVQ(d.outStride, d.tmp)
			d.SHLQ(U8(4), d.tmp)
			d.ADDQ(at(d.c, tileOut), d.tmp)
			d.MOVQ(d.tmp, d.n)
		}
	}
}

// start loads the outputs or clears them, and goes to the start of rows and panels.
func (d bf16Tiles) start() {
	d.CMPQ(at(d.c, tileAccumulate), U8(0))
	d.JEQ(LabelRef("zero"))
	d.eachSum(func(t tmm) { d.tileLoad(d.n, d.outStride, t) })
	d.JMP(LabelRef("start"))
	d.Label("zero")
	for r := range d.rows {
		for p := range d.panels {
			d.tileZero(d.sum(r, p))
		}
	}
	d.Label("start")
	d.MOVQ(at(d.c, tileX), d.x[0])
	if d.rows == 2 {
		d.MOVQ(d.xStride, d.x[1])
		d.SHLQ(U8(4), d.x[1])
		d.ADDQ(d.x[0], d.x[1])
	}
	d.MOVQ(at(d.c, tileW), d.w[0])
	for p := range d.panels - 1 {
		d.MOVQ(d.w[p], d.w[p+1])
		d.ADDQ(at(d.c, tileWStep), d.w[p+1])
	}
}

// inputs multiplies a tile of inputs of each row with one of each panel.
func (d bf16Tiles) inputs() {
	for r := range d.rows {
		d.tileLoad(d.x[r], d.xStride, tileRows+tmm(r))
		d.ADDQ(U8(64), d.x[r])
	}
	for p := range d.panels {
		t := tileWeights + tmm(p%2)
		d.tileLoad(d.w[p], d.wStride, t)
		d.ADDQ(d.wTile, d.w[p])
		for r := range d.rows {
			d.bf16Product(t, tileRows+tmm(r), d.sum(r, p))
		}
	}
}

// next moves the operand at field to the rows after these.
func (d bf16Tiles) next(stride reg.GPPhysical, field int) {
	d.MOVQ(stride, d.tmp)
	d.SHLQ(U8(3+d.rows), d.tmp) // 16 or 32 rows
	d.ADDQ(d.tmp, at(d.c, field))
}

// tmpConfig holds the address of a configuration until that has been read.
var tmpConfig = reg.RBX

// int8Tiles writes the exact products of sub-blocks of a panel, which a function
// of finish512 turns into sums. Two sub-blocks are on their way at once.
func (g gen) int8Tiles() {
	g.begin("dotsAMX", "func(c *int64)", "dotsAMX multiplies the codes of rows r by those of a panel, c.k sub-blocks of both:", "",
		"\tfor s := range c.k {",
		"\t\tdot := int32(0)",
		"\t\tfor i := range sub {",
		"\t\t\tdot += int32(c.x[r][s][i]) * int32(c.w[s][i/4][j][i%4])",
		"\t\t}",
		"\t\tc.out[s][r][j] = dot",
		"\t}", "",
		"where c.config says how many rows and inputs there are; out has room for 16 rows.")
	c, x, xStride, xStep := reg.RAX, reg.RSI, reg.R8, reg.R9
	w, wStep, line, out, n := reg.RDI, reg.R10, reg.R11, reg.RDX, reg.RCX
	g.Load(g.Param("c"), c)
	g.configure(c, tmpConfig)
	g.MOVQ(at(c, tileX), x)
	g.MOVQ(at(c, tileXStride), xStride)
	g.MOVQ(at(c, tileXStep), xStep)
	g.MOVQ(at(c, tileW), w)
	g.MOVQ(at(c, tileWStep), wStep)
	g.MOVQ(at(c, tileOut), out)
	g.MOVQ(at(c, tileK), n)
	g.MOVQ(U32(64), line)
	subs := func(count int) {
		for i := range tmm(count) {
			g.tileZero(tileSums + i)
			g.tileLoad(x, xStride, tileRows+i)
			g.tileLoad(w, line, tileWeights+i)
			g.ADDQ(xStep, x)
			g.ADDQ(wStep, w)
			g.int8Product(tileWeights+i, tileRows+i, tileSums+i)
		}
		for i := range tmm(count) {
			g.tileStore(tileSums+i, out, line)
			g.ADDQ(U32(64*tileSide), out)
		}
	}
	g.CMPQ(n, U8(2))
	g.JB(LabelRef("last"))
	g.Label("loop")
	subs(2)
	g.SUBQ(U8(2), n)
	g.CMPQ(n, U8(2))
	g.JAE(LabelRef("loop"))
	g.Label("last")
	g.TESTQ(n, n)
	g.JEQ(LabelRef("done"))
	subs(1)
	g.Label("done")
	g.release()
}

// callDots is the field of a product's operands behind those of int8.go: what
// dotsAMX has written.
const callDots = callScalesStep + 8

var rowsFinish = []int{16, 8, 4, 2, 1}

// finish512 is int8x512 from the products of codes on: every float operation is the
// same, so are the bits.
func (g gen) finish512(r recipe) {
	name := "finishx" + r.name + "AVX512"
	doc := r.doc(name, rowsFinish)
	doc[0] = fmt.Sprintf("%s is int8x%sAVX512 for rows, %v of them, where", name, r.name, rowsFinish)
	for i, s := range doc {
		if s == "\t\t\t\tdot := m.Start" { // without the loop behind it
			doc[i] += " + c.dots[b][s][r][j]"
			doc = append(doc[:i+1:i+1], doc[i+4:]...)
			break
		}
	}
	g.begin(name, "func(c *int64)", doc...)
	c, dots, meta, curM, scales, n, out, metaStride := reg.RAX, reg.RSI, reg.RDI, reg.R12, reg.R9, reg.RCX, reg.RDX, reg.R10
	scale, min := reg.Z30, reg.Z31
	g.Load(g.Param("c"), c)
	g.MOVQ(at(c, callDots), dots)
	g.MOVQ(at(c, callMeta), meta)
	g.MOVQ(at(c, callMetaStride), metaStride)
	g.MOVQ(at(c, callScales), scales)
	outs := func(rows int, f func(row int, m Mem)) {
		g.MOVQ(at(c, callOut), out)
		for row := range rows {
			f(row, at(out, 0))
			g.ADDQ(at(c, callOutStride), out)
		}
	}
	g.rowSwitch(c, rowsFinish, func(rows int, label func(string) string) {
		g.eachBlock(r, label, blocks{
			clear: func() {
				for i := range rows {
					g.VPXORD(zmm[i], zmm[i], zmm[i])
				}
			},
			load:  func() { outs(rows, func(row int, m Mem) { g.VMOVUPS(m, zmm[row]) }) },
			store: func() { outs(rows, func(row int, m Mem) { g.VMOVUPS(zmm[row], m) }) },
			sub: func() {
				g.VMOVUPS(at(scales, 0), scale)
				if r.mins {
					g.VMOVUPS(at(scales, 64), min)
					g.ADDQ(U32(128), scales)
				} else {
					g.ADDQ(U8(64), scales)
				}
				g.MOVQ(meta, curM)
				for row := range rows {
					dot, s := zmm[16+row%7], zmm[23+row%7]
					g.VMOVDQU32(at(dots, 64*row), dot)
					g.VPADDD_BCST(at(curM, metaStart), dot, dot)
					g.VCVTDQ2PS(dot, dot)
					if r.mins {
						g.VFMADD231PS_BCST(at(curM, metaSum), min, zmm[row])
					}
					if r.subs == 1 {
						g.VMULPS_BCST(at(curM, metaScale), scale, s)
						g.VFMADD231PS(dot, s, zmm[row])
					} else {
						g.VFMADD231PS(dot, scale, zmm[row])
					}
					g.ADDQ(metaStride, curM)
				}
				g.ADDQ(U32(64*tileSide), dots)
			},
			whole: func() {
				g.MOVQ(meta, curM)
				outs(rows, func(row int, m Mem) {
					v := zmm[16+row%7]
					g.VMOVUPS(m, v)
					g.VFMADD231PS_BCST(at(curM, metaScale), zmm[row], v)
					g.VMOVUPS(v, m)
					g.ADDQ(metaStride, curM)
				})
			},
			metas: []reg.GPPhysical{meta}, count: n, left: at(c, callBlocks),
		})
	})
}

// peakTiles is peak for tiles: four sums, as the products have them.
func (g gen) peakTiles(name, does string, op func(w, x, sum tmm)) {
	g.begin(name, "func(n int, c *int64)", name+" runs n rounds of 4 "+does, "on tiles of the shapes of c.config. 0 < n.")
	g.arg("n", reg.RCX)
	g.Load(g.Param("c"), reg.RAX)
	g.configure(reg.RAX, tmpConfig)
	for t := range tmm(8) {
		g.tileZero(t)
	}
	g.Label("loop")
	for i := range tmm(4) {
		op(tileWeights+i%2, tileRows+i/2, tileSums+i)
	}
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("loop"))
	g.release()
}
