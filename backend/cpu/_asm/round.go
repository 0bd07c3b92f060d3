package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// round256 is the rounding of activations; avx512 uses it too.
func (g gen) round256() {
	g.begin("roundAVX2", "func(codes []int8, d []float32, sums []int32, x []float32, group int)",
		"roundAVX2 rounds groups to int8. For 0 < len(x), group a multiple of 16:", "",
		"\tfor g := range len(x) / group {",
		"\t\tm := largest of abs(x[g*group:][:group])",
		"\t\tscale := 127 / m",
		"\t\td[g] = m / 127",
		"\t\tif !finite(m) {",
		"\t\t\td[g], scale = NaN, 0",
		"\t\t} else if !finite(scale) {",
		"\t\t\td[g], scale = 0, 0",
		"\t\t}",
		"\t\tfor i := g * group; i < (g+1)*group; i++ {",
		"\t\t\tcodes[i] = 0",
		"\t\t\tif scale > 0 {",
		"\t\t\t\tcodes[i] = roundToEven(x[i] * scale)",
		"\t\t\t}",
		"\t\t}",
		"\t}",
		"\tfor i := range len(x) / 16 {",
		"\t\tsums[i] = sum of codes[16*i:][:16]",
		"\t}")
	const inf, nan = 0x7f800000, 0x7fc00000
	codes, d, sums, x, n, group, i, t := reg.RDI, reg.R8, reg.R9, reg.RSI, reg.RCX, reg.RBX, reg.RAX, reg.RDX
	m, scale, v0, v1, flip, zero, absMask, c127 := reg.X0, reg.Y1, reg.Y2, reg.Y3, reg.X12, reg.X13, reg.Y14, reg.X15
	g.arg("codes", codes)
	g.arg("d", d)
	g.arg("sums", sums)
	g.arg("x", x)
	g.Load(g.Param("x").Len(), n)
	g.arg("group", group)
	constant := func(bits uint32, to reg.Register) {
		g.MOVL(U32(bits), t.As32())
		g.VMOVD(t.As32(), reg.X2)
		g.VPBROADCASTD(reg.X2, to)
	}
	constant(0x7fffffff, absMask)
	constant(0x42fe0000, c127)
	constant(0x80808080, flip)
	g.VPXOR(zero, zero, zero)

	g.Label("next")
	g.Comment("Bits of absolute values order as integers, NaN above infinity.")
	g.VPXOR(v0, v0, v0)
	g.XORL(i.As32(), i.As32())
	g.Label("largest")
	g.VPAND(Mem{Base: x, Index: i, Scale: 4}, absMask, v1)
	g.VPMAXUD(v1, v0, v0)
	g.VPAND(Mem{Base: x, Index: i, Scale: 4, Disp: 32}, absMask, v1)
	g.VPMAXUD(v1, v0, v0)
	g.ADDQ(U8(16), i)
	g.CMPQ(i, group)
	g.JB(LabelRef("largest"))
	g.VEXTRACTI128(U8(1), v0, reg.X3)
	g.VPMAXUD(reg.X3, reg.X2, reg.X2)
	for _, order := range []uint64{0x4e, 0xb1} {
		g.VPSHUFD(U8(order), reg.X2, reg.X3)
		g.VPMAXUD(reg.X3, reg.X2, reg.X2)
	}
	g.VMOVDQA(reg.X2, m)
	g.VMOVD(m, i.As32())
	g.MOVL(U32(nan), t.As32())
	g.CMPL(i.As32(), U32(inf))
	g.JAE(LabelRef("none"))
	g.VDIVSS(m, c127, reg.X1)
	g.VMOVD(reg.X1, i.As32())
	g.XORL(t.As32(), t.As32())
	g.CMPL(i.As32(), U32(inf))
	g.JAE(LabelRef("none"))
	g.VDIVSS(c127, m, m)
	g.VMOVD(m, t.As32())
	g.VBROADCASTSS(reg.X1, scale)

	g.MOVQ(group, i)
	g.Label("round")
	g.VMULPS(at(x, 0), scale, v0)
	g.VMULPS(at(x, 32), scale, v1)
	g.VCVTPS2DQ(v0, v0)
	g.VCVTPS2DQ(v1, v1)
	g.Comment("The pack works on halves: VPERMQ puts the words in order.")
	g.VPACKSSDW(v1, v0, v0)
	g.VPERMQ(U8(0xd8), v0, v0)
	g.VEXTRACTI128(U8(1), v0, reg.X3)
	g.VPACKSSWB(reg.X3, reg.X2, reg.X2)
	g.VMOVDQU(reg.X2, at(codes, 0))
	g.Comment("VPSADBW sums unsigned bytes: 16 codes with 128 added to each.")
	g.VPXOR(flip, reg.X2, reg.X2)
	g.VPSADBW(zero, reg.X2, reg.X2)
	g.VPSHUFD(U8(0x4e), reg.X2, reg.X3)
	g.VPADDD(reg.X3, reg.X2, reg.X2)
	g.VMOVD(reg.X2, reg.R10L)
	g.SUBL(U32(16*128), reg.R10L)
	g.MOVL(reg.R10L, at(sums, 0))
	g.ADDQ(U8(64), x)
	g.ADDQ(U8(16), codes)
	g.ADDQ(U8(4), sums)
	g.SUBQ(U8(16), i)
	g.JNE(LabelRef("round"))
	g.JMP(LabelRef("scale"))

	g.Label("none")
	g.MOVQ(group, i)
	g.Label("zeros")
	g.VMOVDQU(zero, at(codes, 0))
	g.MOVL(U32(0), at(sums, 0))
	g.ADDQ(U8(64), x)
	g.ADDQ(U8(16), codes)
	g.ADDQ(U8(4), sums)
	g.SUBQ(U8(16), i)
	g.JNE(LabelRef("zeros"))

	g.Label("scale")
	g.MOVL(t.As32(), at(d, 0))
	g.ADDQ(U8(4), d)
	g.SUBQ(group, n)
	g.JNE(LabelRef("next"))
	g.VZEROUPPER()
	g.RET()
}
