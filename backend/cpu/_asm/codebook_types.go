package main

import (
	"math"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// What a panel's block has, in words of 64 bytes, halves of 32 and quarters of 16:
//
//	IQ1_S    d; 8 words of low index bits; 8 halves of high ones, scale and shift
//	IQ1_M    8 words of low index bits; 8 halves of high ones and shifts; 4 of scales and d
//	IQ2_XXS  d; 8 times a word of indices and one of signs and scale
//	IQ2_XS   d; 16 words of two indices with signs; 8 quarters of scales
//	IQ2_S    d; 8 words of low index bits; 8 of signs; 8 quarters of high index bits; 8 of scales
//	IQ3_XXS  d; 16 words of indices; 8 of signs and scale
//	IQ3_S    d; 16 words of low index bits; 8 quarters of high ones; 8 words of signs; 4 quarters of scales
//
// Package block says more. Every scale is d and a power of two times an odd number.

// values puts a table of values into register 14.
func (c *codebook) values(table int) { c.constant(c.table.Offset(table+c.bias), c.r(14)) }

// d puts scales of blocks, which load widens, times a power of two into register 2, and 1
// into 3. It clobbers register 0.
func (c *codebook) d(load func(y reg.VecPhysical), factor float32) {
	load(c.r(2))
	if factor != 1 {
		c.ints(math.Float32bits(factor), c.r(0))
		c.VMULPS(c.r(0), c.r(2), c.r(2))
	}
	c.ints(1, c.r(3))
}

// widenD loads d from the start of a block.
func (c *codebook) widenD(half int) func(reg.VecPhysical) {
	return func(y reg.VecPhysical) { c.VCVTPH2PS(at(c.src, c.width()/2*half), y) }
}

// odd stores d times 2y+1.
func (c *codebook) odd(y reg.VecPhysical, sub, half int) {
	c.VPADDD(y, y, y)
	c.or(c.r(3), y, y)
	c.times(c.r(2), y, sub, 0, half)
}

// scales4 takes 4 bits for each sub-block from so many bytes.
func (c *codebook) scales4(factor float32, from, bytes int) {
	c.ints(15, c.r(4))
	for half := range c.halves() {
		c.d(c.widenD(half), factor)
		for i := range bytes {
			c.widen8(from+16*i, half, c.r(0))
			c.VPSRLD(U8(4), c.r(0), c.r(1))
			c.and(c.r(4), c.r(0), c.r(0))
			c.odd(c.r(0), 2*i, half)
			c.odd(c.r(1), 2*i+1, half)
		}
	}
}

// scalesTop takes the highest 4 bits of words that are step bytes apart.
func (c *codebook) scalesTop(factor float32, from, step int) {
	for half := range c.halves() {
		c.d(c.widenD(half), factor)
		for i := range 8 {
			c.load(c.word(from+step*i, half), c.r(0))
			c.VPSRLD(U8(28), c.r(0), c.r(0))
			c.odd(c.r(0), i, half)
		}
	}
}

func (c *codebook) start2XXS() {
	c.values(tableGrid2)
	c.start7()
}

func (c *codebook) spread2XXS(half int) {
	m := c.field(32, 4, 2, half)
	c.load(m.Offset(word), c.r(10))
	c.signs7()
	for i := range 4 {
		c.eightSigned(2*i, half, c.byteOf(m, i), false, i)
	}
}

func (c *codebook) start2XS() {
	c.values(tableGrid2)
	c.ints(0x01ff01ff, c.r(6))
	c.ints(0x007f007f, c.r(7))
}

func (c *codebook) find2XS(half int) {
	for w := range 2 {
		c.load(c.field(32+word*w, 4, 2, half), c.r(0))
		c.and(c.r(6), c.r(0), c.r(0))
		c.VMOVUPS(c.r(0), c.found(6+w, half))
	}
}

func (c *codebook) spread2XS(half int) {
	for w := range 2 {
		c.load(c.field(32+word*w, 4, 2, half), c.r(10))
		c.VPSRLD(U8(9), c.r(10), c.r(10))
		c.and(c.r(7), c.r(10), c.r(10))
		c.parity()
		for i := range 2 {
			c.eightSigned(4*w+2*i, half, c.byteOf(c.found(6+w, half), 2*i), true, 2*i)
		}
	}
}

func (c *codebook) start2S() {
	c.values(tableGrid2)
	c.ints(0x000f000f, c.r(6))
	c.mask(3, c.r(7))
}

func (c *codebook) find2S(half int) {
	c.VPMOVZXBD(c.field(1056, 1, 1, half), c.r(3))
	c.split(c.r(3), 12, c.r(6), c.r(3)) // 4 bits in 16, then 2 in 8
	c.split(c.r(3), 6, c.r(7), c.r(3))
	c.load(c.field(32, 4, 1, half), c.r(2))
	c.pairs(6, half)
}

func (c *codebook) spread2S(half int) {
	c.load(c.field(544, 4, 1, half), c.r(10))
	for i := range 4 {
		c.eightSigned(2*i, half, c.pair(6, half, i), true, i)
	}
}

func (c *codebook) start3XXS() {
	c.mask(0x80, c.r(14))
	c.start7()
}

func (c *codebook) spread3XXS(half int) {
	c.load(c.field(1056, 4, 1, half), c.r(10))
	c.signs7()
	for i := range 8 {
		if i%2 == 0 {
			c.spreadByte(i/2, c.r(10), c.r(4))
		}
		c.fourSigned(c.byteOf(c.field(32+word*(i/4), 4, 2, half), i%4), false, c.r(12+i%2))
		c.store(c.r(0), i, half)
	}
}

func (c *codebook) start3S() {
	c.mask(0x80, c.r(14))
	c.mask(1, c.r(6))
}

func (c *codebook) find3S(half int) {
	c.VPMOVZXBD(c.field(1056, 1, 1, half), c.r(3))
	c.spreadByte(0, c.r(3), c.r(7))
	for w := range 2 {
		c.and(c.r(12+w), c.r(7), c.r(3))
		c.VPMINUB(c.r(6), c.r(3), c.r(3))
		c.load(c.field(32+word*w, 4, 2, half), c.r(2))
		c.pairs(4+2*w, half)
	}
}

// spread3S stores two groups at a time, since the last two are where their indices are.
func (c *codebook) spread3S(half int) {
	c.load(c.field(1184, 4, 1, half), c.r(10))
	for i := range 4 {
		c.spreadByte(i, c.r(10), c.r(4))
		at := func(k int) index { return c.pair(4+i/2*2, half, i%2*2+k) }
		c.fourSigned(at(0), true, c.r(12))
		c.move(c.r(0), c.r(8))
		c.fourSigned(at(1), true, c.r(13))
		c.store(c.r(8), 2*i, half)
		c.store(c.r(0), 2*i+1, half)
	}
}

// find1 is find where the low index bits are at from, the high ones in register 3.
func (c *codebook) find1(from, half int) {
	c.load(c.field(from, 4, 1, half), c.r(2))
	c.pairs(6, half)
}

// spread1 spreads 32 weights. shift moves the codes of 8 weights that lie lower than the
// others by 4.
func (c *codebook) spread1(half int, shift func(i int, low, high reg.VecPhysical)) {
	for i := range 4 {
		c.eight(c.pair(6, half, i), true, func(low, high reg.VecPhysical) { shift(i, low, high) })
		c.store(c.r(0), 2*i, half)
		c.store(c.r(1), 2*i+1, half)
	}
}

func (c *codebook) start1S() {
	c.values(tableGrid1)
	c.ints(0x003f003f, c.r(6))
	c.mask(7, c.r(7))
	c.mask(4, c.r(8))
}

func (c *codebook) scales1S() {
	c.ints(7, c.r(4))
	for half := range c.halves() {
		c.d(c.widenD(half), 0.125)
		for i := range 8 {
			c.VPMOVZXWD(at(c.src, 544+32*i+c.width()/2*half), c.r(0))
			c.VPSRLD(U8(12), c.r(0), c.r(0))
			c.and(c.r(4), c.r(0), c.r(0))
			c.odd(c.r(0), i, half)
		}
	}
}

func (c *codebook) find1S(half int) {
	h := c.r(3)
	c.VPMOVZXWD(c.field(544, 2, 1, half), h)
	c.VPSLLD(U8(20), h, h) // without what lies above the indices
	c.VPSRLD(U8(20), h, h)
	c.split(h, 10, c.r(6), h) // 6 bits in 16, then 3 in 8
	c.split(h, 5, c.r(7), h)
	c.find1(32, half)
}

func (c *codebook) spread1S(half int) {
	c.VPMOVSXWD(c.field(544, 2, 1, half), c.r(10))
	c.VPSRAD(U8(31), c.r(10), c.r(10))
	c.and(c.r(8), c.r(10), c.r(10))
	c.spread1(half, func(_ int, low, high reg.VecPhysical) {
		c.or(c.r(10), low, low)
		c.or(c.r(10), high, high)
	})
}

func (c *codebook) start1M() {
	c.values(tableGrid1)
	c.ints(0x00ff00ff, c.r(6))
	c.mask(7, c.r(7))
	c.mask(4, c.r(8))
}

func (c *codebook) scales1M() {
	c.ints(7, c.r(4))
	for half := range c.halves() {
		words := func(k int) Mem { return at(c.src, 768+32*k+c.width()/2*half) }
		c.d(func(y reg.VecPhysical) {
			d, t := y.AsX(), c.r(0).AsX()
			if c.wide {
				d, t = y.AsY(), c.r(0).AsY()
			}
			for k := range 4 { // 4 bits of each
				c.VMOVDQU(words(k), t)
				c.VPSRLW(U8(12), t, t)
				if k == 0 {
					c.VMOVDQA(t, d)
					continue
				}
				c.VPSLLW(U8(4*k), t, t)
				c.VPOR(t, d, d)
			}
			c.VCVTPH2PS(d, y)
		}, 0.125)
		for i := range 16 {
			c.VPMOVZXWD(words(i/4), c.r(0))
			if i%4 > 0 {
				c.VPSRLD(U8(3*(i%4)), c.r(0), c.r(0))
			}
			c.and(c.r(4), c.r(0), c.r(0))
			c.odd(c.r(0), i, half)
		}
	}
}

// nibbles1M puts what 8 weights have in a byte of register 3 each.
func (c *codebook) nibbles1M(half int) {
	h := c.r(3)
	c.VPMOVZXWD(c.field(512, 2, 1, half), h)
	c.split(h, 8, c.r(6), h) // 8 bits in 16, then 4 in 8
	c.split(h, 4, c.r(15), h)
}

func (c *codebook) find1M(half int) {
	c.nibbles1M(half)
	c.and(c.r(7), c.r(3), c.r(3))
	c.find1(0, half)
}

func (c *codebook) spread1M(half int) {
	c.nibbles1M(half)
	c.VPSRLW(U8(1), c.r(3), c.r(10))
	c.and(c.r(8), c.r(10), c.r(10))
	c.spread1(half, func(i int, low, high reg.VecPhysical) {
		c.spreadByte(i, c.r(10), c.r(4))
		c.or(c.r(4), low, low)
		c.or(c.r(4), high, high)
	})
}
