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
// multiply its scales out. avx512 uses them too: they are bound by stores.
type unpacker struct {
	gen
	src, codes, scales reg.GPPhysical
	n                  int // float32 vectors of a sub-block: scales, or scales and minima
	table              Mem

	lines, asked, outs, done int // of a block: to be asked for, asked for, stores or products, those done

	// Where fused is set, codes are multiplied as they come instead of stored.
	fused  bool
	rows   int
	subLen int
	single bool                           // a block is a sub-block
	live   map[fusedSub][]reg.VecPhysical // sums in the making, of a row each
	seen   map[fusedSub]int               // groups that they hold
	next   [2]int                         // sub-block of a half that is to be added up
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
	u.mask(15, reg.Y15)
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
	u.lines, u.asked, u.outs, u.done = (size+63)/64, 0, inputs/2, 0
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
		u.multiply(y, group, half)
		return
	}
	u.VMOVDQU(y, at(u.codes, word*group+32*half))
}

// put stores half of a vector of scales (which 0) or minima (1).
func (u *unpacker) put(y reg.VecPhysical, sub, which, half int) {
	u.VMOVUPS(y, at(u.scales, 64*(sub*u.n+which)+32*half))
}

// scale widens 16 float16.
func (u *unpacker) scale(at_, which int) {
	for half := range 2 {
		u.VCVTPH2PS(at(u.src, at_+16*half), reg.Y0)
		u.put(reg.Y0, 0, which, half)
	}
}

// nibbles splits words: the low half of word i is group+i, the high half
// group+words+i. more, where set, changes a half before it is stored.
func (u *unpacker) nibbles(from, group, words int, low, high func(y reg.VecPhysical, i, half int)) {
	for i := range words {
		for half := range 2 {
			u.VMOVDQU(at(u.src, from+word*i+32*half), reg.Y0)
			u.VPSRLW(U8(4), reg.Y0, reg.Y1)
			u.VPAND(reg.Y15, reg.Y0, reg.Y0)
			u.VPAND(reg.Y15, reg.Y1, reg.Y1)
			if low != nil {
				low(reg.Y0, i, half)
				high(reg.Y1, i, half)
			}
			u.out(reg.Y0, group+i, half)
			u.out(reg.Y1, group+words+i, half)
		}
	}
}

// fifth adds bits from words at bits: bit j of an output's word is that of
// input j.
func (u *unpacker) fifth(bits, from int) {
	u.mask(16, reg.Y14)
	u.VMOVDQU(u.table.Offset(tableBits), reg.Y12)
	u.VMOVDQU(u.table.Offset(tableBits+32), reg.Y13)
	u.VMOVDQU(at(u.src, bits), reg.Y10)
	u.VMOVDQU(at(u.src, bits+32), reg.Y11)
	add := func(y reg.VecPhysical, group, half int) {
		bit := []reg.VecPhysical{reg.Y12, reg.Y13}[group%2]
		u.VPSHUFB(u.table.Offset(tableSpread+32*(group/2)), []reg.VecPhysical{reg.Y10, reg.Y11}[half], reg.Y2)
		u.VPAND(bit, reg.Y2, reg.Y2)
		u.VPCMPEQB(bit, reg.Y2, reg.Y2)
		u.VPAND(reg.Y14, reg.Y2, reg.Y2)
		u.VPOR(reg.Y2, y, y)
	}
	u.nibbles(from, 0, 4,
		func(y reg.VecPhysical, i, half int) { add(y, i, half) },
		func(y reg.VecPhysical, i, half int) { add(y, i+4, half) })
}

// bytes copies codes of 8 bits.
func (u *unpacker) bytes(from int, biased bool) {
	if biased {
		u.mask(0x80, reg.Y14)
	}
	for i := range 16 {
		u.VMOVDQU(at(u.src, from+32*i), reg.Y0)
		if biased {
			u.VPXOR(reg.Y14, reg.Y0, reg.Y0)
		}
		u.out(reg.Y0, i/2, i%2)
	}
}

// lookup replaces nibbles of sub-blocks of 32 by table values.
func (u *unpacker) lookup(from, subs, table int) {
	u.VMOVDQU(u.table.Offset(table), reg.Y14)
	f := func(y reg.VecPhysical, _, _ int) { u.VPSHUFB(y, reg.Y14, y) }
	for s := range subs {
		u.nibbles(from+4*word*s, 8*s, 4, f, f)
	}
}

