package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// pack writes the interleaving of 16 rows by units of 4 bytes.
func (g gen) pack() {
	g.begin("packWordsAVX2", "func(dst *byte, src *byte, stride, words, blocks, dstStep, srcStep int)",
		"packWordsAVX2 interleaves 16 rows that are stride bytes apart: for 0 < blocks and words a multiple of 4, more than none,", "",
		"\tfor b := range blocks {",
		"\t\tfor i := range words {",
		"\t\t\tfor r := range 16 {",
		"\t\t\t\tcopy(dst[b*dstStep+64*i+4*r:], src[b*srcStep+r*stride+4*i:][:4])",
		"\t\t\t}",
		"\t\t}",
		"\t}")
	dst, stride, stride3, words, blocks := reg.RDI, reg.R8, reg.R9, reg.RCX, reg.RDX
	bases := []reg.GPPhysical{reg.RSI, reg.R10, reg.R11, reg.R12}
	to, n := reg.RAX, reg.RBX
	g.Load(g.Param("dst"), dst)
	g.Load(g.Param("src"), bases[0])
	g.Load(g.Param("stride"), stride)
	g.Load(g.Param("words"), words)
	g.Load(g.Param("blocks"), blocks)
	g.LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	for i := range bases[1:] {
		g.LEAQ(Mem{Base: bases[i], Index: stride, Scale: 4}, bases[i+1])
	}
	g.Label("block")
	g.MOVQ(dst, to)
	g.XORQ(n, n) // bytes of a row done
	g.Label("words")
	for q, b := range bases {
		for i, x := range g.transpose4(b, n, stride, stride3) {
			g.VMOVDQU(x, at(to, 64*i+16*q))
		}
	}
	g.ADDQ(U32(256), to)
	g.ADDQ(U8(16), n)
	g.LEAQ(Mem{Base: n, Disp: 3}, reg.R13)
	g.SHRQ(U8(2), reg.R13)
	g.CMPQ(reg.R13, words)
	g.JB(LabelRef("words"))
	g.Load(g.Param("dstStep"), reg.R13)
	g.ADDQ(reg.R13, dst)
	g.Load(g.Param("srcStep"), reg.R13)
	for _, b := range bases {
		g.ADDQ(reg.R13, b)
	}
	g.DECQ(blocks)
	g.JNE(LabelRef("block"))
	g.VZEROUPPER()
	g.RET()
}

// transpose4 loads 4 words, n bytes on, of each of 4 rows and returns the first words
// of all, the second, and so on. It clobbers R13.
func (g gen) transpose4(rows, n, stride, stride3 reg.GPPhysical) []reg.VecPhysical {
	x, t := []reg.VecPhysical{reg.X0, reg.X1, reg.X2, reg.X3}, []reg.VecPhysical{reg.X4, reg.X5, reg.X6, reg.X7}
	g.LEAQ(Mem{Base: rows, Index: n, Scale: 1}, reg.R13)
	for r, m := range []Mem{{Base: reg.R13}, {Base: reg.R13, Index: stride, Scale: 1}, {Base: reg.R13, Index: stride, Scale: 2}, {Base: reg.R13, Index: stride3, Scale: 1}} {
		g.VMOVDQU(m, x[r])
	}
	g.VPUNPCKLDQ(x[1], x[0], t[0])
	g.VPUNPCKHDQ(x[1], x[0], t[1])
	g.VPUNPCKLDQ(x[3], x[2], t[2])
	g.VPUNPCKHDQ(x[3], x[2], t[3])
	g.VPUNPCKLQDQ(t[2], t[0], x[0])
	g.VPUNPCKHQDQ(t[2], t[0], x[1])
	g.VPUNPCKLQDQ(t[3], t[1], x[2])
	g.VPUNPCKHQDQ(t[3], t[1], x[3])
	return x
}

// transposeWords writes the transposition of 16 rows of units of 4 bytes.
func (g gen) transposeWords() {
	g.begin("transposeWordsAVX2", "func(dst *byte, src *byte, dstStride, stride, words int)",
		"transposeWordsAVX2 turns 16 rows that are stride bytes apart into columns, for words a multiple of 4, more than none:", "",
		"\tfor i := range words {",
		"\t\tfor r := range 16 {",
		"\t\t\tcopy(dst[i*dstStride+4*r:], src[r*stride+4*i:][:4])",
		"\t\t}",
		"\t}")
	to, to3, toStride, stride, stride3, words, n := reg.RDI, reg.RDX, reg.RAX, reg.R8, reg.R9, reg.RCX, reg.RBX
	bases := []reg.GPPhysical{reg.RSI, reg.R10, reg.R11, reg.R12}
	g.Load(g.Param("dst"), to)
	g.Load(g.Param("src"), bases[0])
	g.Load(g.Param("dstStride"), toStride)
	g.Load(g.Param("stride"), stride)
	g.Load(g.Param("words"), words)
	g.LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	for i := range bases[1:] {
		g.LEAQ(Mem{Base: bases[i], Index: stride, Scale: 4}, bases[i+1])
	}
	g.XORQ(n, n) // bytes of a row done
	g.Label("words")
	g.LEAQ(Mem{Base: toStride, Index: toStride, Scale: 2}, to3)
	g.ADDQ(to, to3)
	for q, b := range bases {
		x := g.transpose4(b, n, stride, stride3)
		g.VMOVDQU(x[0], at(to, 16*q))
		g.VMOVDQU(x[1], Mem{Base: to, Index: toStride, Scale: 1, Disp: 16 * q})
		g.VMOVDQU(x[2], Mem{Base: to, Index: toStride, Scale: 2, Disp: 16 * q})
		g.VMOVDQU(x[3], at(to3, 16*q))
	}
	g.LEAQ(Mem{Base: to, Index: toStride, Scale: 4}, to)
	g.ADDQ(U8(16), n)
	g.SUBQ(U8(4), words)
	g.JNE(LabelRef("words"))
	g.VZEROUPPER()
	g.RET()
}

// roundPairs writes the rounding of two rows to pairs.
func (g gen) roundPairs() {
	g.begin("roundPairsAVX2", "func(dst *byte, a, b *float32, groups, step int)",
		"roundPairsAVX2 rounds to bfloat16 as roundBF16AVX2 does and puts numbers of two rows side by side, for groups > 0:", "",
		"\tfor i := range groups {",
		"\t\tfor j := range 16 {",
		"\t\t\tcopy(dst[i*step+4*j:], bfloat16(a[16*i+j]))",
		"\t\t\tcopy(dst[i*step+4*j+2:], bfloat16(b[16*i+j]))",
		"\t\t}",
		"\t}")
	to, a, b, n, step := reg.RDI, reg.RSI, reg.RDX, reg.RCX, reg.R8
	g.Load(g.Param("dst"), to)
	g.Load(g.Param("a"), a)
	g.Load(g.Param("b"), b)
	g.Load(g.Param("groups"), n)
	g.Load(g.Param("step"), step)
	g.roundConstants()
	g.Label("loop")
	for half := range 2 {
		g.roundWords(at(a, 32*half), reg.Y0)
		g.roundWords(at(b, 32*half), reg.Y1)
		g.VPSLLD(U8(16), reg.Y1, reg.Y1)
		g.VPOR(reg.Y1, reg.Y0, reg.Y0)
		g.VMOVDQU(reg.Y0, at(to, 32*half))
	}
	g.ADDQ(U8(64), a)
	g.ADDQ(U8(64), b)
	g.ADDQ(step, to)
	g.DECQ(n)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()
}
