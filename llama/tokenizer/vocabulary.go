package tokenizer

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"slices"
	"strings"
)

// vocabulary is the tokens of a file. There are hundreds of thousands, so that
// their texts lie in one piece, and tables of them hold ids only.
type vocabulary struct {
	names *texts // as the file spells them, by id
	raws  *texts // the bytes that they stand for in running text, by id
	kinds []kind // by id
	ids   *index // of names
}

// token is one entry of the vocabulary.
type token struct {
	name string
	raw  string
	kind kind
}

const (
	// maxTokens is what an index has room for in its places.
	maxTokens = 1<<tagShift - 1
	// maxHoles is how many ids a vocabulary may leave out: some files pad the ids
	// of added tokens, and memory must stay in proportion to the file.
	maxHoles = 1 << 16
)

// newVocabulary makes room for ids 0..size-1, of which count are given.
func newVocabulary(size int64, count int, field string) (*vocabulary, error) {
	switch {
	case size > int64(count)+maxHoles:
		return nil, fail(field, "id %d is far outside a vocabulary of %d tokens", size-1, count)
	case size > maxTokens:
		return nil, fail(field, "%d tokens, at most %d are allowed", size, maxTokens)
	case count == 0:
		return nil, fail(field, "the vocabulary is empty")
	}
	v := &vocabulary{names: newTexts(int(size)), raws: newTexts(int(size)), kinds: make([]kind, 0, size)}
	v.ids = newIndex(v.names, count)
	return v, nil
}

// add enters the token of the next id, or of kind absent a hole in the ids.
func (v *vocabulary) add(name, raw string, k kind) {
	v.addName(name, k)
	v.raws.add(raw)
}

// addName is add where the bytes are added later.
func (v *vocabulary) addName(name string, k kind) {
	v.names.add(name)
	if v.kinds = append(v.kinds, k); k != absent {
		v.ids.add(int32(len(v.kinds) - 1))
	}
}

// share keeps one copy of lists of texts that are equal: the names, the bytes, and the
// texts that x finds.
func (v *vocabulary) share(x *index) {
	if v.raws.equal(v.names) {
		v.raws = v.names
	}
	for _, t := range []*texts{v.names, v.raws} {
		if x.of.equal(t) {
			x.of = t
		}
	}
}

// token returns an entry. Its strings are parts of a long one.
func (v *vocabulary) token(id int32) token { return token{v.names.at(id), v.raws.at(id), v.kinds[id]} }

// texts are strings by id, one after another.
type texts struct {
	all  strings.Builder
	ends []uint32 // text i starts at ends[i], and ends where the next one starts
}

// newTexts makes room for n of them.
func newTexts(n int) *texts { return &texts{ends: make([]uint32, 1, n+1)} }

func (t *texts) add(s string) {
	t.all.WriteString(s)
	t.ends = append(t.ends, uint32(t.all.Len()))
}

func (t *texts) equal(u *texts) bool {
	return slices.Equal(t.ends, u.ends) && t.all.String() == u.all.String()
}

func (t *texts) at(id int32) string {
	return t.all.String()[t.ends[id]:t.ends[id+1]]
}

// index finds ids by their texts: open addressing, at most half full. A place
// holds an id plus one and, above it, some bits of the text's hash, so that other
// texts are seldom looked at; 0 is none.
type index struct {
	of    *texts
	seed  maphash.Seed // so that no file can be made to collide
	shift uint
	slots []uint32
	n     int
}

const tagShift = 24

// newIndex makes room for n of the texts.
func newIndex(of *texts, n int) *index {
	size := bits.Len(uint(2*n + 1))
	return &index{of: of, seed: maphash.MakeSeed(), shift: 64 - uint(size), slots: make([]uint32, 1<<size)}
}

// add enters an id. Of two with the same text the first is found.
func (x *index) add(id int32) {
	h := maphash.String(x.seed, x.of.at(id))
	i := h >> x.shift
	for x.slots[i] != 0 {
		i = (i + 1) & uint64(len(x.slots)-1)
	}
	x.slots[i] = uint32(h)<<tagShift | uint32(id+1)
	x.n++
}

// find returns the id of a text.
func (x *index) find(s string) (id int32, ok bool) {
	h := maphash.String(x.seed, s)
	for i := h >> x.shift; ; i = (i + 1) & uint64(len(x.slots)-1) {
		slot := x.slots[i]
		if slot == 0 {
			return 0, false
		}
		if id := int32(slot&maxTokens) - 1; slot>>tagShift == uint32(h)&(1<<(32-tagShift)-1) && x.of.at(id) == s {
			return id, true
		}
	}
}

// all yields the entries, in no order.
func (x *index) all() iter.Seq2[string, int32] {
	return func(yield func(string, int32) bool) {
		for _, slot := range x.slots {
			if id := int32(slot&maxTokens) - 1; id >= 0 && !yield(x.of.at(id), id) {
				return
			}
		}
	}
}
