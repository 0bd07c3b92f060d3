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

// topP keeps the fewest tokens that hold at least this part of the
// probability, in their order. Instead of sorting it adds up the weights in
// bands of equal distance from the largest logit; only the band in which the
// sum reaches its goal is sorted.
type topP float32

// Bands are 1/16 nat wide and go as far down as weights are above 0.
const bandsPerNat, bands = 16, -minExponent*bandsPerNat + 1

// band is not decreasing as logits fall, so whole bands rank above others.
func band(logit, max float32) int {
	if logit == max {
		return 0
	}
	return int((float64(max) - float64(logit)) * bandsPerNat)
}

func (p topP) Apply(c *Candidates) {
	max, ok := c.max()
	if !ok {
		return
	}
	need := uint64(math.Ceil(float64(p) * float64(c.weigh(max))))
	var sums [bands]uint64
	for i, w := range c.weights {
		if w > 0 {
			sums[band(c.Logits[i], max)] += w
		}
	}
	last := 0
	for need > sums[last] {
		need -= sums[last]
		last++
	}
	c.keys = c.keys[:0]
	for i, w := range c.weights {
		if w > 0 && band(c.Logits[i], max) == last {
			c.keys = append(c.keys, key(c.Logits[i], c.IDs[i]))
		}
	}
	slices.Sort(c.keys)
	at := len(c.keys) - 1 // of the lowest ranked token that is kept
	for w := weight(keyLogit(c.keys[at]), max); need > w; w = weight(keyLogit(c.keys[at]), max) {
		need -= w
		at--
	}
	lowest := c.keys[at]
	floor := keyLogit(lowest)
	c.keep(func(i int) bool {
		l := c.Logits[i]
		return l > floor || l == floor && key(l, c.IDs[i]) >= lowest
	})
}

// minP keeps the logits that are at most -log(p) below the largest.
type minP struct {
	below float32 // log(p), <= 0
}

func newMinP(p float32) minP { return minP{float32(math.Log(float64(p)))} }

func (m minP) Apply(c *Candidates) {
	max, ok := c.max()
	if !ok {
		return
	}
	floor := max + m.below
	c.keep(func(i int) bool { return c.Logits[i] >= floor })
}

// temperature divides the logits. It also shifts them so that the largest is
// 0, which changes no probability: dividing by a tiny temperature then cannot
// make two of them +Inf.
type temperature float32

func (t temperature) Apply(c *Candidates) {
	max, ok := c.max()
	if !ok {
		return
	}
	for i, l := range c.Logits {
		if l == max {
			c.Logits[i] = 0
		} else {
			c.Logits[i] = float32((float64(l) - float64(max)) / float64(t))
		}
	}
}
