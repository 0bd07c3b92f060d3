package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The constants of exp in avx512 stay in registers; they are those of expConstants
// but for two: beyond 90 all is infinite, below -105 zero, and what exp is computed
// from need not be larger for the result to be that.
var expWide = map[int]reg.VecPhysical{
	expHigh: reg.Z16, expLow: reg.Z17, expLog2e: reg.Z18, expRound: reg.Z19, expLn2Hi: reg.Z20, expLn2Lo: reg.Z21,
	exp7: reg.Z22, exp6: reg.Z23, exp5: reg.Z24, exp4: reg.Z25, exp3: reg.Z26, exp2: reg.Z27, expOne: reg.Z28, expSign: reg.Z29,
}

const (
	expWideHigh = 0x42b40000 // 90
	expWideLow  = 0xc2d20000 // -105
)

// wide writes the functions of avx512, for any number of elements, more than none.
// They give the bits of the others.
func (e elementwise) wide() {
	e.expSum512()
	e.scaleMax512()
	e.swiglu512()
	e.adamW512()
}

// each512 runs body for every 16 elements between before and after; with tail set,
// for those that K1 masks. A store through a mask is slow, so only the last is one.
func (e elementwise) each512(before func(), operands []walked, body func(tail bool), after func()) {
	e.many512(1, before, operands, func(_ int, tail bool) { body(tail) }, after)
}

// many512 is each512 whose body takes up to so many vectors at once, or one.
func (e elementwise) many512(most int, before func(), operands []walked, body func(vectors int, tail bool), after func()) {
	e.Load(e.Param(operands[0].name).Len(), reg.RCX)
	for _, o := range operands {
		e.arg(o.name, o.at)
	}
	before()
	loop := func(name, next string, vectors int) {
		e.SUBQ(U32(16*vectors), reg.RCX)
		e.JB(LabelRef(next))
		e.Label(name)
		body(vectors, false)
		for _, o := range operands {
			e.ADDQ(U32(64*vectors), o.at)
		}
		e.SUBQ(U32(16*vectors), reg.RCX)
		e.JAE(LabelRef(name))
		e.Label(next)
	}
	if most > 1 {
		loop("many", "few", most)
		e.ADDQ(U32(16*most), reg.RCX)
	}
	loop("loop", "tail", 1)
	e.ADDQ(U8(16), reg.RCX)
	e.JE(LabelRef("done"))
	e.MOVL(U32(1), reg.EAX)
	e.SHLL(reg.CL, reg.EAX)
	e.SUBL(U8(1), reg.EAX)
	e.KMOVW(reg.EAX, reg.K1)
	body(1, true)
	e.Label("done")
	after()
	e.VZEROUPPER()
	e.RET()
}

// load512 and store512 move 16 elements, or those that K1 masks; the rest are zeros.
func (e elementwise) load512(tail bool, m Mem, z reg.VecPhysical) {
	if tail {
		e.VMOVUPS_Z(m, reg.K1, z)
	} else {
		e.VMOVUPS(m, z)
	}
}

func (e elementwise) store512(tail bool, z reg.VecPhysical, m Mem) {
	if tail {
		e.VMOVUPS(z, reg.K1, m)
	} else {
		e.VMOVUPS(z, m)
	}
}

// reduce512 makes one of 16 lanes: of each two halves, the other added to the first
// or the larger.
func (e elementwise) reduce512(z reg.VecPhysical, op func(ops ...Op)) {
	x, y := z.AsX(), reg.Z0
	e.VEXTRACTF32X8(U8(1), z, y.AsY())
	op(y.AsY(), z.AsY(), z.AsY())
	e.VEXTRACTF128(U8(1), z.AsY(), y.AsX())
	op(y.AsX(), x, x)
	e.VPSHUFD(U8(0xee), x, y.AsX())
	op(y.AsX(), x, x)
	e.VPSHUFD(U8(0x55), x, y.AsX())
	op(y.AsX(), x, x)
}

// constants512 loads the constants of exp.
func (e elementwise) constants512() {
	for i := range expConstants {
		z, ok := expWide[i]
		if !ok {
			continue
		}
		switch i {
		case expHigh, expLow:
			e.MOVL(U32(map[int]uint32{expHigh: expWideHigh, expLow: expWideLow}[i]), reg.EAX)
			e.VPBROADCASTD(reg.EAX, z)
		default:
			e.VBROADCASTSS(e.constant(i), z)
		}
	}
}

// exp512 replaces x. It clobbers Z1 to Z3. See exp; VSCALEFPS rounds once, as the
// product of the halves of 2^n does.
func (e elementwise) exp512(x reg.VecPhysical) { e.exps512([]reg.VecPhysical{x}) }

// expVectors is how many exponentials are best computed side by side: the scheduler is
// too small to see from one to the next.
const expVectors = 4

// expOf are the vectors of exps512: it clobbers the three after each.
func expOf(vectors int) (xs []reg.VecPhysical) {
	for i := range vectors {
		xs = append(xs, zmm[4*i])
	}
	return xs
}

