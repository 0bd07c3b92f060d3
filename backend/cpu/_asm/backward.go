package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// backward writes the gradients of SwiGLU and RMSNorm; that of RoPE is a rotation.
func (e elementwise) backward() {
	e.swigluBackward()
	e.swigluBackward512()
	e.normSums()
	e.normBackward()
}

var swigluBackwardDoc = []string{
	"is, with s = 1 / (1 + exp(-gate)), dup = dy*gate*s and",
	"dgate = dy*up*s * (1 + gate*(1-s)), all products and sums rounded. dgate may be gate.",
}

const swigluBackwardSignature = "func(dgate, dup, gate, up, dy []float32)"

// swigluBackwardOperands are the slices in the order of the parameters.
var swigluBackwardOperands = []walked{{"dgate", reg.RDI}, {"dup", reg.RSI}, {"gate", reg.RDX}, {"up", reg.R8}, {"dy", reg.R9}}

func (e elementwise) swigluBackward() {
	e.begin("swigluBackwardAVX2", swigluBackwardSignature, "swigluBackwardAVX2 "+swigluBackwardDoc[0],
		swigluBackwardDoc[1], "For a multiple of 8 elements, more than none.")
	o := swigluBackwardOperands
	e.each(8, nothing, o, func() {
		gate, dy, one, s := reg.Y7, reg.Y8, reg.Y9, reg.Y0
		e.VMOVUPS(at(o[2].at, 0), gate)
		e.VMOVUPS(at(o[4].at, 0), dy)
		e.VMOVUPS(e.constant(expOne), one)
		e.VXORPS(e.constant(expSign), gate, s)
		e.exp(s)
		e.VADDPS(one, s, s)
		e.VDIVPS(s, one, s)
		e.VMULPS(gate, dy, reg.Y1)
		e.VMULPS(s, reg.Y1, reg.Y1)
		e.VMULPS(at(o[3].at, 0), dy, reg.Y2)
		e.VMULPS(s, reg.Y2, reg.Y2)
		e.VSUBPS(s, one, reg.Y3)
		e.VMULPS(gate, reg.Y3, reg.Y3)
		e.VADDPS(one, reg.Y3, reg.Y3)
		e.VMULPS(reg.Y3, reg.Y2, reg.Y2)
		e.VMOVUPS(reg.Y2, at(o[0].at, 0))
		e.VMOVUPS(reg.Y1, at(o[1].at, 0))
	}, nothing)
}

func (e elementwise) swigluBackward512() {
	e.begin("swigluBackwardAVX512", swigluBackwardSignature, "swigluBackwardAVX512 "+swigluBackwardDoc[0],
		swigluBackwardDoc[1], "For more than no elements.")
	o := swigluBackwardOperands
	e.each512(e.constants512, o, func(tail bool) {
		gate, dy, one, s := reg.Z7, reg.Z8, expWide[expOne], reg.Z0
		e.load512(tail, at(o[2].at, 0), gate)
		e.load512(tail, at(o[4].at, 0), dy)
		e.VPXORD(expWide[expSign], gate, s)
		e.exp512(s)
		e.VADDPS(one, s, s)
		e.VDIVPS(s, one, s)
		e.VMULPS(gate, dy, reg.Z1)
		e.VMULPS(s, reg.Z1, reg.Z1)
		e.load512(tail, at(o[3].at, 0), reg.Z2)
		e.VMULPS(reg.Z2, dy, reg.Z2)
		e.VMULPS(s, reg.Z2, reg.Z2)
		e.VSUBPS(s, one, reg.Z3)
		e.VMULPS(gate, reg.Z3, reg.Z3)
		e.VADDPS(one, reg.Z3, reg.Z3)
		e.VMULPS(reg.Z3, reg.Z2, reg.Z2)
		e.store512(tail, reg.Z2, at(o[0].at, 0))
		e.store512(tail, reg.Z1, at(o[1].at, 0))
	}, nothing)
}

func (e elementwise) normSums() {
	e.begin("normSumsAVX2", "func(x, w, dy []float32, sums *float64)",
		"normSumsAVX2 adds the square of element i of x, of a multiple of 16 elements, more than none, to",
		"sums[i%16], and x[i] * float32(w[i]*dy[i]) to sums[16+i%16].")
	x, w, dy, sums := reg.RSI, reg.RDX, reg.R8, reg.RDI
	squares := []reg.VecPhysical{reg.Y8, reg.Y9, reg.Y10, reg.Y11}
	dots := []reg.VecPhysical{reg.Y12, reg.Y13, reg.Y14, reg.Y15}
	move := func(f func(m Mem, y reg.VecPhysical)) {
		for i := range squares {
			f(at(sums, 32*i), squares[i])
			f(at(sums, 128+32*i), dots[i])
		}
	}
	e.each(16, func() {
		e.arg("sums", sums)
		move(func(m Mem, y reg.VecPhysical) { e.VMOVUPD(m, y) })
	}, []walked{{"x", x}, {"w", w}, {"dy", dy}}, func() {
		e.Comment("Products of two float32 are exact in float64.")
		for i := range squares {
			v := []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3}[i]
			g := []reg.VecPhysical{reg.Y4, reg.Y5, reg.Y6, reg.Y7}[i]
			e.VCVTPS2PD(at(x, 16*i), v)
			e.VMOVUPS(at(w, 16*i), g.AsX())
			e.VMULPS(at(dy, 16*i), g.AsX(), g.AsX())
			e.VCVTPS2PD(g.AsX(), g)
			e.VFMADD231PD(v, v, squares[i])
			e.VFMADD231PD(g, v, dots[i])
		}
	}, func() { move(func(m Mem, y reg.VecPhysical) { e.VMOVUPD(y, m) }) })
}

func (e elementwise) normBackward() {
	e.begin("normBackwardAVX2", "func(dx, dw, x, w, dy []float32, s, c float32)",
		"normBackwardAVX2 is dx = w*dy*s - x*c and dw += dy*x*s, products rounded, for a multiple of 8 elements,",
		"more than none.")
	dx, dw, x, w, dy := reg.RDI, reg.RSI, reg.RDX, reg.R8, reg.R9
	s, c := reg.Y8, reg.Y9
	e.each(8, func() {
		e.VBROADCASTSS(e.paramAddr("s"), s)
		e.VBROADCASTSS(e.paramAddr("c"), c)
	}, []walked{{"x", x}, {"dx", dx}, {"dw", dw}, {"w", w}, {"dy", dy}}, func() {
		e.VMOVUPS(at(x, 0), reg.Y0)
		e.VMOVUPS(at(dy, 0), reg.Y1)
		e.VMULPS(at(w, 0), reg.Y1, reg.Y2)
		e.VMULPS(s, reg.Y2, reg.Y2)
		e.VMULPS(c, reg.Y0, reg.Y3)
		e.VSUBPS(reg.Y3, reg.Y2, reg.Y2)
		e.VMOVUPS(reg.Y2, at(dx, 0))
		e.VMULPS(reg.Y0, reg.Y1, reg.Y1)
		e.VMULPS(s, reg.Y1, reg.Y1)
		e.VADDPS(at(dw, 0), reg.Y1, reg.Y1)
		e.VMOVUPS(reg.Y1, at(dw, 0))
	}, nothing)
}
