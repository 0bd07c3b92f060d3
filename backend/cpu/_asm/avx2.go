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
const (
	rows256   = 6
	rows256Q8 = 4
)

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
	g.begin("q8AVX2", q8Signature, append([]string{"q8AVX2 is the AVX2 product. It does not read xsum."}, q8Doc(rows256Q8)...)...)
	g.q8AVX2()
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
	g.arg("x", x[0])
	g.stride("xStride", 2, xStride)
	g.LEAQ(Mem{Base: xStride, Index: xStride, Scale: 2}, x[1])
	g.ADDQ(x[0], x[1])
	g.arg("w", w)
	g.arg("k", k)
	g.rowCases(rows256, tmp, func(rows int) {
		label := func(s string) string { return fmt.Sprintf("%s%d", s, rows) }
		step := func(n int) {
			for u := range n {
				widen(at(w, 16*bytes*u), low)
				widen(at(w, 16*bytes*u+8*bytes), high)
				for r := range rows {
					g.VBROADCASTSS(rowAt(x, xStride, r, 4*u), b)
					g.VFMADD231PS(low, b, ymm[2*r])
					g.VFMADD231PS(high, b, ymm[2*r+1])
				}
			}
			g.ADDQ(U8(4*n), x[0])
			g.ADDQ(U8(4*n), x[1])
			g.ADDQ(U32(16*bytes*n), w)
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

// q8AVX2 forms products of |w| as unsigned and x with the sign of w as signed
// bytes. A pair is at most 2*128*127 < 2^15, so VPMADDUBSW does not saturate.
func (g gen) q8AVX2() {
	xq, xqStride, xd, xdStride := []reg.GPPhysical{reg.RSI, reg.R9}, reg.R8, []reg.GPPhysical{reg.RDI, reg.R10}, reg.R11
	w, blocks, tmp, stride := reg.RBX, reg.RCX, reg.RAX, reg.RDX
	ints, codes, abs, v, ones := ymm[8:12], reg.Y12, reg.Y13, reg.Y14, reg.Y15
	g.arg("xq", xq[0])
	g.arg("xqStride", xqStride)
	g.LEAQ(Mem{Base: xqStride, Index: xqStride, Scale: 2}, xq[1])
	g.ADDQ(xq[0], xq[1])
	g.arg("xd", xd[0])
	g.stride("xdStride", 2, xdStride)
	g.LEAQ(Mem{Base: xdStride, Index: xdStride, Scale: 2}, xd[1])
	g.ADDQ(xd[0], xd[1])
	g.arg("w", w)
	g.arg("blocks", blocks)
	g.rowCases(rows256Q8, tmp, func(rows int) {
		loop := fmt.Sprintf("loop%d", rows)
		g.sums256(rows, tmp, stride)
		g.Comment("Y15 is 16 words of 1.")
		g.VPCMPEQW(ones, ones, ones)
		g.VPSRLW(U8(15), ones, ones)
		g.Label(loop)
		for half := range 2 {
			for r := range rows {
				g.VPXOR(ints[r], ints[r], ints[r])
			}
			for i := range 8 {
				g.VMOVDQU(at(w, q8Codes+64*i+32*half), codes)
				g.VPABSB(codes, abs)
				for r := range rows {
					g.VPBROADCASTD(rowAt(xq, xqStride, r, 4*i), v)
					g.VPSIGNB(codes, v, v)
					g.VPMADDUBSW(v, abs, v)
					g.VPMADDWD(ones, v, v)
					g.VPADDD(v, ints[r], ints[r])
				}
			}
			g.VCVTPH2PS(at(w, 16*half), codes)
			for r := range rows {
				g.VCVTDQ2PS(ints[r], ints[r])
				g.VBROADCASTSS(rowAt(xd, xdStride, r, 0), v)
				g.VMULPS(codes, v, v)
				g.VFMADD231PS(ints[r], v, ymm[2*r+half])
			}
		}
		g.ADDQ(U8(32), xq[0])
		g.ADDQ(U8(32), xq[1])
		g.ADDQ(U8(4), xd[0])
		g.ADDQ(U8(4), xd[1])
		g.ADDQ(U32(q8Bytes), w)
		g.DECQ(blocks)
		g.JNE(LabelRef(loop))
		g.store256(rows, tmp, stride)
	})
}
