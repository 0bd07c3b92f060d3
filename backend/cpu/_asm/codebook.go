package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// codebook writes the functions that unpack IQ1, IQ2 and IQ3 types, whose blocks hold an
// index of a codebook for every 8 weights, or 4. An entry is 4 bytes: byte i has the codes
// of weights i and 4+i in its halves, or the magnitude of weight i. Integer registers find
// entries one by one: a gather takes twice as long on a Zen 4. 32 weights are unpacked at
// a time.
type codebook struct {
	*unpacker
	sub, book reg.GPPhysical // 16 times the 32 weights of a block, the codebook
	next      reg.GPPhysical // where lines are asked for, ahead of it
	bias      int            // from values of a table to what codes are: wide ones have 128 added
}

// codebookType is how a type is spread. Registers 0 to 5 are free; 6 to 9 and 14 hold
// what start puts there; 10 the signs of 32 weights, a bit each in the bytes of an
// output's word; 11 zeros; 12 and 13 the bits of a byte's low and high half; 15 the mask
// 15 in every byte.
type codebookType struct {
	name          string
	size, subs    int // of a block: bytes of a panel, sub-blocks
	start, scales func()
	find          func(half int) // writes indices of 32 weights where the last codes go, or nil
	spread        func(half int) // 32 weights
}

func codebooks(g gen) {
	c := &codebook{unpacker: &unpacker{gen: g, src: reg.RSI, codes: reg.RDI, scales: reg.R8, n: 1}, sub: reg.RBX, book: reg.R9, next: reg.R10}
	c.constants()
	for _, wide := range []bool{false, true} {
		if c.wide = wide; wide {
			c.bias = biased
		}
		c.fn(codebookType{"IQ1_S", 800, 8, c.start1S, c.scales1S, c.find1S, c.spread1S})
		c.fn(codebookType{"IQ1_M", 896, 16, c.start1M, c.scales1M, c.find1M, c.spread1M})
		c.fn(codebookType{"IQ2_XXS", 1056, 8, c.start2XXS, func() { c.scalesTop(0.125, 96, 128) }, nil, c.spread2XXS})
		c.fn(codebookType{"IQ2_XS", 1184, 16, c.start2XS, func() { c.scales4(0.125, 1056, 8) }, c.find2XS, c.spread2XS})
		c.fn(codebookType{"IQ2_S", 1312, 16, c.start2S, func() { c.scales4(0.125, 1184, 8) }, c.find2S, c.spread2S})
		c.fn(codebookType{"IQ3_XXS", 1568, 8, c.start3XXS, func() { c.scalesTop(0.25, 1056, 64) }, nil, c.spread3XXS})
		c.fn(codebookType{"IQ3_S", 1760, 8, c.start3S, func() { c.scales4(1, 1696, 4) }, c.find3S, c.spread3S})
	}
}

func (c *codebook) fn(t codebookType) {
	g := c.gen
	name, kind := "unpack"+t.name+"AVX2", "signed bytes"
	if c.wide {
		name, kind = "unpack"+t.name+"AVX512", "with 128 added"
	}
	g.begin(name, "func(codes []byte, scales []float32, src []byte, blocks int, book *uint32)",
		fmt.Sprintf("%s spreads blocks of a panel: codes [256*blocks/4][16][4], %s, and scales [16] of each", name, kind),
		fmt.Sprintf("of %d sub-blocks. The values are those of package block.", t.subs))
	g.arg("codes", c.codes)
	g.arg("scales", c.scales)
	g.arg("src", c.src)
	g.arg("blocks", reg.RCX)
	g.Load(g.Param("book"), c.book)
	g.MOVQ(c.src, c.next)
	c.xor(c.r(11), c.r(11), c.r(11))
	c.constant(c.table.Offset(tableBits), c.r(12))
	c.constant(c.table.Offset(tableBits+32), c.r(13))
	c.mask(15, c.r(15))
	t.start()
	g.Label("block")
	t.scales()
	if t.find != nil { // of a whole block, as integer registers wait for what others have stored
		c.each("find", t.find)
		g.SUBQ(U32(16*256), c.codes)
	}
	c.each("spread", func(half int) {
		if half == 0 {
			c.ahead(at(c.next, 0), fusedAhead, t.size/8, 32)
			g.ADDQ(U32(t.size/8), c.next) // an eighth of a block goes with 32 weights
		}
		t.spread(half)
	})
	g.ADDQ(U32(t.size), c.src)
	g.ADDQ(U32(64*t.subs), c.scales)
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("block"))
	g.VZEROUPPER()
	g.RET()
}

// each is a loop over the 32 weights of a block.
func (c *codebook) each(label string, do func(half int)) {
	c.XORL(c.sub.As32(), c.sub.As32())
	c.Label(label)
	for half := range c.halves() {
		do(half)
	}
	c.ADDQ(U32(16*32), c.codes)
	c.ADDQ(U8(16), c.sub)
	c.CMPQ(c.sub, U32(16*256/32))
	c.JNE(LabelRef(label))
}

// field is half of what 32 weights of the 16 outputs have at disp: of each output units of
// so many bytes, count in all.
func (c *codebook) field(disp, unit, count, half int) Mem {
	m := c.part(c.src, disp, half, c.width()/4*unit)
	m.Index, m.Scale = c.sub, uint8(unit*count)
	return m
}

// index is where that of an output is, a byte or 16 bits.
type index func(output int) Mem

// byteOf is byte i of each output's word at m.
func (c *codebook) byteOf(m Mem, i int) index { return func(j int) Mem { return m.Offset(4*j + i) } }

