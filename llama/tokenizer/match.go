package tokenizer

import (
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// matcher finds added tokens in a text: at each place the longest one that may
// match there. It is a trie over bytes; its depth bounds the work per byte.
type matcher struct {
	nodes  []trieNode
	starts [256]bool // bytes with which some token begins
	first  byte      // the first of them
	single bool      // there is no other
	tokens []addedToken
}

type trieNode struct {
	child map[byte]int32
	token int32 // index into tokens, -1: none
}

// addedToken is a token that is cut out of the text before it is split.
type addedToken struct {
	id             int32
	special        bool // matches only when special tokens are allowed
	mark           bool // in brackets: not found in plain text
	word           bool // must not touch a letter, digit or underscore
	lstrip, rstrip bool // takes the white space beside it along
}

// match is a part of the text to encode and the token behind it.
type match struct {
	start int   // text before start is ordinary
	end   int   // where the ordinary text goes on
	next  int   // where the next token is looked for: before end, if this one took white space along
	id    int32 // -1: the end of the text
}

// maxAdded is the longest added token in bytes: it bounds what each byte of a
// text can cost. maxAddedAll bounds the memory of the trie.
const (
	maxAdded    = 1 << 8
	maxAddedAll = 1 << 20
)

// add enters a token. Of two with the same text the first stays.
func (m *matcher) add(text string, a addedToken) error {
	if text == "" {
		return nil
	}
	if len(text) > maxAdded {
		return fail("added_tokens", "token %d has %d bytes, at most %d are allowed", a.id, len(text), maxAdded)
	}
	if len(m.nodes)+len(text) > maxAddedAll {
		return fail("added_tokens", "more than %d bytes in all", maxAddedAll)
	}
	if m.nodes == nil {
		m.nodes = []trieNode{{token: -1}}
	}
	at := int32(0)
	for i := 0; i < len(text); i++ {
		next, ok := m.nodes[at].child[text[i]]
		if !ok {
			next = int32(len(m.nodes))
			if m.nodes[at].child == nil {
				m.nodes[at].child = make(map[byte]int32, 1)
			}
			m.nodes[at].child[text[i]] = next
			m.nodes = append(m.nodes, trieNode{token: -1})
		}
		at = next
	}
	if m.nodes[at].token < 0 {
		m.nodes[at].token = int32(len(m.tokens))
		a.mark = a.special || bracketed(text)
		m.tokens = append(m.tokens, a)
	}
	if len(m.nodes) == len(text)+1 && m.first == 0 {
		m.first, m.single = text[0], true
	}
	m.single = m.single && text[0] == m.first
	m.starts[text[0]] = true
	return nil
}

// find returns the first added token at or after from; the text before done is
// encoded already. As in the reference, a token is also found in the white space
// that the one before it took along. A nil matcher finds none. Nothing special is
// found that touches p.
func (m *matcher) find(text string, done, from int, special bool, p plain) match {
	none := match{len(text), len(text), len(text), -1}
	if m == nil || len(m.tokens) == 0 {
		return none
	}
	for i := from; i < len(text); i++ {
		if m.single {
			k := strings.IndexByte(text[i:], m.first)
			if k < 0 {
				break
			}
			i += k
		} else if !m.starts[text[i]] {
			continue
		}
		if a, n := m.longest(text, i, special, p); n > 0 {
			start, end := max(i, done), max(i+n, done)
			if a.lstrip {
				for start > done {
					r, w := utf8.DecodeLastRuneInString(text[done:start])
					if !unicode.IsSpace(r) {
						break
					}
					start -= w
				}
			}
			if a.rstrip {
				for end < len(text) {
					r, w := utf8.DecodeRuneInString(text[end:])
					if !unicode.IsSpace(r) {
						break
					}
					end += w
				}
			}
			return match{start, end, i + n, a.id}
		}
	}
	return none
}

// longest returns the longest allowed token that starts at text[i].
func (m *matcher) longest(text string, i int, special bool, p plain) (a *addedToken, n int) {
	at := int32(0)
	for j := i; j < len(text); j++ {
		next, ok := m.nodes[at].child[text[j]]
		if !ok {
			break
		}
		at = next
		if k := m.nodes[at].token; k >= 0 {
			t := &m.tokens[k]
			if (!t.special || special) && (!t.word || alone(text, i, j+1)) && !(t.mark && p.touches(i, j+1)) {
				a, n = t, j+1-i
			}
		}
	}
	return a, n
}

// bracketed reports whether a token looks like a mark of a chat template.
func bracketed(text string) bool {
	first, last := text[0], text[len(text)-1]
	return len(text) > 2 && (first == '<' && last == '>' || first == '[' && last == ']')
}

// plain are the ranges of a text in which special tokens are ordinary text; at
// is where the part of the text begins that is looked at.
type plain struct {
	ranges []Range
	at     int
}

// touches reports whether [start, end) of the part shares a byte with a range.
func (p plain) touches(start, end int) bool {
	start, end = p.at+start, p.at+end
	i := sort.Search(len(p.ranges), func(i int) bool { return p.ranges[i].End > start })
	return i < len(p.ranges) && p.ranges[i].Start < end
}

// alone reports whether text[i:j] touches no word character.
func alone(text string, i, j int) bool {
	before, _ := utf8.DecodeLastRuneInString(text[:i])
	after, _ := utf8.DecodeRuneInString(text[j:])
	return (i == 0 || !wordRune(before)) && (j == len(text) || !wordRune(after))
}

// wordRune is \w with Unicode classes.
func wordRune(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Pc)
}
