package llama

import "math/bits"

// lookup guesses that a text goes on as it did after an earlier place with the same last
// tokens. Places are found by a hash of the lookupTokens tokens before them, as LZ77
// coders do; so many of the latest ones are looked at that a guess takes bounded time,
// whatever the text is.
type lookup struct {
	heads []int32 // [lookupHeads] by hash, the last place with it, or 0
	links []int32 // [places] the place before with the same hash, or 0
	place int     // that was found last
}

const (
	lookupTokens = 2       // that must be alike
	lookupHeads  = 1 << 14 // a power of two
	lookupPlaces = 32      // that are looked at
	lookupLength = 64      // tokens compared at most
	lookupKinds  = 4
)

func (l *lookup) reset() {
	clear(l.heads)
	l.links = l.links[:0]
}

// look finds the place with the most tokens alike, of equal ones the latest, and returns
// how many are, or 0. ids are those of the call before and more, but after a reset.
func (l *lookup) look(ids []int32) (alike int) {
	if l.heads == nil {
		l.heads = make([]int32, lookupHeads)
	}
	for place := len(l.links); place < len(ids); place++ {
		last := int32(0)
		if place >= lookupTokens {
			head := &l.heads[lookupHash(ids[:place])]
			last, *head = *head, int32(place)
		}
		l.links = append(l.links, last)
	}
	if len(ids) < lookupTokens {
		return 0
	}
	place := l.heads[lookupHash(ids)]
	for range lookupPlaces {
		if place == 0 || alike == lookupLength {
			break
		}
		if same := commonEnd(ids[:place], ids); same >= lookupTokens && same > alike {
			l.place, alike = int(place), same
		}
		place = l.links[place]
	}
	return alike
}

// kind tells apart how much is alike: 2 or 3 tokens, 4 to 7, 8 to 15, or more.
func kind(alike int) int { return min(bits.Len(uint(alike))-2, lookupKinds-1) }

// guess appends the n tokens after the place that look found.
func (l *lookup) guess(dst, ids []int32, n int) []int32 {
	from := len(dst)
	for i := l.place; i < l.place+n; i++ {
		if i < len(ids) {
			dst = append(dst, ids[i])
		} else {
			dst = append(dst, dst[from+i-len(ids)]) // the text repeats itself
		}
	}
	return dst
}

// lookupHash is the hash of the last tokens of a text that has lookupTokens.
func lookupHash(ids []int32) uint32 {
	n := len(ids)
	h := (uint64(uint32(ids[n-2]))<<32 | uint64(uint32(ids[n-1]))) * 0x9e3779b97f4a7c15 // 2^64 by the golden ratio
	return uint32(h>>32) % lookupHeads
}

// commonEnd is the number of tokens that two texts end alike in, up to lookupLength.
func commonEnd(a, b []int32) int {
	n := 0
	for n < min(len(a), len(b), lookupLength) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}
