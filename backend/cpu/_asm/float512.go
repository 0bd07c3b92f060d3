package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A float512 is a kind of float product of avx512. Its panels are steps of
// weights, each of one or two inputs, and its inputs are 4 bytes a step and
// vector.
type float512 struct {
	name, elem, x, doc string
	bytes              int // of an element of w
	vectors            int // of weights a step: the inputs that it multiplies
	load               func(g gen, m Mem, w []reg.VecPhysical)
	add                func(g gen, x, w, sum reg.VecPhysical) // sum += x*w
	ahead              int                                    // bytes a step that are asked for at next
}

// mask512 has the upper half of every word, for kinds of pairs.
var mask512 = reg.Z31

func fma512(g gen, x, w, sum reg.VecPhysical) { g.VFMADD231PS(x, w, sum) }

var floats512 = []float512{
	{"f32", "float32", "float32", "w[p*wStep+i*wStride+j]", 4, 1,
		func(g gen, m Mem, w []reg.VecPhysical) { g.VMOVUPS(m, w[0]) }, fma512, 0},
	{"f16", "uint16", "float32", "float16(w[p*wStep+i*wStride+j])", 2, 1,
		func(g gen, m Mem, w []reg.VecPhysical) { g.VCVTPH2PS(m, w[0]) }, fma512, 0},
	{"bf16", "uint16", "float32", "bfloat16(w[p*wStep+i*wStride+j])", 2, 1,
		func(g gen, m Mem, w []reg.VecPhysical) { g.VPMOVZXWD(m, w[0]); g.VPSLLD(U8(16), w[0], w[0]) }, fma512, 0},
	{"bf16Pairs", "uint16", "float32", "bfloat16(w[p*wStep+i/2*wStride+2*j+i%2])", 2, 2,
		func(g gen, m Mem, w []reg.VecPhysical) {
			g.VMOVDQU32(m, w[1])
			g.VPSLLD(U8(16), w[1], w[0])
			g.VPANDD(mask512, w[1], w[1])
		}, fma512, 0},
	{"bf16Dot", "uint16", "uint16", "bfloat16(w[p*wStep+i/2*wStride+2*j+i%2])", 2, 1,
		func(g gen, m Mem, w []reg.VecPhysical) { g.VMOVDQU32(m, w[0]) },
		func(g gen, x, w, sum reg.VecPhysical) { g.dpbf16(x, w, sum) }, 0},
}

// The tiles of float products: panels, and the numbers of rows that are built.
// One row takes panels from four places at once, since one alone does not keep
// memory busy. Two panels share what is broadcast of a row: 24 sums wait for
// none of the multiplications before.
var tiles512 = []struct {
	suffix string
	panels int
	rows   []int
}{
	{"", 1, []int{12, 8, 4, 2, 1}},
	{"x2", 2, []int{12, 8, 4, 2, 1}},
	{"x4", 4, []int{1}},
}

func (f float512) write(g gen) {
	for _, t := range tiles512 {
		name := f.name + t.suffix + "AVX512"
		g.begin(name, fmt.Sprintf("func(out []float32, outStride int, x []%s, xStride int, w []%s, wStride, wStep, rows, k int, accumulate bool)", f.x, f.elem),
			f.about(name, t.panels, t.rows)...)
		f.product(g, t.panels, t.rows)
	}
}

func (f float512) about(name string, panels int, rows []int) []string {
	x, steps := "x[r*xStride+i]", "k"
	switch {
	case f.x == "uint16":
		x, steps = "bfloat16(x[r*xStride+i])", "2*k"
	case f.vectors == 2:
		steps = "2*k"
	}
	return []string{
		fmt.Sprintf("%s multiplies rows, %v of them, by %d panels of k > 0 steps:", name, rows, panels), "",
		"\tfor r := range rows {",
		fmt.Sprintf("\t\tfor p := range %d {", panels),
		"\t\t\tfor j := range 16 {",
		"\t\t\t\tsum := float32(0)",
		"\t\t\t\tif accumulate {",
		"\t\t\t\t\tsum = out[r*outStride+p*16+j]",
		"\t\t\t\t}",
		"\t\t\t\tfor i := range " + steps + " {",
		"\t\t\t\t\tsum = fma(" + x + ", " + f.doc + ", sum)",
		"\t\t\t\t}",
		"\t\t\t\tout[r*outStride+p*16+j] = sum",
		"\t\t\t}",
		"\t\t}",
		"\t}",
	}
}

