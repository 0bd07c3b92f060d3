package kernel

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
	whole := s.whole(words, 4)
	for at := 0; at < whole; at += packChunk {
		n := min(packChunk, whole-at)
		for b, m := 0, packChunk/n; b < blocks; b += m {
			callPack(&dst[b*dstStep+64*at], &src[b*srcStep+4*at], stride, n, min(m, blocks-b), dstStep, srcStep)
		}
	}
	for b := range blocks {
		for i := whole; i < words; i++ {
			d := dst[b*dstStep+64*i:][:64]
			for r := range Panel {
				copy(d[4*r:4*r+4], src[b*srcStep+r*stride+4*i:])
			}
		}
	}
}

// packChunk is the words of a row between two safepoints.
const packChunk = 1 << 12

//go:noinline
func callPack(dst, src *byte, stride, words, blocks, dstStep, srcStep int) {
	packWordsAVX2(dst, src, stride, words, blocks, dstStep, srcStep)
}
