package tokenizer

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf8"
)

// bpe merges the symbols of a word, the pair of lowest rank first, the leftmost
// of equals first, until no pair has a rank (Sennrich et al. 2016, section 3.2).
//
// Vocabularies say in two ways which pairs merge. A table of merges (Hugging
// Face, GGUF gpt2) ranks pairs of tokens. Without a table (tiktoken,
// SentencePiece) any two neighbours merge whose text together is a token, with
// that token's rank.
type bpe struct {
	bytes bool       // symbols start as bytes, else as characters
	text  *index     // of the bytes of tokens
	max   int        // longest key of text
	pairs *pairTable // nil: rank by text
	rank  []uint32   // by id, where pairs is nil
	whole bool       // a word that is a token is that token, merges or not

	first    [256]int32 // the token of each byte, -1: none. The byte tokens of a character vocabulary.
	fallback bool       // characters without a token become byte tokens
	unk      int32      // -1: characters without a token are dropped
	fuse     bool       // neighbouring unknown characters become one unk
	unused   []bool     // by id: merges may pass through, the result may not hold it; nil: none
}

// symbol is a node of the list of symbols of a word.
type symbol struct {
	start, end int32 // bytes of the word; end == start marks a merged symbol
	prev, next int32 // neighbours, -1 at the ends
	id         int32 // -1 when the text is no token
	rank       uint32
	merged     int32 // rank and result of merging with next, in short words
}

// candidate is a possible merge of the symbol at pos with its right neighbour.
type candidate struct {
	key    uint64 // rank, then position: the order of merging
	end    int32  // where the merged text ends; tells whether it is still current
	merged int32
}

const noRank = math.MaxUint32

// shortWord is the number of symbols up to which scanning for the best pair
// beats a heap.
const shortWord = 48

// encode appends the tokens of the word text[i:j].
func (m *bpe) encode(dst []int32, text string, i, j int, s *scratch) []int32 {
	if s.pieces == nil || j-i > maxPiece {
		return m.merge(dst, text[i:j], s)
	}
	lo, hi := pieceKey(text, i, j)
	p := s.pieces.at(lo, hi)
	if p.lo != lo || p.hi != hi {
		from := len(dst)
		dst = m.merge(dst, text[i:j], s)
		p.set(lo, hi, dst[from:])
		return dst
	}
	if dst = append(dst, p.ids[0]); p.n > 1 {
		dst = append(dst, p.ids[1:p.n]...)
	}
	return dst
}

// merge appends the tokens of one word.
func (m *bpe) merge(dst []int32, word string, s *scratch) []int32 {
	if m.whole && len(word) <= m.max {
		if id, ok := m.text.find(word); ok && (m.unused == nil || !m.unused[id]) {
			return append(dst, id)
		}
	}
	clear(s.made)
	m.symbols(word, s)
	if len(s.syms) <= shortWord {
		m.mergeShort(word, s)
	} else {
		m.mergeLong(word, s)
	}
	return m.emit(dst, word, s)
}

// symbols fills s.syms with the starting symbols of word, linked in order.
func (m *bpe) symbols(word string, s *scratch) {
	syms := slices.Grow(s.syms[:0], len(word))
	add := func(i, j int, id int32) {
		k := int32(len(syms))
		syms = append(syms, symbol{start: int32(i), end: int32(j), prev: k - 1, next: k + 1, id: id})
	}
	if m.bytes {
		for i := 0; i < len(word); i++ {
			if id := m.first[word[i]]; id >= 0 {
				add(i, i+1, id)
			} else {
				m.missing(&syms, i, i+1, add)
			}
		}
	} else {
		for i := 0; i < len(word); {
			_, n := utf8.DecodeRuneInString(word[i:])
			if id, ok := m.text.find(word[i : i+n]); ok {
				add(i, i+n, id)
			} else if m.pairs == nil {
				add(i, i+n, -1) // may still merge by its text
			} else if m.fallback {
				for k := i; k < i+n; k++ {
					add(k, k+1, m.first[word[k]])
				}
			} else {
				m.missing(&syms, i, i+n, add)
			}
			i += n
		}
	}
	if len(syms) > 0 {
		syms[len(syms)-1].next = -1
	}
	s.syms = syms
}

// missing adds the unknown token for word[i:j], if there is one.
func (m *bpe) missing(syms *[]symbol, i, j int, add func(i, j int, id int32)) {
	if n := len(*syms); m.fuse && n > 0 && (*syms)[n-1].id == m.unk && m.unk >= 0 {
		(*syms)[n-1].end = int32(j)
	} else if m.unk >= 0 {
		add(i, j, m.unk)
	}
}

