package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A product in AVX2 goes through a block twice, for 8 outputs each. Of the room for
// scales it uses, at these offsets, the floats that a block's scales and minima are
// multiples of, and those multiples, bytes or words [subs][16], which it widens when
// it needs them. A type with both has minima behind the scales.
const (
	roomFactors   = 0
	roomMultiples = 128
)

// What multiply256 and finish256 use: the first always, the others for signed codes.
var tmp256, abs256, ones256 = reg.Y3, reg.Y2, reg.Y11

// depth is how many products of pairs of codes add up in 16 bits, of the groups of a
// sub-block; 0 for signed codes. The largest are 2*15*127 eight times, 2*31*127 four
// times, 2*63*127 twice.
func (p packing) depth() int {
	return min(map[int]int{2: 8, 3: 8, 4: 8, 5: 4, 6: 2, 8: 0}[p.bits], p.subLen()/4)
}

// room256 is what the type leaves for sums.
func (f *fused) room256() (room []reg.VecPhysical) {
	used := append([]int{0, 1, 3, 8, 9, 15}, f.registers...)
	if f.depth() == 0 {
		used = append(used, 2, 11)
	}
	for i, y := range ymm {
		free := true
		for _, u := range used {
			free = free && u != i
		}
		if free {
			room = append(room, y)
		}
	}
	return room
}

func (f *fused) start256() {
	f.MOVQ(f.src, fusedNext)
	f.XORL(f.half.As32(), f.half.As32())
	if f.depth() == 0 {
		f.VPCMPEQW(ones256, ones256, ones256)
		f.VPSRLW(U8(15), ones256, ones256)
	}
}

// halves256 is a block: f.half goes from 0 to 8 and back. Each half asks for half of
// the lines.
func (f *fused) halves256() {
	f.scales256()
	f.Label("half")
	f.ahead(at(fusedNext, 0), fusedAhead, f.size()/2, f.inputs)
	f.block(func() {})
	f.ADDQ(U32(f.size()/2), fusedNext)
	f.XORQ(U8(8), f.half)
	f.JNE(LabelRef("half"))
}

// multiply256 adds group i of a sub-block to dots. It clobbers Y3 and, with signed
// codes, Y2.
func (f *fused) multiply256(y reg.VecPhysical, group int, dots []*dot, i int) {
	x := func(row int) { f.VPBROADCASTD(at(fusedX[row], 4*group), tmp256) }
	depth := f.depth()
	if depth == 0 {
		f.VPABSB(y, abs256)
		for row, d := range dots { // as signed256
			x(row)
			f.VPSIGNB(y, tmp256, tmp256)
			f.VPMADDUBSW(tmp256, abs256, tmp256)
			f.add(ones256, tmp256, d)
		}
		return
	}
	for row, d := range dots {
		x(row)
		if i%depth == 0 {
			d.words = f.take()
			f.VPMADDUBSW(tmp256, y, d.words)
		} else {
			f.VPMADDUBSW(tmp256, y, tmp256)
			f.VPADDW(tmp256, d.words, d.words)
		}
		if i%depth == depth-1 {
			f.add(f.table.Offset(tableOnes), d.words, d)
			f.release(&d.words)
		}
	}
}

// add adds pairs of words to a sum. It clobbers them.
func (f *fused) add(ones Op, words reg.VecPhysical, d *dot) {
	if d.sum == nil {
		d.sum = f.take()
		f.VPMADDWD(ones, words, d.sum)
		return
	}
	f.VPMADDWD(ones, words, words)
	f.VPADDD(words, d.sum, d.sum)
}

// finish256 multiplies the sums of a sub-block by its scale as scale256 does. It
// clobbers Y3 and t. Sums start at zero where no offset was left in the codes.
func (f *fused) finish256(sub int, t reg.VecPhysical) {
	scale, min := tmp256, reg.VecPhysical(nil)
	f.scale256(sub, 0, scale)
	if f.mins {
		min = f.take()
		f.scale256(sub, 1, min)
	}
	for row, d := range f.live[sub] {
		sum, meta := f.sum(row), func(field int) Mem { return at(fusedMeta[row], metaBytes*sub+field) }
		if !f.mins && f.depth() > 0 {
			f.VPBROADCASTD(meta(metaStart), t)
			f.VPADDD(t, d.sum, d.sum)
		}
		f.VCVTDQ2PS(d.sum, d.sum)
		if f.single() {
			f.VBROADCASTSS(meta(metaScale), t)
			f.VMULPS(scale, t, t)
			f.VFMADD231PS(d.sum, t, sum)
		} else {
			f.VFMADD231PS(scale, d.sum, sum)
		}
		if f.mins {
			f.VBROADCASTSS(meta(metaSum), t)
			f.VFMADD231PS(min, t, sum)
		}
	}
	if f.mins {
		f.release(&min)
	}
}

