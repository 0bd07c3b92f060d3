package main

import (
	"github.com/mmcloughlin/avo/reg"
)

// The numbers of AdamW in package kernel, in the order of its fields.
const (
	adamScale = iota
	adamBeta1
	adamNew1
	adamBeta2
	adamNew2
	adamRoot
	adamEps
	adamStep
	adamDecay
	adamNumbers
)

var (
	adamW, adamM, adamV, adamG = reg.RDI, reg.RSI, reg.RDX, reg.R8
	adamWalked                 = []walked{{"w", adamW}, {"m", adamM}, {"v", adamV}, {"g", adamG}}
)

func (e elementwise) beginAdamW(name, elements string) {
	e.begin(name, "func(w, m, v, g []float32, p *float32)",
		name+" changes w, m and v by g, for "+elements+". p is the first of the step's",
		"numbers, an AdamW. Every operation is rounded:", "",
		"\tx := p.scale * g[i]",
		"\tm[i] = p.beta1*m[i] + p.new1*x",
		"\tv[i] = p.beta2*v[i] + p.new2*x*x",
		"\tw[i] = w[i] - p.decay*w[i] - p.step*(m[i]/(sqrt(v[i])*p.root+p.eps))")
}

// adamNumbersIn spreads the numbers of the step to vectors.
func (e elementwise) adamNumbersIn(c []reg.VecPhysical) {
	p := reg.R9
	e.arg("p", p)
	for i := range adamNumbers {
		e.VBROADCASTSS(at(p, 4*i), c[i])
	}
}

// adamElements computes a vector of elements. w, m and v are what was loaded, and
// become what is stored; x is the gradient.
func (e elementwise) adamElements(c []reg.VecPhysical, x, w, m, v, t reg.VecPhysical) {
	e.VMULPS(c[adamScale], x, x)
	e.VMULPS(c[adamBeta1], m, m)
	e.VMULPS(c[adamNew1], x, t)
	e.VADDPS(t, m, m)
	e.VMULPS(c[adamBeta2], v, v)
	e.VMULPS(c[adamNew2], x, t)
	e.VMULPS(x, t, t)
	e.VADDPS(t, v, v)
	e.VSQRTPS(v, t)
	e.VMULPS(c[adamRoot], t, t)
	e.VADDPS(c[adamEps], t, t)
	e.VDIVPS(t, m, t)
	e.VMULPS(c[adamStep], t, t)
	e.VMULPS(c[adamDecay], w, x)
	e.VSUBPS(x, w, w)
	e.VSUBPS(t, w, w)
}

func (e elementwise) adamW() {
	e.beginAdamW("adamWAVX2", "a multiple of 8 elements, more than none")
	c, x, w, m, v, t := ymm[7:], reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4
	e.each(8, func() { e.adamNumbersIn(c) }, adamWalked, func() {
		e.VMOVUPS(at(adamG, 0), x)
		e.VMOVUPS(at(adamM, 0), m)
		e.VMOVUPS(at(adamV, 0), v)
		e.VMOVUPS(at(adamW, 0), w)
		e.adamElements(c, x, w, m, v, t)
		e.VMOVUPS(m, at(adamM, 0))
		e.VMOVUPS(v, at(adamV, 0))
		e.VMOVUPS(w, at(adamW, 0))
	}, nothing)
}

func (e elementwise) adamW512() {
	e.beginAdamW("adamWAVX512", "more than no elements")
	c, x, w, m, v, t := zmm[16:], reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4
	e.each512(func() { e.adamNumbersIn(c) }, adamWalked, func(tail bool) {
		e.load512(tail, at(adamG, 0), x)
		e.load512(tail, at(adamM, 0), m)
		e.load512(tail, at(adamV, 0), v)
		e.load512(tail, at(adamW, 0), w)
		e.adamElements(c, x, w, m, v, t)
		e.store512(tail, m, at(adamM, 0))
		e.store512(tail, v, at(adamV, 0))
		e.store512(tail, w, at(adamW, 0))
	}, nothing)
}
