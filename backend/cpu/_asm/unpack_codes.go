package main

import (
	"fmt"
	"math/bits"
	"strings"

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

	ask                      Mem   // where lines are asked for
	distances                []int // ahead of there
	lines, asked, outs, done int   // of a block: to be asked for, asked for, stores or products, those done

	// Where product is set, codes are multiplied as they come instead of stored: by
	// avx2 one half of all words after the other, which this register says times 8.
	product func(y reg.VecPhysical, group int)
	half    reg.GPPhysical
}

// packing is how the blocks of a type are spread.
type packing struct {
	name                      string
	inputs                    int
	mins                      bool
	constants                 func() // those that spreadCodes needs, once
	spreadScales, spreadCodes func() // of a block
	bits                      int    // of a code
	registers                 []int  // those of spreadCodes besides 0, 1 and 15
}

// subLen is the number of inputs that share a scale.
func (p packing) subLen() int {
	switch p.typ() {
	case "Q2_K", "Q3_K", "Q6_K", "NVFP4":
		return 16
	}
	return 32
}

func (p packing) typ() string { return strings.TrimSuffix(p.name, "Biased") }

// size is the bytes of a block of 16 outputs.
func (p packing) size() int { return panelBytes[p.typ()] }

// Offsets in the table of constants.
const (
	tableValues = 0  // IQ4 as signed bytes, twice
	tableBiased = 32 // and with 128 added
	tableSpread = 64 // VPSHUFB that copies byte i of each 4 to all, for i < 4
	tableBits   = tableSpread + 4*32
	tableOnes   = tableBits + 2*32 // 16 words of 1
	tableSign   = tableOnes + 32   // 8 sign bits
	tableFP4    = tableSign + 32   // FP4 times 2, twice, and behind it with 128 added, as IQ4
	tableGrid1  = tableFP4 + 64    // IQ1: 8 times codes moved up by 1/8 and, from 4 on, down; as FP4
	tableGrid2  = tableGrid1 + 64  // IQ2
	tableParity = tableGrid2 + 64  // 128 where an odd number of 4 bits is set, twice
	tableSize   = tableParity + 32
)

// biased is from the signed values of a table to those with 128 added.
const biased = tableBiased - tableValues

