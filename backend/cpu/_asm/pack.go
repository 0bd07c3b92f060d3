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
		x, t := []reg.VecPhysical{reg.X0, reg.X1, reg.X2, reg.X3}, []reg.VecPhysical{reg.X4, reg.X5, reg.X6, reg.X7}
		g.LEAQ(Mem{Base: b, Index: n, Scale: 1}, reg.R13)
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
		for i := range x {
			g.VMOVDQU(x[i], at(to, 64*i+16*q))
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
