package tokenizer

// pieces is a cache of the tokens of short words: few words make most of a text. It
// has one place for each hash, which holds the last word with that hash.
type pieces [1 << pieceBits]piece

const (
	pieceBits = 13 // 32 bytes each: all of them fit the second-level cache
	maxPiece  = 15 // bytes of a word
	maxIDs    = 3  // of its tokens
)

// piece is a word and its tokens. The word's bytes are lo and hi, which ends
// with their number; 0 and 0 is none.
type piece struct {
	lo, hi uint64
	ids    [maxIDs]int32
	n      int32
}

// pieceKey returns text[i:j], at most maxPiece bytes, as a piece has it.
func pieceKey(text string, i, j int) (lo, hi uint64) {
	n := uint(j - i)
	if len(text)-i >= 16 { // two loads, less what is beyond the word
		s := text[i:][:16]
		lo, hi = load8(s[:8]), load8(s[8:])
		if n < 8 {
			lo, hi = lo&(1<<(8*n)-1), 0
		} else {
			hi &= 1<<(8*n-64) - 1
		}
		return lo, hi | uint64(n)<<56
	}
	for k := range n {
		if c := uint64(text[i+int(k)]); k < 8 {
			lo |= c << (8 * k)
		} else {
			hi |= c << (8*k - 64)
		}
	}
	return lo, hi | uint64(n)<<56
}

// load8 returns 8 bytes, the first lowest; the compiler makes it one load.
func load8(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// at returns the place of a word. Words made to collide cost what they would
// without a cache. The factors are the fractions of pi and of the golden ratio.
func (c *pieces) at(lo, hi uint64) *piece {
	h := (lo*0x9e3779b97f4a7c15 ^ hi) * 0x243f6a8885a308d3
	return &c[h>>(64-pieceBits)]
}

// set enters a word, unless it has too many tokens, or none.
func (p *piece) set(lo, hi uint64, ids []int32) {
	if n := len(ids); n > 0 && n <= maxIDs {
		p.lo, p.hi, p.n = lo, hi, int32(n)
		copy(p.ids[:], ids)
	}
}
