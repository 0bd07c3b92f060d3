package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fused writes the products of one row, which wait for memory alone: codes go
// from the weight to the multiplication without being stored. Sums are those of
// int8x512 to the bit: the same integers, scales and order. Panels take turns
// block by block: the processor fetches ahead along each, and one alone does not
// keep memory busy.
func fused(g gen) {
	u := unpacker{gen: g, src: reg.RSI, scales: reg.R8, fused: true}
	u.constants()
	u.types(true, u.fusedFn)
}

// The registers of a fused product. Y8 and Y9 are the sums of 8 outputs each,
// Y16 to Y31 integer sums, the lower ones the unpacker's.
var (
	fusedX, fusedMeta, fusedCall, fusedOut = reg.R9, reg.R10, reg.R11, reg.RDI
	fusedBase, fusedPanels                 = reg.R12, reg.R13
	fusedSums                              = ymm[8:10]
	fusedDots                              = []reg.VecPhysical{
		reg.Y16, reg.Y17, reg.Y18, reg.Y19, reg.Y20, reg.Y21, reg.Y22, reg.Y23,
		reg.Y24, reg.Y25, reg.Y26, reg.Y27, reg.Y28, reg.Y29, reg.Y30, reg.Y31,
	}
)

func (u *unpacker) fusedFn(name string, inputs int, mins bool, body func()) {
	g := u.gen
	u.n, u.subLen, u.single = 1, subLen(name), inputs == 32
	if mins {
		u.n = 2
	}
	subs := inputs / u.subLen
	typ := typeName(name)
	size := panelBytes[typ]
	g.begin("fused"+typ, "func(c *int64)",
		fmt.Sprintf("fused%s multiplies one row by %s blocks of c.rows panels, the first of which c.codes points to; c.scales is room for the scales of a block.", typ, typ))
	g.Load(g.Param("c"), fusedCall)
	g.MOVQ(at(fusedCall, callX), fusedX)
	g.MOVQ(at(fusedCall, callMeta), fusedMeta)
	g.MOVQ(at(fusedCall, callCodes), fusedBase)
	g.MOVQ(at(fusedCall, callScales), u.scales)
	g.MOVQ(at(fusedCall, callBlocks), reg.RCX)
	u.mask(15, reg.Y15)
	g.Label("block")
	g.MOVQ(fusedBase, u.src)
	g.MOVQ(at(fusedCall, callOut), fusedOut)
	g.MOVQ(at(fusedCall, callRows), fusedPanels)
	g.Label("panel")
	u.ahead(size)
	for half, s := range fusedSums {
		if subs == 1 {
			g.VMOVUPS(at(fusedOut, 32*half), s)
		} else {
			g.VPXOR(s, s, s)
		}
	}
	u.live, u.seen, u.next = map[[2]int]reg.VecPhysical{}, map[[2]int]int{}, [2]int{}
	body()
	if len(u.live) > 0 || u.next != [2]int{subs, subs} {
		panic("fused " + name + ": sums are left over")
	}
	for half, s := range fusedSums {
		if subs > 1 {
			g.VMOVUPS(at(fusedOut, 32*half), reg.Y4)
			g.VFMADD231PS_BCST(at(fusedMeta, metaScale), s, reg.Y4)
			s = reg.Y4
		}
		g.VMOVUPS(s, at(fusedOut, 32*half))
	}
	g.ADDQ(at(fusedCall, callCodesStep), u.src)
	g.ADDQ(U8(64), fusedOut)
	g.DECQ(fusedPanels)
	g.JNE(LabelRef("panel"))
	g.ADDQ(U32(size), fusedBase)
	g.ADDQ(U32(inputs), fusedX)
	g.ADDQ(U32(metaBytes*subs), fusedMeta)
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("block"))
	g.VZEROUPPER()
	g.RET()
}

// multiply adds the products of half a group, and whole sub-blocks to the sums
// in ascending order.
func (u *unpacker) multiply(y reg.VecPhysical, group, half int) {
	sub := group * 4 / u.subLen
	key := [2]int{sub, half}
	dot, ok := u.live[key]
	if !ok {
		dot = u.free()
		u.live[key] = dot
		u.VPBROADCASTD(at(fusedMeta, metaBytes*sub+metaStart), dot)
	}
	u.VPDPBUSD_BCST(at(fusedX, 4*group), y, dot)
	u.seen[key]++
	for u.seen[[2]int{u.next[half], half}] == u.subLen/4 {
		u.finish(u.next[half], half)
		u.next[half]++
	}
}

// free is a register for a sum.
func (u *unpacker) free() reg.VecPhysical {
	for _, r := range fusedDots {
		taken := false
		for _, l := range u.live {
			taken = taken || l == r
		}
		if !taken {
			return r
		}
	}
	panic("fused: out of registers")
}

// finish multiplies the sum of a sub-block by its scale. It clobbers Y4.
func (u *unpacker) finish(sub, half int) {
	key := [2]int{sub, half}
	dot, sum := u.live[key], fusedSums[half]
	scale := at(u.scales, 64*sub*u.n+32*half)
	delete(u.live, key)
	if u.n == 2 {
		u.VMOVUPS(at(u.scales, 64*(sub*u.n+1)+32*half), reg.Y4)
		u.VFMADD231PS_BCST(at(fusedMeta, metaBytes*sub+metaSum), reg.Y4, sum)
	}
	u.VCVTDQ2PS(dot, dot)
	if u.single {
		u.VMOVUPS(scale, reg.Y4)
		u.VMULPS_BCST(at(fusedMeta, metaScale), reg.Y4, reg.Y4)
		u.VFMADD231PS(dot, reg.Y4, sum)
		return
	}
	u.VFMADD231PS(scale, dot, sum)
}
