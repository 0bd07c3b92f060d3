package kernel

import "github.com/herd-ml/herd/backend/block"

// WidenF16 widens float16 exactly, as many as dst has.
func (s *Set) WidenF16(dst []float32, src []uint16) {
	src = src[:len(dst)]
	n := s.whole(len(dst), 8)
	if n > 0 {
		widenF16AVX2(dst, src[:n])
	}
	for i := n; i < len(src); i++ {
		dst[i] = block.F16ToF32(src[i])
	}
}

// WidenBF16 widens bfloat16 exactly, as many as dst has.
func (s *Set) WidenBF16(dst []float32, src []uint16) {
	src = src[:len(dst)]
	n := s.whole(len(dst), 8)
	if n > 0 {
		widenBF16AVX2(dst, src[:n])
	}
	for i := n; i < len(src); i++ {
		dst[i] = block.BF16ToF32(src[i])
	}
}

// WidenPairs widens bfloat16 of a panel [n/32][16][2] to weights [n/16][16],
// input by input; n is the length of dst, a multiple of 32.
func (s *Set) WidenPairs(dst []float32, src []uint16) {
	if len(dst)%(2*Panel) != 0 {
		panic("kernel: WidenPairs of half a pair")
	}
	src = src[:len(dst)]
	if s.vector {
		if len(src) > 0 {
			widenPairsAVX2(dst, src)
		}
		return
	}
	for i := range src {
		pair, at := i/(2*Panel)*2*Panel, i%(2*Panel)
		dst[pair+at%2*Panel+at/2] = block.BF16ToF32(src[i])
	}
}

// RoundF16 rounds to float16, to nearest even, as many as x has.
func (s *Set) RoundF16(dst []uint16, x []float32) {
	dst = dst[:len(x)]
	n := s.whole(len(x), 8)
	if n > 0 {
		roundF16AVX2(dst, x[:n])
	}
	for i := n; i < len(x); i++ {
		dst[i] = block.F32ToF16(x[i])
	}
}

// RoundBF16 rounds to bfloat16, to nearest even, as many as x has.
func (s *Set) RoundBF16(dst []uint16, x []float32) {
	dst = dst[:len(x)]
	n := s.whole(len(x), 16)
	if n > 0 {
		roundBF16AVX2(dst, x[:n])
	}
	for i := n; i < len(x); i++ {
		dst[i] = block.F32ToBF16(x[i])
	}
}
