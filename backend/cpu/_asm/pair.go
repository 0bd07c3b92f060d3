package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var rowsPair512 = []int{6, 4, 2, 1}

// int8Pair512 is int8x512 for two panels at once: every load of a row's codes
// serves two multiplications, which is what the load ports allow. Z0 to Z11 are
// integer sums, Z12 to Z23 the sums of a row and panel each.
func (g gen) int8Pair512(r recipe) {
	name := "pairx" + r.name + "AVX512"
	g.begin(name, "func(c *int64)", name+" is int8x"+r.name+"AVX512 for two panels, rows "+"6, 4, 2 or 1 of them: the second",
		"panel's codes and scales lie c.codesStep and c.scalesStep bytes behind the first's, its outputs",
		"beside them.")
	c, x, x3, xs, meta, curM := reg.RAX, reg.RSI, reg.RDX, reg.R10, reg.RDI, reg.R12
	n, out := reg.RCX, reg.R15
	codes, scales := []reg.GPPhysical{reg.R8, reg.RBX}, []reg.GPPhysical{reg.R9, reg.R13}
	w, b, scale, min := zmm[24:26], zmm[26:28], zmm[28:30], zmm[30:32]
	dot := func(row, p int) reg.VecPhysical { return zmm[2*row+p] }
	sum := func(row, p int) reg.VecPhysical { return zmm[12+2*row+p] }
	g.Load(g.Param("c"), c)
	g.MOVQ(at(c, callX), x)
	g.MOVQ(at(c, callXStride), xs)
	g.LEAQ(Mem{Base: xs, Index: xs, Scale: 2}, x3)
	g.ADDQ(x, x3)
	g.MOVQ(at(c, callMeta), meta)
	for p, field := range []int{0, 1} {
		g.MOVQ(at(c, callCodes), codes[p])
		g.MOVQ(at(c, callScales), scales[p])
		if field == 1 {
			g.ADDQ(at(c, callCodesStep), codes[p])
			g.ADDQ(at(c, callScalesStep), scales[p])
		}
	}
	outs := func(rows int, f func(row, p int, m Mem)) {
		g.MOVQ(at(c, callOut), out)
		for row := range rows {
			for p := range 2 {
				f(row, p, at(out, 64*p))
			}
			g.ADDQ(at(c, callOutStride), out)
		}
	}
	g.rowSwitch(c, rowsPair512, func(rows int, label func(string) string) {
		if r.subs == 1 {
			outs(rows, func(row, p int, m Mem) { g.VMOVUPS(m, sum(row, p)) })
		}
		g.Label(label("block"))
		if r.subs > 1 {
			for row := range rows {
				for p := range 2 {
					g.VPXORD(sum(row, p), sum(row, p), sum(row, p))
				}
			}
			g.MOVL(U32(r.subs), n.As32())
		}
		g.Label(label("sub"))
		for p := range 2 {
			g.VMOVUPS(at(scales[p], 0), scale[p])
			if r.mins {
				g.VMOVUPS(at(scales[p], 64), min[p])
			}
		}
		g.MOVQ(meta, curM)
		for row := range rows {
			g.VPBROADCASTD(at(curM, metaStart), dot(row, 0))
			g.VMOVDQA32(dot(row, 0), dot(row, 1))
			if r.mins {
				g.VBROADCASTSS(at(curM, metaSum), b[row%2])
				for p := range 2 {
					g.VFMADD231PS(b[row%2], min[p], sum(row, p))
				}
			}
			if row < rows-1 {
				g.ADDQ(at(c, callMetaStride), curM)
			}
		}
		for i := range r.sub / 4 {
			for p := range 2 {
				g.VMOVDQU32(at(codes[p], word*i), w[p])
			}
			for row := range rows {
				m := at(x, 4*i)
				if row >= 3 {
					m.Base = x3
				}
				if row%3 > 0 {
					m.Index, m.Scale = xs, uint8(row%3)
				}
				g.VPBROADCASTD(m, b[row%2])
				for p := range 2 {
					g.VPDPBUSD(b[row%2], w[p], dot(row, p))
				}
			}
		}
		if r.subs == 1 {
			g.MOVQ(meta, curM)
		}
		for row := range rows {
			if r.subs == 1 {
				g.VBROADCASTSS(at(curM, metaScale), w[0])
				g.ADDQ(at(c, callMetaStride), curM)
			}
			for p := range 2 {
				g.VCVTDQ2PS(dot(row, p), dot(row, p))
				if r.subs == 1 {
					g.VMULPS(w[0], scale[p], b[p])
					g.VFMADD231PS(dot(row, p), b[p], sum(row, p))
				} else {
					g.VFMADD231PS(dot(row, p), scale[p], sum(row, p))
				}
			}
		}
		g.advance(r, x, codes[0], scales[0])
		g.advance(r, x3, codes[1], scales[1])
		if r.subs > 1 {
			g.DECQ(n)
			g.JEQ(LabelRef(label("whole")))
			g.ADDQ(U8(metaBytes), meta)
			g.JMP(LabelRef(label("sub")))
			g.Label(label("whole"))
			g.MOVQ(meta, curM)
			outs(rows, func(row, p int, m Mem) {
				v := dot(row, p)
				g.VMOVUPS(m, v)
				g.VFMADD231PS_BCST(at(curM, metaScale), sum(row, p), v)
				g.VMOVUPS(v, m)
				if p == 1 {
					g.ADDQ(at(c, callMetaStride), curM)
				}
			})
		}
		g.ADDQ(U8(metaBytes), meta)
		g.DECQ(at(c, callBlocks))
		g.JNE(LabelRef(label("block")))
		if r.subs == 1 {
			outs(rows, func(row, p int, m Mem) { g.VMOVUPS(sum(row, p), m) })
		}
	})
}
