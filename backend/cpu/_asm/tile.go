package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

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
