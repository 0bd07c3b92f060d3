package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// read writes a loop that does nothing but read, along 16 streams in turn.
func (g gen) read() {
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
			g.PREFETCHT0(m.Offset(2048))
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
