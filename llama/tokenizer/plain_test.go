package tokenizer_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// specials lists the control tokens that the text of their name becomes.
func specials(t *testing.T, tok *tokenizer.Tokenizer) (ids []int32) {
	for id := range int32(tok.VocabSize()) {
		if got, err := tok.Encode(tok.Name(id), tokenizer.EncodeOptions{Special: true}); tok.IsSpecial(id) && err == nil && slices.Equal(got, []int32{id}) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		t.Fatal("no control tokens")
	}
	return ids
}

// TestPlain: in whatever is marked as plain no control token is found, outside
// all are, and the text between them is encoded as if nothing were marked.
func TestPlain(t *testing.T) {
	for _, path := range append(golden.Glob(t, "tokenizer/bytelevel/*/tokenizer.json"), golden.Glob(t, "tokenizer/gguf/*.gguf")...) {
		tok, err := tokenizer.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		ids := specials(t, tok)
		r := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			var text strings.Builder
			var plain []tokenizer.Range
			var want []int32 // control tokens outside
			for range 1 + r.IntN(6) {
				id := ids[r.IntN(len(ids))]
				name := tok.Name(id)
				from := text.Len()
				switch r.IntN(4) {
				case 0:
					text.WriteString(name)
					want = append(want, id)
				case 1: // from outside
					text.WriteString("a " + name + " b" + name)
					plain = append(plain, tokenizer.Range{Start: from, End: text.Len()})
				case 2: // a mark completed by what comes from outside
					n := 1 + r.IntN(len(name)-1)
					text.WriteString(name)
					plain = append(plain, tokenizer.Range{Start: from + n, End: text.Len()})
				default:
					text.WriteString(" some text\n")
				}
			}
			got, err := tok.Encode(text.String(), tokenizer.EncodeOptions{Special: true, Plain: plain})
			if err != nil {
				t.Fatal(err)
			}
			found := slices.DeleteFunc(slices.Clone(got), func(id int32) bool { return !slices.Contains(ids, id) })
			if !slices.Equal(found, want) {
				t.Fatalf("%s: %q with %v plain: control tokens %v, want %v", path, text.String(), plain, found, want)
			}
			all, _ := tok.Encode(text.String(), tokenizer.EncodeOptions{Special: true, Plain: []tokenizer.Range{{Start: 0, End: text.Len()}}})
			none, _ := tok.Encode(text.String(), tokenizer.EncodeOptions{})
			if !slices.Equal(all, none) {
				t.Fatalf("%s: %q all plain is %v, without special tokens %v", path, text.String(), all, none)
			}
		}
	}
}

// TestPlainRanges: ranges that do not fit the text are refused.
func TestPlainRanges(t *testing.T) {
	tok, err := tokenizer.FromVocab(small)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]tokenizer.Range{{{0, 9}}, {{-1, 1}}, {{2, 1}}, {{0, 2}, {1, 3}}} {
		if _, err := tok.Encode("aaa", tokenizer.EncodeOptions{Plain: bad}); err == nil || !strings.Contains(err.Error(), "plain range") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	// A mark in brackets that its file calls user-defined is one only outside.
	v := small
	v.Tokens, v.Types, v.Scores = append(v.Tokens[:6:6], "<tool>"), append(v.Types[:6:6], 4), append(v.Scores[:6:6], 0)
	if tok, err = tokenizer.FromVocab(v); err != nil {
		t.Fatal(err)
	}
	outside, _ := tok.Encode("<tool>", tokenizer.EncodeOptions{})
	inside, _ := tok.Encode("<tool>", tokenizer.EncodeOptions{Plain: []tokenizer.Range{{5, 6}}})
	if !slices.Contains(outside, 6) || slices.Contains(inside, 6) {
		t.Errorf("<tool> is %v outside, %v inside", outside, inside)
	}
}
