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

// elementwise writes functions over slices of a multiple of 8 elements, more
// than none. RCX counts elements.
type elementwise struct {
	gen
	table Mem // expConstants
}

// exponents writes the functions around exp.
func exponents(g gen) {
	e := elementwise{g, g.StaticGlobal("expTable")}
	g.DataAttributes(attr.RODATA | attr.NOPTR)
	for i, c := range expConstants {
		for j := range 8 {
			g.AddDatum(32*i+4*j, U32(c))
		}
	}
	e.expSum()
	e.scaleMax()
	e.swiglu()
	e.add()
	e.mix()
	e.rows()
	e.backward()
	e.adamW()
	e.measureScales()
	e.columns()
	e.wide()
}

func (e elementwise) constant(i int) Mem { return e.table.Offset(32 * i) }

// walked is a slice parameter and the register that walks along it.
type walked struct {
	name string
	at   reg.GPPhysical
}

// each loads the operands' addresses and runs body between before and after for 8
// elements of every step of them.
func (e elementwise) each(step int, before func(), operands []walked, body, after func()) {
	e.Load(e.Param(operands[0].name).Len(), reg.RCX)
	for _, o := range operands {
		e.arg(o.name, o.at)
	}
	before()
	e.Label("loop")
	body()
	for _, o := range operands {
		e.ADDQ(U8(4*step), o.at)
	}
	e.SUBQ(U8(step), reg.RCX)
	e.JG(LabelRef("loop"))
	after()
	e.VZEROUPPER()
	e.RET()
}

// nothing is a before or an after.
func nothing() {}

// exp replaces x. It clobbers Y1 to Y6. The steps are those of Exp in package
// kernel, without fused operations, so that they give the same bits.
func (e elementwise) exp(x reg.VecPhysical) {
	n, r, p, low, high, nan := reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6
	e.VCMPPS(U8(3), x, x, nan)                       // unordered
	e.VCMPPS(U8(0x1e), e.constant(expHigh), x, high) // x > 89
	e.VCMPPS(U8(0x11), e.constant(expLow), x, low)   // x < -104
	e.VMULPS(e.constant(expLog2e), x, n)
	e.VADDPS(e.constant(expRound), n, n)
	e.VSUBPS(e.constant(expRound), n, n)
	e.VMULPS(e.constant(expLn2Hi), n, r)
	e.VSUBPS(r, x, r)
	e.VMULPS(e.constant(expLn2Lo), n, p)
	e.VSUBPS(p, r, r)
	e.VMULPS(e.constant(exp7), r, p)
	e.VADDPS(e.constant(exp6), p, p)
	for _, c := range []int{exp5, exp4, exp3, exp2} {
		e.VMULPS(r, p, p)
		e.VADDPS(e.constant(c), p, p)
	}
	e.VMULPS(r, p, p)
	e.VMULPS(r, p, p)
	e.VADDPS(r, p, p)
	e.VADDPS(e.constant(expOne), p, p)
	e.VBLENDVPS(nan, x, p, p)
	e.VBLENDVPS(high, e.constant(expInf), p, p)
	e.VANDNPS(p, low, p)
	e.Comment("2^n as the product of its halves")
	e.VCVTTPS2DQ(n, n)
	e.VPSRAD(U8(1), n, r)
	e.VPSUBD(r, n, n)
	for _, h := range []reg.VecPhysical{r, n} {
		e.VPADDD(e.constant(expBias), h, h)
		e.VPSLLD(U8(23), h, h)
	}
	e.Comment("Where x is outside, n is too: the factors are 1 there.")
	e.VORPS(low, high, high)
	e.VORPS(nan, high, high)
	e.VBLENDVPS(high, e.constant(expOne), r, r)
	e.VBLENDVPS(high, e.constant(expOne), n, n)
	e.VMULPS(r, p, p)
	e.VMULPS(n, p, x)
}

// lanes is a before and an after: Y9 is what the parameter lanes points to, Y8
// the scalar parameter spread.
func (e elementwise) lanes(scalar string) (load, store func()) {
	lanes := reg.RDI
	load = func() {
		e.VBROADCASTSS(e.paramAddr(scalar), reg.Y8)
		e.arg("lanes", lanes)
		e.VMOVUPS(at(lanes, 0), reg.Y9)
	}
	return load, func() { e.VMOVUPS(reg.Y9, at(lanes, 0)) }
}

