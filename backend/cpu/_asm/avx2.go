package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var ymm = []reg.VecPhysical{
	reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7,
	reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15,
}

// Rows of a tile. Row r has the sums ymm[2*r] and ymm[2*r+1].
const rows256 = 6

func avx2(g gen) {
	widen := map[string]func(Mem, reg.VecPhysical){
		"f32":  func(m Mem, y reg.VecPhysical) { g.VMOVUPS(m, y) },
		"f16":  func(m Mem, y reg.VecPhysical) { g.VCVTPH2PS(m, y) },
		"bf16": func(m Mem, y reg.VecPhysical) { g.VPMOVZXWD(m, y); g.VPSLLD(U8(16), y, y) },
	}
	for _, f := range floats {
		g.begin(f.name+"AVX2", floatSignature(f.elem), append([]string{f.name + "AVX2 is the AVX2 product."}, floatDoc(rows256, f.doc)...)...)
		g.float256(f.bytes, widen[f.name])
	}
	for _, r := range recipes256 {
		g.int8x256(r)
	}
	tile(g)
	g.read()
	g.peak("peakF32AVX2", "fused multiply-adds of 8 float32", ymm, func(a, b, c reg.VecPhysical) { g.VFMADD231PS(a, b, c) })
	g.peak("peakInt8AVX2", "VPMADDUBSW, 32 products of bytes each,", ymm, func(a, b, c reg.VecPhysical) { g.VPMADDUBSW(a, b, c) })
	g.round256()
}

// sums256 loads the sums from out, or zeros. It clobbers Y15, cur and stride.
func (g gen) sums256(rows int, cur, stride reg.GPPhysical) {
	g.Comment("Y15 is all ones to accumulate, else the sums start at zero.")
	g.Load(g.Param("accumulate"), cur)
	g.NEGQ(cur)
	g.VMOVD(cur.As32(), reg.X15)
	g.VPBROADCASTD(reg.X15, reg.Y15)
	g.arg("out", cur)
	g.stride("outStride", 2, stride)
	for r := range rows {
		g.VMASKMOVPS(at(cur, 0), reg.Y15, ymm[2*r])
		g.VMASKMOVPS(at(cur, 32), reg.Y15, ymm[2*r+1])
		g.ADDQ(stride, cur)
	}
}

// store256 stores the sums. It clobbers cur and stride.
func (g gen) store256(rows int, cur, stride reg.GPPhysical) {
	g.arg("out", cur)
	g.stride("outStride", 2, stride)
	for r := range rows {
		g.VMOVUPS(ymm[2*r], at(cur, 0))
		g.VMOVUPS(ymm[2*r+1], at(cur, 32))
		g.ADDQ(stride, cur)
	}
}

// float256 has the weights of one input in two registers and broadcasts x row
// by row.
func (g gen) float256(bytes int, widen func(Mem, reg.VecPhysical)) {
	const unroll = 4
	x, xStride, w, k, tmp, stride := []reg.GPPhysical{reg.RSI, reg.R9}, reg.R8, reg.RDI, reg.RCX, reg.RAX, reg.RDX
	low, high, b := reg.Y12, reg.Y13, reg.Y14
	wStride, w3Stride := reg.R10, reg.R11
	g.arg("x", x[0])
	g.stride("xStride", 2, xStride)
	g.LEAQ(Mem{Base: xStride, Index: xStride, Scale: 2}, x[1])
	g.ADDQ(x[0], x[1])
	g.arg("w", w)
	g.stride("wStride", uint64(bytes/2), wStride)
	g.LEAQ(Mem{Base: wStride, Index: wStride, Scale: 2}, w3Stride)
	g.arg("k", k)
	g.rowCases(rows256, tmp, func(rows int) {
		label := func(s string) string { return fmt.Sprintf("%s%d", s, rows) }
		step := func(n int) {
			for u := range n {
				widen(weightAt(w, wStride, w3Stride, u, 0), low)
				widen(weightAt(w, wStride, w3Stride, u, 8*bytes), high)
				for r := range rows {
					g.VBROADCASTSS(rowAt(x, xStride, r, 4*u), b)
					g.VFMADD231PS(low, b, ymm[2*r])
					g.VFMADD231PS(high, b, ymm[2*r+1])
				}
			}
			g.ADDQ(U8(4*n), x[0])
			g.ADDQ(U8(4*n), x[1])
			g.LEAQ(Mem{Base: w, Index: wStride, Scale: uint8(n)}, w)
			g.SUBQ(U8(n), k)
		}
		g.sums256(rows, tmp, stride)
		g.CMPQ(k, U8(unroll))
		g.JB(LabelRef(label("tail")))
		g.Label(label("loop"))
		step(unroll)
		g.CMPQ(k, U8(unroll))
		g.JAE(LabelRef(label("loop")))
		g.Label(label("tail"))
		g.TESTQ(k, k)
		g.JEQ(LabelRef(label("store")))
		g.Label(label("one"))
		step(1)
		g.JNE(LabelRef(label("one")))
		g.Label(label("store"))
		g.store256(rows, tmp, stride)
	})
}