// widen8 widens 8 bytes to integers.
func (u *unpacker) widen8(from, half int, y reg.VecPhysical) {
	u.VPMOVZXBD(at(u.src, from+8*half), y)
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
	d, high, low4, two, off, a, b := reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y0, reg.Y1
	u.ints(15, low4)
	u.ints(0x30, two)
	u.ints(32, off)
	for half := range 2 {
		u.VCVTPH2PS(at(u.src, 16*half), d)
		u.VPMOVZXWD(at(u.src, 32+16*half), high)
		for i := range 8 {
			u.widen8(64+16*(i/2), half, a)
			if i%2 == 1 {
				u.VPSRLD(U8(4), a, a)
			}
			u.VPAND(low4, a, a)
			u.shifted(high, 2*i, 4, true, b)
			u.VPAND(two, b, b)
			u.VPOR(a, b, b)
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
		u.VMOVDQA(y, out)
	}
}

// scales6: d; dmin; 12 bytes of 6-bit scales and minima.
func (u *unpacker) scales6() {
	d, dmin, m6, m4, m2, zero, a, b := reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y0, reg.Y1
	u.ints(63, m6)
	u.ints(15, m4)
	u.ints(0x30, m2)
	u.ints(1<<31, zero)
	for half := range 2 {
		u.VCVTPH2PS(at(u.src, 16*half), d)
		u.VCVTPH2PS(at(u.src, 32+16*half), dmin)
		u.VXORPS(zero, dmin, dmin)
		for j := range 4 {
			u.widen8(64+16*j, half, a)
			u.VPAND(m6, a, a)
			u.times(d, a, j, 0, half)
			u.widen8(64+16*(j+4), half, a)
			u.VPAND(m6, a, a)
			u.times(dmin, a, j, 1, half)
			u.widen8(64+16*(j+8), half, a)
			u.VPAND(m4, a, a)
			u.widen8(64+16*j, half, b)
			u.VPSRLD(U8(2), b, b)
			u.VPAND(m2, b, b)
			u.VPOR(b, a, a)
			u.times(d, a, j+4, 0, half)
			u.widen8(64+16*(j+8), half, a)
			u.VPSRLD(U8(4), a, a)
			u.widen8(64+16*(j+4), half, b)
			u.VPSRLD(U8(2), b, b)
			u.VPAND(m2, b, b)
			u.VPOR(b, a, a)
			u.times(dmin, a, j+4, 1, half)
		}
	}
}

// q45K: nibbles at from; fifth bits at bits, unless that is negative.
func (u *unpacker) q45K(from, bits int) {
	u.mask(16, reg.Y14)
	for i := range 4 {
		var low, high func(y reg.VecPhysical, g, half int)
		if bits >= 0 {
			add := func(bit int) func(y reg.VecPhysical, g, half int) {
				return func(y reg.VecPhysical, g, half int) {
					u.VMOVDQU(at(u.src, bits+word*g+32*half), reg.Y2)
					u.shifted(reg.Y2, bit, 4, false, reg.Y2)
					u.VPAND(reg.Y14, reg.Y2, reg.Y2)
					u.VPOR(reg.Y2, y, y)
				}
			}
			low, high = add(2*i), add(2*i+1)
		}
		u.nibbles(from+8*word*i, 16*i, 8, low, high)
	}
}

// q2K: 16 bytes of scale and minimum; 2-bit codes; d; dmin.
func (u *unpacker) q2K() {
	d, dmin, m4, sign, a := reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y0
	u.ints(15, m4)
	u.ints(1<<31, sign)
	for half := range 2 {
		u.VCVTPH2PS(at(u.src, 1280+16*half), d)
		u.VCVTPH2PS(at(u.src, 1312+16*half), dmin)
		u.VXORPS(sign, dmin, dmin)
		for j := range 16 {
			u.widen8(16*j, half, a)
			u.VPSRLD(U8(4), a, reg.Y1)
			u.VPAND(m4, a, a)
			u.times(d, a, j, 0, half)
			u.times(dmin, reg.Y1, j, 1, half)
		}
	}
	u.mask(3, reg.Y14)
	u.pairs(256, nil)
}

// pairs spreads codes of 2 bits; Y14 is their mask.
func (u *unpacker) pairs(from int, more func(y reg.VecPhysical, h, s, g, half int)) {
	for h := range 2 {
		for half := range 2 { // one after the other, so that fewer sums are in the making
			for g := range 8 {
				u.VMOVDQU(at(u.src, from+word*(8*h+g)+32*half), reg.Y0)
				for s := range 4 {
					u.shifted(reg.Y0, 2*s, 0, false, reg.Y1)
					u.VPAND(reg.Y14, reg.Y1, reg.Y1)
					if more != nil {
						more(reg.Y1, h, s, g, half)
					}
					u.out(reg.Y1, 32*h+8*s+g, half)
				}
			}
		}
	}
}

// q3K: third bits; 2-bit codes; 12 bytes of 6-bit scales; d.
func (u *unpacker) q3K() {
	d, m4, m2, off, a, b := reg.Y2, reg.Y4, reg.Y5, reg.Y6, reg.Y0, reg.Y1
	u.ints(15, m4)
	u.ints(0x30, m2)
	u.ints(32, off)
	for half := range 2 {
		u.VCVTPH2PS(at(u.src, 1728+16*half), d)
		for j := range 16 {
			u.widen8(1536+16*(j%8), half, a)
			if j >= 8 {
				u.VPSRLD(U8(4), a, a)
			}
			u.VPAND(m4, a, a)
			u.widen8(1536+16*(8+j%4), half, b)
			u.shifted(b, 2*(j/4), 4, true, b)
			u.VPAND(m2, b, b)
			u.VPOR(a, b, b)
			u.VPSUBD(off, b, b)
			u.times(d, b, j, 0, half)
		}
	}
	u.mask(3, reg.Y14)
	u.mask(4, reg.Y13)
	u.pairs(512, func(y reg.VecPhysical, h, s, g, half int) {
		u.VMOVDQU(at(u.src, word*g+32*half), reg.Y3)
		u.shifted(reg.Y3, 4*h+s, 2, false, reg.Y3)
		u.VPAND(reg.Y13, reg.Y3, reg.Y3)
		u.VPOR(reg.Y3, y, y)
	})
}

// q6K: low nibbles; high pairs; 16 int8 scales; d.
func (u *unpacker) q6K() {
	for half := range 2 {
		u.VCVTPH2PS(at(u.src, 3328+16*half), reg.Y2)
		for j := range 16 {
			u.VPMOVSXBD(at(u.src, 3072+16*j+8*half), reg.Y0)
			u.times(reg.Y2, reg.Y0, j, 0, half)
		}
	}
	u.mask(0x30, reg.Y14)
	for h := range 2 {
		for half := range 2 { // as in pairs
			for run := range 2 { // the low nibbles of bytes 32*run on, pairs run and run+2
				for g := range 8 {
					u.VMOVDQU(at(u.src, word*(16*h+8*run+g)+32*half), reg.Y0)
					u.VPSRLW(U8(4), reg.Y0, reg.Y1)
					u.VPAND(reg.Y15, reg.Y0, reg.Y0)
					u.VPAND(reg.Y15, reg.Y1, reg.Y1)
					for i, y := range []reg.VecPhysical{reg.Y0, reg.Y1} {
						u.VMOVDQU(at(u.src, 2048+word*(8*h+g)+32*half), reg.Y2)
						u.shifted(reg.Y2, 2*(run+2*i), 4, false, reg.Y2)
						u.VPAND(reg.Y14, reg.Y2, reg.Y2)
						u.VPOR(reg.Y2, y, y)
						u.out(y, 32*h+16*i+8*run+g, half)
					}
				}
			}
		}
	}
}

// tile writes the function that turns unpacked codes into weights.
func tile(g gen) {
	g.begin("tileAVX2", "func(dst []float32, codes []byte, scales []float32, subs, groups, flip, offset, mins int)",
		"tileAVX2 decodes sub-blocks of 4*groups inputs into dst [4*groups*subs][16]: with sub",
		"floats 16 or, where mins is 1, 32,", "",
		"\tdst[i][j] = scales[s*sub+j] * float32(int(codes[i/4][j][i%4]^flip) - offset) (+ scales[s*sub+16+j])")
	dst, codes, scales, subs, n := reg.RDI, reg.RSI, reg.R8, reg.RCX, reg.RDX
	flip, off, v, t := reg.Y8, reg.Y9, reg.Y0, reg.Y1
	g.arg("dst", dst)
	g.arg("codes", codes)
	g.arg("scales", scales)
	g.arg("subs", subs)
	for _, p := range []struct {
		name string
		y    reg.VecPhysical
	}{{"flip", flip}, {"offset", off}} {
		g.arg(p.name, reg.RAX)
		g.VMOVD(reg.EAX, p.y.AsX())
		g.VPBROADCASTD(p.y.AsX(), p.y)
	}
	g.arg("mins", reg.RAX)
	g.TESTQ(reg.RAX, reg.RAX)
	g.JNE(LabelRef("mins"))
	for _, mins := range []bool{false, true} {
		name := "plain"
		if mins {
			name = "mins"
		}
		g.Label(name)
		g.VMOVUPS(at(scales, 0), reg.Y2)
		g.VMOVUPS(at(scales, 32), reg.Y3)
		if mins {
			g.VMOVUPS(at(scales, 64), reg.Y4)
			g.VMOVUPS(at(scales, 96), reg.Y5)
			g.ADDQ(U32(128), scales)
		} else {
			g.ADDQ(U8(64), scales)
		}
		g.arg("groups", n)
		g.Label(name + "Group")
		for half := range 2 {
			g.VPXOR(at(codes, 32*half), flip, v)
			for i := range 4 {
				if i < 3 {
					g.VPSLLD(U8(24-8*i), v, t)
					g.VPSRLD(U8(24), t, t)
				} else {
					g.VPSRLD(U8(24), v, t)
				}
				g.VPSUBD(off, t, t)
				g.VCVTDQ2PS(t, t)
				g.VMULPS([]reg.VecPhysical{reg.Y2, reg.Y3}[half], t, t)
				if mins {
					g.VADDPS([]reg.VecPhysical{reg.Y4, reg.Y5}[half], t, t)
				}
				g.VMOVUPS(t, at(dst, 64*i+32*half))
			}
		}
		g.ADDQ(U8(64), codes)
		g.ADDQ(U32(256), dst)
		g.DECQ(n)
		g.JNE(LabelRef(name + "Group"))
		g.DECQ(subs)
		g.JNE(LabelRef(name))
		g.VZEROUPPER()
		g.RET()
	}
}