var valuesFP4 = [16]int8{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

var (
	valuesIQ1 = [16]int8{-7, 1, 9, 0, -9, -1, 7}
	valuesIQ2 = [16]int8{8, 25, 43}
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
	var table [tableSize]byte
	for i := range 32 {
		table[tableValues+i] = byte(valuesIQ4[i%16])
		table[tableBiased+i] = byte(valuesIQ4[i%16]) ^ 0x80
		for at, values := range map[int][16]int8{tableFP4: valuesFP4, tableGrid1: valuesIQ1, tableGrid2: valuesIQ2} {
			table[at+i] = byte(values[i%16])
			table[at+biased+i] = byte(values[i%16]) ^ 0x80
		}
		table[tableParity+i] = byte(bits.OnesCount(uint(i%16)) % 2 * 0x80)
		for b := range 4 {
			table[tableSpread+32*b+i] = byte(i%16/4*4 + b)
		}
		table[tableBits+i] = 1 << (i % 4)
		table[tableBits+32+i] = 16 << (i % 4)
		table[tableOnes+i] = byte(1 - i%2)
		table[tableSign+i] = byte(i % 4 / 3 * 0x80)
	}
	for i, b := range table {
		u.AddDatum(i, U8(b))
	}
}

// types calls fn for every type. Codes of 8 bits stay signed, or have 128 added.
func (u *unpacker) types(bias bool, fn func(packing)) {
	suffix, table := "", 0
	if bias {
		suffix, table = "Biased", biased
	}
	mask := func(b byte) func() { return func() { u.mask(b, u.r(14)) } }
	none := func() {}
	scale, two := func() { u.scale(0, 0) }, func() { u.scale(0, 0); u.scale(32, 1) }
	values := func(at int) func() { return func() { u.constant(u.table.Offset(at+table), u.r(14)) } }
	flip := none
	if bias {
		flip = mask(0x80)
	}
	fn(packing{"Q8_0" + suffix, 32, false, flip, scale, func() { u.bytes(32, bias) }, 8, []int{14}})
	fn(packing{"IQ4_NL" + suffix, 32, false, values(tableValues), scale, func() { u.lookup(32, 1, 4) }, 8, []int{14}})
	fn(packing{"IQ4_XS" + suffix, 256, false, values(tableValues), u.scalesIQ4, func() { u.lookup(128, 8, 4) }, 8, []int{14}})
	fn(packing{"MXFP4" + suffix, 32, false, values(tableFP4), u.scaleMX, func() { u.lookup(16, 1, 4) }, 8, []int{14}})
	if u.product == nil { // a block has two scales of a row: products of its own do not go with that
		fn(packing{"NVFP4" + suffix, 64, false, values(tableFP4), u.scalesNV, func() { u.lookup(64, 4, 2) }, 8, []int{14}})
	}
	if bias && u.product == nil {
		return // the others are the same
	}
	fifth := []int{2, 10, 12, 13, 14}
	fn(packing{"Q4_0", 32, false, none, scale, func() { u.nibbles(32, 0, 4, nil, nil) }, 4, nil})
	fn(packing{"Q4_1", 32, true, none, two, func() { u.nibbles(64, 0, 4, nil, nil) }, 4, nil})
	fn(packing{"Q5_0", 32, false, u.fifthConstants, scale, func() { u.fifth(32, 96) }, 5, fifth})
	fn(packing{"Q5_1", 32, true, u.fifthConstants, two, func() { u.fifth(64, 128) }, 5, fifth})
	fn(packing{"Q2_K", 256, true, mask(3), u.scales2, func() { u.pairs(256, nil) }, 2, []int{14}})
	fn(packing{"Q3_K", 256, false, func() { u.mask(3, u.r(14)); u.mask(4, u.r(13)) }, u.scales3, u.q3K, 3, []int{3, 13, 14}})
	fn(packing{"Q4_K", 256, true, none, u.scales6, func() { u.q45K(256, -1) }, 4, nil})
	fn(packing{"Q5_K", 256, true, mask(16), u.scales6, func() { u.q45K(768, 256) }, 5, []int{2, 14}})
	fn(packing{"TQ1_0", 256, false, func() { u.mask(3, u.r(14)); u.mask(0, u.r(13)); u.mask(1, u.r(12)) }, func() { u.scaleOnce(832) }, u.digits, 2, []int{12, 13, 14}})
	fn(packing{"TQ2_0", 256, false, mask(3), func() { u.scaleOnce(1024) }, func() { u.pairs(0, nil) }, 2, []int{14}})
	fn(packing{"Q6_K", 256, false, mask(0x30), u.scales8, u.q6K, 6, []int{2, 14}})
}

// r is register i.
func (u *unpacker) r(i int) reg.VecPhysical {
	if u.wide {
		return zmm[i]
	}
	return ymm[i]
}

// width is the bytes of a register.
func (u *unpacker) width() int {
	if u.wide {
		return 64
	}
	return 32
}

// halves is how many registers a word takes, of those that are spread in turn.
func (u *unpacker) halves() int {
	if u.half != nil {
		return 1
	}
	return word / u.width()
}

// part is the operand of a half, of so many bytes, at disp.
func (u *unpacker) part(base reg.GPPhysical, disp, half, size int) Mem {
	m := at(base, disp+size*half)
	if u.half != nil {
		m.Index, m.Scale = u.half, uint8(size/8)
	}
	return m
}

// word is the operand of half of the block's word at from.
func (u *unpacker) word(from, half int) Mem { return u.part(u.src, from, half, u.width()) }

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

// fn writes the function of a type. Y15 holds the mask 15 in every byte.
func (u *unpacker) fn(p packing) {
	g := u.gen
	u.n = 1
	per := "scales"
	if p.mins {
		u.n, per = 2, "scales, then minima"
	}
	g.begin("unpack"+p.name, "func(codes []byte, scales []float32, src []byte, blocks int)",
		fmt.Sprintf("unpack%s spreads blocks of a panel: codes [%d*blocks/4][16][4], and %s [16] of each sub-block.", p.name, p.inputs, per),
		"The values are those of package block.")
	g.arg("codes", u.codes)
	g.arg("scales", u.scales)
	g.arg("src", u.src)
	g.arg("blocks", reg.RCX)
	u.mask(15, u.r(15))
	p.constants()
	g.Label("loop")
	u.ahead(at(u.src, 0), []int{fetchAhead}, p.size(), p.inputs)
	p.spreadScales()
	p.spreadCodes()
	g.ADDQ(U32(p.size()), u.src)
	g.ADDQ(U32(16*p.inputs), u.codes)
	g.ADDQ(U32(64*p.inputs/p.subLen()*u.n), u.scales)
	g.DECQ(reg.RCX)
	g.JNE(LabelRef("loop"))
	g.VZEROUPPER()
	g.RET()
}

// fetchAhead is how many bytes before their use lines are asked for, into the
// second-level cache: what memory gives in the time that it takes to answer.
const fetchAhead = 8192

// fusedAhead are the same for products that only wait for memory. A request that finds
// the queue full is lost, so a line is asked for more than once: three times at these
// distances read 92 and 85 % of what two cores of a Zen 4 can, on one die and on two,
// once 83 and 66.
var fusedAhead = []int{10240, 6144, 4096}

// ahead begins a block of so many bytes and inputs. As many lines are asked for one
// at a time between its stores or products: all at once they would fill the queue
// of what is under way, and everything would wait.
func (u *unpacker) ahead(from Mem, distances []int, size, inputs int) {
	u.ask, u.distances = from, distances
	u.lines, u.asked, u.outs, u.done = (size+63)/64, 0, inputs/4*u.halves(), 0
}

// fetch is called at every store or product of a block.
func (u *unpacker) fetch() {
	for u.done++; u.asked*u.outs < u.done*u.lines; u.asked++ {
		for _, d := range u.distances {
			u.PREFETCHT1(u.ask.Offset(d + 64*u.asked))
		}
	}
}

// panelBytes is the size of a block of 16 outputs.
var panelBytes = map[string]int{
	"Q4_0": 288, "Q4_1": 320, "Q5_0": 352, "Q5_1": 384, "Q8_0": 544, "IQ4_NL": 288, "IQ4_XS": 2176,
	"Q2_K": 1344, "Q3_K": 1760, "Q4_K": 2304, "Q5_K": 2816, "Q6_K": 3360,
	"TQ1_0": 864, "TQ2_0": 1056, "MXFP4": 272, "NVFP4": 576,
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
	if u.product != nil {
		u.product(y, group)
		return
	}
	u.VMOVDQU(y, at(u.codes, word*group+u.width()*half))
}

// nibbles splits words: the low half of word i is group+i, the high half
// group+words+i. more, where set, changes a half before it is stored.
func (u *unpacker) nibbles(from, group, words int, low, high func(y reg.VecPhysical, i, half int)) {
	for i := range words {
		for half := range u.halves() {
			u.load(u.word(from+word*i, half), u.r(0))
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

func (u *unpacker) fifthConstants() {
	u.mask(16, u.r(14))
	u.constant(u.table.Offset(tableBits), u.r(12))
	u.constant(u.table.Offset(tableBits+32), u.r(13))
}

// fifth adds bits from words at bits: bit j of an output's word is that of
// input j.
func (u *unpacker) fifth(bits, from int) {
	for half := range u.halves() {
		u.load(u.word(bits, half), u.r(10+half))
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
	for group := range 8 {
		for half := range u.halves() {
			u.load(u.word(from+word*group, half), u.r(0))
			if biased {
				u.xor(u.r(14), u.r(0), u.r(0))
			}
			u.out(u.r(0), group, half)
		}
	}
}

// lookup replaces nibbles of sub-blocks, so many words each, by table values.
func (u *unpacker) lookup(from, subs, words int) {
	f := func(y reg.VecPhysical, _, _ int) { u.VPSHUFB(y, u.r(14), y) }
	for s := range subs {
		u.nibbles(from+words*word*s, 2*words*s, words, f, f)
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

// field loads bits of bytes and moves them from bit from to bit to, where mask is.
func (u *unpacker) field(m Mem, from, to int, mask, y reg.VecPhysical) {
	if from == to {
		u.and(m, mask, y)
		return
	}
	u.load(m, y)
	u.shifted(y, from, to, false, y)
	u.and(mask, y, y)
}

// q45K: nibbles at from; fifth bits at bits, unless that is negative.
func (u *unpacker) q45K(from, bits int) {
	for i := range 4 {
		var low, high func(y reg.VecPhysical, g, half int)
		if bits >= 0 {
			add := func(bit int) func(y reg.VecPhysical, g, half int) {
				return func(y reg.VecPhysical, g, half int) {
					u.field(u.word(bits+word*g, half), bit, 4, u.r(14), u.r(2))
					u.or(u.r(2), y, y)
				}
			}
			low, high = add(2*i), add(2*i+1)
		}
		u.nibbles(from+8*word*i, 16*i, 8, low, high)
	}
}

// pairs spreads codes of 2 bits; Y14 is their mask. Registers of 256 bits are too few
// for the sums of several sub-blocks, so that products take words again for each.
func (u *unpacker) pairs(from int, more func(y reg.VecPhysical, h, s, g, half int)) {
	for h := range 2 {
		for half := range u.halves() { // one after the other, so that fewer sums are in the making
			in := func(g int) Mem { return u.word(from+word*(8*h+g), half) }
			code := func(s, g int) {
				if more != nil {
					more(u.r(1), h, s, g, half)
				}
				u.out(u.r(1), 32*h+8*s+g, half)
			}
			for i := range 32 {
				if s, g := i/8, i%8; u.half != nil {
					u.field(in(g), 2*s, 0, u.r(14), u.r(1))
					code(s, g)
					continue
				}
				s, g := i%4, i/4
				if s == 0 {
					u.load(in(g), u.r(0))
				}
				u.shifted(u.r(0), 2*s, 0, false, u.r(1))
				u.and(u.r(14), u.r(1), u.r(1))
				code(s, g)
			}
		}
	}
}

// digits spreads the base-3 digits of TQ1_0. The first 8 words and the 4 after them have 5
// digits in a byte, the last word has 4. A byte b is the fraction b/256 of base 3: its next
// digit is the whole part of 3*b/256, and the low byte of 3*b is the fraction that remains.
// The whole part is computed without widening: VPAVGB rounds halves up, and two of them make
// about 3/4 of b-1, of which the top two bits are the digit. That holds for all 256 bytes.
// Y12 is ones, Y13 zeros, Y14 the mask 3.
func (u *unpacker) digits() {
	group := 0
	for _, run := range []struct{ from, words, digits int }{{0, 8, 5}, {8, 4, 5}, {12, 1, 4}} {
		for digit := range run.digits {
			for w := range run.words {
				for half := range u.halves() {
					c, q := u.r(0), u.r(1)
					u.load(u.word(word*(run.from+w), half), c)
					for range digit {
						u.VPADDB(c, c, q)
						u.VPADDB(q, c, c)
					}
					u.VPSUBUSB(u.r(12), c, c)
					u.VPAVGB(u.r(13), c, q)
					u.VPAVGB(c, q, q)
					u.VPSRLW(U8(6), q, q)
					u.and(u.r(14), q, q)
					u.out(q, group, half)
				}
				group++
			}
		}
	}
}

// q3K: third bits; 2-bit codes; 12 bytes of 6-bit scales; d.
func (u *unpacker) q3K() {
	u.pairs(512, func(y reg.VecPhysical, h, s, g, half int) {
		u.field(u.word(word*g, half), 4*h+s, 2, u.r(13), u.r(3))
		u.or(u.r(3), y, y)
	})
}

// q6K: low nibbles; high pairs; 16 int8 scales; d. The low nibbles of bytes 32*run on
// go with pairs run, the high ones with pairs run+2.
func (u *unpacker) q6K() {
	for h := range 2 {
		for half := range u.halves() { // as in pairs
			in := func(j int) Mem { return u.word(word*(16*h+j), half) }
			code := func(y reg.VecPhysical, i, run, g int) {
				u.field(u.word(2048+word*(8*h+g), half), 2*(run+2*i), 4, u.r(14), u.r(2))
				u.or(u.r(2), y, y)
				u.out(y, 32*h+16*i+8*run+g, half)
			}
			for j := range 32 {
				if i, j := j/16, j%16; u.half != nil {
					u.field(in(j), 4*i, 0, u.r(15), u.r(0))
					code(u.r(0), i, j/8, j%8)
					continue
				}
				i, j := j%2, j/2
				if i == 0 {
					u.load(in(j), u.r(0))
					u.VPSRLW(U8(4), u.r(0), u.r(1))
				}
				u.and(u.r(15), u.r(i), u.r(i))
				code(u.r(i), i, j/8, j%8)
			}
		}
	}
}
