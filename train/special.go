package train

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/herd-ml/herd/llama/tokenizer"
)

// controls finds the names of a tokenizer's control tokens in texts.
type controls struct {
	names   map[string]bool
	lengths []int  // of names
	firsts  string // their first characters
}

func newControls(tok *tokenizer.Tokenizer) controls {
	c := controls{names: map[string]bool{}}
	for id := range int32(tok.VocabSize()) {
		if !tok.IsSpecial(id) {
			continue
		}
		name := tok.Name(id)
		first, _ := utf8.DecodeRuneInString(name)
		if first == utf8.RuneError {
			continue // empty, or nothing that text spells
		}
		c.names[name] = true
		if !slices.Contains(c.lengths, len(name)) {
			c.lengths = append(c.lengths, len(name))
		}
		if !strings.ContainsRune(c.firsts, first) {
			c.firsts += string(first)
		}
	}
	slices.Sort(c.lengths)
	slices.Reverse(c.lengths) // the longest that fits is the token
	return c
}

// count returns how many names stand in a text, and the first.
func (c controls) count(text string) (n int, first string) {
	for {
		i := strings.IndexAny(text, c.firsts)
		if i < 0 {
			return n, first
		}
		name := c.at(text[i:])
		if name == "" {
			text = text[i+1:]
			continue
		}
		if n++; n == 1 {
			first = name
		}
		text = text[i+len(name):]
	}
}

// at is the name that a text begins with.
func (c controls) at(text string) string {
	for _, n := range c.lengths {
		if n <= len(text) && c.names[text[:n]] {
			return text[:n]
		}
	}
	return ""
}

// Spelled is what DataConfig.Special left as ordinary text.
type Spelled struct {
	Tokens    int64  // names of control tokens
	Documents int64  // that hold them
	First     string // the first name
}

// phrase says it and what can be done, as the rest of a sentence about the data.
func (s Spelled) phrase() string {
	return fmt.Sprintf("spells control tokens, %s the first, %d of them in %d documents: they stay ordinary text; data.special always makes them the tokens",
		s.First, s.Tokens, s.Documents)
}
