package tokenizer

import (
	"cmp"
	"slices"
)

// merge makes token id of the tokens a and b.
type merge struct {
	a, b, id int32
	rank     uint32
}

// merges returns the rules by which tokens merge, in the order of their ranks.
func (m *bpe) merges() []merge {
	if m.pairs == nil {
		return m.derived()
	}
	out := make([]merge, 0, m.pairs.n)
	for _, s := range m.pairs.slots {
		if s.a >= 0 {
			out = append(out, merge{s.a, s.b, s.merged, s.rank})
		}
	}
	slices.SortFunc(out, func(x, y merge) int { return cmp.Compare(x.rank, y.rank) })
	return out
}

// derived returns the rules that a vocabulary without a table implies, at most one for
// each token. The token's text is merged as if the token did not exist. Where two parts
// remain, the rule joins them.
//
// One rule is enough. Whenever a token comes about inside a word, no merge has
// crossed its ends, so the merges inside it were those of its text alone, in
// that order: the last one joins the same two parts. A token whose own text does
// not come down to two parts never comes about by merging.
//
// Parts of id -1 are characters without a token.
func (m *bpe) derived() []merge {
	type piece struct {
		text string
		id   int32
		rank uint32
	}
	c := *m
	c.rank, c.unused = slices.Clone(m.rank), nil
	all := make([]piece, 0, m.text.n)
	for text, id := range m.text.all() {
		all = append(all, piece{text, id, m.rank[id]})
	}
	slices.SortFunc(all, func(x, y piece) int { return cmp.Or(cmp.Compare(x.rank, y.rank), cmp.Compare(x.id, y.id)) })
	var out []merge
	var s scratch
	for _, p := range all {
		c.rank[p.id] = noRank
		c.symbols(p.text, &s)
		if len(s.syms) <= shortWord {
			c.mergeShort(p.text, &s)
		} else {
			c.mergeLong(p.text, &s)
		}
		c.rank[p.id] = p.rank
		if len(s.syms) == 2 {
			out = append(out, merge{s.syms[0].id, s.syms[1].id, p.id, p.rank})
		}
	}
	return out
}

// byText reports whether the table of pairs can be left out. Without it, neighbours are
// joined whose text together is a token, the token of the lowest rank first. text holds
// the tokens that may come about so.
//
// It can if each rule that text and rank imply is in the table, in that order. Then both
// ways do the same merges in each word, and no other rule of the table finds its pair.
func (m *bpe) byText(text *index, rank []uint32) bool {
	c := bpe{bytes: m.bytes, text: text, rank: rank, first: m.first, unk: -1}
	takesPart := make([]bool, len(rank))
	for s, id := range text.all() {
		c.max = max(c.max, len(s))
		takesPart[id] = true
	}
	for _, s := range m.pairs.slots {
		if s.a >= 0 && !(takesPart[s.a] && takesPart[s.b] && takesPart[s.merged]) {
			return false
		}
	}
	last := int64(-1)
	for _, d := range c.derived() {
		r, id := m.pairs.get(d.a, d.b)
		if id != d.id || int64(r) <= last {
			return false
		}
		last = int64(r)
	}
	return true
}

// wholes reports whether merging the text of any token gives that token. Then it does not
// matter whether a word that is a token is merged or taken whole.
func (m *bpe) wholes() bool {
	c := *m
	c.whole = false
	var s scratch
	var ids []int32
	for text, id := range m.text.all() {
		if ids = c.merge(ids[:0], text, &s); len(ids) != 1 || ids[0] != id {
			return false
		}
	}
	return true
}

// scores returns, by id, scores that merge as t does. SentencePiece and llama.cpp join
// the neighbours whose token has the highest score, so a rank with its sign turned is one.
func (t *Tokenizer) scores(target string) ([]float32, error) {
	m := t.model
	out := make([]float32, len(t.kinds))
	if m.pairs == nil {
		for _, id := range m.text.all() {
			out[id] = -float32(m.rank[id])
		}
		return out, nil
	}
	text := newIndex(t.names, len(t.kinds))
	rank := make([]uint32, len(t.kinds))
	for i, k := range t.kinds {
		if k == normal || k == unused {
			text.add(int32(i))
			rank[i] = noRank
		}
	}
	next := uint32(0)
	for _, r := range m.merges() {
		if rank[r.id] == noRank {
			rank[r.id] = next
			next++
		}
	}
	for _, id := range text.all() {
		rank[id] = min(rank[id], next)
		out[id] = -float32(rank[id])
	}
	if !m.byText(text, rank) {
		return nil, inexpressible(target, "the list of merges is not one that scores of tokens can give")
	}
	if m.whole && !m.wholes() {
		return nil, inexpressible(target, "some words that are tokens do not come out of merging")
	}
	return out, nil
}
