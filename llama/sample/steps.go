package sample

import (
	"maps"
	"math"
	"slices"
)

// Mask is a Step that bans every id for which it returns false.
type Mask func(id int32) bool

// Apply sets the logits of banned ids to -Inf.
func (m Mask) Apply(c *Candidates) {
	for i, id := range c.IDs {
		if !m(id) {
			c.Logits[i] = negInf
		}
	}
	c.Sorted = false
}

// Bitset is a Step that bans every id that is not in the set: id is in it if
// bit id%64 of element id/64 is set. It may change between tokens.
type Bitset []uint64

// NewBitset returns an empty set for ids in [0, n).
func NewBitset(n int) Bitset { return make(Bitset, (n+63)/64) }

// Add puts id in the set; it panics if the set was not made for it.
func (b Bitset) Add(id int32) { b[id/64] |= 1 << (id % 64) }

// Remove takes id out of the set; it panics if the set was not made for it.
func (b Bitset) Remove(id int32) { b[id/64] &^= 1 << (id % 64) }

// Has says whether id is in the set.
func (b Bitset) Has(id int32) bool {
	w := int(uint32(id) / 64)
	return w < len(b) && b[w]>>(uint32(id)%64)&1 != 0
}

// Apply sets the logits of ids outside the set to -Inf.
func (b Bitset) Apply(c *Candidates) {
	for i, id := range c.IDs {
		if !b.Has(id) {
			c.Logits[i] = negInf
		}
	}
	c.Sorted = false
}

// bias adds to the logits of single tokens.
type bias []tokenBias

type tokenBias struct {
	id  int32
	add float32
}

func newBias(m map[int32]float32) bias {
	var b bias
	for _, id := range slices.Sorted(maps.Keys(m)) {
		b = append(b, tokenBias{id, m[id]})
	}
	return b
}

func (b bias) Apply(c *Candidates) {
	for _, t := range b {
		if i := c.Index(t.id); i >= 0 {
			c.Logits[i] += t.add
		}
	}
	c.Sorted = false
}

// penalties lowers the logits of tokens seen lately:
//
//	logit = (logit > 0 ? logit / repeat : logit * repeat) - count*frequency - presence
type penalties struct {
	repeat, frequency, presence float32

	window []int32         // the last cap tokens, a ring from next on once full; unused if size < 0
	size   int             // its size in tokens, -1 for no end
	next   int             // the oldest token of a full ring
	counts map[int32]int32 // how often each token is in the window
}

func newPenalties(p Params) *penalties {
	t := &penalties{
		repeat: p.RepeatPenalty, frequency: p.FrequencyPenalty, presence: p.PresencePenalty,
		size: p.PenaltyLastN, counts: map[int32]int32{},
	}
	if t.repeat == 0 {
		t.repeat = 1
	}
	if t.size == 0 {
		t.size = DefaultPenaltyLastN
	}
	return t
}

func (t *penalties) Accept(id int32) {
	t.counts[id]++
	if t.size < 0 {
		return
	}
	if len(t.window) < t.size {
		t.window = append(t.window, id)
		return
	}
	old := t.window[t.next]
	t.window[t.next] = id
	t.next = (t.next + 1) % t.size
	if t.counts[old]--; t.counts[old] == 0 {
		delete(t.counts, old)
	}
}

func (t *penalties) Apply(c *Candidates) {
	for id, n := range t.counts {
		i := c.Index(id)
		if i < 0 {
			continue
		}
		l := c.Logits[i]
		if l > 0 {
			l /= t.repeat
		} else {
			l *= t.repeat
		}
		// Conversions forbid fused rounding, which would differ by platform.
		c.Logits[i] = l - float32(float32(float32(n)*t.frequency)+t.presence)
	}
	c.Sorted = false
}

func (t *penalties) Reset() {
	t.window, t.next = t.window[:0], 0
	clear(t.counts)
}

func (t *penalties) Clone() Step {
	n := *t
	n.window, n.counts = slices.Clone(t.window), maps.Clone(t.counts)
	return &n
}

// topK keeps the k largest logits.
type topK int

func (k topK) Apply(c *Candidates) { c.Top(int(k)) }

// topP keeps the shortest head of the sorted candidates that holds at least
// this part of the probability.
type topP float32

// nucleusGuess is how many candidates topP sorts at first; where they hold too
// little, nucleusGrowth times as many, and so on.
const nucleusGuess, nucleusGrowth = 256, 8

func (p topP) Apply(c *Candidates) {
	best := c.best()
	if best < 0 {
		return
	}
	max := c.Logits[best]
	need := uint64(math.Ceil(float64(p) * float64(c.weigh(max))))
	if c.Sorted {
		if n, ok := nucleus(c.weights, need, func(w uint64) uint64 { return w }); ok {
			c.cut(n)
		}
		return
	}
	for k := nucleusGuess; ; k *= nucleusGrowth {
		c.keys = selectTop(c.keys[:0], c.IDs, c.Logits, k)
		n, ok := nucleus(c.keys, need, func(key uint64) uint64 { return weight(keyLogit(key), max) })
		if ok || k >= len(c.Logits) {
			c.set(c.keys[:n])
			return
		}
	}
}

// nucleus returns how many of the leading items weigh need together, and
// whether all of them do.
func nucleus(items []uint64, need uint64, weigh func(uint64) uint64) (n int, ok bool) {
	var sum uint64
	for i, x := range items {
		if sum += weigh(x); sum >= need {
			return i + 1, true
		}
	}
	return len(items), false
}

// minP keeps the logits that are at most -log(p) below the largest.
type minP struct {
	below float32 // log(p), <= 0
}

func newMinP(p float32) minP { return minP{float32(math.Log(float64(p)))} }

func (m minP) Apply(c *Candidates) {
	best := c.best()
	if best < 0 {
		return
	}
	floor := c.Logits[best] + m.below
	n := 0
	for i, l := range c.Logits {
		if l >= floor {
			c.IDs[n], c.Logits[n] = c.IDs[i], l
			n++
		}
	}
	c.cut(n)
}

// temperature divides the logits. It also shifts them so that the largest is
// 0, which changes no probability: dividing by a tiny temperature then cannot
// make two of them +Inf.
type temperature float32

func (t temperature) Apply(c *Candidates) {
	best := c.best()
	if best < 0 {
		return
	}
	max := c.Logits[best]
	for i, l := range c.Logits {
		if l == max {
			c.Logits[i] = 0
		} else {
			c.Logits[i] = float32((float64(l) - float64(max)) / float64(t))
		}
	}
}