func (e elementwise) expSum() {
	e.begin("expSumAVX2", "func(x []float32, top float32, lanes *float32)",
		"expSumAVX2 replaces every other 8 of x, of a multiple of 8 elements, more than none, by exp(x-top),",
		"and adds element i to lanes[i%8].")
	x := reg.RSI
	load, store := e.lanes("top")
	e.each(16, load, []walked{{"x", x}}, func() {
		e.VMOVUPS(at(x, 0), reg.Y0)
		e.VSUBPS(reg.Y8, reg.Y0, reg.Y0)
		e.exp(reg.Y0)
		e.VMOVUPS(reg.Y0, at(x, 0))
		e.VADDPS(reg.Y0, reg.Y9, reg.Y9)
	}, store)
}

func (e elementwise) scaleMax() {
	e.begin("scaleMaxAVX2", "func(x []float32, scale float32, lanes *float32)",
		"scaleMaxAVX2 multiplies every other 8 of x, of a multiple of 8 elements, more than none, by scale;",
		"lanes[i%8] becomes the larger of itself and element i, and NaN for good where one is.")
	x, nan := reg.RSI, reg.Y7
	load, store := e.lanes("scale")
	e.each(16, func() { load(); e.VPXOR(nan, nan, nan) }, []walked{{"x", x}}, func() {
		e.VMULPS(at(x, 0), reg.Y8, reg.Y0)
		e.VMOVUPS(reg.Y0, at(x, 0))
		e.VCMPPS(U8(3), reg.Y0, reg.Y0, reg.Y1)
		e.VORPS(reg.Y1, nan, nan)
		e.VMAXPS(reg.Y0, reg.Y9, reg.Y9)
	}, func() { e.VORPS(nan, reg.Y9, reg.Y9); store() })
}

func (e elementwise) swiglu() {
	e.begin("swigluAVX2", "func(y, gate, up []float32)",
		"swigluAVX2 is y = gate / (1 + exp(-gate)) * up for a multiple of 8 elements, more than none.")
	y, gate, up := reg.RDI, reg.RSI, reg.RDX
	e.each(8, nothing, []walked{{"y", y}, {"gate", gate}, {"up", up}}, func() {
		e.VMOVUPS(at(gate, 0), reg.Y7)
		e.VXORPS(e.constant(expSign), reg.Y7, reg.Y0)
		e.exp(reg.Y0)
		e.VADDPS(e.constant(expOne), reg.Y0, reg.Y0)
		e.VDIVPS(reg.Y0, reg.Y7, reg.Y0)
		e.VMULPS(at(up, 0), reg.Y0, reg.Y0)
		e.VMOVUPS(reg.Y0, at(y, 0))
	}, nothing)
}

func (e elementwise) add() {
	e.begin("addAVX2", "func(y, a, b []float32)", "addAVX2 is y = a + b for a multiple of 8 elements, more than none.")
	y, a, b := reg.RDI, reg.RSI, reg.RDX
	e.each(8, nothing, []walked{{"y", y}, {"a", a}, {"b", b}}, func() {
		e.VMOVUPS(at(a, 0), reg.Y0)
		e.VADDPS(at(b, 0), reg.Y0, reg.Y0)
		e.VMOVUPS(reg.Y0, at(y, 0))
	}, nothing)
}

func (e elementwise) mix() {
	e.begin("mixAVX2", "func(y, x []float32, p, q float32)", "mixAVX2 is y = y*p + x*q for a multiple of 8 elements, more than none.")
	y, x := reg.RDI, reg.RSI
	e.each(8, func() {
		e.VBROADCASTSS(e.paramAddr("p"), reg.Y8)
		e.VBROADCASTSS(e.paramAddr("q"), reg.Y9)
	}, []walked{{"y", y}, {"x", x}}, func() {
		e.VMULPS(at(y, 0), reg.Y8, reg.Y0)
		e.VMULPS(at(x, 0), reg.Y9, reg.Y1)
		e.VADDPS(reg.Y1, reg.Y0, reg.Y0)
		e.VMOVUPS(reg.Y0, at(y, 0))
	}, nothing)
}

// paramAddr is where a scalar parameter lies.
func (g gen) paramAddr(name string) Mem {
	b, err := g.Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}
