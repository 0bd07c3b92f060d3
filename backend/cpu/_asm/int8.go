package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// An int8 product adds, for a sub-block of inputs that share a weight's scale,
// exact integer products of codes, and multiplies by the scale once. Its
// operands are fields of a struct, at these offsets.
const (
	callOut = 8 * iota
	callOutStride
	callX
	callXStride
	callMeta
	callMetaStride
	callCodes
	callScales
	callBlocks
	callRows
	callCodesStep
	callScalesStep
)

// A meta of a sub-block of a row: the integer that its sum starts at, the sum
// of its codes for the minimum, the scale of the row.
const (
	metaStart = 0
	metaSum   = 4
	metaScale = 8
	metaBytes = 12
)

// recipe is a kind of int8 product.
type recipe struct {
	name  string
	sub   int  // inputs of a sub-block
	subs  int  // sub-blocks that share a scale of the row
	mins  bool // the weight has minima
	depth int  // avx2: products of pairs that add up in 16 bits; 0 for signed codes
}

var recipes512 = []recipe{
	{"32", 32, 1, false, 0}, {"32Mins", 32, 1, true, 0},
	{"256x32", 32, 8, false, 0}, {"256x32Mins", 32, 8, true, 0},
	{"256x16", 16, 16, false, 0}, {"256x16Mins", 16, 16, true, 0},
	{"32x16", 16, 2, false, 0},
}

// The largest products of a pair: 2*31*127 four times, 2*63*127 twice.
var recipes256 = []recipe{
	{"32", 32, 1, false, 4}, {"32Mins", 32, 1, true, 4}, {"32Signed", 32, 1, false, 0},
	{"256x32", 32, 8, false, 4}, {"256x32Mins", 32, 8, true, 4}, {"256x32Signed", 32, 8, false, 0},
	{"256x16", 16, 16, false, 2}, {"256x16Mins", 16, 16, true, 4}, {"256x16Signed", 16, 16, false, 0},
	{"32x16Signed", 16, 2, false, 0},
}

func (r recipe) doc(name string, rows []int) []string {
	s := []string{
		fmt.Sprintf("%s multiplies rows, %v of them, by unpacked codes:", name, rows), "",
		"\tfor r := range c.rows {",
		"\t\tfor b := range c.blocks {",
		"\t\t\tt := float32(0)",
		fmt.Sprintf("\t\t\tfor s := range %d {", r.subs),
		"\t\t\t\tm := c.meta[r][b][s]",
		"\t\t\t\tdot := m.Start",
		fmt.Sprintf("\t\t\t\tfor i := range %d {", r.sub),
		"\t\t\t\t\tdot += int32(c.x[r][b][s][i]) * int32(c.codes[b][s][i/4][j][i%4])",
		"\t\t\t\t}",
		"\t\t\t\tt += c.scales[b][s][j] * float32(dot)",
	}
	if r.mins {
		s = append(s, "\t\t\t\tt += c.mins[b][s][j] * m.Sum")
	}
	return append(s, "\t\t\t}", "\t\t\tc.out[r][j] += m.Scale * t", "\t\t}", "\t}", "",
		"Where a row has a scale for each sub-block, that multiplies the weight's first", "and m.Sum holds it already.")
}

// rowSwitch writes body for each number of rows.
func (g gen) rowSwitch(c reg.GPPhysical, rows []int, body func(n int, label func(string) string)) {
	for _, n := range rows[1:] {
		g.CMPQ(at(c, callRows), U8(n))
		g.JEQ(LabelRef(fmt.Sprintf("rows%d", n)))
	}
	for _, n := range rows {
		g.Label(fmt.Sprintf("rows%d", n))
		body(n, func(s string) string { return fmt.Sprintf("%s%d", s, n) })
		g.VZEROUPPER()
		g.RET()
	}
}

var rowsI8512 = []int{12, 8, 4, 2, 1}

