package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fused512 and fused256 write the products of one row, and of two, which wait for
// memory alone: codes go from the weight to the multiplication without being stored.
// Sums are those of int8x512 and int8x256 to the bit: the same integers, scales and
// order.
func fused512(g gen) { writeFused(unpacker{gen: g, wide: true}) }

func fused256(g gen) { writeFused(unpacker{gen: g, half: reg.R14}) }

func writeFused(u unpacker) {
	u.src, u.scales = reg.RSI, reg.R8
	u.constants()
	for rows := 1; rows <= 2; rows++ {
		f := fused{unpacker: &u, rows: rows}
		u.product = f.multiply
		u.types(u.wide, f.fn)
	}
}

// The registers of a fused product, of a row each inputs and metas; vectors 8 and 9
// are sums. The lower 16 are the unpacker's besides; integer sums are in Z16 to Z31,
// in AVX2 in those that a type leaves.
var (
	fusedX    = []reg.GPPhysical{reg.R9, reg.R12}
	fusedMeta = []reg.GPPhysical{reg.R10, reg.R13}

	fusedCall, fusedOut      = reg.R11, reg.RDI
	fusedStride, fusedPanels = reg.RBX, reg.RDX
	fusedNext                = reg.R15
)

// fused writes products of a number of rows and, one after the other, types.
type fused struct {
	*unpacker
	packing
	rows  int
	room  []reg.VecPhysical // for integer sums
	taken map[reg.VecPhysical]bool
	live  map[int][]*dot // sums of sub-blocks in the making, of a row each
	seen  map[int]int    // groups that they hold
	next  int            // sub-block that is to be added up
}

// dot is integer sums of a row and sub-block. AVX2 has some in 16 bits.
type dot struct{ sum, words reg.VecPhysical }

// single reports whether a block is a sub-block.
func (f *fused) single() bool { return f.inputs == f.subLen() }

func (f *fused) sum(row int) reg.VecPhysical { return f.r(8 + row) }

func (f *fused) fn(p packing) {
	g := f.gen
	f.packing, f.n = p, 1
	if p.mins {
		f.n = 2
	}
	suffix := "AVX512"
	f.room = zmm[16:]
	if !f.wide {
		suffix, f.room = "AVX2", f.room256()
	}
	g.begin(fmt.Sprintf("fused%s%s%s", []string{"", "Two"}[f.rows-1], p.typ(), suffix), "func(c *int64)",
		fmt.Sprintf("It multiplies %s by c.blocks %s blocks of each of c.rows panels, one after the other from c.codes on;",
			[]string{"one row", "two rows"}[f.rows-1], p.typ()),
		"c.scales is room for the scales of a block.")
	g.Load(g.Param("c"), fusedCall)
	g.MOVQ(at(fusedCall, callCodes), f.src)
	g.MOVQ(at(fusedCall, callScales), f.scales)
	g.MOVQ(at(fusedCall, callOut), fusedOut)
	g.MOVQ(at(fusedCall, callRows), fusedPanels)
	f.mask(15, f.r(15))
	p.constants()
	if !f.wide {
		f.start256()
	}
	g.Label("panel")
	g.MOVQ(at(fusedCall, callX), fusedX[0])
	g.MOVQ(at(fusedCall, callMeta), fusedMeta[0])
	if f.rows == 2 {
		g.MOVQ(fusedX[0], fusedX[1])
		g.ADDQ(at(fusedCall, callXStride), fusedX[1])
		g.MOVQ(fusedMeta[0], fusedMeta[1])
		g.ADDQ(at(fusedCall, callMetaStride), fusedMeta[1])
		g.MOVQ(at(fusedCall, callOutStride), fusedStride)
	}
	g.MOVQ(at(fusedCall, callBlocks), reg.RCX)
	g.Label("block")
	if f.wide {
		f.ahead(at(f.src, 0), fusedAhead, p.size(), p.inputs)
		if p.typ() == "Q8_0" {
			f.lines = 0 // so few instructions a line that the processor itself reads far ahead, and farther
		}
		f.block(p.spreadScales)
	} else {
		f.halves256()
	}
	g.ADDQ(U32(p.size()), f.src)
	for row := range f.rows {
		g.ADDQ(U32(p.inputs), fusedX[row])
		g.ADDQ(U32(metaBytes*p.inputs/p.subLen()), fusedMeta[row])
	}
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("block"))
	g.ADDQ(U8(64), fusedOut)
	g.DECQ(fusedPanels)
	g.JNE(LabelRef("panel"))
	g.VZEROUPPER()
	g.RET()
}

