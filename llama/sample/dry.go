package sample

import (
	"math"
	"slices"
	"strings"
)

// dry lowers the logits of tokens that would go on with a sequence that was
// there before:
//
//	logit -= multiplier * base^(n - allowed)
//
// where n >= allowed is how many tokens at the end of the text are the same as
// those before an earlier occurrence of the token. No sequence goes across a
// breaker. Source: https://github.com/oobabooga/text-generation-webui/pull/5677.
type dry struct {
	multiplier, base float64
	allowed, size    int                 // size 0: no end
	breakers         map[int32][][]int32 // by their last token
	tokens           []int32

	back []int32       // scratch: the window, the latest first
	z    []int32       // [len(back)] of the Z algorithm
	best map[int32]int // longest match by the token after it

	compared int // pairs of tokens that the last match looked at
}

func newDRY(p Params) *dry {
	d := &dry{multiplier: float64(p.DRYMultiplier), base: float64(p.DRYBase), allowed: p.DRYAllowedLength, size: p.DRYLastN, breakers: map[int32][][]int32{}, best: map[int32]int{}}
	if d.base == 0 {
		d.base = 1.75
	}
	if d.allowed == 0 {
		d.allowed = 2
	}
	for _, b := range p.DRYBreakers {
		if len(b) > 0 {
			last := b[len(b)-1]
			d.breakers[last] = append(d.breakers[last], b)
		}
	}
	return d
}

func (d *dry) Accept(id int32) { d.tokens = append(d.tokens, id) }

func (d *dry) Reset() { d.tokens = d.tokens[:0] }

func (d *dry) Clone() Step {
	n := *d
	n.tokens, n.back, n.z, n.best = slices.Clone(d.tokens), nil, nil, map[int32]int{}
	return &n
}

// free is how many tokens at the end of the text come after the last breaker.
func (d *dry) free(window []int32) int {
	for n := 0; n < len(window); n++ {
		end := len(window) - n
		for _, b := range d.breakers[window[end-1]] {
			if len(b) <= end && slices.Equal(window[end-len(b):end], b) {
				return n
			}
		}
	}
	return len(window)
}

func (d *dry) Apply(c *Candidates) {
	window := d.tokens
	if d.size > 0 {
		window = window[max(0, len(window)-d.size):]
	}
	limit := d.free(window)
	if limit < d.allowed {
		return
	}
	d.back = append(d.back[:0], window...)
	slices.Reverse(d.back)
	d.match()
	clear(d.best)
	for i := 1; i < len(d.back); i++ {
		if n := min(int(d.z[i]), limit); n >= d.allowed && n > d.best[d.back[i-1]] {
			d.best[d.back[i-1]] = n
		}
	}
	for id, n := range d.best {
		if i := c.Index(id); i >= 0 {
			penalty := d.multiplier * math.Pow(d.base, float64(n-d.allowed))
			c.Logits[i] -= float32(min(penalty, math.MaxFloat32))
		}
	}
	c.Sorted = false
}

// match fills z: z[i] is how long back and back[i:] are the same. Linear: the
// Z algorithm (Gusfield 1997, section 1.4).
func (d *dry) match() {
	s := d.back
	d.z = slices.Grow(d.z[:0], len(s))[:len(s)]
	left, right := 0, 0
	d.compared = 0
	for i := 1; i < len(s); i++ {
		n := 0
		if i < right {
			n = min(right-i, int(d.z[i-left]))
		}
		d.compared += 1 - n
		for i+n < len(s) && s[n] == s[i+n] {
			n++
		}
		d.compared += n
		if d.z[i] = int32(n); i+n > right {
			left, right = i, i+n
		}
	}
}

// DRYBreakerTexts are the texts that customarily end a repeated sequence.
func DRYBreakerTexts() []string { return []string{"\n", ":", `"`, "*"} }

// DRYBreakers makes the token sequences for Params.DRYBreakers of texts: every
// token that contains a text, and where encode is not nil the tokens that it
// makes of the text. vocab is the number of tokens, text the text of one.
func DRYBreakers(texts []string, vocab int, text func(id int32) string, encode func(string) []int32) (breakers [][]int32) {
	for id := range int32(vocab) {
		t := text(id)
		if slices.ContainsFunc(texts, func(b string) bool { return b != "" && strings.Contains(t, b) }) {
			breakers = append(breakers, []int32{id})
		}
	}
	if encode != nil {
		for _, b := range texts {
			if ids := encode(b); len(ids) > 1 {
				breakers = append(breakers, ids)
			}
		}
	}
	return breakers
}