// int8x512: Z0 to Z11 are the sums of a row each: of all blocks where a block is
// a sub-block, else of one block, the rest of them in memory. Four rows take
// turns, since a row's products of codes wait for one another.
func (g gen) int8x512(r recipe) {
	name := "int8x" + r.name + "AVX512"
	g.begin(name, "func(c *int64)", r.doc(name, rowsI8512)...)
	c, x, meta, codes, scales, n := reg.RAX, reg.RSI, reg.RDI, reg.R8, reg.R9, reg.RCX
	cur, curM, xStride, x4Stride := []reg.GPPhysical{reg.RDX, reg.RBX, reg.R13, reg.R15}, reg.R12, reg.R10, reg.R11
	out := cur[0]
	regs, scale, min := zmm[12:20], reg.Z20, reg.Z21
	g.Load(g.Param("c"), c)
	g.MOVQ(at(c, callX), x)
	g.MOVQ(at(c, callXStride), xStride)
	g.MOVQ(xStride, x4Stride)
	g.SHLQ(U8(2), x4Stride)
	g.MOVQ(at(c, callMeta), meta)
	g.MOVQ(at(c, callCodes), codes)
	g.MOVQ(at(c, callScales), scales)
	sums := func(rows int, f func(m Mem, z reg.VecPhysical)) {
		g.MOVQ(at(c, callOut), out)
		for i := range rows {
			f(at(out, 0), zmm[i])
			g.ADDQ(at(c, callOutStride), out)
		}
	}
	g.rowSwitch(c, rowsI8512, func(rows int, label func(string) string) {
		g.eachBlock(r, label, blocks{
			clear: func() {
				for i := range rows {
					g.VPXORD(zmm[i], zmm[i], zmm[i])
				}
			},
			load:  func() { sums(rows, func(m Mem, z reg.VecPhysical) { g.VMOVUPS(m, z) }) },
			store: func() { sums(rows, func(m Mem, z reg.VecPhysical) { g.VMOVUPS(z, m) }) },
			sub: func() {
				for i := range r.sub / 4 {
					g.VMOVDQU32(at(codes, word*i), regs[i])
				}
				g.VMOVUPS(at(scales, 0), scale)
				if r.mins {
					g.VMOVUPS(at(scales, 64), min)
				}
				g.MOVQ(meta, curM)
				for i := 0; i < rows; i += 4 {
					n := rows - i
					if n > 4 {
						n = 4
					}
					g.fourRows(n, i == 0, x, xStride, x4Stride, cur)
					g.int8Rows512(r, n, cur, curM, regs, scale, min, zmm[i:])
				}
				g.advance(r, x, codes, scales)
			},
			whole: func() {
				g.MOVQ(meta, curM)
				i := 0
				sums(rows, func(m Mem, z reg.VecPhysical) {
					v := zmm[22+i%8]
					i++
					g.VMOVUPS(m, v)
					g.VFMADD231PS_BCST(at(curM, metaScale), z, v)
					g.VMOVUPS(v, m)
					g.ADDQ(at(c, callMetaStride), curM)
				})
			},
			metas: []reg.GPPhysical{meta}, count: n, left: at(c, callBlocks),
		})
	})
}

// fourRows points cur to the first rows, or to the four after those it has.
func (g gen) fourRows(n int, first bool, x, stride, stride4 reg.GPPhysical, cur []reg.GPPhysical) {
	for j := range n {
		switch {
		case !first:
			g.ADDQ(stride4, cur[j])
		case j == 0:
			g.MOVQ(x, cur[0])
		case j == 1:
			g.LEAQ(Mem{Base: x, Index: stride, Scale: 1}, cur[1])
		default:
			g.LEAQ(Mem{Base: cur[j-2], Index: stride, Scale: 2}, cur[j])
		}
	}
}

// int8Rows512 adds a sub-block of up to four rows to sums. A 512-bit load takes
// a cycle, in which two multiplications have room. So every second row loads
// four words at once and spreads them by shuffles.
func (g gen) int8Rows512(r recipe, rows int, cur []reg.GPPhysical, curM reg.GPPhysical, regs []reg.VecPhysical, scale, min reg.VecPhysical, sums []reg.VecPhysical) {
	dots, four, scales, one := zmm[22:26], zmm[26:28], zmm[26:30], zmm[28:32]
	n := 0 // shuffled words
	for j := range rows {
		g.VPBROADCASTD(at(curM, metaStart), dots[j])
		if r.mins {
			g.VFMADD231PS_BCST(at(curM, metaSum), min, sums[j])
		}
		if j < rows-1 {
			g.ADDQ(at(reg.RAX, callMetaStride), curM)
		}
	}
	for w := range r.sub / 4 {
		for j := range rows {
			if j%2 == 0 {
				g.VPDPBUSD_BCST(at(cur[j], 4*w), regs[w], dots[j])
				continue
			}
			if w%4 == 0 {
				g.VBROADCASTI32X4(at(cur[j], 4*w), four[j/2])
			}
			v := one[n%4]
			n++
			g.VPSHUFD(U8(0x55*(w%4)), four[j/2], v)
			g.VPDPBUSD(v, regs[w], dots[j])
		}
	}
	for j := rows - 1; j >= 0; j-- {
		g.VCVTDQ2PS(dots[j], dots[j])
		if r.subs > 1 {
			g.VFMADD231PS(dots[j], scale, sums[j])
			continue
		}
		g.VMULPS_BCST(at(curM, metaScale), scale, scales[j])
		g.VFMADD231PS(dots[j], scales[j], sums[j])
		if j > 0 {
			g.SUBQ(at(reg.RAX, callMetaStride), curM)
		}
	}
	if r.subs == 1 {
		for range rows - 1 {
			g.ADDQ(at(reg.RAX, callMetaStride), curM)
		}
	}
	g.ADDQ(at(reg.RAX, callMetaStride), curM)
}

