package main

import "github.com/mmcloughlin/avo/reg"

// measureScales compares 16 scales, one in each lane, so that sums are added up in the
// order of the values.
func (e elementwise) measureScales() {
	e.begin("measureScalesAVX2", "func(errs *float32, x, w []float32, inverse, shift *float32, most float32)",
		"measureScalesAVX2 sets errs[c], of 16, to the sum of w[i]*e*e, products and sums",
		"rounded, of more than no values x and as many w:", "",
		"\tt := x[i]*inverse[c] + shift[c]",
		"\te := t - max(0, min(most, t rounded to a whole number, halves to even))")
	x, w, p := reg.RSI, reg.RDX, reg.RDI
	inverse, shift := []reg.VecPhysical{reg.Y8, reg.Y9}, []reg.VecPhysical{reg.Y10, reg.Y11}
	sums, most, zero, magic := []reg.VecPhysical{reg.Y6, reg.Y7}, reg.Y12, reg.Y13, reg.Y14
	e.each(1, func() {
		e.VBROADCASTSS(e.paramAddr("most"), most)
		e.VMOVUPS(e.constant(expRound), magic)
		e.VXORPS(zero, zero, zero)
		for i := range sums {
			e.VXORPS(sums[i], sums[i], sums[i])
			e.arg("inverse", p)
			e.VMOVUPS(at(p, 32*i), inverse[i])
			e.arg("shift", p)
			e.VMOVUPS(at(p, 32*i), shift[i])
		}
	}, []walked{{"x", x}, {"w", w}}, func() {
		e.VBROADCASTSS(at(x, 0), reg.Y0)
		e.VBROADCASTSS(at(w, 0), reg.Y1)
		for i := range sums {
			t, q := []reg.VecPhysical{reg.Y2, reg.Y3}[i], []reg.VecPhysical{reg.Y4, reg.Y5}[i]
			e.VMULPS(inverse[i], reg.Y0, t)
			e.VADDPS(shift[i], t, t)
			e.VADDPS(magic, t, q)
			e.VSUBPS(magic, q, q)
			e.VMINPS(most, q, q)
			e.VMAXPS(zero, q, q)
			e.VSUBPS(q, t, t)
			e.VMULPS(t, t, t)
			e.VMULPS(reg.Y1, t, t)
			e.VADDPS(t, sums[i], sums[i])
		}
	}, func() {
		e.arg("errs", p)
		for i := range sums {
			e.VMOVUPS(sums[i], at(p, 32*i))
		}
	})
}
