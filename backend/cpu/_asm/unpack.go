package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A word of a panel is 4 bytes of each of the 16 outputs; a group is the codes
// of 4 inputs, one word. Both are 64 bytes, two registers.
const word = 64

// unpacker writes the functions that spread the codes of a panel to bytes and
// multiply its scales out. avx512 uses them too: they are bound by stores. Those of
// registers of 512 bits have a word of all outputs in one, the others half of it.
type unpacker struct {
	gen
	wide               bool // registers of 512 bits
	src, codes, scales reg.GPPhysical
	n                  int // float32 vectors of a sub-block: scales, or scales and minima
	table              Mem

	lines, asked, outs, done int // of a block: to be asked for, asked for, stores or products, those done

	// Where fused is set, codes are multiplied as they come instead of stored.
	fused  bool
	rows   int
	subLen int
	single bool                      // a block is a sub-block
	live   map[int][]reg.VecPhysical // sums of sub-blocks in the making, of a row each
	seen   map[int]int               // groups that they hold
	next   int                       // sub-block that is to be added up
}

// Offsets in the table of constants.
const (
	tableValues = 0  // IQ4 as signed bytes, twice
	tableBiased = 32 // and with 128 added
	tableSpread = 64 // VPSHUFB that copies byte i of each 4 to all, for i < 4
	tableBits   = tableSpread + 4*32
)

var valuesIQ4 = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func unpack(g gen) {
	u := unpacker{gen: g, src: reg.RSI, codes: reg.RDI, scales: reg.R8}
	u.constants()
	u.types(true, u.fn)
	u.types(false, u.fn)
}

// constants writes the table.
func (u *unpacker) constants() {
	u.table = u.StaticGlobal("unpackTable")
	u.DataAttributes(attr.RODATA | attr.NOPTR)
	var table [tableBits + 2*32]byte
	for i := range 32 {
		table[tableValues+i] = byte(valuesIQ4[i%16])
		table[tableBiased+i] = byte(valuesIQ4[i%16]) ^ 0x80
		for b := range 4 {
			table[tableSpread+32*b+i] = byte(i%16/4*4 + b)
		}
		table[tableBits+i] = 1 << (i % 4)
		table[tableBits+32+i] = 16 << (i % 4)
	}
	for i, b := range table {
		u.AddDatum(i, U8(b))
	}
}

// types calls fn for every type with the body that spreads a block. Codes of 8
// bits stay signed, or have 128 added.
func (u *unpacker) types(biased bool, fn func(name string, inputs int, mins bool, body func())) {
	suffix, table := "", tableValues
	if biased {
		suffix, table = "Biased", tableBiased
	}
	fn("Q8_0"+suffix, 32, false, func() { u.scale(0, 0); u.bytes(32, biased) })
	fn("IQ4_NL"+suffix, 32, false, func() { u.scale(0, 0); u.lookup(32, 1, table) })
	fn("IQ4_XS"+suffix, 256, false, func() { u.scalesIQ4(); u.lookup(128, 8, table) })
	if biased && !u.fused {
		return // the others are the same
	}
	fn("Q4_0", 32, false, func() { u.scale(0, 0); u.nibbles(32, 0, 4, nil, nil) })
	fn("Q4_1", 32, true, func() { u.scale(0, 0); u.scale(32, 1); u.nibbles(64, 0, 4, nil, nil) })
	fn("Q5_0", 32, false, func() { u.scale(0, 0); u.fifth(32, 96) })
	fn("Q5_1", 32, true, func() { u.scale(0, 0); u.scale(32, 1); u.fifth(64, 128) })
	fn("Q2_K", 256, true, u.q2K)
	fn("Q3_K", 256, false, u.q3K)
	fn("Q4_K", 256, true, func() { u.scales6(); u.q45K(256, -1) })
	fn("Q5_K", 256, true, func() { u.scales6(); u.q45K(768, 256) })
	fn("Q6_K", 256, false, u.q6K)
}

// r is register i.
func (u *unpacker) r(i int) reg.VecPhysical {
	if u.wide {
		return zmm[i]
	}
	return ymm[i]
}

