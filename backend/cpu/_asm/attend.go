package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// attend writes what attention needs beside the float products.
func attend(g gen) {
	for _, f := range floats512 {
		if f.vectors == 1 && f.x == "float32" {
			f.writeAhead(g)
		}
	}
	q8Keys.writeAhead(g)
	q8Values.writeAhead(g)
	g.askFew()
	g.widenQ8Keys()
	g.widenQ8()
}

func (g gen) askFew() {
	p, n := reg.RSI, reg.RCX
	g.begin("askAVX2", "func(p *byte, n int)", "askAVX2 asks for n > 0 bytes at once: few of them.")
	g.arg("p", p)
	g.arg("n", n)
	g.Label("line")
	g.PREFETCHT1(at(p, 0))
	g.ADDQ(U8(64), p)
	g.SUBQ(U8(64), n)
	g.JG(LabelRef("line"))
	g.RET()
}

// A slot of a page of keys is a column, and a row of it a line.
const (
	keyColumns = 64
	q8Block    = 32
)

// widenQ8Keys has the scales of all columns in registers.
func (g gen) widenQ8Keys() {
	dst, codes, scales, next, rows, n := reg.RDI, reg.RSI, reg.RDX, reg.R8, reg.RCX, reg.R9
	g.begin("widenQ8KeysAVX2", "func(dst []float32, codes *byte, scales *uint16, next *byte)",
		"widenQ8KeysAVX2 widens rows of 64 columns, of which each 32 have a row of scales. len(dst) is a",
		"multiple of 2048, more than none. It asks for a line at next a row.")
	g.arg("dst", dst)
	g.arg("codes", codes)
	g.arg("scales", scales)
	g.arg("next", next)
	g.Load(g.Param("dst").Len(), n)
	g.Label("block")
	for i := range keyColumns / 8 {
		g.VCVTPH2PS(at(scales, 16*i), ymm[8+i])
	}
	g.MOVQ(U32(q8Block), rows)
	g.Label("row")
	g.PREFETCHT1(at(next, 0))
	for i := range keyColumns / 8 {
		y := ymm[i]
		g.VPMOVSXBD(at(codes, 8*i), y)
		g.VCVTDQ2PS(y, y)
		g.VMULPS(ymm[8+i], y, y)
		g.VMOVUPS(y, at(dst, 32*i))
	}
	g.ADDQ(U8(keyColumns), next)
	g.ADDQ(U8(keyColumns), codes)
	g.ADDQ(U32(4*keyColumns), dst)
	g.DECQ(rows)
	g.JNE(LabelRef("row"))
	g.ADDQ(U32(2*keyColumns), scales)
	g.SUBQ(U32(q8Block*keyColumns), n)
	g.JNE(LabelRef("block"))
	g.VZEROUPPER()
	g.RET()
}

func (g gen) widenQ8() {
	dst, codes, scales, next, n := reg.RDI, reg.RSI, reg.RDX, reg.R8, reg.R9
	g.begin("widenQ8AVX2", "func(dst []float32, codes *byte, scales *uint16, next *byte)",
		"widenQ8AVX2 widens blocks of 32 codes with a scale each. len(dst) is a multiple of 32, more than none.",
		"It asks for as much memory at next as it takes of codes.")
	g.arg("dst", dst)
	g.arg("codes", codes)
	g.arg("scales", scales)
	g.arg("next", next)
	g.Load(g.Param("dst").Len(), n)
	g.Label("block")
	g.PREFETCHT1(at(next, 0))
	g.VPBROADCASTW(at(scales, 0), reg.X0)
	g.VCVTPH2PS(reg.X0, reg.Y0)
	for i := range q8Block / 8 {
		y := ymm[1+i]
		g.VPMOVSXBD(at(codes, 8*i), y)
		g.VCVTDQ2PS(y, y)
		g.VMULPS(reg.Y0, y, y)
		g.VMOVUPS(y, at(dst, 32*i))
	}
	g.ADDQ(U8(q8Block), next)
	g.ADDQ(U8(q8Block), codes)
	g.ADDQ(U8(2), scales)
	g.ADDQ(U32(4*q8Block), dst)
	g.SUBQ(U8(q8Block), n)
	g.JNE(LabelRef("block"))
	g.VZEROUPPER()
	g.RET()
}

