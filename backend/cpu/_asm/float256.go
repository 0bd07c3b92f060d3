package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A float256 is a kind of float product of avx2, as float512 is of avx512. Load
// takes half of the outputs of one of the step's inputs.
type float256 struct {
	name, elem, doc string
	bytes           int
	vectors         int
	load            func(g gen, m Mem, vector int, w reg.VecPhysical)
}

var floats256 = []float256{
	{"f32", "float32", "w[i*wStride+j]", 4, 1,
		func(g gen, m Mem, _ int, w reg.VecPhysical) { g.VMOVUPS(m, w) }},
	{"f16", "uint16", "float16(w[i*wStride+j])", 2, 1,
		func(g gen, m Mem, _ int, w reg.VecPhysical) { g.VCVTPH2PS(m, w) }},
	{"bf16", "uint16", "bfloat16(w[i*wStride+j])", 2, 1,
		func(g gen, m Mem, _ int, w reg.VecPhysical) { g.VPMOVZXWD(m, w); g.VPSLLD(U8(16), w, w) }},
	{"bf16Pairs", "uint16", "bfloat16(w[i/2*wStride+2*j+i%2])", 2, 2,
		func(g gen, m Mem, vector int, w reg.VecPhysical) {
			if vector == 1 {
				g.VPAND(m, mask256, w)
				return
			}
			g.VMOVDQU(m, w)
			g.VPSLLD(U8(16), w, w)
		}},
}

// rows256 is the number of rows of a tile. Row r has the sums ymm[2*r] and
// ymm[2*r+1].
const rows256 = 6

// mask256 has the upper half of every word, for pairs; before, whether to
// accumulate.
var mask256 = reg.Y15

func (f float256) write(g gen) {
	name, steps := f.name+"AVX2", "k"
	if f.vectors == 2 {
		steps = "2*k"
	}
	g.begin(name, "func(out []float32, outStride int, x []float32, xStride int, w []"+f.elem+", wStride, wStep, rows, k int, accumulate bool)",
		fmt.Sprintf("%s multiplies rows, 6, 4, 2 or 1 of them, by a panel of k > 0 steps; wStep is not used:", name), "",
		"\tfor r := range rows {",
		"\t\tfor j := range 16 {",
		"\t\t\tsum := float32(0)",
		"\t\t\tif accumulate {",
		"\t\t\t\tsum = out[r*outStride+j]",
		"\t\t\t}",
		"\t\t\tfor i := range "+steps+" {",
		"\t\t\t\tsum = fma(x[r*xStride+i], "+f.doc+", sum)",
		"\t\t\t}",
		"\t\t\tout[r*outStride+j] = sum",
		"\t\t}",
		"\t}")
	x, xStride, w, tmp := []reg.GPPhysical{reg.RSI, reg.R9}, reg.R8, reg.RDI, reg.RAX
	g.arg("x", x[0])
	g.stride("xStride", 2, xStride)
	g.LEAQ(Mem{Base: xStride, Index: xStride, Scale: 2}, x[1])
	g.ADDQ(x[0], x[1])
	g.arg("w", w)
	g.stride("wStride", uint64(f.bytes/2), reg.R10)
	g.LEAQ(Mem{Base: reg.R10, Index: reg.R10, Scale: 2}, reg.R11)
	g.arg("rows", tmp)
	built := []int{rows256, 4, 2, 1}
	for _, n := range built[1:] {
		g.CMPQ(tmp, U8(n))
		g.JEQ(LabelRef(fmt.Sprintf("rows%d", n)))
	}
	for _, n := range built {
		g.Label(fmt.Sprintf("rows%d", n))
		f.rows(g, n, x, xStride, w)
	}
}

// rows has the weights of one input in two registers and broadcasts x row by
// row.
func (f float256) rows(g gen, rows int, x []reg.GPPhysical, xStride, w reg.GPPhysical) {
	const unroll = 4
	k, tmp, wStride, w3Stride := reg.RCX, reg.RAX, reg.R10, reg.R11
	low, high, b := reg.Y12, reg.Y13, reg.Y14
	label := func(s string) string { return fmt.Sprintf("%s%d", s, rows) }
	step := func(n int) {
		for i := range n * f.vectors {
			u := i / f.vectors
			f.load(g, weightAt(w, wStride, w3Stride, u, 0), i%f.vectors, low)
			f.load(g, weightAt(w, wStride, w3Stride, u, 8*f.bytes*f.vectors), i%f.vectors, high)
			for r := range rows {
				g.VBROADCASTSS(rowAt(x, xStride, r, 4*i), b)
				g.VFMADD231PS(low, b, ymm[2*r])
				g.VFMADD231PS(high, b, ymm[2*r+1])
			}
		}
		g.ADDQ(U8(4*n*f.vectors), x[0])
		g.ADDQ(U8(4*n*f.vectors), x[1])
		g.LEAQ(Mem{Base: w, Index: wStride, Scale: uint8(n)}, w)
		g.SUBQ(U8(n), k)
	}
	g.arg("k", k)
	g.sums256(rows)
	if f.vectors == 2 {
		g.MOVL(U32(0xffff0000), tmp.As32())
		g.VMOVD(tmp.As32(), mask256.AsX())
		g.VPBROADCASTD(mask256.AsX(), mask256)
	}
	g.CMPQ(k, U8(unroll))
	g.JB(LabelRef(label("tail")))
	g.Label(label("loop"))
	step(unroll)
	g.CMPQ(k, U8(unroll))
	g.JAE(LabelRef(label("loop")))
	g.Label(label("tail"))
	g.TESTQ(k, k)
	g.JEQ(LabelRef(label("store")))
	g.Label(label("one"))
	step(1)
	g.JNE(LabelRef(label("one")))
	g.Label(label("store"))
	g.store256(rows)
	g.VZEROUPPER()
	g.RET()
}

// sums256 loads the sums from out, or zeros.
func (g gen) sums256(rows int) {
	cur, stride, load := reg.RAX, reg.RDX, mask256
	g.Comment("Y15 is all ones to accumulate, else the sums start at zero.")
	g.Load(g.Param("accumulate"), cur)
	g.NEGQ(cur)
	g.VMOVD(cur.As32(), load.AsX())
	g.VPBROADCASTD(load.AsX(), load)
	g.arg("out", cur)
	g.stride("outStride", 2, stride)
	for r := range rows {
		g.VMASKMOVPS(at(cur, 0), load, ymm[2*r])
		g.VMASKMOVPS(at(cur, 32), load, ymm[2*r+1])
		g.ADDQ(stride, cur)
	}
}

// store256 stores the sums.
func (g gen) store256(rows int) {
	cur, stride := reg.RAX, reg.RDX
	g.arg("out", cur)
	g.stride("outStride", 2, stride)
	for r := range rows {
		g.VMOVUPS(ymm[2*r], at(cur, 0))
		g.VMOVUPS(ymm[2*r+1], at(cur, 32))
		g.ADDQ(stride, cur)
	}
}