// exps512 is exp512 of vectors that are expOf.
func (e elementwise) exps512(xs []reg.VecPhysical) {
	c := expWide
	step := func(f func(x, n, r, p reg.VecPhysical)) {
		for i, x := range xs {
			f(x, zmm[4*i+1], zmm[4*i+2], zmm[4*i+3])
		}
	}
	step(func(x, n, r, p reg.VecPhysical) { e.VMINPS(x, c[expHigh], x) }) // a NaN stays: it is the second operand of the two
	step(func(x, n, r, p reg.VecPhysical) { e.VMAXPS(x, c[expLow], x) })
	step(func(x, n, r, p reg.VecPhysical) { e.VMULPS(c[expLog2e], x, n) })
	step(func(x, n, r, p reg.VecPhysical) { e.VADDPS(c[expRound], n, n) })
	step(func(x, n, r, p reg.VecPhysical) { e.VSUBPS(c[expRound], n, n) })
	step(func(x, n, r, p reg.VecPhysical) { e.VMULPS(c[expLn2Hi], n, r) })
	step(func(x, n, r, p reg.VecPhysical) { e.VSUBPS(r, x, r) })
	step(func(x, n, r, p reg.VecPhysical) { e.VMULPS(c[expLn2Lo], n, p) })
	step(func(x, n, r, p reg.VecPhysical) { e.VSUBPS(p, r, r) })
	step(func(x, n, r, p reg.VecPhysical) { e.VMULPS(c[exp7], r, p) })
	step(func(x, n, r, p reg.VecPhysical) { e.VADDPS(c[exp6], p, p) })
	for _, i := range []int{exp5, exp4, exp3, exp2} {
		step(func(x, n, r, p reg.VecPhysical) { e.VMULPS(r, p, p) })
		step(func(x, n, r, p reg.VecPhysical) { e.VADDPS(c[i], p, p) })
	}
	step(func(x, n, r, p reg.VecPhysical) { e.VMULPS(r, p, p) })
	step(func(x, n, r, p reg.VecPhysical) { e.VMULPS(r, p, p) })
	step(func(x, n, r, p reg.VecPhysical) { e.VADDPS(r, p, p) })
	step(func(x, n, r, p reg.VecPhysical) { e.VADDPS(c[expOne], p, p) })
	step(func(x, n, r, p reg.VecPhysical) { e.VSCALEFPS(n, p, x) })
}

func (e elementwise) expSum512() {
	e.begin("expSumAVX512", "func(x []float32, top float32) (sum float32)",
		"expSumAVX512 replaces x, more than no elements, by exp(x-top) and returns their sum: element i",
		"is added to lane i%16, then of each two halves of the lanes the second to the first.")
	x, top, sum := reg.RSI, reg.Z30, reg.Z31
	e.many512(expVectors, func() {
		e.VBROADCASTSS(e.paramAddr("top"), top)
		e.VPXORD(sum, sum, sum)
		e.constants512()
	}, []walked{{"x", x}}, func(vectors int, tail bool) {
		vs := expOf(vectors)
		for i, v := range vs {
			e.load512(tail, at(x, 64*i), v)
			e.VSUBPS(top, v, v)
		}
		e.exps512(vs)
		for i, v := range vs {
			e.store512(tail, v, at(x, 64*i))
			if tail {
				e.VADDPS(v, sum, reg.K1, sum)
			} else {
				e.VADDPS(v, sum, sum)
			}
		}
	}, func() {
		e.VMOVAPS(sum, reg.Z9)
		e.reduce512(reg.Z9, e.VADDPS)
		e.Store(reg.X9, e.ReturnIndex(0))
	})
}

func (e elementwise) scaleMax512() {
	e.begin("scaleMaxAVX512", "func(x []float32, scale float32) (top float32)",
		"scaleMaxAVX512 multiplies x, more than no elements, by scale and returns the largest, or NaN",
		"where one is.")
	x, top := reg.RSI, reg.Z9
	e.each512(func() {
		e.VBROADCASTSS(e.paramAddr("scale"), reg.Z8)
		e.MOVL(U32(0xff800000), reg.EAX) // minus infinity
		e.VPBROADCASTD(reg.EAX, top)
		e.KXORW(reg.K3, reg.K3, reg.K3)
	}, []walked{{"x", x}}, func(tail bool) {
		e.load512(tail, at(x, 0), reg.Z0)
		e.VMULPS(reg.Z8, reg.Z0, reg.Z0)
		e.store512(tail, reg.Z0, at(x, 0))
		if tail {
			e.VCMPPS(U8(3), reg.Z0, reg.Z0, reg.K1, reg.K2) // unordered
			e.VMAXPS(reg.Z0, top, reg.K1, top)
		} else {
			e.VCMPPS(U8(3), reg.Z0, reg.Z0, reg.K2)
			e.VMAXPS(reg.Z0, top, top)
		}
		e.KORW(reg.K2, reg.K3, reg.K3)
	}, func() {
		e.reduce512(top, e.VMAXPS)
		e.KORTESTW(reg.K3, reg.K3)
		e.JE(LabelRef("numbers"))
		e.MOVL(U32(0x7fc00000), reg.EAX)
		e.VMOVD(reg.EAX, top.AsX())
		e.Label("numbers")
		e.Store(top.AsX(), e.ReturnIndex(0))
	})
}

func (e elementwise) swiglu512() {
	e.begin("swigluAVX512", "func(y, gate, up []float32)", "swigluAVX512 is y = gate / (1 + exp(-gate)) * up for more than no elements.")
	y, gate, up := reg.RDI, reg.RSI, reg.RDX
	e.each512(e.constants512, []walked{{"y", y}, {"gate", gate}, {"up", up}}, func(tail bool) {
		e.load512(tail, at(gate, 0), reg.Z7)
		e.VPXORD(expWide[expSign], reg.Z7, reg.Z0)
		e.exp512(reg.Z0)
		e.VADDPS(expWide[expOne], reg.Z0, reg.Z0)
		e.VDIVPS(reg.Z0, reg.Z7, reg.Z0)
		e.load512(tail, at(up, 0), reg.Z7)
		e.VMULPS(reg.Z7, reg.Z0, reg.Z0)
		e.store512(tail, reg.Z0, at(y, 0))
	}, nothing)
}
