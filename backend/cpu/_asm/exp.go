package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// expConstants are spread to a vector each, in this order, at the offsets
// 32*index of the table.
var expConstants = []uint32{
	0x42b20000, // 89: above is infinite
	0xc2d00000, // -104: below is 0
	0x3fb8aa3b, // 1/ln 2
	0x4b400000, // 1.5 * 2^23
	0x3f318000, // ln 2, 10 bits
	0xb95e8083, // the rest of it
	0x39500d01, // 1/5040
	0x3ab60b61, // 1/720
	0x3c088889, // 1/120
	0x3d2aaaab, // 1/24
	0x3e2aaaab, // 1/6
	0x3f000000, // 1/2
	0x3f800000, // 1
	0x7f800000, // infinity
	127,
	0x80000000, // the sign
}

const (
	expHigh = iota
	expLow
	expLog2e
	expRound
	expLn2Hi
	expLn2Lo
	exp7
	exp6
	exp5
	exp4
	exp3
	exp2
	expOne
	expInf
	expBias
	expSign
)

// exponents writes the functions around exp. The steps of one vector are those
// of exp32 in package cpu, without fused operations, so that they give the same
// bits.
func exponents(g gen) {
	table := g.StaticGlobal("expTable")
	g.DataAttributes(attr.RODATA | attr.NOPTR)
	for i, c := range expConstants {
		for j := range 8 {
			g.AddDatum(32*i+4*j, U32(c))
		}
	}
	constant := func(i int) Mem { return table.Offset(32 * i) }
	// exp replaces x. It clobbers Y1 to Y6.
	exp := func(x reg.VecPhysical) {
		n, r, p, low, high, nan := reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6
		g.VCMPPS(U8(3), x, x, nan)                     // unordered
		g.VCMPPS(U8(0x1e), constant(expHigh), x, high) // x > 89
		g.VCMPPS(U8(0x11), constant(expLow), x, low)   // x < -104
		g.VMULPS(constant(expLog2e), x, n)
		g.VADDPS(constant(expRound), n, n)
		g.VSUBPS(constant(expRound), n, n)
		g.VMULPS(constant(expLn2Hi), n, r)
		g.VSUBPS(r, x, r)
		g.VMULPS(constant(expLn2Lo), n, p)
		g.VSUBPS(p, r, r)
		g.VMULPS(constant(exp7), r, p)
		g.VADDPS(constant(exp6), p, p)
		for _, c := range []int{exp5, exp4, exp3, exp2} {
			g.VMULPS(r, p, p)
			g.VADDPS(constant(c), p, p)
		}
		g.VMULPS(r, p, p)
		g.VMULPS(r, p, p)
		g.VADDPS(r, p, p)
		g.VADDPS(constant(expOne), p, p)
		g.VBLENDVPS(nan, x, p, p)
		g.VBLENDVPS(high, constant(expInf), p, p)
		g.VANDNPS(p, low, p)
		g.Comment("2^n as the product of its halves")
		g.VCVTTPS2DQ(n, n)
		g.VPSRAD(U8(1), n, r)
		g.VPSUBD(r, n, n)
		for _, h := range []reg.VecPhysical{r, n} {
			g.VPADDD(constant(expBias), h, h)
			g.VPSLLD(U8(23), h, h)
		}
		g.Comment("Where x is outside, n is too: the factors are 1 there.")
		g.VORPS(low, high, high)
		g.VORPS(nan, high, high)
		g.VBLENDVPS(high, constant(expOne), r, r)
		g.VBLENDVPS(high, constant(expOne), n, n)
		g.VMULPS(r, p, p)
		g.VMULPS(n, p, x)
	}
	g.begin("expSumAVX2", "func(x []float32, top float32, lanes *float32)",
		"expSumAVX2 replaces x, of a multiple of 8 elements, more than none, by exp(x-top), and adds",
		"element i to lanes[i%8].")
	x, n, lanes := reg.RSI, reg.RCX, reg.RDI
	g.arg("x", x)
	g.Load(g.Param("x").Len(), n)
	g.VBROADCASTSS(g.paramAddr("top"), reg.Y8)
	g.arg("lanes", lanes)
	g.VMOVUPS(at(lanes, 0), reg.Y9)
	g.Label("loop")
	g.VMOVUPS(at(x, 0), reg.Y0)
	g.VSUBPS(reg.Y8, reg.Y0, reg.Y0)
	exp(reg.Y0)
	g.VMOVUPS(reg.Y0, at(x, 0))
	g.VADDPS(reg.Y0, reg.Y9, reg.Y9)
	g.ADDQ(U8(32), x)
	g.SUBQ(U8(8), n)
	g.JNE(LabelRef("loop"))
	g.VMOVUPS(reg.Y9, at(lanes, 0))
	g.VZEROUPPER()
	g.RET()

	g.begin("scaleMaxAVX2", "func(x []float32, scale float32, lanes *float32)",
		"scaleMaxAVX2 multiplies x, of a multiple of 8 elements, more than none, by scale; lanes[i%8]",
		"becomes the larger of itself and element i, and NaN for good where one is.")
	g.arg("x", x)
	g.Load(g.Param("x").Len(), n)
	g.VBROADCASTSS(g.paramAddr("scale"), reg.Y8)
	g.arg("lanes", lanes)
	g.VMOVUPS(at(lanes, 0), reg.Y9)
	g.VPXOR(reg.Y7, reg.Y7, reg.Y7)
	g.Label("loop")
	g.VMULPS(at(x, 0), reg.Y8, reg.Y0)
	g.VMOVUPS(reg.Y0, at(x, 0))
	g.VCMPPS(U8(3), reg.Y0, reg.Y0, reg.Y1)
	g.VORPS(reg.Y1, reg.Y7, reg.Y7)
	g.VMAXPS(reg.Y0, reg.Y9, reg.Y9)
	g.ADDQ(U8(32), x)
	g.SUBQ(U8(8), n)
	g.JNE(LabelRef("loop"))
	g.VORPS(reg.Y7, reg.Y9, reg.Y9)
	g.VMOVUPS(reg.Y9, at(lanes, 0))
	g.VZEROUPPER()
	g.RET()

	g.begin("swigluAVX2", "func(y, gate, up []float32)",
		"swigluAVX2 is y = gate / (1 + exp(-gate)) * up for a multiple of 8 elements, more than none.")
	y, gate, up := reg.RDI, reg.RSI, reg.RDX
	g.arg("y", y)
	g.Load(g.Param("y").Len(), n)
	g.arg("gate", gate)
	g.arg("up", up)
	g.Label("loop")
	g.VMOVUPS(at(gate, 0), reg.Y7)
	g.VXORPS(constant(expSign), reg.Y7, reg.Y0)
	exp(reg.Y0)
	g.VADDPS(constant(expOne), reg.Y0, reg.Y0)
	g.VDIVPS(reg.Y0, reg.Y7, reg.Y0)
	g.VMULPS(at(up, 0), reg.Y0, reg.Y0)
	g.VMOVUPS(reg.Y0, at(y, 0))
	g.ADDQ(U8(32), gate)
	g.ADDQ(U8(32), up)
	g.ADDQ(U8(32), y)
	g.SUBQ(U8(8), n)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()

	g.begin("addAVX2", "func(y, a, b []float32)", "addAVX2 is y = a + b for a multiple of 8 elements, more than none.")
	g.arg("y", y)
	g.Load(g.Param("y").Len(), n)
	g.arg("a", gate)
	g.arg("b", up)
	g.Label("loop")
	g.VMOVUPS(at(gate, 0), reg.Y0)
	g.VADDPS(at(up, 0), reg.Y0, reg.Y0)
	g.VMOVUPS(reg.Y0, at(y, 0))
	g.ADDQ(U8(32), gate)
	g.ADDQ(U8(32), up)
	g.ADDQ(U8(32), y)
	g.SUBQ(U8(8), n)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()

	g.begin("mixAVX2", "func(y, x []float32, p, q float32)", "mixAVX2 is y = y*p + x*q for a multiple of 8 elements, more than none.")
	g.arg("y", y)
	g.Load(g.Param("y").Len(), n)
	g.arg("x", gate)
	g.VBROADCASTSS(g.paramAddr("p"), reg.Y8)
	g.VBROADCASTSS(g.paramAddr("q"), reg.Y9)
	g.Label("loop")
	g.VMULPS(at(y, 0), reg.Y8, reg.Y0)
	g.VMULPS(at(gate, 0), reg.Y9, reg.Y1)
	g.VADDPS(reg.Y1, reg.Y0, reg.Y0)
	g.VMOVUPS(reg.Y0, at(y, 0))
	g.ADDQ(U8(32), gate)
	g.ADDQ(U8(32), y)
	g.SUBQ(U8(8), n)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()
}

// paramAddr is where a scalar parameter lies.
func (g gen) paramAddr(name string) Mem {
	b, err := g.Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}
