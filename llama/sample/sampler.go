package sample

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
)

// ErrNoCandidate says that nothing can be chosen: every logit is NaN or -Inf,
// be it from the model or because biases and masks banned every token.
var ErrNoCandidate = errors.New("sample: no token can be chosen: every logit is -Inf or NaN")

// A Step changes the candidates for the next token: their logits, or, by
// removing some, which there are.
type Step interface {
	Apply(c *Candidates)
}

// StepFunc makes a Step of a function.
type StepFunc func(c *Candidates)

// Apply calls f.
func (f StepFunc) Apply(c *Candidates) { f(c) }

// An Accepter is a Step that wants to know each token that becomes part of the
// sequence, the prompt's tokens included.
type Accepter interface {
	Accept(id int32)
}

// A Resetter is a Step with state that Sampler.Reset returns to its start.
type Resetter interface {
	Reset()
}

// A Cloner is a Step with state that Sampler.Clone must copy. Steps without it
// are shared between the clones.
type Cloner interface {
	Clone() Step
}

// Sampler draws tokens with fixed settings. It serves one sequence, and one
// goroutine at a time.
type Sampler struct {
	greedy   bool
	chain    []Step
	mirostat *mirostat // nil: off
	seed     uint64
	rng      rand.PCG
	cand     Candidates
	iota     []int32 // [vocabulary] 0, 1, 2, ...
}

// New returns a sampler for p. The caller's steps run in the order given, after logit
// bias and after the penalties and DRY (as far as these come first in p.Order), and
// before every other stage. They see the whole vocabulary in id order, and what they
// set to -Inf or remove is never chosen, greedy or not. The error lists every
// violation.
func New(p Params, steps ...Step) (*Sampler, error) {
	err := p.Validate()
	for i, step := range steps {
		if step == nil {
			err = errors.Join(err, fmt.Errorf("sample: step %d is nil", i))
		}
	}
	if err != nil {
		return nil, err
	}
	s := &Sampler{greedy: p.Temperature == 0, chain: p.chain(steps)}
	if p.Mirostat > 0 && !s.greedy {
		s.mirostat = newMirostat(p)
	}
	s.Reseed(p.Seed)
	return s, nil
}

// Sample chooses the next token from logits [vocabulary], where logits[i]
// belongs to id i; it does not change them. The token is not accepted: call
// Accept when it becomes part of the sequence. The error is ErrNoCandidate, or
// names a vocabulary of 2^24 tokens or more, or a caller's step that left
// Candidates with slices of different lengths.
func (s *Sampler) Sample(logits []float32) (int32, error) {
	if len(logits) >= maxCandidates {
		return 0, fmt.Errorf("sample: %d logits, want fewer than %d", len(logits), maxCandidates)
	}
	if s.greedy && len(s.chain) == 0 {
		i := argmax(logits)
		if i < 0 {
			return 0, ErrNoCandidate
		}
		return int32(i), nil
	}
	s.load(logits)
	c := &s.cand
	for i, step := range s.chain {
		step.Apply(c)
		if len(c.IDs) != len(c.Logits) {
			return 0, fmt.Errorf("sample: step %d (%T) left %d ids and %d logits", i, step, len(c.IDs), len(c.Logits))
		}
	}
	max, ok := c.max()
	if !ok {
		return 0, ErrNoCandidate
	}
	if s.greedy {
		return c.lowest(max), nil
	}
	if s.mirostat == nil {
		return c.IDs[s.draw(max)], nil
	}
	s.mirostat.truncate(c)
	at := s.draw(max)
	s.mirostat.drawn(c, at)
	return c.IDs[at], nil
}

// load makes the candidates the whole vocabulary with these logits.
func (s *Sampler) load(logits []float32) {
	for len(s.iota) < len(logits) {
		s.iota = append(s.iota, int32(len(s.iota)))
	}
	c := &s.cand
	c.IDs = append(c.ids[:0], s.iota[:len(logits)]...)
	c.Logits = append(c.logits[:0], logits...)
	c.ids, c.logits, c.vocab = c.IDs, c.Logits, len(logits)
	c.Sorted = false
}

// draw chooses an index with probability weight / total, where max is the
// largest logit: the first at which the running sum of weights passes
// floor(u * total / 2^64) for one 64-bit random u.
func (s *Sampler) draw(max float32) int {
	c := &s.cand
	total := c.weigh(max)
	left, _ := bits.Mul64(s.rng.Uint64(), total)
	for i, w := range c.weights {
		if left < w {
			return i
		}
		left -= w
	}
	panic("sample: weights do not add up to their total") // left < total
}

// Accept tells the sampler that id is now part of the sequence. Tokens of the
// prompt are accepted too, if penalties shall see them.
func (s *Sampler) Accept(id int32) {
	for _, step := range s.chain {
		if a, ok := step.(Accepter); ok {
			a.Accept(id)
		}
	}
	if s.mirostat != nil {
		s.mirostat.accept(id)
	}
}

// Reset makes the sampler as New returned it: nothing accepted, the random
// stream at its start. Scratch memory is kept.
func (s *Sampler) Reset() {
	for _, step := range s.chain {
		if r, ok := step.(Resetter); ok {
			r.Reset()
		}
	}
	if s.mirostat != nil {
		s.mirostat.reset()
	}
	s.Reseed(s.seed)
}

// Reseed starts the random stream of another seed, for clones that should
// differ; Reset starts this one again.
func (s *Sampler) Reseed(seed uint64) {
	s.seed = seed
	s.rng.Seed(seed, pcgStream)
	for _, step := range s.chain {
		if x, ok := step.(*xtc); ok {
			x.reseed(seed)
		}
	}
}

// pcgStream is the second seed word of PCG. It is part of what a seed means:
// never change it.
const pcgStream = 0x9e3779b97f4a7c15

// Clone returns a sampler in the same state, for a forked sequence: given the
// same logits, both go on with the same tokens.
func (s *Sampler) Clone() *Sampler {
	n := &Sampler{greedy: s.greedy, seed: s.seed, rng: s.rng, chain: make([]Step, len(s.chain))}
	for i, step := range s.chain {
		if c, ok := step.(Cloner); ok {
			step = c.Clone()
		}
		n.chain[i] = step
	}
	if s.mirostat != nil {
		m := *s.mirostat
		n.mirostat = &m
	}
	return n
}
