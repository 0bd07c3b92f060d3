package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/herd-ml/herd/llama/tokenizer"
)

// A text is encoded in pieces of pieceLen bytes, too short for our side to use
// more than one goroutine, partPieces of them in a measurement. The next
// measurement takes the next, so that nobody meets the same text again before the
// end of all.
const (
	pieceLen   = 8 << 10
	partPieces = 256
)

// tokenize is the mode.
func (h *harness) tokenize(ctx context.Context) error {
	if h.vocab == "" || len(h.args) > 0 {
		return fmt.Errorf("tokenize takes -vocab FILE and no words; see -help")
	}
	tok, err := tokenizer.Open(h.vocab)
	if err != nil {
		return err
	}
	text, err := h.corpus(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file, vocab := filepath.Join(dir, "text"), filepath.Join(dir, "tokenizer.json")
	converted, err := tok.JSON()
	if err != nil && !errors.Is(err, tokenizer.ErrInexact) {
		return err
	}
	if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.WriteFile(vocab, converted, 0o600)); err != nil {
		return err
	}
	e := &encoding{tok: tok, text: text, pieces: pieces(text)}
	if _, _, err := e.encode(e.part(0)); err != nil { // warms up
		return err
	}
	alone := true
	for _, c := range []struct{ name, script, vocab string }{
		{"tiktoken", "tiktokens.py", h.vocab}, // which reads the file as it is
		{"tokenizers", "hftokenizers.py", vocab},
	} {
		p, err := h.peer(ctx, c.name, c.script, c.vocab, file)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		alone = false
		err = h.tokenizeBeside(ctx, e, p)
		p.close()
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if alone {
		return h.tokenizeBeside(ctx, e, nil)
	}
	return nil
}

func (h *harness) tokenizeBeside(ctx context.Context, e *encoding, p *peer) error {
	var ask encoder
	if p != nil {
		ask = func(parts [][2]int) (int, float64, error) {
			a, err := p.ask(map[string]any{"parts": parts})
			return a.Tokens, a.Rate, err
		}
		if _, _, err := ask(e.part(0)); err != nil { // warms up
			return err
		}
	}
	c := comparison{beside: h.beside(nil), pairs: h.pairs}
	c.ours, c.peer = agreeing(e.part, e.encode, ask)
	o, err := c.compare(ctx)
	if err != nil {
		return err
	}
	what := "text"
	if h.text == "" {
		what = "Go's comments"
	}
	r := result{Kind: "tokenize", What: what, On: fileName(h.vocab), Peer: p.label(), Unit: "MB/s"}
	r.fill(o, "")
	return h.add(r)
}

// An encoder encodes parts of the text and returns the number of tokens and
// bytes a second.
type encoder func(parts [][2]int) (tokens int, rate float64, err error)

// agreeing makes sides of two encoders that must find the same number of tokens
// in the same turn. theirs may be nil. Rates become MB/s.
func agreeing(part func(turn int) [][2]int, ours, theirs encoder) (a, b side) {
	tokens := map[int]int{} // of turns
	wrap := func(e encoder) side {
		if e == nil {
			return nil
		}
		return func(_ context.Context, turn int) (float64, error) {
			n, rate, err := e(part(turn + 1)) // the first was to warm up
			if err != nil {
				return 0, err
			}
			if other, ok := tokens[turn]; ok && other != n {
				return 0, fmt.Errorf("the sides do not agree: %d tokens and %d", other, n)
			}
			tokens[turn] = n
			return rate / 1e6, nil
		}
	}
	return wrap(ours), wrap(theirs)
}

// encoding is our side.
type encoding struct {
	tok    *tokenizer.Tokenizer
	text   string
	pieces [][2]int // from and to, bytes
	ids    []int32
}

// pieces cuts at the end of a line, or else of a letter.
func pieces(text string) (cuts [][2]int) {
	for from := 0; from < len(text); {
		to := min(from+pieceLen, len(text))
		if to < len(text) {
			if n := strings.LastIndexByte(text[from:to], '\n'); n > 0 {
				to = from + n + 1
			}
			for to > from+1 && !utf8.RuneStart(text[to]) {
				to--
			}
		}
		cuts = append(cuts, [2]int{from, to})
		from = to
	}
	return cuts
}

// part is the pieces of a turn: each time other ones, from the start again where
// they end; all of a text that has too few.
func (e *encoding) part(turn int) (p [][2]int) {
	n := min(partPieces, len(e.pieces))
	for i := range n {
		p = append(p, e.pieces[(turn*n+i)%len(e.pieces)])
	}
	return p
}

func (e *encoding) encode(parts [][2]int) (tokens int, rate float64, err error) {
	bytes := 0
	start := time.Now()
	for _, p := range parts {
		if e.ids, err = e.tok.Append(e.ids[:0], e.text[p[0]:p[1]], tokenizer.EncodeOptions{}); err != nil {
			return 0, 0, err
		}
		tokens += len(e.ids)
		bytes += p[1] - p[0]
	}
	return tokens, float64(bytes) / time.Since(start).Seconds(), nil
}
