package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// DecodeOptions say how ids become text.
type DecodeOptions struct {
	// SkipSpecial leaves out control and unknown tokens.
	SkipSpecial bool
	// Continued says that other text stands before this: the space that
	// SentencePiece vocabularies put before a text's first word is then kept.
	Continued bool
}

// Decode returns the text of ids, byte for byte. Ids outside the vocabulary
// give nothing.
func (t *Tokenizer) Decode(ids []int32, o DecodeOptions) string {
	var b strings.Builder
	start := t.trim && !o.Continued
	for _, id := range ids {
		b.WriteString(t.piece(id, o, &start))
	}
	return b.String()
}

// piece is the text of one token. *start says that no text stands before it and
// that its leading space is to be dropped; piece clears it.
func (t *Tokenizer) piece(id int32, o DecodeOptions, start *bool) string {
	if id < 0 || int(id) >= len(t.kinds) || o.SkipSpecial && t.IsSpecial(id) {
		return ""
	}
	raw := t.raws.at(id)
	if *start && raw != "" {
		*start = false
		if t.kinds[id] != byteTok {
			return strings.TrimPrefix(raw, " ")
		}
	}
	return raw
}

// Decoder turns a stream of ids into text as it arrives, never cutting a UTF-8
// sequence in two. It serves one goroutine.
type Decoder struct {
	t     *Tokenizer
	o     DecodeOptions
	start bool   // the next text is the first
	held  []byte // an unfinished UTF-8 sequence, at most 3 bytes
}

// NewDecoder starts a stream.
func (t *Tokenizer) NewDecoder(o DecodeOptions) *Decoder {
	return &Decoder{t: t, o: o, start: t.trim && !o.Continued}
}

// Write adds one token and returns the text that is now complete, which may be
// empty. Bytes that cannot become UTF-8 are returned as they are.
func (d *Decoder) Write(id int32) string {
	d.held = append(d.held, d.t.piece(id, d.o, &d.start)...)
	n := len(d.held) - unfinished(d.held)
	out := string(d.held[:n])
	d.held = append(d.held[:0], d.held[n:]...)
	return out
}

// Flush returns the bytes held back; call it after the last token.
func (d *Decoder) Flush() string {
	out := string(d.held)
	d.held = d.held[:0]
	return out
}

// unfinished returns how many bytes at the end of b may be the start of a
// longer UTF-8 sequence.
func unfinished(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}