// block adds the products of a block, or its half, to the outputs.
func (f *fused) block(scales func()) {
	f.eachSum(func(sum reg.VecPhysical, _ reg.GPPhysical, out Mem) {
		if f.single() {
			f.VMOVUPS(out, sum)
		} else {
			f.VXORPS(sum, sum, sum)
		}
	})
	f.taken, f.live, f.seen, f.next = map[reg.VecPhysical]bool{}, map[int][]*dot{}, map[int]int{}, 0
	scales()
	f.spreadCodes()
	if len(f.taken) > 0 || f.next != f.inputs/f.subLen() {
		panic("fused " + f.name + ": sums are left over")
	}
	f.eachSum(func(sum reg.VecPhysical, meta reg.GPPhysical, out Mem) {
		switch t := f.r(4); {
		case f.single():
		case f.wide:
			f.VMOVUPS(out, t)
			f.VFMADD231PS_BCST(at(meta, metaScale), sum, t)
			sum = t
		default:
			f.VBROADCASTSS(at(meta, metaScale), t)
			f.VFMADD213PS(out, t, sum)
		}
		f.VMOVUPS(sum, out)
	})
}

// eachSum calls do with the sum, the metas and the outputs of every row.
func (f *fused) eachSum(do func(sum reg.VecPhysical, meta reg.GPPhysical, out Mem)) {
	out := fusedOut
	for row := range f.rows {
		m := f.part(out, 0, 0, f.width())
		switch {
		case row > 0 && f.wide:
			m.Index, m.Scale = fusedStride, 1
		case row > 0: // the index is taken
			f.LEAQ(Mem{Base: out, Index: fusedStride, Scale: 1}, reg.RAX)
			m.Base = reg.RAX
		}
		do(f.sum(row), fusedMeta[row], m)
	}
}

// multiply adds the products of a group, and whole sub-blocks to the sums in
// ascending order.
func (f *fused) multiply(y reg.VecPhysical, group int) {
	sub, groups := group*4/f.subLen(), f.subLen()/4
	if f.live[sub] == nil {
		for range f.rows {
			f.live[sub] = append(f.live[sub], &dot{})
		}
	}
	if f.wide {
		f.multiply512(y, group, f.live[sub], f.seen[sub] == 0)
	} else {
		f.multiply256(y, group, f.live[sub], f.seen[sub])
	}
	f.seen[sub]++
	for f.seen[f.next] == groups {
		if f.wide {
			f.finish512(f.next)
		} else {
			f.finish256(f.next, y)
		}
		for _, d := range f.live[f.next] {
			f.release(&d.sum)
		}
		delete(f.live, f.next)
		f.next++
	}
}

// take is a register for a sum.
func (f *fused) take() reg.VecPhysical {
	for _, r := range f.room {
		if !f.taken[r] {
			f.taken[r] = true
			return r
		}
	}
	panic("fused " + f.name + ": out of registers")
}

func (f *fused) release(r *reg.VecPhysical) {
	delete(f.taken, *r)
	*r = nil
}

func (f *fused) multiply512(z reg.VecPhysical, group int, dots []*dot, first bool) {
	sub := group * 4 / f.subLen()
	for row, d := range dots {
		if first {
			d.sum = f.take()
			f.VPBROADCASTD(at(fusedMeta[row], metaBytes*sub+metaStart), d.sum)
		}
	}
	for row, d := range dots {
		f.VPDPBUSD_BCST(at(fusedX[row], 4*group), z, d.sum)
	}
}

// finish512 multiplies the sums of a sub-block by its scale. It clobbers Z4 to Z6.
func (f *fused) finish512(sub int) {
	scale, min, t := f.r(4), f.r(5), f.r(6)
	f.VMOVUPS(at(f.scales, 64*sub*f.n), scale)
	if f.mins {
		f.VMOVUPS(at(f.scales, 64*(sub*f.n+1)), min)
	}
	for row, d := range f.live[sub] {
		sum, meta := f.sum(row), fusedMeta[row]
		if f.mins {
			f.VFMADD231PS_BCST(at(meta, metaBytes*sub+metaSum), min, sum)
		}
		f.VCVTDQ2PS(d.sum, d.sum)
		if f.single() {
			f.VMULPS_BCST(at(meta, metaScale), scale, t)
			f.VFMADD231PS(d.sum, t, sum)
			continue
		}
		f.VFMADD231PS(scale, d.sum, sum)
	}
}
