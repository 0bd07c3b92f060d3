package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var rowsPair512 = []int{6, 4, 2, 1}

// pair512 is the registers of a product of two panels: Z0 to Z11 are integer
// sums, Z12 to Z23 the sums of a row and panel each.
type pair512 struct {
	gen
	recipe
	c, x, x3, xStride, meta, curM, count, out reg.GPPhysical
	nextX, nextMeta                           reg.GPPhysical   // of the rows after these
	codes, scales                             []reg.GPPhysical // of a panel each
	w, b, scale, min                          []reg.VecPhysical
}

func (pair512) dot(row, p int) reg.VecPhysical { return zmm[2*row+p] }
func (pair512) sum(row, p int) reg.VecPhysical { return zmm[12+2*row+p] }

// int8Pair512 is int8x512 for two panels at once: every load of a row's codes
// serves two multiplications, which is what the load ports allow.
func (g gen) int8Pair512(r recipe) {
	name := "pairx" + r.name + "AVX512"
	g.begin(name, "func(c *int64)", name+" is int8x"+r.name+"AVX512 for two panels, rows 6, 4, 2 or 1 of them: the second",
		"panel's codes and scales lie c.codesStep and c.scalesStep bytes behind the first's, its outputs",
		"beside them.")
	d := pair512{g, r, reg.RAX, reg.RSI, reg.RDX, reg.R10, reg.RDI, reg.R12, reg.RCX, reg.R15, reg.R11, reg.R14,
		[]reg.GPPhysical{reg.R8, reg.RBX}, []reg.GPPhysical{reg.R9, reg.R13}, zmm[24:26], zmm[26:28], zmm[28:30], zmm[30:32]}
	g.Load(g.Param("c"), d.c)
	g.MOVQ(at(d.c, callX), d.x)
	g.MOVQ(at(d.c, callXStride), d.xStride)
	g.LEAQ(Mem{Base: d.xStride, Index: d.xStride, Scale: 2}, d.x3)
	g.ADDQ(d.x, d.x3)
	g.MOVQ(at(d.c, callMeta), d.meta)
	for p := range 2 {
		g.MOVQ(at(d.c, callCodes), d.codes[p])
		g.MOVQ(at(d.c, callScales), d.scales[p])
	}
	g.ADDQ(at(d.c, callCodesStep), d.codes[1])
	g.ADDQ(at(d.c, callScalesStep), d.scales[1])
	g.rowSwitch(d.c, rowsPair512, func(rows int, label func(string) string) {
		if d.ahead(rows) {
			g.LEAQ(Mem{Base: d.x3, Index: d.xStride, Scale: 1}, d.nextX)
			g.LEAQ(Mem{Base: d.nextX, Index: d.xStride, Scale: 2}, d.nextX)
			g.MOVQ(at(d.c, callMetaStride), d.nextMeta)
			g.IMUL3Q(U8(rows), d.nextMeta, d.nextMeta)
			g.ADDQ(d.meta, d.nextMeta)
		}
		g.eachBlock(r, label, blocks{
			clear: func() {
				for i := range 2 * rows {
					g.VPXORD(zmm[12+i], zmm[12+i], zmm[12+i])
				}
			},
			load:  func() { d.outs(rows, func(row, p int, m Mem) { g.VMOVUPS(m, d.sum(row, p)) }) },
			store: func() { d.outs(rows, func(row, p int, m Mem) { g.VMOVUPS(d.sum(row, p), m) }) },
			sub: func() {
				d.start(rows)
				d.multiply(rows)
				d.finish(rows)
				g.advance(r, d.x, d.codes[0], d.scales[0])
				g.advance(r, d.x3, d.codes[1], d.scales[1])
				if d.ahead(rows) {
					g.ADDQ(U32(64*r.sub/8), d.nextX)
					g.ADDQ(U8(metaBytes*rows), d.nextMeta)
				}
			},
			whole: func() { d.whole(rows) },
			metas: []reg.GPPhysical{d.meta}, count: d.count, left: at(d.c, callBlocks),
		})
	})
}

