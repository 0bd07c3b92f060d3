package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// peakOps is the number of independent instructions of a round of a peak loop:
// more than latency times units.
const peakOps = 12

// peak writes a loop of nothing but one arithmetic instruction on registers:
// what its unit can do at most.
func (g gen) peak(name, does string, regs []reg.VecPhysical, op func(a, b, c reg.VecPhysical)) {
	g.begin(name, "func(n int)", name+" runs n rounds of 12 "+does+" on registers. 0 < n.")
	g.arg("n", reg.RCX)
	for i := range peakOps + 2 {
		g.VPXOR(ymm[i], ymm[i], ymm[i])
	}
	g.Label("loop")
	for i := range peakOps {
		op(regs[12], regs[13], regs[i])
	}
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()
}