// width is the bytes of a register, halves the number of them that a word takes.
func (u *unpacker) width() int {
	if u.wide {
		return 64
	}
	return 32
}

func (u *unpacker) halves() int { return word / u.width() }

func (u *unpacker) load(m Mem, y reg.VecPhysical) {
	if u.wide {
		u.VMOVDQU32(m, y)
		return
	}
	u.VMOVDQU(m, y)
}

// constant loads 32 bytes, twice into a wide register.
func (u *unpacker) constant(m Mem, y reg.VecPhysical) {
	if u.wide {
		u.VBROADCASTI64X4(m, y)
		return
	}
	u.VMOVDQU(m, y)
}

func (u *unpacker) move(from, y reg.VecPhysical) {
	if u.wide {
		u.VMOVDQA32(from, y)
		return
	}
	u.VMOVDQA(from, y)
}

func (u *unpacker) and(a Op, b, y reg.VecPhysical) {
	if u.wide {
		u.VPANDD(a, b, y)
		return
	}
	u.VPAND(a, b, y)
}

func (u *unpacker) or(a Op, b, y reg.VecPhysical) {
	if u.wide {
		u.VPORD(a, b, y)
		return
	}
	u.VPOR(a, b, y)
}

func (u *unpacker) xor(a Op, b, y reg.VecPhysical) {
	if u.wide {
		u.VPXORD(a, b, y)
		return
	}
	u.VPXOR(a, b, y)
}

// fn writes the function of a type whose block has inputs weights. Y15 holds
// the mask 15 in every byte.
func (u *unpacker) fn(name string, inputs int, mins bool, body func()) {
	g := u.gen
	u.n = 1
	per := "scales"
	if mins {
		u.n, per = 2, "scales, then minima"
	}
	g.begin("unpack"+name, "func(codes []byte, scales []float32, src []byte, blocks int)",
		fmt.Sprintf("unpack%s spreads blocks of a panel: codes [%d*blocks/4][16][4], and %s [16] of each sub-block.", name, inputs, per),
		"The values are those of package block.")
	g.arg("codes", u.codes)
	g.arg("scales", u.scales)
	g.arg("src", u.src)
	g.arg("blocks", reg.RCX)
	u.mask(15, u.r(15))
	size, subs := panelBytes[typeName(name)], inputs/subLen(name)
	g.Label("loop")
	u.ahead(size, inputs)
	body()
	g.ADDQ(U32(size), u.src)
	g.ADDQ(U32(16*inputs), u.codes)
	g.ADDQ(U32(64*subs*u.n), u.scales)
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()
}

// fetchAhead is how many bytes before their use lines are asked for, into the
// second-level cache: what memory gives in the time that it takes to answer.
const fetchAhead = 8192

// ahead begins a block of so many bytes and inputs. Its lines are asked for one
// at a time between its stores or products: all at once they would fill the queue
// of what is under way, and everything would wait.
func (u *unpacker) ahead(size, inputs int) {
	u.lines, u.asked, u.outs, u.done = (size+63)/64, 0, inputs/4*u.halves(), 0
}

// fetch is called at every store or product of a block.
func (u *unpacker) fetch() {
	for u.done++; u.asked*u.outs < u.done*u.lines; u.asked++ {
		u.PREFETCHT1(at(u.src, fetchAhead+64*u.asked))
	}
}

// panelBytes is the size of a block of 16 outputs.
var panelBytes = map[string]int{
	"Q4_0": 288, "Q4_1": 320, "Q5_0": 352, "Q5_1": 384, "Q8_0": 544, "IQ4_NL": 288, "IQ4_XS": 2176,
	"Q2_K": 1344, "Q3_K": 1760, "Q4_K": 2304, "Q5_K": 2816, "Q6_K": 3360,
}

func typeName(name string) string {
	if n := len(name) - len("Biased"); n > 0 && name[n:] == "Biased" {
		return name[:n]
	}
	return name
}

