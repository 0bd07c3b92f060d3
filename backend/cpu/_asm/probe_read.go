package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// read writes loops that do nothing but read: along 16 streams in turn, and along
// one, asking ahead as the products of a row do.
func (g gen) read() {
	g.begin("readAheadAVX2", "func(p *byte, n int)", "readAheadAVX2 reads n bytes, a multiple of 256, more than none, at p.")
	g.Load(g.Param("p"), reg.RSI)
	g.Load(g.Param("n"), reg.RCX)
	g.Label("loop")
	for i := range 8 {
		if i%2 == 0 {
			g.PREFETCHT1(at(reg.RSI, fetchAhead+32*i))
		}
		g.VPXOR(at(reg.RSI, 32*i), ymm[i], ymm[i])
	}
	g.ADDQ(U32(256), reg.RSI)
	g.SUBQ(U32(256), reg.RCX)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()

	g.begin("readAVX2", "func(p *byte, stride, n int)", "readAVX2 reads n bytes, a multiple of 64, more than none, at p and at each of 15 places stride bytes after the one before.")
	g.Load(g.Param("p"), reg.RSI)
	g.Load(g.Param("stride"), reg.R8)
	g.Load(g.Param("n"), reg.RCX)
	g.LEAQ(Mem{Base: reg.R8, Index: reg.R8, Scale: 2}, reg.R9)
	bases := []reg.GPPhysical{reg.RSI, reg.RDI, reg.R10, reg.R11}
	for i := range bases[1:] {
		g.LEAQ(Mem{Base: bases[i], Index: reg.R8, Scale: 4}, bases[i+1])
	}
	g.Label("loop")
	for i, b := range bases {
		for j, m := range []Mem{{Base: b}, {Base: b, Index: reg.R8, Scale: 1}, {Base: b, Index: reg.R8, Scale: 2}, {Base: b, Index: reg.R9, Scale: 1}} {
			for half := range 2 {
				y := ymm[(8*i+2*j+half)%16]
				g.VPXOR(m.Offset(32*half), y, y)
			}
		}
	}
	for _, b := range bases {
		g.ADDQ(U8(64), b)
	}
	g.SUBQ(U8(64), reg.RCX)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()
}
