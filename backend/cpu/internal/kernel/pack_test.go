package kernel

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend/block"
)

// TestPackWords compares every variant with the loop of its comment.
func TestPackWords(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	forAll(t, func(t *testing.T, s *Set) {
		for _, words := range []int{1, 3, 4, 7, 8, 13, 32, packChunk + 5} {
			for blocks := range 4 {
				size, stride := 4*words+rnd.IntN(3)*2, 0
				stride = blocks*size + rnd.IntN(5)
				src, wholeSrc := guarded(max(0, blocks-1)*size+15*stride+4*words, func() byte { return byte(rnd.Uint32()) })
				step := 64*words + rnd.IntN(2)*32
				dst, whole := guarded(max(0, blocks-1)*step+64*words, func() byte { return 7 })
				want := bytes.Clone(whole)
				for b := range blocks {
					for i := range words {
						for r := range Panel {
							copy(want[guard+b*step+64*i+4*r:][:4], src[b*size+r*stride+4*i:])
						}
					}
				}
				before := bytes.Clone(wholeSrc)
				s.PackWords(dst, src, stride, words, blocks, step, size)
				if !bytes.Equal(whole, want) {
					t.Fatalf("%d words, %d blocks: wrong, or written outside", words, blocks)
				}
				if !bytes.Equal(wholeSrc, before) {
					t.Fatalf("%d words, %d blocks: the rows were written", words, blocks)
				}
				if text := panics(func() { s.PackWords(dst, src[1:], stride, words, blocks, step, size) }); blocks > 0 && text != "kernel: PackWords operands too short" {
					t.Errorf("short rows panic with %q", text)
				}
			}
		}
	})
}

// TestTransposeWords compares every variant with the loop of its comment.
func TestTransposeWords(t *testing.T) {
	rnd := rand.New(rand.NewPCG(13, 14))
	forAll(t, func(t *testing.T, s *Set) {
		for _, words := range []int{0, 1, 3, 4, 7, 8, 13, 32, packChunk + 5} {
			stride, step := 4*words+rnd.IntN(3)*4, 64+rnd.IntN(3)*32
			src, _ := guarded(15*stride+4*words, func() byte { return byte(rnd.Uint32()) })
			dst, whole := guarded(max(0, words-1)*step+64, func() byte { return 7 })
			want := bytes.Clone(whole)
			for i := range words {
				for r := range Panel {
					copy(want[guard+i*step+4*r:][:4], src[r*stride+4*i:])
				}
			}
			s.TransposeWords(dst, step, src, stride, words)
			if !bytes.Equal(whole, want) {
				t.Fatalf("%d words: wrong, or written outside", words)
			}
			if text := panics(func() { s.TransposeWords(dst[1:], step, src, stride, words) }); words > 0 && text != "kernel: TransposeWords operands too short" {
				t.Errorf("a short output panics with %q", text)
			}
		}
	})
}

// TestRoundPairs compares every variant with rounding one by one.
func TestRoundPairs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(15, 16))
	value := func() float32 { return roundValue(rnd, []int{0, 4, 6}[rnd.IntN(3)]) }
	forAll(t, func(t *testing.T, s *Set) {
		for _, groups := range []int{0, 1, 2, 7, 33} {
			step := 2*Panel + rnd.IntN(3)*8
			a, _ := guarded(16*groups, value)
			b, _ := guarded(16*groups, value)
			dst, whole := guarded(max(0, groups-1)*step+2*Panel, func() uint16 { return 7 })
			want := slices.Clone(whole)
			for i := range a {
				to := want[guard+i/Panel*step+2*(i%Panel):]
				to[0], to[1] = block.F32ToBF16(a[i]), block.F32ToBF16(b[i])
			}
			s.RoundPairs(dst, step, a, b)
			if !slices.Equal(whole, want) {
				t.Fatalf("%d groups: wrong, or written outside", groups)
			}
			if text := panics(func() { s.RoundPairs(dst[1:], step, a, b) }); groups > 0 && text != "kernel: RoundPairs operands do not fit" {
				t.Errorf("a short output panics with %q", text)
			}
		}
	})
}