// pair returns the rank and the result of merging two neighbours.
func (m *bpe) pair(word string, a, b *symbol, s *scratch) (rank uint32, id int32) {
	if m.pairs != nil {
		return m.pairs.get(a.id, b.id)
	}
	if int(b.end-a.start) <= m.max {
		if id, ok := m.text.find(word[a.start:b.end]); ok {
			if m.unused != nil && m.unused[id] {
				if s.made == nil {
					s.made = map[string]int32{}
				}
				s.made[word[a.start:b.end]] = a.end - a.start
			}
			return m.rank[id], id
		}
	}
	return noRank, -1
}

// mergeShort looks for the best pair again after every merge.
func (m *bpe) mergeShort(word string, s *scratch) {
	syms := s.syms
	for i := 0; i+1 < len(syms); i++ {
		syms[i].rank, syms[i].merged = m.pair(word, &syms[i], &syms[i+1], s)
	}
	for len(syms) > 1 {
		s.work += len(syms)
		best, at := uint32(noRank), -1
		for i := range syms[:len(syms)-1] {
			if syms[i].rank < best {
				best, at = syms[i].rank, i
			}
		}
		if at < 0 {
			break
		}
		syms[at].id, syms[at].end = syms[at].merged, syms[at+1].end
		syms = append(syms[:at+1], syms[at+2:]...)
		if at > 0 {
			syms[at-1].rank, syms[at-1].merged = m.pair(word, &syms[at-1], &syms[at], s)
		}
		if at+1 < len(syms) {
			syms[at].rank, syms[at].merged = m.pair(word, &syms[at], &syms[at+1], s)
		}
	}
	s.syms = syms
}

// mergeLong keeps the possible merges in a heap, O(n log n).
func (m *bpe) mergeLong(word string, s *scratch) {
	syms := s.syms
	s.heap = slices.Grow(s.heap[:0], len(syms))
	offer := func(i int32) {
		j := syms[i].next
		if j < 0 {
			return
		}
		if rank, id := m.pair(word, &syms[i], &syms[j], s); rank != noRank {
			s.push(candidate{uint64(rank)<<32 | uint64(i), syms[j].end, id})
		}
	}
	for i := range syms {
		offer(int32(i))
	}
	for len(s.heap) > 0 {
		s.work += bits.Len(uint(len(s.heap))) // what a pop and a push look at
		c := s.pop()
		i := int32(c.key & math.MaxUint32)
		a := &syms[i]
		if a.end == a.start || a.next < 0 || syms[a.next].end != c.end {
			continue // one of the two has merged meanwhile
		}
		b := &syms[a.next]
		a.id, a.end, a.next = c.merged, b.end, b.next
		b.end = b.start
		if a.next >= 0 {
			syms[a.next].prev = i
		}
		if a.prev >= 0 {
			offer(a.prev)
		}
		offer(i)
	}
	live := syms[:0]
	for i := int32(0); i >= 0 && len(syms) > 0; {
		next := syms[i].next
		live = append(live, syms[i])
		i = next
	}
	s.syms = live
}

