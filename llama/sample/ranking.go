package sample

// Which candidates come first.

import (
	"math"
	"slices"
)

// argmax returns the first index of the largest logit, or -1 if all are -Inf
// or NaN.
func argmax(logits []float32) int {
	best, at := negInf, -1
	for i := 0; i < len(logits); {
		if b := logits[i:]; len(b) >= 8 && // eight at a time, nearly always false:
			!(b[0] > best || b[1] > best || b[2] > best || b[3] > best ||
				b[4] > best || b[5] > best || b[6] > best || b[7] > best) {
			i += 8
			continue
		}
		for end := min(i+8, len(logits)); i < end; i++ {
			if logits[i] > best {
				best, at = logits[i], i
			}
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
