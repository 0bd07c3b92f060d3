package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rows writes the functions of RMSNorm and RoPE.
func (e elementwise) rows() {
	e.sumSquares()
	e.scaled()
	e.rotate("rotateAVX2", "y[i] = x[i] cos[i] - x[n+i] sin[i] and", "y[n+i] = x[n+i] cos[i] + x[i] sin[i]", e.VSUBPS, e.VADDPS)
	e.rotate("rotateBackAVX2", "y[i] = x[i] cos[i] + x[n+i] sin[i] and", "y[n+i] = x[n+i] cos[i] - x[i] sin[i]", e.VADDPS, e.VSUBPS)
}

func (e elementwise) sumSquares() {
	e.begin("sumSquaresAVX2", "func(x []float32, sums *float64)",
		"sumSquaresAVX2 adds the square of element i of x, of a multiple of 16 elements, more than none, to sums[i%16].")
	x, sums := reg.RSI, reg.RDI
	acc := []reg.VecPhysical{reg.Y8, reg.Y9, reg.Y10, reg.Y11}
	e.each(16, func() {
		e.arg("sums", sums)
		for i, a := range acc {
			e.VMOVUPD(at(sums, 32*i), a)
		}
	}, []walked{{"x", x}}, func() {
		e.Comment("Squares of float32 are exact in float64.")
		for i, a := range acc {
			v := []reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3}[i]
			e.VCVTPS2PD(at(x, 16*i), v)
			e.VFMADD231PD(v, v, a)
		}
	}, func() {
		for i, a := range acc {
			e.VMOVUPD(a, at(sums, 32*i))
		}
	})
}

func (e elementwise) scaled() {
	e.begin("scaledAVX2", "func(y, x, w []float32, s float32)",
		"scaledAVX2 is y = x * s * w for a multiple of 8 elements, more than none.")
	y, x, w := reg.RDI, reg.RSI, reg.RDX
	e.each(8, func() { e.VBROADCASTSS(e.paramAddr("s"), reg.Y8) }, []walked{{"y", y}, {"x", x}, {"w", w}}, func() {
		e.VMULPS(at(x, 0), reg.Y8, reg.Y0)
		e.VMULPS(at(w, 0), reg.Y0, reg.Y0)
		e.VMOVUPS(reg.Y0, at(y, 0))
	}, nothing)
}

// rotate writes the rotation whose halves are made by first and second from the
// products.
func (e elementwise) rotate(name, low, high string, first, second func(ops ...Op)) {
	e.begin(name, "func(cos, sin, y, x []float32)",
		name+" is, with n = len(cos), a multiple of 8, more than 0, "+low,
		high+", products rounded. y may be x.")
	cos, sin, y, x, n := reg.RDI, reg.RSI, reg.RDX, reg.R8, reg.R9
	upper := func(r reg.GPPhysical) Mem { return Mem{Base: r, Index: n, Scale: 4} }
	e.each(8, func() { e.MOVQ(reg.RCX, n) }, []walked{{"cos", cos}, {"sin", sin}, {"y", y}, {"x", x}}, func() {
		e.VMOVUPS(at(cos, 0), reg.Y0)
		e.VMOVUPS(at(sin, 0), reg.Y1)
		e.VMOVUPS(at(x, 0), reg.Y2)
		e.VMOVUPS(upper(x), reg.Y3)
		e.VMULPS(reg.Y0, reg.Y2, reg.Y4)
		e.VMULPS(reg.Y1, reg.Y3, reg.Y5)
		first(reg.Y5, reg.Y4, reg.Y4)
		e.VMULPS(reg.Y0, reg.Y3, reg.Y6)
		e.VMULPS(reg.Y1, reg.Y2, reg.Y7)
		second(reg.Y7, reg.Y6, reg.Y6)
		e.VMOVUPS(reg.Y4, at(y, 0))
		e.VMOVUPS(reg.Y6, upper(y))
	}, nothing)
}
