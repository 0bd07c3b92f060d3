package kernel

import "github.com/herd-ml/herd/backend/block"

// WidenF16 widens float16 exactly, as many as dst has.
func (s *Set) WidenF16(dst []float32, src []uint16) {
	if n := len(dst); n > 0 {
		s.widenF16(dst, src[:n])
	}
}

func widenF16Generic(dst []float32, src []uint16) {
	for i, h := range src {
		dst[i] = block.F16ToF32(h)
	}
}

// WidenBF16 widens bfloat16 exactly, as many as dst has.
func (s *Set) WidenBF16(dst []float32, src []uint16) {
	if n := len(dst); n > 0 {
		s.widenBF16(dst, src[:n])
	}
}

func widenBF16Generic(dst []float32, src []uint16) {
	for i, h := range src {
		dst[i] = block.BF16ToF32(h)
	}
}

// WidenPairs widens bfloat16 of a panel [n/32][16][2] to weights [n/16][16],
// input by input; n is the length of dst, a multiple of 32.
func (s *Set) WidenPairs(dst []float32, src []uint16) {
	n := len(dst)
	if n%(2*Panel) != 0 {
		panic("kernel: WidenPairs of half a pair")
	}
	if n > 0 {
		s.widenPairs(dst, src[:n])
	}
}

func widenPairsGeneric(dst []float32, src []uint16) {
	for i, h := range src {
		pair, at := i/(2*Panel)*2*Panel, i%(2*Panel)
		dst[pair+at%2*Panel+at/2] = block.BF16ToF32(h)
	}
}

// RoundF16 rounds to float16, to nearest even, as many as x has.
func (s *Set) RoundF16(dst []uint16, x []float32) {
	if n := len(x); n > 0 {
		s.roundF16(dst[:n], x)
	}
}

func roundF16Generic(dst []uint16, x []float32) {
	for i, v := range x {
		dst[i] = block.F32ToF16(v)
	}
}

// RoundBF16 rounds to bfloat16, to nearest even, as many as x has.
func (s *Set) RoundBF16(dst []uint16, x []float32) {
	if n := len(x); n > 0 {
		s.roundBF16(dst[:n], x)
	}
}

func roundBF16Generic(dst []uint16, x []float32) {
	for i, v := range x {
		dst[i] = block.F32ToBF16(v)
	}
}
