package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/internal/golden"
)

// worstTexts are texts of n bytes that are hard to cut or to merge.
func worstTexts(n int) map[string]string {
	random := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	texts := map[string]string{"random bytes": string(random)}
	for _, unit := range []string{" ", "a", "1", "\n", "\U0001f999", "'", "a ", " \n", "\u0301", "<", "<|eot_id|>", "\xff"} {
		texts[unit] = strings.Repeat(unit, n/len(unit))
	}
	return texts
}

// eachVocabulary opens every tokenizer file in golden.
func eachVocabulary(t *testing.T, f func(name string, tok *Tokenizer)) {
	for _, pattern := range []string{"tokenizer/*/tokenizer*", "tokenizer/*/*/tokenizer*", "tokenizer/gguf/*.gguf"} {
		for _, path := range golden.Glob(t, pattern) {
			tok, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			f(golden.Name(path), tok)
		}
	}
}

// TestLinearWork counts the symbols that merging looks at in the worst texts.
// A text four times as long may take five times the work: one long word is
// merged with a heap, whose depth grows too.
func TestLinearWork(t *testing.T) {
	const n = 1 << 13
	short, long := worstTexts(n), worstTexts(4*n)
	eachVocabulary(t, func(file string, tok *Tokenizer) {
		work := func(text string) int {
			s := new(scratch)
			if ids, err := tok.segment(nil, text, true, true, plain{}, s); err != nil || len(ids) == 0 {
				t.Errorf("%s: %d ids, %v", file, len(ids), err)
			}
			return s.work
		}
		for name := range short {
			once, four := work(short[name]), work(long[name])
			if four > 5*once+n {
				t.Errorf("%s: %q: %d symbols looked at in %d bytes, %d in %d", file, name, once, n, four, 4*n)
			}
		}
	})
}

// TestLongTexts bounds what TestLinearWork does not count, such as the search
// for words, by the clock. The bound is a thousand times what an idle core needs.
func TestLongTexts(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it takes times")
	}
	texts := worstTexts(1 << 17)
	eachVocabulary(t, func(file string, tok *Tokenizer) {
		for name, text := range texts {
			start := time.Now()
			ids, err := tok.Encode(text, EncodeOptions{Special: true})
			if err != nil || len(ids) == 0 {
				t.Errorf("%s: %q: %d ids, %v", file, name, len(ids), err)
			}
			if d := time.Since(start); d > time.Minute {
				t.Errorf("%s: %d bytes of %q took %v", file, len(text), name, d)
			}
		}
	})
}