// The registers of a float product: sums come first, then weights; what is
// broadcast takes turns in three.
var (
	floatX       = []reg.GPPhysical{reg.RSI, reg.R9, reg.R10, reg.R11} // rows 0, 3, 6 and 9
	floatXStride = reg.R8
	floatW       = []reg.GPPhysical{reg.RDI, reg.R12, reg.R13, reg.R15} // of a panel each
	floatWStride = reg.RBX
	floatW3      = reg.RDX // three of them
	floatK       = reg.RCX
	floatCur     = reg.RAX
	floatNext    = reg.R13 // the rows after these

	floatOut       = floatCur
	floatOutStride = reg.R14
	floatOutEnd    = reg.R15 // where floatAhead
)

// floatAhead reports whether what comes next is asked for: a line a step of the
// rows after these, which lie behind them, their places in out, and weights, which
// the first rows bring in from memory.
func floatAhead(panels, rows int) bool { return panels == 2 && rows == 12 }

const weightsAhead = 1 << 12 // bytes

const floatUnroll = 4

func (f float512) product(g gen, panels int, rows []int) {
	xBytes := 2
	if f.x == "uint16" {
		xBytes = 1
	}
	g.arg("x", floatX[0])
	g.stride("xStride", uint64(xBytes), floatXStride)
	for i := range floatX[1:] {
		g.LEAQ(Mem{Base: floatX[i], Index: floatXStride, Scale: 2}, floatX[i+1])
		g.ADDQ(floatXStride, floatX[i+1])
	}
	g.arg("w", floatW[0])
	g.stride("wStep", uint64(f.bytes/2), floatCur)
	for p := range floatW[:panels-1] {
		g.LEAQ(Mem{Base: floatW[p], Index: floatCur, Scale: 1}, floatW[p+1])
	}
	g.stride("wStride", uint64(f.bytes/2), floatWStride)
	g.LEAQ(Mem{Base: floatWStride, Index: floatWStride, Scale: 2}, floatW3)
	if f.vectors == 2 {
		g.MOVL(U32(0xffff0000), floatCur.As32())
		g.VPBROADCASTD(floatCur.As32(), mask512)
	}
	if f.ahead > 0 {
		g.Load(g.Param("next"), floatAsk)
	}
	g.arg("rows", floatCur)
	for _, n := range rows[1:] {
		g.CMPQ(floatCur, U8(n))
		g.JEQ(LabelRef(fmt.Sprintf("rows%d", n)))
	}
	for _, n := range rows {
		g.Label(fmt.Sprintf("rows%d", n))
		f.rows(g, panels, n)
	}
}