// push and pop keep s.heap a binary heap with the smallest key on top.
func (s *scratch) push(c candidate) {
	h := append(s.heap, c)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if h[up].key <= c.key {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = c
	s.heap = h
}

func (s *scratch) pop() candidate {
	h := s.heap
	top, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	i := 0
	for {
		down := 2*i + 1
		if down >= len(h) {
			break
		}
		if down+1 < len(h) && h[down+1].key < h[down].key {
			down++
		}
		if h[down].key >= last.key {
			break
		}
		h[i] = h[down]
		i = down
	}
	if len(h) > 0 {
		h[i] = last
	}
	s.heap = h
	return top
}

// emit appends the tokens of the merged symbols.
func (m *bpe) emit(dst []int32, word string, s *scratch) []int32 {
	wasUnk := false
	for i := range s.syms {
		y := &s.syms[i]
		isUnk := y.id < 0 && !m.fallback
		switch {
		case y.id >= 0 && (m.unused == nil || !m.unused[y.id]):
			dst = append(dst, y.id)
		case y.id >= 0:
			dst = m.unmerge(dst, word[y.start:y.end], s)
		case !(isUnk && wasUnk && m.fuse):
			dst = m.unknown(dst, word[y.start:y.end])
		}
		wasUnk = isUnk
	}
	return dst
}

// unknown appends what stands for text that is no token.
func (m *bpe) unknown(dst []int32, text string) []int32 {
	if m.fallback {
		for i := 0; i < len(text); i++ {
			dst = append(dst, m.first[text[i]])
		}
	} else if m.unk >= 0 {
		dst = append(dst, m.unk)
	}
	return dst
}

// unmerge takes an unused token apart again, along the merge that made it.
func (m *bpe) unmerge(dst []int32, text string, s *scratch) []int32 {
	id, ok := m.text.find(text)
	if ok && !m.unused[id] {
		return append(dst, id)
	}
	if at, made := s.made[text]; made {
		return m.unmerge(m.unmerge(dst, text[:at], s), text[at:], s)
	}
	if ok {
		return append(dst, id)
	}
	return m.unknown(dst, text)
}

// pairTable maps pairs of tokens to the rank and result of their merge: open
// addressing, at most two thirds full.
type pairTable struct {
	mul   uint64 // random and odd, so that no file can be made to collide
	slots []pairSlot
	n     int
}

type pairSlot struct {
	a, b   int32 // a is -1 in a free slot
	rank   uint32
	merged int32
}

// newPairTable makes room for n pairs.
func newPairTable(n int) *pairTable {
	p := &pairTable{mul: rand.Uint64() | 1, slots: make([]pairSlot, n+n/2+2)}
	for i := range p.slots {
		p.slots[i].a = -1
	}
	return p
}

// slot returns where the pair is or belongs. Multiply-shift hashing: Dietzfelbinger
// et al., "A reliable randomized algorithm for the closest-pair problem", 1997.
func (p *pairTable) slot(a, b int32) *pairSlot {
	h := (uint64(uint32(a))<<32 | uint64(uint32(b))) * p.mul
	i, _ := bits.Mul64(h, uint64(len(p.slots))) // its highest bits, as a place
	for {
		if s := &p.slots[i]; s.a < 0 || s.a == a && s.b == b {
			return s
		}
		if i++; i == uint64(len(p.slots)) {
			i = 0
		}
	}
}

// add enters a pair; replace says whether a later rank wins over an earlier.
func (p *pairTable) add(a, b int32, rank uint32, merged int32, replace bool) {
	s := p.slot(a, b)
	if s.a < 0 {
		p.n++
	} else if !replace {
		return
	}
	*s = pairSlot{a, b, rank, merged}
}

func (p *pairTable) get(a, b int32) (uint32, int32) {
	if a < 0 || b < 0 {
		return noRank, -1
	}
	if s := p.slot(a, b); s.a >= 0 {
		return s.rank, s.merged
	}
	return noRank, -1
}

// spaceStep returns a step that cuts before every "▁" that follows another
// character, where no token reaches across such a place: merges never do then,
// and short words merge faster. Otherwise it returns nothing.
func (m *bpe) spaceStep(v *vocabulary) []step {
	if _, ok := m.text.find(spaceMark); !ok {
		return nil
	}
	for id := range int32(len(v.kinds)) {
		if strings.Contains(strings.TrimLeft(v.names.at(id), spaceMark), spaceMark) {
			return nil
		}
	}
	return []step{scan{func(s string, i int) int {
		for strings.HasPrefix(s[i:], spaceMark) {
			i += len(spaceMark)
		}
		if k := strings.Index(s[i:], spaceMark); k >= 0 {
			return i + k
		}
		return len(s)
	}, spaceMark}}
}

// byteChar is GPT-2's spelling of bytes as printable characters: those that
// are printable stand for themselves, the others get U+0100 and up, in order.
// https://github.com/openai/gpt-2/blob/master/src/encoder.py (bytes_to_unicode)
func byteChar(c byte) rune {
	switch {
	case c <= ' ':
		return 0x100 + rune(c)
	case c < 0x7f:
		return rune(c)
	case c <= 0xa0:
		return 0x121 + rune(c-0x7f)
	case c == 0xad:
		return 0x143
	}
	return rune(c)
}

// charByte is the inverse of byteChar.
func charByte(r rune) (byte, bool) {
	switch {
	case r > ' ' && r < 0x7f, r > 0xa0 && r <= 0xff && r != 0xad:
		return byte(r), true
	case r >= 0x100 && r <= 0x120:
		return byte(r - 0x100), true
	case r > 0x120 && r < 0x143:
		return byte(r-0x121) + 0x7f, true
	case r == 0x143:
		return 0xad, true
	}
	return 0, false
}

// charsToBytes decodes a name spelled with byteChar; ok is false when it holds
// other characters.
func charsToBytes(name string) (raw string, ok bool) {
	var b strings.Builder
	for _, r := range name {
		c, ok := charByte(r)
		if !ok {
			return name, false
		}
		b.WriteByte(c)
	}
	return b.String(), true
}