// subLen is the number of inputs that share a scale.
func subLen(name string) int {
	switch name {
	case "Q2_K", "Q3_K", "Q6_K":
		return 16
	}
	return 32
}

// mask puts a byte in all of y. It clobbers AX.
func (u *unpacker) mask(b byte, y reg.VecPhysical) {
	u.MOVL(U32(uint32(b)*0x01010101), reg.EAX)
	u.VMOVD(reg.EAX, y.AsX())
	u.VPBROADCASTD(y.AsX(), y)
}

// out stores half of a group of codes.
func (u *unpacker) out(y reg.VecPhysical, group, half int) {
	u.fetch()
	if u.fused {
		u.multiply(y, group)
		return
	}
	u.VMOVDQU(y, at(u.codes, word*group+u.width()*half))
}

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

// nibbles splits words: the low half of word i is group+i, the high half
// group+words+i. more, where set, changes a half before it is stored.
func (u *unpacker) nibbles(from, group, words int, low, high func(y reg.VecPhysical, i, half int)) {
	for i := range words {
		for half := range u.halves() {
			u.load(at(u.src, from+word*i+u.width()*half), u.r(0))
			u.VPSRLW(U8(4), u.r(0), u.r(1))
			u.and(u.r(15), u.r(0), u.r(0))
			u.and(u.r(15), u.r(1), u.r(1))
			if low != nil {
				low(u.r(0), i, half)
				high(u.r(1), i, half)
			}
			u.out(u.r(0), group+i, half)
			u.out(u.r(1), group+words+i, half)
		}
	}
}

// fifth adds bits from words at bits: bit j of an output's word is that of
// input j.
func (u *unpacker) fifth(bits, from int) {
	u.mask(16, u.r(14))
	u.constant(u.table.Offset(tableBits), u.r(12))
	u.constant(u.table.Offset(tableBits+32), u.r(13))
	for half := range u.halves() {
		u.load(at(u.src, bits+u.width()*half), u.r(10+half))
	}
	add := func(y reg.VecPhysical, group, half int) {
		bit := []reg.VecPhysical{u.r(12), u.r(13)}[group%2]
		if u.wide {
			u.constant(u.table.Offset(tableSpread+32*(group/2)), u.r(2))
			u.VPSHUFB(u.r(2), u.r(10), u.r(2))
			u.VPTESTMB(bit, u.r(2), reg.K1)
			u.VPADDB(u.r(14), y, reg.K1, y)
			return
		}
		u.VPSHUFB(u.table.Offset(tableSpread+32*(group/2)), []reg.VecPhysical{u.r(10), u.r(11)}[half], u.r(2))
		u.and(bit, u.r(2), u.r(2))
		u.VPCMPEQB(bit, u.r(2), u.r(2))
		u.and(u.r(14), u.r(2), u.r(2))
		u.or(u.r(2), y, y)
	}
	u.nibbles(from, 0, 4,
		func(y reg.VecPhysical, i, half int) { add(y, i, half) },
		func(y reg.VecPhysical, i, half int) { add(y, i+4, half) })
}

// bytes copies codes of 8 bits.
func (u *unpacker) bytes(from int, biased bool) {
	if biased {
		u.mask(0x80, u.r(14))
	}
	for group := range 8 {
		for half := range u.halves() {
			u.load(at(u.src, from+word*group+u.width()*half), u.r(0))
			if biased {
				u.xor(u.r(14), u.r(0), u.r(0))
			}
			u.out(u.r(0), group, half)
		}
	}
}

