package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fused writes the products of one row, and of two, which wait for memory alone:
// codes go from the weight to the multiplication without being stored. Sums are
// those of int8x512 to the bit: the same integers, scales and order.
func fused(g gen) {
	u := unpacker{gen: g, src: reg.RSI, scales: reg.R8, fused: true, wide: true}
	u.constants()
	for u.rows = 1; u.rows <= 2; u.rows++ {
		u.types(true, u.fusedFn)
	}
}

// The registers of a fused product: of a row each, inputs, metas and sums; then
// integer sums. The lower ones are the unpacker's.
var (
	fusedX    = []reg.GPPhysical{reg.R9, reg.R12}
	fusedMeta = []reg.GPPhysical{reg.R10, reg.R13}
	fusedSums = zmm[8:10]
	fusedDots = zmm[16:32]

	fusedCall, fusedOut      = reg.R11, reg.RDI
	fusedStride, fusedPanels = reg.RBX, reg.RDX
)

func (u *unpacker) fusedFn(name string, inputs int, mins bool, body func()) {
	g := u.gen
	u.n, u.subLen, u.single = 1, subLen(name), inputs == 32
	if mins {
		u.n = 2
	}
	subs, typ := inputs/u.subLen, typeName(name)
	size := panelBytes[typ]
	g.begin(fmt.Sprintf("fused%s%s", []string{"", "Two"}[u.rows-1], typ), "func(c *int64)",
		fmt.Sprintf("It multiplies %s by c.blocks %s blocks of each of c.rows panels, one after the other from c.codes on;",
			[]string{"one row", "two rows"}[u.rows-1], typ),
		"c.scales is room for the scales of a block.")
	g.Load(g.Param("c"), fusedCall)
	g.MOVQ(at(fusedCall, callCodes), u.src)
	g.MOVQ(at(fusedCall, callScales), u.scales)
	g.MOVQ(at(fusedCall, callOut), fusedOut)
	g.MOVQ(at(fusedCall, callRows), fusedPanels)
	u.mask(15, u.r(15))
	g.Label("panel")
	g.MOVQ(at(fusedCall, callX), fusedX[0])
	g.MOVQ(at(fusedCall, callMeta), fusedMeta[0])
	if u.rows == 2 {
		g.MOVQ(fusedX[0], fusedX[1])
		g.ADDQ(at(fusedCall, callXStride), fusedX[1])
		g.MOVQ(fusedMeta[0], fusedMeta[1])
		g.ADDQ(at(fusedCall, callMetaStride), fusedMeta[1])
		g.MOVQ(at(fusedCall, callOutStride), fusedStride)
	}
	g.MOVQ(at(fusedCall, callBlocks), reg.RCX)
	g.Label("block")
	u.ahead(size, inputs)
	if typ == "Q8_0" {
		u.lines = 0 // so few instructions a line that the processor itself reads far ahead, and farther
	}
	u.eachSum(func(sum reg.VecPhysical, _ reg.GPPhysical, out Mem) {
		if subs == 1 {
			g.VMOVUPS(out, sum)
		} else {
			g.VXORPS(sum, sum, sum)
		}
	})
	u.live, u.seen, u.next = map[int][]reg.VecPhysical{}, map[int]int{}, 0
	body()
	if len(u.live) > 0 || u.next != subs {
		panic("fused " + name + ": sums are left over")
	}
	u.eachSum(func(sum reg.VecPhysical, meta reg.GPPhysical, out Mem) {
		if subs > 1 {
			g.VMOVUPS(out, u.r(4))
			g.VFMADD231PS_BCST(at(meta, metaScale), sum, u.r(4))
			sum = u.r(4)
		}
		g.VMOVUPS(sum, out)
	})
	g.ADDQ(U32(size), u.src)
	for row := range u.rows {
		g.ADDQ(U32(inputs), fusedX[row])
		g.ADDQ(U32(metaBytes*subs), fusedMeta[row])
	}
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("block"))
	g.ADDQ(U8(64), fusedOut)
	g.DECQ(fusedPanels)
	g.JNE(LabelRef("panel"))
	g.VZEROUPPER()
	g.RET()
}

// eachSum calls f with the sum, the metas and the outputs of every row.
func (u *unpacker) eachSum(f func(sum reg.VecPhysical, meta reg.GPPhysical, out Mem)) {
	for row := range u.rows {
		out := at(fusedOut, 0)
		if row > 0 {
			out.Index, out.Scale = fusedStride, 1
		}
		f(fusedSums[row], fusedMeta[row], out)
	}
}

// multiply adds the products of a group, and whole sub-blocks to the sums in
// ascending order.
func (u *unpacker) multiply(z reg.VecPhysical, group int) {
	sub := group * 4 / u.subLen
	if u.live[sub] == nil {
		for row := range u.rows {
			dot := u.free()
			u.live[sub] = append(u.live[sub], dot)
			u.VPBROADCASTD(at(fusedMeta[row], metaBytes*sub+metaStart), dot)
		}
	}
	for row, dot := range u.live[sub] {
		u.VPDPBUSD_BCST(at(fusedX[row], 4*group), z, dot)
	}
	u.seen[sub]++
	for u.seen[u.next] == u.subLen/4 {
		u.finish(u.next)
		u.next++
	}
}

// free is a register for a sum.
func (u *unpacker) free() reg.VecPhysical {
	for _, r := range fusedDots {
		taken := false
		for _, l := range u.live {
			for _, t := range l {
				taken = taken || t == r
			}
		}
		if !taken {
			return r
		}
	}
	panic("fused: out of registers")
}

// finish multiplies the sums of a sub-block by its scale. It clobbers Z4 to Z6.
func (u *unpacker) finish(sub int) {
	scale, min, t := u.r(4), u.r(5), u.r(6)
	u.VMOVUPS(at(u.scales, 64*sub*u.n), scale)
	if u.n == 2 {
		u.VMOVUPS(at(u.scales, 64*(sub*u.n+1)), min)
	}
	for row, dot := range u.live[sub] {
		sum, meta := fusedSums[row], fusedMeta[row]
		if u.n == 2 {
			u.VFMADD231PS_BCST(at(meta, metaBytes*sub+metaSum), min, sum)
		}
		u.VCVTDQ2PS(dot, dot)
		if u.single {
			u.VMULPS_BCST(at(meta, metaScale), scale, t)
			u.VFMADD231PS(dot, t, sum)
			continue
		}
		u.VFMADD231PS(scale, dot, sum)
	}
	delete(u.live, sub)
}
