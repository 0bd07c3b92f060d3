package tokenizer

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
)

// naive encodes a text word by word: no blocks, no cache, no second goroutine.
func naive(t *testing.T, tok *Tokenizer, text string) []int32 {
	t.Helper()
	s, merge := new(scratch), new(scratch)
	spans, err := tok.cut(text, s)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int32
	for _, w := range spans {
		ids = tok.model.merge(ids, text[w.start:w.end], merge)
	}
	return ids
}

// TestBlocks compares the tokens of long texts, in blocks and by several
// goroutines, with those of their words one by one.
func TestBlocks(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	r := rand.New(rand.NewPCG(5, 6))
	// The first need two goroutines, one block and a piece.
	texts := []string{strings.Repeat("x ", parallelLen), strings.Repeat("ab", blockLen)}
	for _, words := range []int{blockLen / 8, parallelLen / 4} {
		var b strings.Builder
		for range words {
			b.WriteString(randomText(r, 3))
			b.WriteString("word") // a place to cut now and then
		}
		texts = append(texts, b.String(), strings.ReplaceAll(b.String(), " ", spaceMark))
	}
	for _, pattern := range []string{"tokenizer/*/tokenizer*", "tokenizer/*/*/tokenizer*", "tokenizer/gguf/*.gguf"} {
		for i, path := range golden.Glob(t, pattern) {
			if testing.Short() && i%3 > 0 {
				continue
			}
			tok, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			for i, text := range texts {
				if tok.mark == "" && len(text) > blockLen {
					text = text[:blockLen/8] // one piece, perhaps one word
				}
				text = strings.ToValidUTF8(text, "")
				want := naive(t, tok, text)
				for range 2 { // with an empty cache and a full one
					got, err := tok.words(nil, text, tok.getScratch())
					if err != nil || !slices.Equal(got, want) {
						t.Errorf("%s, text %d: %d tokens, want %d, %v", golden.Name(path), i, len(got), len(want), err)
					}
				}
				got, err := tok.words(nil, text+"\xff", new(scratch))
				if err != nil || !slices.Equal(got[:len(want)/2], want[:len(want)/2]) {
					t.Errorf("%s, text %d and a byte: other tokens, %v", golden.Name(path), i, err)
				}
			}
		}
	}
}

// TestPieces checks that a word's key tells all words apart and depends on
// nothing beside it.
func TestPieces(t *testing.T) {
	type key struct{ lo, hi uint64 }
	seen := map[key]string{}
	r := rand.New(rand.NewPCG(7, 8))
	for range 20_000 {
		text := randomText(r, 12)
		i := r.IntN(len(text))
		j := i + 1 + r.IntN(min(maxPiece, len(text)-i))
		lo, hi := pieceKey(text, i, j)
		if lo2, hi2 := pieceKey(text[i:j], 0, j-i); lo2 != lo || hi2 != hi {
			t.Fatalf("%q in %q has another key than alone", text[i:j], text)
		}
		if old, ok := seen[key{lo, hi}]; ok && old != text[i:j] || lo == 0 && hi == 0 {
			t.Fatalf("%q and %q have one key", old, text[i:j])
		}
		seen[key{lo, hi}] = text[i:j]
	}
}
