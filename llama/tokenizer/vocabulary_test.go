package tokenizer

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestIndex: an index finds what was entered, as a map does, and nothing else, up
// to the number it was made for, with texts that begin alike and an empty one.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 1000, 1 << 15} {
		all := newTexts(2 * n)
		x, want := newIndex(all, n), map[string]int32{}
		for i := range 2 * n {
			s := fmt.Sprintf("%s%d", "ab"[:r.IntN(3)], i)
			if i == 0 {
				s = ""
			}
			all.add(s)
			if i%2 == 0 {
				x.add(int32(i))
				want[s] = int32(i)
			}
		}
		for i := range 2 * n {
			s := all.at(int32(i))
			id, ok := x.find(s)
			if wantID, wantOK := want[s]; ok != wantOK || ok && id != wantID {
				t.Fatalf("%q of %d: %d, %v, want %d, %v", s, n, id, ok, wantID, wantOK)
			}
		}
		if id, ok := x.find("absent"); ok {
			t.Errorf("a text that is absent of %d: %d", n, id)
		}
		count := 0
		for s, id := range x.all() {
			if want[s] != id {
				t.Errorf("all of %d: %q is %d, want %d", n, s, id, want[s])
			}
			count++
		}
		if count != n || x.n != n {
			t.Errorf("%d entries, said to be %d, want %d", count, x.n, n)
		}
	}
}

// TestPairTable: a full table finds its pairs and no other, and adding one again
// replaces it if asked to.
func TestPairTable(t *testing.T) {
	for _, n := range []int{0, 1, 2, 5, 4096} {
		p := newPairTable(n)
		for i := range int32(n) {
			p.add(i, i/3, uint32(i), i+1, false)
		}
		for i := range int32(n) {
			if rank, id := p.get(i, i/3); rank != uint32(i) || id != i+1 {
				t.Fatalf("pair %d of %d: rank %d, token %d", i, n, rank, id)
			}
			if rank, _ := p.get(i, i/3+1); rank != noRank {
				t.Fatalf("a pair that is absent, beside pair %d of %d, has rank %d", i, n, rank)
			}
		}
		if n > 0 {
			p.add(0, 0, 7, 8, false)
			p.add(0, 0, 9, 10, true)
			if rank, id := p.get(0, 0); rank != 9 || id != 10 || p.n != n {
				t.Errorf("after replacing: rank %d, token %d, %d pairs", rank, id, p.n)
			}
		}
	}
}
