package llama

import "context"

// lookup guesses that a text goes on as it did after an earlier place with the same last
// tokens. Places are found by a hash of the lookupTokens tokens before them, as LZ77
// coders do; so many of the latest ones are looked at that a guess takes bounded time,
// whatever the text is.
type lookup struct {
	heads []int32 // [lookupHeads] by hash, the last place with it, or 0
	links []int32 // [places] the place before with the same hash, or 0
}

const (
	lookupTokens = 2       // that must be alike
	lookupHeads  = 1 << 14 // a power of two
	lookupPlaces = 32      // that are looked at
	lookupLength = 64      // tokens compared at most
)

func (l *lookup) reset() {
	clear(l.heads)
	l.links = l.links[:0]
}

// Draft implements Drafter. ids are those of the call before and more, but after a reset.
// Of the places it takes the one with the most tokens alike, of equal ones the latest.
func (l *lookup) Draft(_ context.Context, dst, ids []int32, n int) ([]int32, error) {
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
		return dst, nil
	}
	best, alike := 0, lookupTokens-1
	place := l.heads[lookupHash(ids)]
	for range lookupPlaces {
		if place == 0 || alike == lookupLength {
			break
		}
		if same := commonEnd(ids[:place], ids); same > alike {
			best, alike = int(place), same
		}
		place = l.links[place]
	}
	if best == 0 {
		return dst, nil
	}
	from := len(dst)
	for i := range n {
		if best+i < len(ids) {
			dst = append(dst, ids[best+i])
		} else {
			dst = append(dst, dst[from+best+i-len(ids)]) // the text repeats itself
		}
	}
	return dst, nil
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