// aheadRows are the rows that the products below are built for: the query heads
// of a key-value head. Four panels of six rows are 24 sums.
var aheadRows = []int{6, 4, 3, 2, 1}

// The registers of these products beside those of a float product: the next memory
// to be asked for; the scales of the next step and, of values, their distance and
// three of it.
var (
	floatAsk          = reg.R10
	floatScales       = reg.R11
	floatScaleStride  = reg.R14
	floatScaleStride3 = reg.RAX
)

// writeAhead writes the product of few rows, which waits for memory: it takes what
// w has in order, a head's keys or values of a page, and asks for as much at next.
// Those are elsewhere, where the processor would not guess; and asked for all at
// once they would fill the queue of what is under way.
func (f float512) writeAhead(g gen) {
	const panels = 4
	name, scales := f.name+"AheadAVX512", ""
	if f.bytes == 1 {
		scales = "scales []float32, scaleStride int, "
	}
	g.begin(name, fmt.Sprintf("func(out []float32, outStride int, x []float32, xStride int, w []%s, wStride, wStep int, %snext *byte, rows, k int, accumulate bool)", f.elem, scales),
		append(f.about(name, panels, aheadRows), "", "Meanwhile it asks for memory at next, as much as it takes of w.")...)
	f.ahead = panels * 16 * f.bytes
	f.product(g, panels, aheadRows)
}

// ask asks for what the next step u of four takes.
func (f float512) ask(g gen, u int) {
	for at := 0; at < f.ahead; at += 64 {
		g.PREFETCHT1(Mem{Base: floatAsk, Disp: u*f.ahead + at})
	}
}

// scales loads the registers of scales.
func (f float512) scales(g gen) {
	if f.bytes > 1 {
		return
	}
	g.arg("scales", floatScales)
	g.stride("scaleStride", 2, floatScaleStride)
	g.LEAQ(Mem{Base: floatScaleStride, Index: floatScaleStride, Scale: 2}, floatScaleStride3)
}

// The products of codes widen them as they come. All inputs share a scale for each
// output (keys), or each input has one for every 32 outputs (values).
var (
	q8Keys = float512{"q8Keys", "int8", "float32", "float32(w[p*wStep+i*wStride+j])*scales[p*16+j]", 1, 1,
		func(g gen, m Mem, w []reg.VecPhysical) {
			p, _ := floatPlace(m)
			widenCodes(g, m, w[0])
			g.VMULPS(at(floatScales, 64*p), w[0], w[0])
		}, fma512, 0}
	q8Values = float512{"q8Values", "int8", "float32", "float32(w[p*wStep+i*wStride+j])*scales[i*scaleStride+p/2]", 1, 1,
		func(g gen, m Mem, w []reg.VecPhysical) {
			p, u := floatPlace(m)
			widenCodes(g, m, w[0])
			g.VMULPS_BCST(weightAt(floatScales, floatScaleStride, floatScaleStride3, u, p/2*4), w[0], w[0])
		}, fma512, 0}
)

func widenCodes(g gen, m Mem, w reg.VecPhysical) {
	g.VPMOVSXBD(m, w)
	g.VCVTDQ2PS(w, w)
}

// floatPlace is the panel and the step of four of weights at m.
func floatPlace(m Mem) (panel, step int) {
	for i, r := range floatW {
		if m.Base == r {
			panel = i
		}
	}
	switch m.Index {
	case nil:
	case floatW3:
		step = 3
	default:
		step = int(m.Scale)
	}
	return panel, step
}

// asked moves on by n steps.
func (f float512) asked(g gen, n int) {
	if f.name == q8Values.name {
		g.LEAQ(Mem{Base: floatScales, Index: floatScaleStride, Scale: uint8(n)}, floatScales)
	}
	if f.ahead > 0 {
		g.ADDQ(U32(uint32(n*f.ahead)), floatAsk)
	}
}