// lookup replaces nibbles of sub-blocks of 32 by table values.
func (u *unpacker) lookup(from, subs, table int) {
	u.constant(u.table.Offset(table), u.r(14))
	f := func(y reg.VecPhysical, _, _ int) { u.VPSHUFB(y, u.r(14), y) }
	for s := range subs {
		u.nibbles(from+4*word*s, 8*s, 4, f, f)
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

// shifted moves bit from of each element to bit to.
func (u *unpacker) shifted(y reg.VecPhysical, from, to int, wide bool, out reg.VecPhysical) {
	left, right := u.VPSLLW, u.VPSRLW
	if wide {
		left, right = u.VPSLLD, u.VPSRLD
	}
	switch {
	case from < to:
		left(U8(to-from), y, out)
	case from > to:
		right(U8(from-to), y, out)
	default:
		u.move(y, out)
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

// q45K: nibbles at from; fifth bits at bits, unless that is negative.
func (u *unpacker) q45K(from, bits int) {
	u.mask(16, u.r(14))
	for i := range 4 {
		var low, high func(y reg.VecPhysical, g, half int)
		if bits >= 0 {
			add := func(bit int) func(y reg.VecPhysical, g, half int) {
				return func(y reg.VecPhysical, g, half int) {
					u.load(at(u.src, bits+word*g+u.width()*half), u.r(2))
					u.shifted(u.r(2), bit, 4, false, u.r(2))
					u.and(u.r(14), u.r(2), u.r(2))
					u.or(u.r(2), y, y)
				}
			}
			low, high = add(2*i), add(2*i+1)
		}
		u.nibbles(from+8*word*i, 16*i, 8, low, high)
	}
}

// q2K: 16 bytes of scale and minimum; 2-bit codes; d; dmin.
func (u *unpacker) q2K() {
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
	u.mask(3, u.r(14))
	u.pairs(256, nil)
}

// pairs spreads codes of 2 bits; Y14 is their mask.
func (u *unpacker) pairs(from int, more func(y reg.VecPhysical, h, s, g, half int)) {
	for h := range 2 {
		for half := range u.halves() { // one after the other, so that fewer sums are in the making
			for g := range 8 {
				u.load(at(u.src, from+word*(8*h+g)+u.width()*half), u.r(0))
				for s := range 4 {
					u.shifted(u.r(0), 2*s, 0, false, u.r(1))
					u.and(u.r(14), u.r(1), u.r(1))
					if more != nil {
						more(u.r(1), h, s, g, half)
					}
					u.out(u.r(1), 32*h+8*s+g, half)
				}
			}
		}
	}
}

// q3K: third bits; 2-bit codes; 12 bytes of 6-bit scales; d.
func (u *unpacker) q3K() {
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
	u.mask(3, u.r(14))
	u.mask(4, u.r(13))
	u.pairs(512, func(y reg.VecPhysical, h, s, g, half int) {
		u.load(at(u.src, word*g+u.width()*half), u.r(3))
		u.shifted(u.r(3), 4*h+s, 2, false, u.r(3))
		u.and(u.r(13), u.r(3), u.r(3))
		u.or(u.r(3), y, y)
	})
}

// q6K: low nibbles; high pairs; 16 int8 scales; d.
func (u *unpacker) q6K() {
	for half := range u.halves() {
		u.VCVTPH2PS(at(u.src, 3328+u.width()/2*half), u.r(2))
		for j := range 16 {
			u.VPMOVSXBD(at(u.src, 3072+16*j+u.width()/4*half), u.r(0))
			u.times(u.r(2), u.r(0), j, 0, half)
		}
	}
	u.mask(0x30, u.r(14))
	for h := range 2 {
		for half := range u.halves() { // as in pairs
			for run := range 2 { // the low nibbles of bytes 32*run on, pairs run and run+2
				for g := range 8 {
					u.load(at(u.src, word*(16*h+8*run+g)+u.width()*half), u.r(0))
					u.VPSRLW(U8(4), u.r(0), u.r(1))
					u.and(u.r(15), u.r(0), u.r(0))
					u.and(u.r(15), u.r(1), u.r(1))
					for i, y := range []reg.VecPhysical{u.r(0), u.r(1)} {
						u.load(at(u.src, 2048+word*(8*h+g)+u.width()*half), u.r(2))
						u.shifted(u.r(2), 2*(run+2*i), 4, false, u.r(2))
						u.and(u.r(14), u.r(2), u.r(2))
						u.or(u.r(2), y, y)
						u.out(y, 32*h+16*i+8*run+g, half)
					}
				}
			}
		}
	}
}
