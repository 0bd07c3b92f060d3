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
	u := unpacker{gen: g, src: reg.RSI, scales: reg.R8, fused: true}
	u.constants()
	for u.rows = 1; u.rows <= 2; u.rows++ {
		u.types(true, u.fusedFn)
	}
}

// The registers of a fused product: of a row each, inputs, metas and the sums of 8
// outputs each; then integer sums. The lower ones are the unpacker's.
var (
	fusedX    = []reg.GPPhysical{reg.R9, reg.R12}
	fusedMeta = []reg.GPPhysical{reg.R10, reg.R13}
	fusedSums = [][]reg.VecPhysical{{reg.Y8, reg.Y9}, {reg.Y30, reg.Y31}}
	fusedDots = []reg.VecPhysical{
		reg.Y16, reg.Y17, reg.Y18, reg.Y19, reg.Y20, reg.Y21, reg.Y22, reg.Y23,
		reg.Y24, reg.Y25, reg.Y26, reg.Y27, reg.Y28, reg.Y29, reg.Y5, reg.Y6,
	} // the last two are free once the scales are unpacked
	fusedCall, fusedOut = reg.R11, reg.RDI
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
		fmt.Sprintf("It multiplies %s by %s blocks of a panel, which c.codes points to; c.scales is room for the scales of a block.",
			[]string{"one row", "two rows"}[u.rows-1], typ))
	g.Load(g.Param("c"), fusedCall)
	g.MOVQ(at(fusedCall, callX), fusedX[0])
	g.MOVQ(at(fusedCall, callMeta), fusedMeta[0])
	if u.rows == 2 {
		g.MOVQ(fusedX[0], fusedX[1])
		g.ADDQ(at(fusedCall, callXStride), fusedX[1])
		g.MOVQ(fusedMeta[0], fusedMeta[1])
		g.ADDQ(at(fusedCall, callMetaStride), fusedMeta[1])
	}
	g.MOVQ(at(fusedCall, callCodes), u.src)
	g.MOVQ(at(fusedCall, callScales), u.scales)
	g.MOVQ(at(fusedCall, callBlocks), reg.RCX)
	u.mask(15, reg.Y15)
	g.Label("block")
	u.ahead(size, inputs)
	u.eachSum(func(row, half int, s reg.VecPhysical) {
		if subs == 1 {
			g.VMOVUPS(at(fusedOut, 32*half), s)
		} else {
			g.VXORPS(s, s, s)
		}
	}, subs == 1)
	u.live, u.seen, u.next = map[fusedSub][]reg.VecPhysical{}, map[fusedSub]int{}, [2]int{}
	body()
	if len(u.live) > 0 || u.next != [2]int{subs, subs} {
		panic("fused " + name + ": sums are left over")
	}
	u.eachSum(func(row, half int, s reg.VecPhysical) {
		if subs > 1 {
			g.VMOVUPS(at(fusedOut, 32*half), reg.Y4)
			g.VFMADD231PS_BCST(at(fusedMeta[row], metaScale), s, reg.Y4)
			s = reg.Y4
		}
		g.VMOVUPS(s, at(fusedOut, 32*half))
	}, true)
	g.ADDQ(U32(size), u.src)
	for row := range u.rows {
		g.ADDQ(U32(inputs), fusedX[row])
		g.ADDQ(U32(metaBytes*subs), fusedMeta[row])
	}
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("block"))
	g.VZEROUPPER()
	g.RET()
}

// eachSum calls f with the sums of every row; out points to the row's outputs.
func (u *unpacker) eachSum(f func(row, half int, s reg.VecPhysical), out bool) {
	if out {
		u.MOVQ(at(fusedCall, callOut), fusedOut)
	}
	for row := range u.rows {
		if out && row > 0 {
			u.ADDQ(at(fusedCall, callOutStride), fusedOut)
		}
		for half, s := range fusedSums[row] {
			f(row, half, s)
		}
	}
}

// A fusedSub is a sub-block of the outputs of a half.
type fusedSub struct{ sub, half int }

// multiply adds the products of half a group, and whole sub-blocks to the sums
// in ascending order.
func (u *unpacker) multiply(y reg.VecPhysical, group, half int) {
	key := fusedSub{group * 4 / u.subLen, half}
	if u.live[key] == nil {
		for row := range u.rows {
			dot := u.free()
			u.live[key] = append(u.live[key], dot)
			u.VPBROADCASTD(at(fusedMeta[row], metaBytes*key.sub+metaStart), dot)
		}
	}
	for row, dot := range u.live[key] {
		u.VPDPBUSD_BCST(at(fusedX[row], 4*group), y, dot)
	}
	u.seen[key]++
	for u.seen[fusedSub{u.next[half], half}] == u.subLen/4 {
		u.finish(fusedSub{u.next[half], half})
		u.next[half]++
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

// finish multiplies the sums of a sub-block by its scale. It clobbers Y4.
func (u *unpacker) finish(key fusedSub) {
	scale := at(u.scales, 64*key.sub*u.n+32*key.half)
	for row, dot := range u.live[key] {
		sum, meta := fusedSums[row][key.half], fusedMeta[row]
		if u.n == 2 {
			u.VMOVUPS(at(u.scales, 64*(key.sub*u.n+1)+32*key.half), reg.Y4)
			u.VFMADD231PS_BCST(at(meta, metaBytes*key.sub+metaSum), reg.Y4, sum)
		}
		u.VCVTDQ2PS(dot, dot)
		if u.single {
			u.VMOVUPS(scale, reg.Y4)
			u.VMULPS_BCST(at(meta, metaScale), reg.Y4, reg.Y4)
			u.VFMADD231PS(dot, reg.Y4, sum)
			continue
		}
		u.VFMADD231PS(scale, dot, sum)
	}
	delete(u.live, key)
}