// scale256 loads half of a sub-block's scales, or minima where which is 1.
func (f *fused) scale256(sub, which int, y reg.VecPhysical) {
	switch typ := f.typ(); {
	case typ == "MXFP4":
		f.VPMOVZXBD(f.part(f.src, 0, 0, 8), y)
		t := []reg.VecPhysical{f.take(), f.take(), f.take()}
		f.power(y, t[0], t[1], t[2])
		for i := range t {
			f.release(&t[i])
		}
		return
	case typ == "TQ1_0":
		f.VCVTPH2PS(f.part(f.src, 832, 0, 16), y)
		return
	case typ == "TQ2_0":
		f.VCVTPH2PS(f.part(f.src, 1024, 0, 16), y)
		return
	case f.single():
		f.VCVTPH2PS(f.part(f.src, 32*which, 0, 16), y)
		return
	case typ == "Q6_K":
		f.VPMOVSXBD(f.part(f.src, 3072+16*sub, 0, 8), y)
	case typ == "IQ4_XS":
		f.VPMOVSXWD(f.part(f.scales, roomMultiples+32*sub, 0, 16), y)
	case typ == "Q3_K":
		f.VPMOVSXBD(f.part(f.scales, roomMultiples+16*sub, 0, 8), y)
	case typ == "Q2_K":
		f.VPMOVZXBD(f.part(f.src, 16*sub, 0, 8), y)
		if which == 0 {
			f.VPAND(f.r(15), y, y)
		} else {
			f.VPSRLD(U8(4), y, y)
		}
	default:
		f.VPMOVZXBD(f.part(f.scales, roomMultiples+16*(sub+which*f.inputs/f.subLen()), 0, 8), y)
	}
	f.VCVTDQ2PS(y, y)
	f.VMULPS(f.part(f.scales, roomFactors+64*which, 0, 32), y, y)
}

// scales256 prepares what scale256 loads, of both halves. No sums are in the making.
func (f *fused) scales256() {
	switch f.typ() {
	case "IQ4_XS":
		f.factor(0, 0)
		f.multiplesIQ4()
	case "Q2_K":
		f.factor(1280, 0)
		f.factor(1312, 1)
	case "Q3_K":
		f.factor(1728, 0)
		f.multiples3()
	case "Q4_K", "Q5_K":
		f.factor(0, 0)
		f.factor(32, 1)
		f.multiples6()
	case "Q6_K":
		f.factor(3328, 0)
	}
}

// factor widens 16 float16 and, for minima, changes their sign.
func (f *fused) factor(disp, which int) {
	for half := range 2 {
		f.VCVTPH2PS(at(f.src, disp+16*half), reg.Y0)
		if which == 1 {
			f.VXORPS(f.table.Offset(tableSign), reg.Y0, reg.Y0)
		}
		f.VMOVUPS(reg.Y0, at(f.scales, roomFactors+64*which+32*half))
	}
}

// masks puts bytes into registers, each of them in all of one.
func (f *fused) masks(b ...byte) []reg.VecPhysical {
	y := f.room[:len(b)]
	for i, b := range b {
		f.mask(b, y[i])
	}
	return y
}

// multiples6 splits 12 bytes of 6-bit scales and minima as scales6 does, two of each
// output at once.
func (f *fused) multiples6() {
	y, a, b := f.masks(63, 0x30), reg.Y0, reg.Y1
	m6, m2, m4 := y[0], y[1], f.r(15)
	store := func(y reg.VecPhysical, i, which int) {
		f.VMOVDQU(y, at(f.scales, roomMultiples+128*which+32*i))
	}
	for i := range 2 {
		for which := range 2 {
			f.VMOVDQU(at(f.src, 64+64*which+32*i), a)
			f.VPAND(m6, a, b)
			store(b, i, which)
			f.VPSRLW(U8(2), a, a)
			f.VPAND(m2, a, a)
			f.VMOVDQU(at(f.src, 64+128+32*i), b)
			if which == 1 {
				f.VPSRLW(U8(4), b, b)
			}
			f.VPAND(m4, b, b)
			f.VPOR(a, b, b)
			store(b, i+2, which)
		}
	}
}

// multiples3 joins scales as scales3 does, two of each output at once.
func (f *fused) multiples3() {
	y, a, b := f.masks(0x30, 32), reg.Y0, reg.Y1
	m2, off := y[0], y[1]
	for i := range 8 {
		f.VMOVDQU(at(f.src, 1536+32*(i%4)), a)
		if i >= 4 {
			f.VPSRLW(U8(4), a, a)
		}
		f.VPAND(f.r(15), a, a)
		f.VMOVDQU(at(f.src, 1536+128+32*(i%2)), b)
		f.shifted(b, 2*(i/2), 4, false, b)
		f.VPAND(m2, b, b)
		f.VPOR(a, b, b)
		f.VPSUBB(off, b, b)
		f.VMOVDQU(b, at(f.scales, roomMultiples+32*i))
	}
}

// multiplesIQ4 joins scales as scalesIQ4 does, in words.
func (f *fused) multiplesIQ4() {
	y, a, b := f.room[:4], reg.Y0, reg.Y1
	high, low4, two, off := y[0], y[1], y[2], y[3]
	f.ints(0x000f000f, low4)
	f.ints(0x00300030, two)
	f.ints(0x00200020, off)
	f.VMOVDQU(at(f.src, 32), high)
	for i := range 8 {
		f.VPMOVZXBW(at(f.src, 64+16*(i/2)), a)
		if i%2 == 1 {
			f.VPSRLW(U8(4), a, a)
		}
		f.VPAND(low4, a, a)
		f.shifted(high, 2*i, 4, false, b)
		f.VPAND(two, b, b)
		f.VPOR(a, b, b)
		f.VPSUBW(off, b, b)
		f.VMOVDQU(b, at(f.scales, roomMultiples+32*i))
	}
}
