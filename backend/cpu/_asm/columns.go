package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// columns writes the functions of attention whose elements are scores of a key with
// one query each.
func (e elementwise) columns() {
	e.binary("mulAVX2", "y is a * b", e.VMULPS)
	e.scale()
	e.dot()
	e.maxInto()
	e.expInto()
	e.expInto512()
	e.expPairs512()
	e.scoreGrads()
	e.scoreGrads512("scoreGradsAVX512", false)
	e.scoreGrads512("scoreGrads16AVX512", true)
}

// binary writes a function of two slices.
func (e elementwise) binary(name, doc string, op func(ops ...Op)) {
	e.begin(name, "func(y, a, b []float32)", name+": "+doc+" for a multiple of 8 elements, more than none.")
	y, a, b := reg.RDI, reg.RSI, reg.RDX
	e.each(8, nothing, []walked{{"y", y}, {"a", a}, {"b", b}}, func() {
		e.VMOVUPS(at(a, 0), reg.Y0)
		op(at(b, 0), reg.Y0, reg.Y0)
		e.VMOVUPS(reg.Y0, at(y, 0))
	}, nothing)
}

func (e elementwise) scale() {
	e.begin("scaleAVX2", "func(y, x []float32, s float32)", "scaleAVX2: y is x * s for a multiple of 8 elements, more than none.")
	y, x := reg.RDI, reg.RSI
	e.each(8, func() { e.VBROADCASTSS(e.paramAddr("s"), reg.Y8) }, []walked{{"y", y}, {"x", x}}, func() {
		e.VMULPS(at(x, 0), reg.Y8, reg.Y0)
		e.VMOVUPS(reg.Y0, at(y, 0))
	}, nothing)
}

func (e elementwise) dot() {
	e.begin("dotAVX2", "func(a, b []float32, sums *float32)",
		"dotAVX2 adds the product, rounded, of elements i of a and b, of a multiple of 16, more than none, to sums[i%16].")
	a, b, sums := reg.RDI, reg.RSI, reg.RDX
	acc := []reg.VecPhysical{reg.Y8, reg.Y9}
	e.each(16, func() {
		e.arg("sums", sums)
		for i, y := range acc {
			e.VMOVUPS(at(sums, 32*i), y)
		}
	}, []walked{{"a", a}, {"b", b}}, func() {
		for i, y := range acc {
			v := []reg.VecPhysical{reg.Y0, reg.Y1}[i]
			e.VMOVUPS(at(a, 32*i), v)
			e.VMULPS(at(b, 32*i), v, v)
			e.VADDPS(v, y, y)
		}
	}, func() {
		for i, y := range acc {
			e.VMOVUPS(y, at(sums, 32*i))
		}
	})
}

// expPairs512 takes two rows whose elements it puts side by side.
func (e elementwise) expPairs512() {
	e.begin("expPairsAVX512", "func(pairs []uint16, a, b, m, sum []float32)",
		"expPairsAVX512 rounds exp(a - m) and exp(b - m) to bfloat16, denormal numbers to zero, and puts elements i at",
		"pairs[2*i] and pairs[2*i+1]; both, not rounded, are added to sum. For a multiple of 16 elements, more than none.")
	a, b, m, sum, pairs := reg.RDI, reg.RSI, reg.RDX, reg.R8, reg.R9
	e.each512(func() {
		e.constants512()
		e.arg("pairs", pairs)
	}, []walked{{"a", a}, {"b", b}, {"m", m}, {"sum", sum}}, func(tail bool) {
		if tail {
			return
		}
		e.VMOVUPS(at(m, 0), reg.Z7)
		e.VMOVUPS(at(sum, 0), reg.Z8)
		for i, x := range []reg.GPPhysical{a, b} {
			e.VMOVUPS(at(x, 0), reg.Z0)
			e.VSUBPS(reg.Z7, reg.Z0, reg.Z0)
			e.exp512(reg.Z0)
			e.VADDPS(reg.Z0, reg.Z8, reg.Z8)
			half := []reg.VecPhysical{reg.Y4, reg.Y5}[i]
			e.roundBF16(reg.Z0, half)
			e.VPMOVZXWD(half, half.AsZ())
		}
		e.VMOVUPS(reg.Z8, at(sum, 0))
		e.VPSLLD(U8(16), reg.Z5, reg.Z5)
		e.VPORD(reg.Z5, reg.Z4, reg.Z4)
		e.VMOVUPS(reg.Z4, at(pairs, 0))
		e.ADDQ(U8(64), pairs)
	}, nothing)
}

func (e elementwise) maxInto() {
	e.begin("maxIntoAVX2", "func(m, x []float32)",
		"maxIntoAVX2: m becomes x where that is larger, for a multiple of 8 elements, more than none.")
	m, x := reg.RDI, reg.RSI
	e.each(8, nothing, []walked{{"m", m}, {"x", x}}, func() {
		e.VMOVUPS(at(x, 0), reg.Y0)
		e.VMAXPS(at(m, 0), reg.Y0, reg.Y0) // m where one is NaN
		e.VMOVUPS(reg.Y0, at(m, 0))
	}, nothing)
}

