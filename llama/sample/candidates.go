package sample

import (
	"math"
	"slices"
)

// Candidates are the tokens that may come next. A Step may change Logits, set
// some to -Inf to ban them, and reorder or shorten both slices together.
type Candidates struct {
	IDs    []int32   // [n] token ids, each at most once
	Logits []float32 // [n] Logits[i] belongs to IDs[i]; -Inf and NaN are never chosen
	// Sorted says that logits descend; a filter then keeps the first ones. A
	// Step that changes logits or their order sets it accordingly.
	Sorted bool

	vocab   int       // ids are below it
	ids     []int32   // the buffer behind IDs, kept for the next token
	logits  []float32 // the buffer behind Logits
	keys    []uint64  // scratch of the selection
	weights []uint64  // [n] of the last weigh
	probs   []float64 // [n] of the last probabilities
	order   []int32   // scratch of a sort
}

// Index returns the place of id in IDs, or -1. While the candidates are the
// whole vocabulary in id order it takes constant time.
func (c *Candidates) Index(id int32) int {
	if id < 0 || int(id) >= c.vocab {
		return -1
	}
	if int(id) < len(c.IDs) && c.IDs[id] == id {
		return int(id)
	}
	return slices.Index(c.IDs, id)
}

// Top keeps the k candidates with the largest logits, sorted, of equal ones
// the lowest ids. Unless they were sorted before, logits of -Inf and NaN are
// dropped.
func (c *Candidates) Top(k int) {
	k = max(0, min(k, len(c.IDs)))
	if c.Sorted {
		c.cut(k)
	} else {
		c.keys = selectTop(c.keys[:0], c.IDs, c.Logits, k)
		c.set(c.keys)
	}
}

// lowest returns the lowest id with this logit.
func (c *Candidates) lowest(logit float32) int32 {
	id := int32(math.MaxInt32)
	for i, l := range c.Logits {
		if l == logit {
			id = min(id, c.IDs[i])
		}
	}
	return id
}

// max returns the largest logit, and false if nothing can be chosen.
func (c *Candidates) max() (float32, bool) {
	i := argmax(c.Logits)
	if i < 0 {
		return negInf, false
	}
	return c.Logits[i], true
}

// keep removes the candidates for which ok(index) is false.
func (c *Candidates) keep(ok func(i int) bool) {
	n := 0
	for i := range c.IDs {
		if ok(i) {
			c.IDs[n], c.Logits[n] = c.IDs[i], c.Logits[i]
			n++
		}
	}
	c.cut(n)
}

// cut keeps the first n candidates.
func (c *Candidates) cut(n int) {
	c.IDs, c.Logits = c.IDs[:n], c.Logits[:n]
}

// set makes the candidates those of keys, which descend.
func (c *Candidates) set(keys []uint64) {
	c.cut(len(keys))
	for i, k := range keys {
		c.IDs[i], c.Logits[i] = keyID(k), keyLogit(k)
	}
	c.Sorted = true
}

// weigh fills weights and returns their sum, where max is the largest logit.
func (c *Candidates) weigh(max float32) (total uint64) {
	c.weights = slices.Grow(c.weights[:0], len(c.Logits))[:len(c.Logits)]
	for i, l := range c.Logits {
		w := weight(l, max)
		c.weights[i] = w
		total += w
	}
	return total
}
