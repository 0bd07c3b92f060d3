package llama

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// lookedUp is what lookup guesses, looked for at every place.
func lookedUp(ids []int32, n int) (guess []int32) {
	best, alike := 0, lookupTokens-1
	for place := len(ids) - 1; place >= lookupTokens; place-- {
		if same := commonEnd(ids[:place], ids); same > alike {
			best, alike = place, same
		}
	}
	text := slices.Clone(ids)
	for i := range n {
		if best > 0 {
			text = append(text, text[best+i])
		}
	}
	return text[len(ids):]
}

// TestLookup: guesses are those of a search of the whole text, after every token or after
// some, from the start and after a reset.
func TestLookup(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, kinds := range []int32{1, 9, 40} {
		l, guessed := &lookup{}, 0
		for range 3 {
			l.reset()
			var ids []int32
			for len(ids) < 200 {
				if n := len(ids); n > 20 && rng.IntN(10) == 0 {
					from := rng.IntN(n - 10)
					ids = append(ids, ids[from:from+8]...)
				}
				ids = append(ids, rng.Int32N(kinds))
				n := 1 + rng.IntN(12)
				got := []int32{-7}
				if l.look(ids) > 0 {
					got = l.guess(got, ids, n)
				}
				// With few kinds of tokens there are more places than are looked at.
				if want := lookedUp(ids, n); !slices.Equal(got[1:], want) && kinds > 9 || (len(got) > 1) != (len(want) > 0) {
					t.Fatalf("%d kinds, after %d tokens: %v, want %v", kinds, len(ids), got[1:], want)
				}
				guessed += len(got) - 1
			}
		}
		if guessed < 100 {
			t.Errorf("%d kinds: %d guesses: nothing is tested", kinds, guessed)
		}
	}
}

// TestLookupBounded: the places that a guess looks at do not grow with the text: those of
// a text that is the same pair of tokens over and over with others in between.
func TestLookupBounded(t *testing.T) {
	l := &lookup{}
	var ids []int32
	for i := range int32(5000) {
		ids = append(ids, 1, 2, 10+i)
	}
	ids = append(ids, 1, 2)
	if alike := l.look(ids); alike != 2 {
		t.Fatalf("%d tokens alike", alike)
	}
	got := l.guess(nil, ids, 1)
	looked := slices.Index(ids, got[0])
	if want := len(ids) - 3; looked != want-2 && looked < len(ids)-3*lookupPlaces {
		t.Errorf("the guess is from place %d of %d", looked, len(ids))
	}
	if len(l.links) != len(ids) || len(l.heads) != lookupHeads {
		t.Errorf("%d links, %d heads", len(l.links), len(l.heads))
	}
}
