package main

import (
	"github.com/mmcloughlin/avo/reg"
)

var zmm = []reg.VecPhysical{
	reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
	reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
	reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
	reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
}

func avx512(g gen) {
	for _, f := range floats512 {
		f.write(g)
	}
	for _, r := range recipes512 {
		g.int8x512(r)
	}
	for _, r := range recipes512 {
		g.int8Pair512(r)
	}
	g.peak("peakF32AVX512", "fused multiply-adds of 16 float32", zmm, func(a, b, c reg.VecPhysical) { g.VFMADD231PS(a, b, c) })
	g.peak("peakBF16AVX512", "VDPBF16PS, 32 products of bfloat16 each,", zmm, func(a, b, c reg.VecPhysical) { g.dpbf16(a, b, c) })
	g.peak("peakInt8AVX512", "VPDPBUSD, 64 products of bytes each,", zmm, func(a, b, c reg.VecPhysical) { g.VPDPBUSD(a, b, c) })
}
