package sample

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// probabilities returns the candidates' probabilities, of weights, and their
// entropy in nats.
func (c *Candidates) probabilities() (p []float64, entropy float64, ok bool) {
	max, ok := c.max()
	if !ok {
		return nil, 0, false
	}
	total := float64(c.weigh(max))
	c.probs = slices.Grow(c.probs[:0], len(c.weights))[:len(c.weights)]
	for i, w := range c.weights {
		c.probs[i] = float64(w) / total
		if w > 0 {
			entropy -= float64(c.probs[i] * math.Log(c.probs[i]))
		}
	}
	return c.probs, entropy, true
}

// typical keeps the tokens whose surprise is nearest to the entropy, the fewest
// that hold this part of the probability.
type typical float32

func (t typical) Apply(c *Candidates) {
	p, entropy, ok := c.probabilities()
	if !ok {
		return
	}
	c.order = c.order[:0]
	for i := range p {
		if p[i] > 0 {
			c.order = append(c.order, int32(i))
		}
	}
	distance := func(i int32) float64 { return math.Abs(-math.Log(p[i]) - entropy) }
	slices.SortFunc(c.order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(distance(a), distance(b)), cmp.Compare(c.IDs[a], c.IDs[b]))
	})
	sum, n := 0.0, 0
	for n < len(c.order) && sum < float64(t) {
		sum += p[c.order[n]]
		n++
	}
	kept := c.order[:n]
	slices.Sort(kept) // their order stays
	c.keep(func(i int) bool {
		_, found := slices.BinarySearch(kept, int32(i))
		return found
	})
}

// topNSigma keeps the logits that are at most n standard deviations of all
// logits below the largest.
type topNSigma float32

func (n topNSigma) Apply(c *Candidates) {
	max, ok := c.max()
	if !ok || max-max != 0 {
		return
	}
	sum, count := 0.0, 0
	for _, l := range c.Logits {
		if l > negInf {
			sum += float64(l)
			count++
		}
	}
	mean, squares := sum/float64(count), 0.0
	for _, l := range c.Logits {
		if l > negInf {
			d := float64(l) - mean
			squares += float64(d * d)
		}
	}
	floor := float64(max) - float64(n)*math.Sqrt(squares/float64(count))
	c.keep(func(i int) bool { return float64(c.Logits[i]) >= floor })
}

// dynatemp is a temperature between low and high: low + (high - low) * h^e,
// where h is the entropy as a part of the largest possible one.
type dynatemp struct{ low, high, exponent float64 }

func newDynatemp(p Params) dynatemp {
	d := dynatemp{max(0, float64(p.Temperature)-float64(p.DynatempRange)), float64(p.Temperature) + float64(p.DynatempRange), float64(p.DynatempExponent)}
	if d.exponent == 0 {
		d.exponent = 1
	}
	return d
}

func (d dynatemp) Apply(c *Candidates) {
	if len(c.IDs) < 2 {
		return
	}
	_, entropy, ok := c.probabilities()
	if !ok {
		return
	}
	h := entropy / math.Log(float64(len(c.IDs)))
	t := d.low + float64((d.high-d.low)*math.Pow(h, d.exponent))
	if float32(t) > 0 {
		temperature(t).Apply(c)
		return
	}
	best, _ := c.max()
	lowest := c.lowest(best)
	c.keep(func(i int) bool { return c.IDs[i] == lowest })
}

// xtc acts with some probability: of the tokens that are at least threshold likely it
// removes all but the least likely one.
type xtc struct {
	probability, threshold float32
	rng                    rand.PCG
}

// xtcStream is the second seed word of XTC's own random stream: whether it acts
// does not change what is drawn. Never change it.
const xtcStream = 0xd1b54a32d192ed03

func (x *xtc) reseed(seed uint64) { x.rng.Seed(seed, xtcStream) }

func (x *xtc) Clone() Step {
	n := *x
	return &n
}

func (x *xtc) Apply(c *Candidates) {
	chance := float64(x.rng.Uint64()>>11) / (1 << 53)
	if chance >= float64(x.probability) {
		return
	}
	p, _, ok := c.probabilities()
	if !ok {
		return
	}
	least, above := -1, 0
	for i := range p {
		if p[i] < float64(x.threshold) {
			continue
		}
		above++
		if least < 0 || key(c.Logits[i], c.IDs[i]) < key(c.Logits[least], c.IDs[least]) {
			least = i
		}
	}
	if above < 2 {
		return
	}
	c.keep(func(i int) bool { return i == least || p[i] < float64(x.threshold) })
}

// mirostat keeps the tokens that surprise by at most mu bits, or, in version 1, as many
// of the most likely as a distribution of Zipf's law with that surprise has, and moves
// mu so that the tokens drawn surprise by tau bits on average.
type mirostat struct {
	version      int
	tau, eta, mu float64
	id           int32   // drawn last, -1: none
	surprise     float64 // of it, in bits
}

func newMirostat(p Params) *mirostat {
	m := &mirostat{version: p.Mirostat, tau: float64(p.MirostatTau), eta: float64(p.MirostatEta)}
	if m.tau == 0 {
		m.tau = 5
	}
	if m.eta == 0 {
		m.eta = 0.1
	}
	m.reset()
	return m
}

func (m *mirostat) reset() { m.mu, m.id = 2*m.tau, -1 }

// truncate removes what surprises too much; one candidate stays.
func (m *mirostat) truncate(c *Candidates) {
	if m.version == 1 {
		if c.Top(len(c.IDs)); len(c.IDs) > 1 {
			c.Top(m.zipf(c))
		}
		return
	}
	p, _, ok := c.probabilities()
	if !ok {
		return
	}
	best, _ := c.max()
	lowest := c.lowest(best)
	c.keep(func(i int) bool { return c.IDs[i] == lowest || p[i] > 0 && -math.Log2(p[i]) <= m.mu })
}

// zipfTokens is how many of the most likely tokens the exponent is estimated from, as in
// the paper.
const zipfTokens = 100

// zipf is how many of the candidates, sorted, are kept, at least one: with s the exponent
// of Zipf's law by least squares over the most likely tokens, e = s-1 and N the
// vocabulary, k = (e 2^mu / (1 - N^-e))^(1/s) (algorithm 1 and eq. 9 of the paper).
func (m *mirostat) zipf(c *Candidates) int {
	products, squares := 0.0, 0.0
	for i := range min(zipfTokens-1, len(c.Logits)-1) {
		t := math.Log(float64(i+2) / float64(i+1))
		products += t * float64(c.Logits[i]-c.Logits[i+1]) // the log of the ratio of probabilities
		squares += t * t
	}
	s := products / squares
	e := s - 1
	scale := 1 / math.Log(float64(c.vocab)) // the limit where e is 0
	if math.Abs(e) > 1e-9 {
		scale = e / (1 - math.Pow(float64(c.vocab), -e))
	}
	k := math.Pow(scale*math.Exp2(m.mu), 1/s)
	switch n := float64(len(c.IDs)); {
	case k >= n:
		return len(c.IDs)
	case k >= 1:
		return int(k)
	}
	return 1 // also where k is no number
}

// drawn notes what was drawn from the candidates left.
func (m *mirostat) drawn(c *Candidates, at int) {
	total := 0.0
	for _, w := range c.weights {
		total += float64(w)
	}
	m.id, m.surprise = c.IDs[at], -math.Log2(float64(c.weights[at])/total)
}

// accept learns from the token, if it is the one that was drawn.
func (m *mirostat) accept(id int32) {
	if id == m.id {
		m.mu -= float64(m.eta * (m.surprise - m.tau))
		m.id = -1
	}
}