// blocks is the loop of every integer product over blocks and, where several
// share a scale of the row, their sub-blocks: sums start at out, or at zero for
// each block, whose end adds them to out. count is free for it.
type blocks struct {
	clear       func() // the sums
	load, store func() // the sums, from and to out
	sub         func() // one sub-block, ending at the next
	whole       func() // adds the sums of a block to out
	metas       []reg.GPPhysical
	count       reg.GPPhysical
	left        Op // what counts blocks down
}

func (g gen) eachBlock(r recipe, label func(string) string, b blocks) {
	next := func() {
		for _, m := range b.metas {
			g.ADDQ(U8(metaBytes), m)
		}
	}
	if r.subs == 1 {
		b.load()
	}
	g.Label(label("block"))
	if r.subs > 1 {
		b.clear()
		g.MOVL(U32(r.subs), b.count.As32())
	}
	g.Label(label("sub"))
	b.sub()
	if r.subs > 1 {
		g.DECQ(b.count)
		g.JEQ(LabelRef(label("whole")))
		next()
		g.JMP(LabelRef(label("sub")))
		g.Label(label("whole"))
		b.whole()
	}
	next()
	g.DECQ(b.left)
	g.JNE(LabelRef(label("block")))
	if r.subs == 1 {
		b.store()
	}
}

// advance moves to the next sub-block.
func (g gen) advance(r recipe, x, codes, scales reg.GPPhysical) {
	g.ADDQ(U8(r.sub), x)
	g.ADDQ(U32(16*r.sub), codes)
	if r.mins {
		g.ADDQ(U32(128), scales)
	} else {
		g.ADDQ(U8(64), scales)
	}
}

var rowsI8256 = []int{2, 1}

// int8x256 has two rows: Y0 to Y3 are their sums, as in int8x512, Y4 to Y7 those
// of a sub-block, Y8 to Y11 those of pairs of codes in 16 bits.
func (g gen) int8x256(r recipe) {
	name := "int8x" + r.name + "AVX2"
	g.begin(name, "func(c *int64)", r.doc(name, rowsI8256)...)
	c, x, x1, meta, meta1, codes, scales := reg.RAX, reg.RSI, reg.RDX, reg.RDI, reg.R12, reg.R8, reg.R9
	left, n, out, a := reg.RCX, reg.RBX, reg.R13, reg.Y8
	g.Load(g.Param("c"), c)
	g.MOVQ(at(c, callX), x)
	g.MOVQ(at(c, callXStride), x1)
	g.ADDQ(x, x1)
	g.MOVQ(at(c, callMeta), meta)
	g.MOVQ(at(c, callMetaStride), meta1)
	g.ADDQ(meta, meta1)
	g.MOVQ(at(c, callCodes), codes)
	g.MOVQ(at(c, callScales), scales)
	g.MOVQ(at(c, callBlocks), left)
	g.VPCMPEQW(reg.Y15, reg.Y15, reg.Y15)
	g.VPSRLW(U8(15), reg.Y15, reg.Y15)
	xs, metas := []reg.GPPhysical{x, x1}, []reg.GPPhysical{meta, meta1}
	g.rowSwitch(c, rowsI8256, func(rows int, label func(string) string) {
		sums := func(f func(row int, m Mem, y reg.VecPhysical)) {
			g.MOVQ(at(c, callOut), out)
			for row := range rows {
				for half := range 2 {
					f(row, at(out, 32*half), ymm[2*row+half])
				}
				g.ADDQ(at(c, callOutStride), out)
			}
		}
		g.eachBlock(r, label, blocks{
			clear: func() {
				for i := range 2 * rows {
					g.VPXOR(ymm[i], ymm[i], ymm[i])
				}
			},
			load:  func() { sums(func(_ int, m Mem, y reg.VecPhysical) { g.VMOVUPS(m, y) }) },
			store: func() { sums(func(_ int, m Mem, y reg.VecPhysical) { g.VMOVUPS(y, m) }) },
			sub: func() {
				for row := range rows {
					g.VPBROADCASTD(at(metas[row], metaStart), ymm[4+2*row])
					g.VMOVDQA(ymm[4+2*row], ymm[5+2*row])
				}
				for i := range r.sub / 4 {
					if r.depth > 0 {
						g.unsigned256(r, i, codes, xs[:rows])
					} else {
						g.signed256(i, codes, xs[:rows])
					}
				}
				g.scale256(r, scales, metas[:rows])
				g.advance(r, x, codes, scales)
				g.ADDQ(U8(r.sub), x1)
			},
			whole: func() {
				sums(func(row int, m Mem, y reg.VecPhysical) {
					g.VBROADCASTSS(at(metas[row], metaScale), a)
					g.VFMADD213PS(m, a, y)
					g.VMOVUPS(y, m)
				})
			},
			metas: metas, count: n, left: left,
		})
	})
}

