package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

var zmm = []reg.VecPhysical{
	reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
	reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
	reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
	reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
}

// rows512 is the number of rows of a tile: Z0 to Z11 are the sums of a row each.
const rows512 = 12

func avx512(g gen) {
	widen := map[string]func(Mem, reg.VecPhysical){
		"f32":  func(m Mem, z reg.VecPhysical) { g.VMOVUPS(m, z) },
		"f16":  func(m Mem, z reg.VecPhysical) { g.VCVTPH2PS(m, z) },
		"bf16": func(m Mem, z reg.VecPhysical) { g.VPMOVZXWD(m, z); g.VPSLLD(U8(16), z, z) },
	}
	for _, f := range floats {
		g.begin(f.name+"AVX512", floatSignature(f.elem), append([]string{f.name + "AVX512 is the AVX-512 product."}, floatDoc(rows512, f.doc)...)...)
		g.float512(f.bytes, widen[f.name])
	}
	for _, r := range recipes512 {
		g.int8x512(r)
	}
	for _, r := range recipes512 {
		g.int8Pair512(r)
	}
	g.peak("peakF32AVX512", "fused multiply-adds of 16 float32", zmm, func(a, b, c reg.VecPhysical) { g.VFMADD231PS(a, b, c) })
	g.peak("peakInt8AVX512", "VPDPBUSD, 64 products of bytes each,", zmm, func(a, b, c reg.VecPhysical) { g.VPDPBUSD(a, b, c) })
}

// sums512 loads the sums from out, or zeros. It clobbers cur and stride.
func (g gen) sums512(rows int, cur, stride reg.GPPhysical) {
	g.Comment("K1 is all ones to accumulate, else the sums start at zero.")
	g.Load(g.Param("accumulate"), cur)
	g.NEGQ(cur)
	g.KMOVW(cur.As32(), reg.K1)
	g.arg("out", cur)
	g.stride("outStride", 2, stride)
	for r := range rows {
		g.VMOVUPS_Z(at(cur, 0), reg.K1, zmm[r])
		g.ADDQ(stride, cur)
	}
}

// store512 stores the sums. It clobbers cur and stride.
func (g gen) store512(rows int, cur, stride reg.GPPhysical) {
	g.arg("out", cur)
	g.stride("outStride", 2, stride)
	for r := range rows {
		g.VMOVUPS(zmm[r], at(cur, 0))
		g.ADDQ(stride, cur)
	}
}

// mix: a 512-bit load takes a cycle and has room for two multiplications. To
// broadcast x from memory for every one would halve the speed, so that for one
// row in mix, four values are loaded at once and spread by shuffles. Those
// share a port with the multiplications; a third of the rows measured best.
const mix = 3

// float512 multiplies with the weights of 4 inputs in registers.
func (g gen) float512(bytes int, widen func(Mem, reg.VecPhysical)) {
	const unroll = 4
	x, xStride, w, k, cur, tmp := reg.RSI, reg.R8, reg.RDI, reg.RCX, reg.RAX, reg.RDX
	wStride, w3Stride := reg.R9, reg.R10
	weights := zmm[12:16]
	g.arg("x", x)
	g.stride("xStride", 2, xStride)
	g.arg("w", w)
	g.stride("wStride", uint64(bytes/2), wStride)
	g.LEAQ(Mem{Base: wStride, Index: wStride, Scale: 2}, w3Stride)
	g.arg("k", k)
	g.rowCases(rows512, cur, func(rows int) {
		label := func(s string) string { return fmt.Sprintf("%s%d", s, rows) }
		step := func(n int) {
			for u := range n {
				widen(weightAt(w, wStride, w3Stride, u, 0), weights[u])
			}
			g.MOVQ(x, cur)
			for r := range rows {
				four := zmm[16+r%4]
				spread := n == unroll && r%mix == mix-1
				if spread {
					g.VBROADCASTF32X4(at(cur, 0), four)
				}
				for u := range n {
					if !spread {
						g.VFMADD231PS_BCST(at(cur, 4*u), weights[u], zmm[r])
						continue
					}
					t := zmm[20+(r*unroll+u)%12]
					g.VPERMILPS(U8(0x55*u), four, t)
					g.VFMADD231PS(t, weights[u], zmm[r])
				}
				if r < rows-1 {
					g.ADDQ(xStride, cur)
				}
			}
			g.ADDQ(U8(4*n), x)
			g.LEAQ(Mem{Base: w, Index: wStride, Scale: uint8(n)}, w)
			g.SUBQ(U8(n), k)
		}
		g.sums512(rows, cur, tmp)
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
		g.store512(rows, cur, tmp)
	})
}
