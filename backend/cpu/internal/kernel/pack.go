package kernel

import "github.com/herd-ml/herd/backend/block"

// PackWords interleaves 16 rows that are stride bytes apart by units of 4 bytes,
// words of each of a row's blocks:
//
//	dst[b*dstStep+64*i+4*r:][:4] = src[b*srcStep+r*stride+4*i:][:4],
//	b < blocks, i < words, r < 16.
//
// Slices too short for that panic.
func (s *Set) PackWords(dst, src []byte, stride, words, blocks, dstStep, srcStep int) {
	if words <= 0 || blocks <= 0 {
		return
	}
	if stride < 0 || dstStep < 0 || srcStep < 0 || len(dst) < (blocks-1)*dstStep+64*words || len(src) < (blocks-1)*srcStep+15*stride+4*words {
		panic("kernel: PackWords operands too short")
	}
	s.packWords(dst, src, stride, words, blocks, dstStep, srcStep)
}

func packWordsGeneric(dst, src []byte, stride, words, blocks, dstStep, srcStep int) {
	for b := range blocks {
		for i := range words {
			d := dst[b*dstStep+64*i:][:64]
			for r := range Panel {
				copy(d[4*r:4*r+4], src[b*srcStep+r*stride+4*i:])
			}
		}
	}
}

// packChunk is the words of a row between two safepoints.
const packChunk = 1 << 12

// TransposeWords turns 16 rows of words, units of 4 bytes that are stride bytes
// apart, into columns:
//
//	dst[i*dstStride+4*r:][:4] = src[r*stride+4*i:][:4], i < words, r < 16.
//
// Slices too short for that panic.
func (s *Set) TransposeWords(dst []byte, dstStride int, src []byte, stride, words int) {
	if words <= 0 {
		return
	}
	if stride < 0 || dstStride < 0 || len(dst) < (words-1)*dstStride+64 || len(src) < 15*stride+4*words {
		panic("kernel: TransposeWords operands too short")
	}
	s.transposeWords(dst, dstStride, src, stride, words)
}

func transposeWordsGeneric(dst []byte, dstStride int, src []byte, stride, words int) {
	for i := range words {
		d := dst[i*dstStride:][:64]
		for r := range Panel {
			copy(d[4*r:4*r+4], src[r*stride+4*i:])
		}
	}
}

// RoundPairs rounds two rows to bfloat16, to nearest even, and puts their numbers side
// by side, 16 of each a group:
//
//	dst[i*step+2*j], dst[i*step+2*j+1] = a[16*i+j], b[16*i+j].
//
// a and b are as long, a multiple of 16; dst too short for them panics.
func (s *Set) RoundPairs(dst []uint16, step int, a, b []float32) {
	groups := len(a) / Panel
	if len(a)%Panel != 0 || len(b) != len(a) || step < 0 || groups > 0 && len(dst) < (groups-1)*step+2*Panel {
		panic("kernel: RoundPairs operands do not fit")
	}
	if groups > 0 {
		s.roundPairs(dst, step, a, b)
	}
}

func roundPairsGeneric(dst []uint16, step int, a, b []float32) {
	for i := range a {
		d := dst[i/Panel*step+i%Panel*2:][:2]
		d[0], d[1] = block.F32ToBF16(a[i]), block.F32ToBF16(b[i])
	}
}