// ahead reports whether the rows after these are asked for, which lie behind them:
// a whole tile of them, a line for every 8 inputs and for the metas of a sub-block.
func (d pair512) ahead(rows int) bool { return rows == rowsPair512[0] }

// outs calls f with the outputs of every row and panel.
func (d pair512) outs(rows int, f func(row, p int, m Mem)) {
	d.MOVQ(at(d.c, callOut), d.out)
	for row := range rows {
		for p := range 2 {
			f(row, p, at(d.out, 64*p))
		}
		d.ADDQ(at(d.c, callOutStride), d.out)
	}
}

// start loads the scales of a sub-block, starts its integer sums and adds its
// minima.
func (d pair512) start(rows int) {
	for p := range 2 {
		d.VMOVUPS(at(d.scales[p], 0), d.scale[p])
		if d.mins {
			d.VMOVUPS(at(d.scales[p], 64), d.min[p])
		}
	}
	d.MOVQ(d.meta, d.curM)
	if d.ahead(rows) {
		d.PREFETCHT0(at(d.nextMeta, 0))
	}
	for row := range rows {
		d.VPBROADCASTD(at(d.curM, metaStart), d.dot(row, 0))
		d.VMOVDQA32(d.dot(row, 0), d.dot(row, 1))
		if d.mins {
			d.VBROADCASTSS(at(d.curM, metaSum), d.b[row%2])
			for p := range 2 {
				d.VFMADD231PS(d.b[row%2], d.min[p], d.sum(row, p))
			}
		}
		if row < rows-1 {
			d.ADDQ(at(d.c, callMetaStride), d.curM)
		}
	}
}

// multiply adds the products of codes.
func (d pair512) multiply(rows int) {
	for i := range d.sub / 4 {
		for p := range 2 {
			d.VMOVDQU32(at(d.codes[p], word*i), d.w[p])
		}
		if d.ahead(rows) && i%2 == 0 {
			d.PREFETCHT0(at(d.nextX, 32*i))
		}
		for row := range rows {
			m := at(d.x, 4*i)
			if row >= 3 {
				m.Base = d.x3
			}
			if row%3 > 0 {
				m.Index, m.Scale = d.xStride, uint8(row%3)
			}
			d.VPBROADCASTD(m, d.b[row%2])
			for p := range 2 {
				d.VPDPBUSD(d.b[row%2], d.w[p], d.dot(row, p))
			}
		}
	}
}

// finish adds the integer sums, times their scales, to the sums.
func (d pair512) finish(rows int) {
	if d.subs == 1 {
		d.MOVQ(d.meta, d.curM)
	}
	for row := range rows {
		if d.subs == 1 {
			d.VBROADCASTSS(at(d.curM, metaScale), d.w[0])
			d.ADDQ(at(d.c, callMetaStride), d.curM)
		}
		for p := range 2 {
			d.VCVTDQ2PS(d.dot(row, p), d.dot(row, p))
			if d.subs == 1 {
				d.VMULPS(d.w[0], d.scale[p], d.b[p])
				d.VFMADD231PS(d.dot(row, p), d.b[p], d.sum(row, p))
			} else {
				d.VFMADD231PS(d.dot(row, p), d.scale[p], d.sum(row, p))
			}
		}
	}
}

// whole adds the sums of a block, times the scales of the rows, to the outputs.
func (d pair512) whole(rows int) {
	d.MOVQ(d.meta, d.curM)
	d.outs(rows, func(row, p int, m Mem) {
		v := d.dot(row, p)
		d.VMOVUPS(m, v)
		d.VFMADD231PS_BCST(at(d.curM, metaScale), d.sum(row, p), v)
		d.VMOVUPS(v, m)
		if p == 1 {
			d.ADDQ(at(d.c, callMetaStride), d.curM)
		}
	})
}