const expIntoDoc = "is x = exp(x - m), added to sum,"

func (e elementwise) expInto() {
	e.begin("expIntoAVX2", "func(x, m, sum []float32)", "expIntoAVX2 "+expIntoDoc+" for a multiple of 8 elements, more than none.")
	x, m, sum := reg.RDI, reg.RSI, reg.RDX
	e.each(8, nothing, []walked{{"x", x}, {"m", m}, {"sum", sum}}, func() {
		e.VMOVUPS(at(x, 0), reg.Y0)
		e.VSUBPS(at(m, 0), reg.Y0, reg.Y0)
		e.exp(reg.Y0)
		e.VMOVUPS(reg.Y0, at(x, 0))
		e.VADDPS(at(sum, 0), reg.Y0, reg.Y0)
		e.VMOVUPS(reg.Y0, at(sum, 0))
	}, nothing)
}

func (e elementwise) expInto512() {
	e.begin("expIntoAVX512", "func(x, m, sum []float32)", "expIntoAVX512 "+expIntoDoc+" for more than no elements.")
	x, m, sum := reg.RDI, reg.RSI, reg.RDX
	e.each512(e.constants512, []walked{{"x", x}, {"m", m}, {"sum", sum}}, func(tail bool) {
		e.load512(tail, at(x, 0), reg.Z0)
		e.load512(tail, at(m, 0), reg.Z7)
		e.VSUBPS(reg.Z7, reg.Z0, reg.Z0)
		e.exp512(reg.Z0)
		e.load512(tail, at(sum, 0), reg.Z7)
		e.store512(tail, reg.Z0, at(x, 0))
		e.VADDPS(reg.Z7, reg.Z0, reg.Z7)
		e.store512(tail, reg.Z7, at(sum, 0))
	}, nothing)
}

const scoreGradsDoc = "is s = exp(s - lse) and ds = s * (ds - d), differences and products rounded,"

func (e elementwise) scoreGrads() {
	e.begin("scoreGradsAVX2", "func(s, ds, lse, d []float32)", "scoreGradsAVX2 "+scoreGradsDoc,
		"for a multiple of 8 elements, more than none.")
	s, ds, lse, d := reg.RDI, reg.RSI, reg.RDX, reg.R8
	e.each(8, nothing, []walked{{"s", s}, {"ds", ds}, {"lse", lse}, {"d", d}}, func() {
		e.VMOVUPS(at(s, 0), reg.Y0)
		e.VSUBPS(at(lse, 0), reg.Y0, reg.Y0)
		e.exp(reg.Y0)
		e.VMOVUPS(at(ds, 0), reg.Y1)
		e.VSUBPS(at(d, 0), reg.Y1, reg.Y1)
		e.VMULPS(reg.Y0, reg.Y1, reg.Y1)
		e.VMOVUPS(reg.Y0, at(s, 0))
		e.VMOVUPS(reg.Y1, at(ds, 0))
	}, nothing)
}

// scoreGrads512 is scoreGrads for any number of elements. Where rounded, s and ds are
// rounded to bfloat16 into p and g, too, which may be short of denormal numbers; the
// number of elements is a multiple of 16.
func (e elementwise) scoreGrads512(name string, rounded bool) {
	s, ds, lse, d, p, g := reg.RDI, reg.RSI, reg.RDX, reg.R8, reg.R9, reg.R10
	operands := []walked{{"s", s}, {"ds", ds}, {"lse", lse}, {"d", d}}
	if rounded {
		e.begin(name, "func(p, g []uint16, s, ds, lse, d []float32)", name+" "+scoreGradsDoc,
			"and p and g the two as bfloat16, for a multiple of 16 elements, more than none. s stays as it was.")
	} else {
		e.begin(name, "func(s, ds, lse, d []float32)", name+" "+scoreGradsDoc, "for more than no elements.")
	}
	e.each512(func() {
		e.constants512()
		if rounded {
			e.arg("p", p)
			e.arg("g", g)
		}
	}, operands, func(tail bool) {
		if tail && rounded {
			return
		}
		e.load512(tail, at(s, 0), reg.Z0)
		e.load512(tail, at(lse, 0), reg.Z7)
		e.VSUBPS(reg.Z7, reg.Z0, reg.Z0)
		e.exp512(reg.Z0)
		e.load512(tail, at(ds, 0), reg.Z4)
		e.load512(tail, at(d, 0), reg.Z7)
		e.VSUBPS(reg.Z7, reg.Z4, reg.Z4)
		e.VMULPS(reg.Z0, reg.Z4, reg.Z4)
		e.store512(tail, reg.Z4, at(ds, 0))
		if !rounded {
			e.store512(tail, reg.Z0, at(s, 0))
			return
		}
		e.roundBF16(reg.Z0, reg.Y0)
		e.roundBF16(reg.Z4, reg.Y4)
		e.VMOVUPS(reg.Y0, at(p, 0))
		e.VMOVUPS(reg.Y4, at(g, 0))
		e.ADDQ(U8(32), p)
		e.ADDQ(U8(32), g)
	}, nothing)
}
