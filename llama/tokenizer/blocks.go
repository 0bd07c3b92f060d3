package tokenizer

import (
	"context"
	"runtime"
	"strings"

	"github.com/herd-ml/herd/internal/parallel"
)

// A long text is encoded in blocks, so that a block and the list of its words stay
// in the cache. A block ends where a word surely starts, so the tokens are those of
// the text in one piece. Several goroutines share the blocks of a very long text.
const (
	blockLen    = 1 << 15
	parallelLen = 8 * blockLen // a goroutine is worth that much
)

// splitMark returns what always starts a word between two letters.
func splitMark(steps []step) string {
	mark := ""
	for _, s := range steps {
		f, ok := s.(scan)
		if !ok || mark != "" && f.mark != mark {
			return ""
		}
		mark = f.mark
	}
	return mark
}

// blockEnd returns where a block that starts with text can end: after blockLen
// bytes, before a mark between two letters; the end of text where there is none.
func (t *Tokenizer) blockEnd(text string) int {
	for i := blockLen; i < len(text); {
		k := strings.Index(text[i:], t.mark)
		if k < 0 {
			break
		}
		at, next := i+k, i+k+len(t.mark)
		if next < len(text) && asciiLetter(text[at-1]) && asciiLetter(text[next]) {
			return at
		}
		i = next
	}
	return len(text)
}

func asciiLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// blocks encodes all blocks of text but the last, whose end may need care. It cuts
// what it has encoded off text and off the length of its valid prefix.
func (t *Tokenizer) blocks(dst []int32, text *string, valid *int, s *scratch) []int32 {
	workers := min(runtime.GOMAXPROCS(0), *valid/parallelLen)
	if workers < 2 {
		for len(*text) > blockLen {
			n := t.blockEnd((*text)[:*valid])
			if n == *valid {
				break
			}
			dst, _, _ = t.pieces(dst, (*text)[:n], s) // scanners do not fail
			*text, *valid = (*text)[n:], *valid-n
		}
		return dst
	}
	var parts []string
	for {
		n := t.blockEnd((*text)[:*valid])
		if n == *valid {
			break
		}
		parts = append(parts, (*text)[:n])
		*text, *valid = (*text)[n:], *valid-n
	}
	return t.parallel(dst, parts, workers)
}

// parallel encodes parts with so many goroutines.
func (t *Tokenizer) parallel(dst []int32, parts []string, workers int) []int32 {
	type run struct{ worker, from, to int } // of that worker's tokens
	runs, ids := make([]run, len(parts)), make([][]int32, workers)
	_ = parallel.Ranges(context.Background(), workers, len(parts), 1, func(w, i, _ int) error {
		s := t.getScratch()
		defer t.putScratch(s)
		from := len(ids[w])
		ids[w], _, _ = t.pieces(ids[w], parts[i], s)
		runs[i] = run{w, from, len(ids[w])}
		return nil
	})
	for _, r := range runs {
		dst = append(dst, ids[r.worker][r.from:r.to]...)
	}
	return dst
}
