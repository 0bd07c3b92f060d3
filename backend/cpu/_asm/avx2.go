package main

import (
	"github.com/mmcloughlin/avo/reg"
)

var ymm = []reg.VecPhysical{
	reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7,
	reg.Y8, reg.Y9, reg.Y10, reg.Y11, reg.Y12, reg.Y13, reg.Y14, reg.Y15,
}

func avx2(g gen) {
	for _, f := range floats256 {
		f.write(g)
	}
	for _, r := range recipes256 {
		g.int8x256(r)
	}
	tile(g)
	g.read()
	g.peak("peakF32AVX2", "fused multiply-adds of 8 float32", ymm, func(a, b, c reg.VecPhysical) { g.VFMADD231PS(a, b, c) })
	g.peak("peakInt8AVX2", "VPMADDUBSW, 32 products of bytes each,", ymm, func(a, b, c reg.VecPhysical) { g.VPMADDUBSW(a, b, c) })
	g.round256()
	g.conversions()
	g.pack()
	g.transposeWords()
	g.roundPairs()
}
