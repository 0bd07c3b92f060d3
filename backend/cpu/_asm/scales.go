package main

import (
	"math"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// put stores half of a vector of scales (which 0) or minima (1).
func (u *unpacker) put(y reg.VecPhysical, sub, which, half int) {
	u.VMOVUPS(y, at(u.scales, 64*(sub*u.n+which)+u.width()*half))
}

// scale widens 16 float16.
func (u *unpacker) scale(at_, which int) {
	for half := range u.halves() {
		u.VCVTPH2PS(at(u.src, at_+u.width()/2*half), u.r(0))
		u.put(u.r(0), 0, which, half)
	}
}

// widen8 widens 8 bytes to integers.
func (u *unpacker) widen8(from, half int, y reg.VecPhysical) {
	u.VPMOVZXBD(at(u.src, from+u.width()/4*half), y)
}

// ints puts an integer in all of y.
func (u *unpacker) ints(v uint32, y reg.VecPhysical) {
	u.MOVL(U32(v), reg.EAX)
	u.VMOVD(reg.EAX, y.AsX())
	u.VPBROADCASTD(y.AsX(), y)
}

// times stores d times the integers in y.
func (u *unpacker) times(d, y reg.VecPhysical, sub, which, half int) {
	u.VCVTDQ2PS(y, y)
	u.VMULPS(d, y, y)
	u.put(y, sub, which, half)
}

// scalesIQ4: d; 8 pairs of high bits; 4 bytes of low nibbles.
func (u *unpacker) scalesIQ4() {
	d, high, low4, two, off, a, b := u.r(2), u.r(3), u.r(4), u.r(5), u.r(6), u.r(0), u.r(1)
	u.ints(15, low4)
	u.ints(0x30, two)
	u.ints(32, off)
	for half := range u.halves() {
		u.VCVTPH2PS(at(u.src, u.width()/2*half), d)
		u.VPMOVZXWD(at(u.src, 32+u.width()/2*half), high)
		for i := range 8 {
			u.widen8(64+16*(i/2), half, a)
			if i%2 == 1 {
				u.VPSRLD(U8(4), a, a)
			}
			u.and(low4, a, a)
			u.shifted(high, 2*i, 4, true, b)
			u.and(two, b, b)
			u.or(a, b, b)
			u.VPSUBD(off, b, b)
			u.times(d, b, i, 0, half)
		}
	}
}

// scales6: d; dmin; 12 bytes of 6-bit scales and minima.
func (u *unpacker) scales6() {
	d, dmin, m6, m4, m2, zero, a, b := u.r(2), u.r(3), u.r(4), u.r(5), u.r(6), u.r(7), u.r(0), u.r(1)
	u.ints(63, m6)
	u.ints(15, m4)
	u.ints(0x30, m2)
	u.ints(1<<31, zero)
	for half := range u.halves() {
		u.VCVTPH2PS(at(u.src, u.width()/2*half), d)
		u.VCVTPH2PS(at(u.src, 32+u.width()/2*half), dmin)
		u.VXORPS(zero, dmin, dmin)
		for j := range 4 {
			u.widen8(64+16*j, half, a)
			u.and(m6, a, a)
			u.times(d, a, j, 0, half)
			u.widen8(64+16*(j+4), half, a)
			u.and(m6, a, a)
			u.times(dmin, a, j, 1, half)
			u.widen8(64+16*(j+8), half, a)
			u.and(m4, a, a)
			u.widen8(64+16*j, half, b)
			u.VPSRLD(U8(2), b, b)
			u.and(m2, b, b)
			u.or(b, a, a)
			u.times(d, a, j+4, 0, half)
			u.widen8(64+16*(j+8), half, a)
			u.VPSRLD(U8(4), a, a)
			u.widen8(64+16*(j+4), half, b)
			u.VPSRLD(U8(2), b, b)
			u.and(m2, b, b)
			u.or(b, a, a)
			u.times(dmin, a, j+4, 1, half)
		}
	}
}

// scales2: 16 bytes of scale and minimum; codes; d; dmin.
func (u *unpacker) scales2() {
	d, dmin, m4, sign, a := u.r(2), u.r(3), u.r(4), u.r(5), u.r(0)
	u.ints(15, m4)
	u.ints(1<<31, sign)
	for half := range u.halves() {
		u.VCVTPH2PS(at(u.src, 1280+u.width()/2*half), d)
		u.VCVTPH2PS(at(u.src, 1312+u.width()/2*half), dmin)
		u.VXORPS(sign, dmin, dmin)
		for j := range 16 {
			u.widen8(16*j, half, a)
			u.VPSRLD(U8(4), a, u.r(1))
			u.and(m4, a, a)
			u.times(d, a, j, 0, half)
			u.times(dmin, u.r(1), j, 1, half)
		}
	}
}

// scales3: codes; 12 bytes of 6-bit scales; d.
func (u *unpacker) scales3() {
	d, m4, m2, off, a, b := u.r(2), u.r(4), u.r(5), u.r(6), u.r(0), u.r(1)
	u.ints(15, m4)
	u.ints(0x30, m2)
	u.ints(32, off)
	for half := range u.halves() {
		u.VCVTPH2PS(at(u.src, 1728+u.width()/2*half), d)
		for j := range 16 {
			u.widen8(1536+16*(j%8), half, a)
			if j >= 8 {
				u.VPSRLD(U8(4), a, a)
			}
			u.and(m4, a, a)
			u.widen8(1536+16*(8+j%4), half, b)
			u.shifted(b, 2*(j/4), 4, true, b)
			u.and(m2, b, b)
			u.or(a, b, b)
			u.VPSUBD(off, b, b)
			u.times(d, b, j, 0, half)
		}
	}
}

// scales8: codes; 16 int8 scales; d.
func (u *unpacker) scales8() {
	for half := range u.halves() {
		u.VCVTPH2PS(at(u.src, 3328+u.width()/2*half), u.r(2))
		for j := range 16 {
			u.VPMOVSXBD(at(u.src, 3072+16*j+u.width()/4*half), u.r(0))
			u.times(u.r(2), u.r(0), j, 0, half)
		}
	}
}

// scaleOnce widens 16 float16, the scale of all sub-blocks.
func (u *unpacker) scaleOnce(from int) {
	for half := range u.halves() {
		u.VCVTPH2PS(at(u.src, from+u.width()/2*half), u.r(0))
		for sub := range 8 {
			u.put(u.r(0), sub, 0, half)
		}
	}
}

// scaleMX: a power of two.
func (u *unpacker) scaleMX() {
	for half := range u.halves() {
		u.widen8(0, half, u.r(0))
		u.power(u.r(0), u.r(1), u.r(2), u.r(3))
		u.put(u.r(0), 0, 0, half)
	}
}

// power turns a byte e into 2^(e-128): 0x00200000 shifted by e is that up to 2, as the
// first two are subnormal; from there on 1 is added to the exponent for each.
func (u *unpacker) power(e, t, two, a reg.VecPhysical) {
	u.ints(2, two)
	u.VPMINUD(two, e, t)
	u.VPMAXUD(two, e, e)
	u.VPSUBD(two, e, e)
	u.VPSLLD(U8(23), e, e)
	u.ints(0x00200000, a)
	u.VPSLLVD(t, a, a)
	u.VPADDD(a, e, e)
}

// scalesNV: 4 floats of 4 exponent and 3 fraction bits, without a sign; 0x7f means 0.
func (u *unpacker) scalesNV() {
	nan, m7, factor, a, t := u.r(2), u.r(3), u.r(4), u.r(0), u.r(1)
	u.ints(0x7f, nan)
	u.ints(0x07f00000, m7)
	u.ints(math.Float32bits(0x1p119), factor) // in a float32's place the bits are 2^120 too small, and the codes twice the values
	for half := range u.halves() {
		for sub := range 4 {
			u.widen8(16*sub, half, a)
			u.VPCMPEQD(nan, a, t)
			u.VPSLLD(U8(20), a, a)
			u.VPAND(m7, a, a)
			u.VMULPS(factor, a, a)
			u.VPANDN(a, t, a)
			u.put(a, sub, 0, half)
		}
	}
}
