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
	e.scale16()
	e.interleave()
	e.scoreGrads()
	e.scoreGrads512("scoreGradsAVX512", false)
	e.scoreGrads512("scoreGrads16AVX512", true)
}

// fastExps512 is exps512 with fused operations and a polynomial whose halves are computed
// side by side: half the latency, other bits. x is at most 89. It clobbers Z16 and Z29 to
// Z31, too.
func (e elementwise) fastExps512(xs []reg.VecPhysical) {
	c, second := expWide, []reg.VecPhysical{expWide[expHigh], expWide[expSign], reg.Z30, reg.Z31}
	step := func(f func(x, n, r, p, q reg.VecPhysical)) {
		for i, x := range xs {
			f(x, zmm[4*i+1], zmm[4*i+2], zmm[4*i+3], second[i])
		}
	}
	step(func(x, n, r, p, q reg.VecPhysical) { e.VMAXPS(x, c[expLow], x) }) // a NaN stays
	step(func(x, n, r, p, q reg.VecPhysical) { e.VMOVAPS(x, n); e.VFMADD213PS(c[expRound], c[expLog2e], n) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VSUBPS(c[expRound], n, n); e.VMOVAPS(x, r) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VFNMADD231PS(c[expLn2Hi], n, r) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VFNMADD231PS(c[expLn2Lo], n, r) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VMOVAPS(c[exp7], p); e.VFMADD213PS(c[exp6], r, p) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VMOVAPS(c[exp5], q); e.VFMADD213PS(c[exp4], r, q) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VMULPS(r, r, x) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VFMADD213PS(q, x, p) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VMOVAPS(c[exp3], q); e.VFMADD213PS(c[exp2], r, q) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VFMADD213PS(q, x, p) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VFMADD213PS(r, x, p) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VADDPS(c[expOne], p, p) })
	step(func(x, n, r, p, q reg.VecPhysical) { e.VSCALEFPS(n, p, x) })
}

// scale16 and interleave lay out what products of bfloat16 take.
func (e elementwise) scale16() {
	e.begin("scale16AVX512", "func(x []float32, y []uint16, s float32)",
		"scale16AVX512 rounds x * s to bfloat16, denormal numbers to zero, for a multiple of 16 elements, more than none.")
	x, y := reg.RSI, reg.RDI
	e.each512(func() {
		e.VBROADCASTSS(e.paramAddr("s"), reg.Z8)
		e.arg("y", y)
	}, []walked{{"x", x}}, func(tail bool) {
		if tail {
			return
		}
		e.VMULPS(at(x, 0), reg.Z8, reg.Z0)
		e.roundBF16(reg.Z0, reg.Z0)
		e.VMOVUPS(reg.Y0, at(y, 0))
		e.ADDQ(U8(32), y)
	}, nothing)
}

func (e elementwise) interleave() {
	e.begin("interleaveAVX512", "func(a, b, y []uint16)",
		"interleaveAVX512: y[2*i] is a[i] and y[2*i+1] b[i] for a multiple of 16 elements of a, more than none.")
	a, b, y := reg.RSI, reg.RDX, reg.RDI
	e.each512(func() {
		e.arg("b", b)
		e.arg("y", y)
	}, []walked{{"a", a}}, func(tail bool) {
		if tail {
			return
		}
		e.VPMOVZXWD(at(a, 0), reg.Z0)
		e.VPMOVZXWD(at(b, 0), reg.Z1)
		e.VPSLLD(U8(16), reg.Z1, reg.Z1)
		e.VPORD(reg.Z1, reg.Z0, reg.Z0)
		e.VMOVUPS(reg.Z0, at(y, 0))
		e.SUBQ(U8(32), a) // each512 takes them for float32
		e.ADDQ(U8(32), b)
		e.ADDQ(U8(64), y)
	}, nothing)
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
	e.many512(expVectors/2, func() {
		e.constants512()
		e.arg("pairs", pairs)
	}, []walked{{"a", a}, {"b", b}, {"m", m}, {"sum", sum}}, func(vectors int, tail bool) {
		if tail {
			return
		}
		vs := expOf(2 * vectors) // of a, of b, of a, ...
		for i, v := range vs {
			e.VMOVUPS(at([]reg.GPPhysical{a, b}[i%2], 64*(i/2)), v)
			e.VSUBPS(at(m, 64*(i/2)), v, v)
		}
		e.fastExps512(vs)
		for i := range vectors {
			x, y, t := vs[2*i], vs[2*i+1], zmm[8*i+1]
			e.VADDPS(at(sum, 64*i), x, t)
			e.VADDPS(y, t, t)
			e.VMOVUPS(t, at(sum, 64*i))
			for _, v := range []reg.VecPhysical{x, y} {
				e.roundBF16(v, v)
				e.VPMOVZXWD(v.AsY(), v)
			}
			e.VPSLLD(U8(16), y, y)
			e.VPORD(y, x, x)
			e.VMOVUPS(x, at(pairs, 64*i))
		}
		e.ADDQ(U32(64*vectors), pairs)
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
	e.many512(expVectors, e.constants512, []walked{{"x", x}, {"m", m}, {"sum", sum}}, func(vectors int, tail bool) {
		vs := expOf(vectors)
		for i, v := range vs {
			e.load512(tail, at(x, 64*i), v)
			e.load512(tail, at(m, 64*i), zmm[4*i+1])
			e.VSUBPS(zmm[4*i+1], v, v)
		}
		e.fastExps512(vs)
		for i, v := range vs {
			e.load512(tail, at(sum, 64*i), zmm[4*i+1])
			e.store512(tail, v, at(x, 64*i))
			e.VADDPS(zmm[4*i+1], v, v)
			e.store512(tail, v, at(sum, 64*i))
		}
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
	e.many512(expVectors, func() {
		e.constants512()
		if rounded {
			e.arg("p", p)
			e.arg("g", g)
		}
	}, operands, func(vectors int, tail bool) {
		if tail && rounded {
			return
		}
		vs := expOf(vectors)
		for i, v := range vs {
			e.load512(tail, at(s, 64*i), v)
			e.load512(tail, at(lse, 64*i), zmm[4*i+1])
			e.VSUBPS(zmm[4*i+1], v, v)
		}
		e.fastExps512(vs)
		for i, v := range vs {
			grad := zmm[4*i+1]
			e.load512(tail, at(ds, 64*i), grad)
			e.load512(tail, at(d, 64*i), zmm[4*i+2])
			e.VSUBPS(zmm[4*i+2], grad, grad)
			e.VMULPS(v, grad, grad)
			e.store512(tail, grad, at(ds, 64*i))
			if !rounded {
				e.store512(tail, v, at(s, 64*i))
				continue
			}
			e.roundBF16(v, v)
			e.roundBF16(grad, grad)
			e.VMOVUPS(v.AsY(), at(p, 32*i))
			e.VMOVUPS(grad.AsY(), at(g, 32*i))
		}
		if rounded {
			e.ADDQ(U32(32*vectors), p)
			e.ADDQ(U32(32*vectors), g)
		}
	}, nothing)
}