// entries loads an entry for each output into register 0. It clobbers AX and registers 1
// to 3.
func (c *codebook) entries(at index, wide bool) {
	for j := range c.width() / 4 {
		x := c.r(j / 4).AsX()
		if wide {
			c.MOVWLZX(at(j), reg.EAX)
		} else {
			c.MOVBLZX(at(j), reg.EAX)
		}
		entry := Mem{Base: c.book, Index: reg.RAX, Scale: 4}
		if j%4 == 0 {
			c.VMOVD(entry, x)
		} else {
			c.VPINSRD(U8(j%4), entry, x, x)
		}
	}
	for r := 0; r < c.width()/16; r += 2 {
		c.VINSERTI128(U8(1), c.r(r+1).AsX(), c.r(r).AsY(), c.r(r).AsY())
	}
	if c.wide {
		c.VINSERTI64X4(U8(1), c.r(2).AsY(), c.r(0), c.r(0))
	}
}

// eight spreads the entries of 8 weights of each output, whose values register 14 holds;
// more, where set, changes both words of codes before they are looked up.
func (c *codebook) eight(at index, wide bool, more func(low, high reg.VecPhysical)) {
	low, high := c.r(0), c.r(1)
	c.entries(at, wide)
	c.VPSRLW(U8(4), low, high)
	c.and(c.r(15), low, low)
	c.and(c.r(15), high, high)
	if more != nil {
		more(low, high)
	}
	c.VPSHUFB(low, c.r(14), low)
	c.VPSHUFB(high, c.r(14), high)
}

// store writes 4 weights of each output.
func (c *codebook) store(y reg.VecPhysical, group, half int) {
	c.fetch()
	c.VMOVUPS(y, c.found(group, half))
}

// spreadByte copies byte i of each word of y to all its bytes.
func (c *codebook) spreadByte(i int, y, to reg.VecPhysical) {
	c.constant(c.table.Offset(tableSpread+32*i), to)
	c.VPSHUFB(to, y, to)
}

// negate changes the signs of y that register 4 has a bit for: low or high ones of bytes.
// It clobbers register 5.
func (c *codebook) negate(y, bits reg.VecPhysical) {
	t := c.r(5)
	if c.wide {
		c.VPTESTMB(bits, c.r(4), reg.K1)
		c.VPSUBB(y, c.r(11), reg.K1, y)
		return
	}
	c.VPAND(bits, c.r(4), t)
	c.VPCMPEQB(bits, t, t)
	c.VPXOR(t, y, y)
	c.VPSUBB(t, y, y)
}

// eightSigned stores 8 weights whose signs are byte i of register 10.
func (c *codebook) eightSigned(group, half int, at index, wide bool, i int) {
	c.eight(at, wide, nil)
	c.spreadByte(i, c.r(10), c.r(4))
	for i, bits := range []reg.VecPhysical{c.r(12), c.r(13)} {
		c.negate(c.r(i), bits)
		c.store(c.r(i), group+i, half)
	}
}

// fourSigned spreads 4 weights whose signs are the low or the high half of the bytes of
// register 4. Register 14 is 128 in every byte.
func (c *codebook) fourSigned(at index, wide bool, bits reg.VecPhysical) {
	c.entries(at, wide)
	if c.wide {
		c.or(c.r(14), c.r(0), c.r(0)) // of numbers with 128 added the negative is that of the sum
	}
	c.negate(c.r(0), bits)
}

// split halves what each part of y has: what mask leaves of y and, moved left by so many
// bits, of y again. It clobbers register 5.
func (c *codebook) split(y reg.VecPhysical, by int, mask, to reg.VecPhysical) {
	c.VPSLLD(U8(by), y, c.r(5))
	c.or(y, c.r(5), to)
	c.and(mask, to, to)
}

// parity completes 7 signs in bytes of register 10 by an eighth that makes their number
// even. It clobbers registers 4 and 5.
func (c *codebook) parity() {
	s, t, p := c.r(10), c.r(4), c.r(5)
	c.VPSRLW(U8(4), s, t)
	c.xor(s, t, t)
	c.and(c.r(15), t, t)
	c.constant(c.table.Offset(tableParity), p)
	c.VPSHUFB(t, p, p)
	c.or(p, s, s)
}

// start7 has the masks of signs7.
func (c *codebook) start7() {
	c.ints(0x00003fff, c.r(6))
	c.ints(0x3fff0000, c.r(7))
	c.ints(0x007f007f, c.r(8))
	c.ints(0x7f007f00, c.r(9))
}

// signs7 makes 4 bytes of signs of the lowest 28 bits of each word in register 10.
func (c *codebook) signs7() {
	s, t := c.r(10), c.r(4)
	for i := range 2 { // 14 bits in 16, then 7 in 8
		c.VPSLLD(U8(2-i), s, t)
		c.and(c.r(7+2*i), t, t)
		c.and(c.r(6+2*i), s, s)
		c.or(t, s, s)
	}
	c.parity()
}

// found is half of where indices wait, in the place of the 4 weights of a group.
func (c *codebook) found(group, half int) Mem { return at(c.codes, word*group+c.width()*half) }

// pairs stores indices of 16 bits in the places of two groups: low bytes from register 2,
// high ones from 3.
func (c *codebook) pairs(group, half int) {
	c.VPUNPCKLBW(c.r(3), c.r(2), c.r(0))
	c.VPUNPCKHBW(c.r(3), c.r(2), c.r(1))
	c.VMOVUPS(c.r(0), c.found(group, half))
	c.VMOVUPS(c.r(1), c.found(group+1, half))
}

// pair is where pairs has that of byte i.
func (c *codebook) pair(group, half, i int) index {
	return func(j int) Mem { return c.found(group+j%4/2, half).Offset(j/4*16 + j%2*8 + 2*i) }
}