// unsigned256 multiplies group i of unsigned codes; r.depth products add up in
// 16 bits. Y15 is 16 words of 1.
func (g gen) unsigned256(r recipe, i int, codes reg.GPPhysical, xs []reg.GPPhysical) {
	w, v, ones := reg.Y12, reg.Y14, reg.Y15
	for half := range 2 {
		g.VMOVDQU(at(codes, word*i+32*half), w)
		for row, x := range xs {
			s := ymm[8+2*row+half]
			g.VPBROADCASTD(at(x, 4*i), v)
			if i%r.depth == 0 {
				g.VPMADDUBSW(v, w, s)
				continue
			}
			g.VPMADDUBSW(v, w, v)
			g.VPADDW(v, s, s)
		}
	}
	if i%r.depth == r.depth-1 {
		for s := range 2 * len(xs) {
			g.VPMADDWD(ones, ymm[8+s], ymm[8+s])
			g.VPADDD(ymm[8+s], ymm[4+s], ymm[4+s])
		}
	}
}

// signed256 multiplies |w| as unsigned by x with the sign of w as signed bytes.
// A pair is at most 2*128*127 < 2^15, so VPMADDUBSW does not saturate.
func (g gen) signed256(i int, codes reg.GPPhysical, xs []reg.GPPhysical) {
	w, abs, v, ones := reg.Y12, reg.Y13, reg.Y14, reg.Y15
	for half := range 2 {
		g.VMOVDQU(at(codes, word*i+32*half), w)
		g.VPABSB(w, abs)
		for row, x := range xs {
			g.VPBROADCASTD(at(x, 4*i), v)
			g.VPSIGNB(w, v, v)
			g.VPMADDUBSW(v, abs, v)
			g.VPMADDWD(ones, v, v)
			g.VPADDD(v, ymm[4+2*row+half], ymm[4+2*row+half])
		}
	}
}

// scale256 adds the integer sums of a sub-block, times their scales, and the
// minima to the sums. It clobbers Y8 and Y9.
func (g gen) scale256(r recipe, scales reg.GPPhysical, metas []reg.GPPhysical) {
	a, b := reg.Y8, reg.Y9
	for row, meta := range metas {
		for half := range 2 {
			dot, sum := ymm[4+2*row+half], ymm[2*row+half]
			g.VCVTDQ2PS(dot, dot)
			if r.subs == 1 {
				g.VBROADCASTSS(at(meta, metaScale), a)
				g.VMULPS(at(scales, 32*half), a, a)
				g.VFMADD231PS(dot, a, sum)
			} else {
				g.VFMADD231PS(at(scales, 32*half), dot, sum)
			}
			if r.mins {
				g.VBROADCASTSS(at(meta, metaSum), b)
				g.VFMADD231PS(at(scales, 64+32*half), b, sum)
			}
		}
	}
}
