package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// conversions writes what changes the type of many numbers.
func (g gen) conversions() {
	dst, src, n := reg.RDI, reg.RSI, reg.RCX
	loop := func(name, to, from, what string, bytes, step int, before, body func()) {
		g.begin(name, "func(dst []"+to+", src []"+from+")", name+" "+what)
		g.arg("dst", dst)
		g.arg("src", src)
		g.Load(g.Param("src").Len(), n)
		before()
		g.Label("loop")
		body()
		g.ADDQ(U8(step*bytes), src)
		g.SUBQ(U8(step), n)
		g.JNE(LabelRef("loop"))
		g.VZEROUPPER()
		g.RET()
	}
	loop("widenF16AVX2", "float32", "uint16", "widens float16. 0 < len(src), a multiple of 8.", 2, 8, func() {}, func() {
		g.VCVTPH2PS(at(src, 0), reg.Y0)
		g.VMOVUPS(reg.Y0, at(dst, 0))
		g.ADDQ(U8(32), dst)
	})
	loop("widenBF16AVX2", "float32", "uint16", "widens bfloat16. 0 < len(src), a multiple of 8.", 2, 8, func() {}, func() {
		g.VPMOVZXWD(at(src, 0), reg.Y0)
		g.VPSLLD(U8(16), reg.Y0, reg.Y0)
		g.VMOVUPS(reg.Y0, at(dst, 0))
		g.ADDQ(U8(32), dst)
	})
	loop("widenPairsAVX2", "float32", "uint16", "widens bfloat16 [n/32][16][2] to [n/32][2][16]. 0 < len(src) = n.", 2, 32,
		func() { g.constant256(0xffff0000, reg.Y3) },
		func() {
			for half := range 2 {
				g.VMOVDQU(at(src, 32*half), reg.Y0)
				g.VPSLLD(U8(16), reg.Y0, reg.Y1)
				g.VPAND(reg.Y3, reg.Y0, reg.Y2)
				g.VMOVDQU(reg.Y1, at(dst, 32*half))
				g.VMOVDQU(reg.Y2, at(dst, 64+32*half))
			}
			g.ADDQ(U32(128), dst)
		})
	loop("roundF16AVX2", "uint16", "float32", "rounds to float16, to nearest even; a NaN stays one. 0 < len(src), a multiple of 8.", 4, 8,
		func() {}, func() {
			g.VMOVUPS(at(src, 0), reg.Y0)
			g.VCVTPS2PH(U8(0), reg.Y0, at(dst, 0))
			g.ADDQ(U8(16), dst)
		})
	loop("roundBF16AVX2", "uint16", "float32", "rounds to bfloat16, to nearest even; a NaN stays one. 0 < len(src), a multiple of 16.", 4, 16,
		g.roundConstants, func() {
			for i, y := range []reg.VecPhysical{reg.Y0, reg.Y1} {
				g.roundWords(at(src, 32*i), y)
			}
			g.VPACKUSDW(reg.Y1, reg.Y0, reg.Y0)
			g.VPERMQ(U8(0xd8), reg.Y0, reg.Y0)
			g.VMOVDQU(reg.Y0, at(dst, 0))
			g.ADDQ(U8(32), dst)
		})
}

// constant256 spreads a constant. It clobbers EAX.
func (g gen) constant256(v uint32, y reg.VecPhysical) {
	g.MOVL(U32(v), reg.EAX)
	g.VMOVD(reg.EAX, y.AsX())
	g.VPBROADCASTD(y.AsX(), y)
}

// roundConstants are what roundWords needs in Y12 to Y15.
func (g gen) roundConstants() {
	g.constant256(0x7fff, reg.Y12)
	g.constant256(1, reg.Y13)
	g.constant256(0x7f800000, reg.Y14)
	g.constant256(0x40, reg.Y15)
}

// roundWords loads 8 float32 and rounds them to bfloat16, in the lower halves of y. It
// clobbers Y2 to Y4.
func (g gen) roundWords(m Mem, y reg.VecPhysical) {
	t, nan := reg.Y2, reg.Y3
	g.VMOVDQU(m, y)
	g.VPSLLD(U8(1), y, nan)
	g.VPSRLD(U8(1), nan, nan)
	g.VPCMPGTD(reg.Y14, nan, nan) // magnitudes above infinity
	g.VPSRLD(U8(16), y, t)
	g.VPOR(reg.Y15, t, reg.Y4) // what a NaN becomes
	g.VPAND(reg.Y13, t, t)
	g.VPADDD(reg.Y12, t, t)
	g.VPADDD(t, y, y)
	g.VPSRLD(U8(16), y, y)
	g.VPBLENDVB(nan, reg.Y4, y, y)
}