// rows is the product of a number of rows.
func (f float512) rows(g gen, panels, rows int) {
	label := func(s string) string { return fmt.Sprintf("%s%d", s, rows) }
	g.arg("k", floatK)
	f.start(g, panels, rows, label("begin"))
	f.scales(g)
	if floatAhead(panels, rows) {
		g.LEAQ(Mem{Base: floatX[3], Index: floatXStride, Scale: 2}, floatNext)
		g.ADDQ(floatXStride, floatNext)
		g.Comment("The next rows of out, as far as the last of them.")
		g.arg("out", floatOutEnd)
		g.stride("outStride", 2, floatOutStride)
		g.LEAQ(Mem{Base: floatOutStride, Index: floatOutStride, Scale: 2}, floatOut)
		g.LEAQ(Mem{Base: floatOutEnd, Index: floatOut, Scale: 4}, floatOut)
		g.NEGQ(floatOutEnd)
		g.LEAQ(Mem{Base: floatOutEnd, Index: floatOut, Scale: 2}, floatOutEnd)
	}
	g.CMPQ(floatK, U8(floatUnroll))
	g.JB(LabelRef(label("tail")))
	g.Label(label("loop"))
	if floatAhead(panels, rows) {
		g.CMPQ(floatOut, floatOutEnd)
		g.JAE(LabelRef(label("asked")))
		for p := range panels {
			g.PREFETCHT0(at(floatOut, 64*p))
		}
		g.ADDQ(floatOutStride, floatOut)
		g.Label(label("asked"))
	}
	f.steps(g, panels, rows, floatUnroll)
	g.CMPQ(floatK, U8(floatUnroll))
	g.JAE(LabelRef(label("loop")))
	g.Label(label("tail"))
	g.TESTQ(floatK, floatK)
	g.JEQ(LabelRef(label("store")))
	g.Label(label("one"))
	f.steps(g, panels, rows, 1)
	g.JNE(LabelRef(label("one")))
	g.Label(label("store"))
	f.sums(g, panels, rows, func(sum, out Op) { g.VMOVUPS(sum, out) })
	g.VZEROUPPER()
	g.RET()
}

// start loads the sums from out or makes them zeros. It does not read out for nothing,
// as a load through a mask does that drops all it gets.
func (f float512) start(g gen, panels, rows int, begin string) {
	for i := range rows * panels {
		g.VPXORD(zmm[i], zmm[i], zmm[i])
	}
	g.Load(g.Param("accumulate"), floatCur)
	g.TESTQ(floatCur, floatCur)
	g.JEQ(LabelRef(begin))
	f.sums(g, panels, rows, func(sum, out Op) { g.VMOVUPS(out, sum) })
	g.Label(begin)
}

// sums moves each sum from or to its place in out.
func (f float512) sums(g gen, panels, rows int, move func(sum, out Op)) {
	g.arg("out", floatOut)
	g.stride("outStride", 2, floatOutStride)
	for r := range rows {
		for p := range panels {
			move(zmm[r*panels+p], at(floatOut, 64*p))
		}
		if r < rows-1 {
			g.ADDQ(floatOutStride, floatOut)
		}
	}
}

// steps multiplies n steps of weights.
func (f float512) steps(g gen, panels, rows, n int) {
	first, group := rows*panels, panels*f.vectors // registers of weights, those of a step
	room := (28 - first) / group * group
	for u := range n {
		if floatAhead(panels, rows) {
			g.PREFETCHT0(at(floatNext, 64*u))
		}
		weights := make([][]reg.VecPhysical, panels)
		for p := range panels {
			at := (u*group + p*f.vectors) % room
			weights[p] = zmm[first+at : first+at+f.vectors]
			f.load(g, weightAt(floatW[p], floatWStride, floatW3, u, 0), weights[p])
			if floatAhead(panels, rows) {
				g.PREFETCHT1(weightAt(floatW[p], floatWStride, floatW3, u, weightsAhead))
			}
		}
		f.ask(g, u)
		for r := range rows {
			for v := range f.vectors {
				b := zmm[28+(r*f.vectors+v)%3]
				g.VBROADCASTSS(rowAt(floatX, floatXStride, r, 4*(u*f.vectors+v)), b)
				for p := range panels {
					f.add(g, b, weights[p][v], zmm[r*panels+p])
				}
			}
		}
	}
	if floatAhead(panels, rows) {
		g.ADDQ(U32(64*n), floatNext)
	}
	for i := 0; i < rows; i += 3 {
		g.ADDQ(U8(4*n*f.vectors), floatX[i/3])
	}
	for p := range panels {
		g.LEAQ(Mem{Base: floatW[p], Index: floatWStride, Scale: uint8(n)}, floatW[p])
	}
	f.asked(g, n)
	g.SUBQ(U8(n), floatK)
}
