package kernel

import (
	"bytes"
	"math/rand/v2"
	"testing"
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
