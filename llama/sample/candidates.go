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

// best returns the index of the largest logit, of equal ones that of the
// lowest id, or -1 if nothing can be chosen.
func (c *Candidates) best() int {
	best := argmax(c.Logits)
	for i := best + 1; best >= 0 && i < len(c.Logits); i++ {
		if c.Logits[i] == c.Logits[best] && c.IDs[i] < c.IDs[best] {
			best = i
		}
	}
	return best
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

// argmax returns the first index of the largest logit, or -1 if all are -Inf
// or NaN.
func argmax(logits []float32) int {
	best, at := negInf, -1
	for i, l := range logits {
		if l > best {
			best, at = l, i
		}
	}
	return at
}

// A key is one candidate as an integer: keys compare as candidates rank, the
// larger logit first and then the lower id. The upper half is the logit's bits
// made monotonic, the lower half the complement of the id.
func key(logit float32, id int32) uint64 {
	b := math.Float32bits(logit + 0) // -0 + 0 is 0: zeros are equal
	if b>>31 != 0 {
		b = ^b
	} else {
		b |= 1 << 31
	}
	return uint64(b)<<32 | uint64(^uint32(id))
}

func keyID(k uint64) int32 { return int32(^uint32(k)) }

func keyLogit(k uint64) float32 {
	b := uint32(k >> 32)
	if b>>31 != 0 {
		return math.Float32frombits(b &^ (1 << 31))
	}
	return math.Float32frombits(^b)
}

// selectTop returns the keys of the k highest ranked candidates in descending
// order, in dst[:0]. Those of -Inf and NaN are left out. ids nil means that
// logits[i] belongs to id i. It holds a heap of k keys with the lowest on top:
// O(n log k) at worst, one comparison for nearly every candidate in practice.
func selectTop(dst []uint64, ids []int32, logits []float32, k int) []uint64 {
	keys := slices.Grow(dst[:0], min(k, len(logits)))
	floor := negInf // no logit below it can enter
	for i, l := range logits {
		if !(l >= floor) || l == negInf {
			continue
		}
		id := int32(i)
		if ids != nil {
			id = ids[i]
		}
		switch x := key(l, id); {
		case len(keys) < k:
			keys = append(keys, x)
			if len(keys) < k {
				continue
			}
			for j := k/2 - 1; j >= 0; j-- {
				siftDown(keys, j)
			}
		case k > 0 && x > keys[0]:
			keys[0] = x
			siftDown(keys, 0)
		default:
			continue
		}
		floor = keyLogit(keys[0])
	}
	slices.Sort(keys)
	slices.Reverse(keys)
	return keys
}

// siftDown restores the heap order, lowest on top, below node i.
func siftDown(h []uint64, i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1] < h[child] {
			child++
		}
		if h[i] <= h[child] {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

// Weights are probabilities relative to the largest, in units of 2^-40. Fewer
// than 2^24 of them cannot overflow 64 bits.
const (
	weightOne     = 1 << 40
	maxCandidates = 1 << 24
)

// weight returns exp(logit - max) as a weight, rounded to nearest; max itself
// weighs weightOne even if it is +Inf, and NaN weighs nothing.
func weight(logit, max float32) uint64 {
	if logit == max {
		return weightOne
	}
	x := float64(logit) - float64(max)
	if !(x > -29) { // exp(-29) < 2^-41
		return 0
	}
	return uint64(int64(float64(exp(x)*weightOne) + 0.5))
}

// exp returns e^x for x in [-700, 0], to a relative 3e-13: with x = k ln 2 + r
// and |r| <= ln(2)/2 it is 2^k times the Taylor sum of e^r to r^10. Unlike
// math.Exp it gives the same bits on every platform: the conversions keep the
// compiler from fusing multiplications with additions.
func exp(x float64) float64 {
	const (
		log2e = 1 / math.Ln2
		ln2Hi = 0x1.62e42fefap-1 // the upper bits of ln 2: k*ln2Hi is exact
		ln2Lo = math.Ln2 - ln2Hi
		shift = 3 << 51 // adding it rounds to an integer, held in the low bits
	)
	t := float64(x*log2e) + shift
	k := t - shift
	r := (x - float64(k*ln2Hi)) - float64(k*ln2Lo)
	p := 1.0 / 3628800
	p = float64(p*r) + 1.0/362880
	p = float64(p*r) + 1.0/40320
	p = float64(p*r) + 1.0/5040
	p = float64(p*r) + 1.0/720
	p = float64(p*r) + 1.0/120
	p = float64(p*r) + 1.0/24
	p = float64(p*r) + 1.0/6
	p = float64(p*r) + 1.0/2
	p = float64(p*r) + 1
	p = float64(p*r) + 1
	return p * math.Float64frombits((math.Float64bits(t)+1023)<<52)
}
