package cpu

import (
	"slices"
	"sync/atomic"

	"github.com/herd-ml/herd/backend/block"
)

// Products of attention's training take whole panels of columns, and give those that
// do not see a key the weight zero. Zero times a number that is not finite is NaN, so
// such a number, a wild one, would spoil the rows that do not see it. What products sum
// over, keys, values, queries and dy, is therefore laid out with zeros in the place of
// wild numbers, and these are added by loops afterwards, to what sees them.

// wild says where wild numbers are.
type wild struct {
	any  atomic.Bool
	keys [2][]bool // [key-value heads][rows]: of keys and of values
	cols [2][]bool // [key-value heads][cols]: of queries and of dy
}

// take takes memory. Whoever lays rows out says whether they have wild numbers.
func (d *wild) take(m *arena, keys, cols int) {
	for i := range 2 {
		d.keys[i], d.cols[i] = slice[bool](m, keys), slice[bool](m, cols)
	}
}

// clear writes zeros to numbers [from, to), if that is any.
func (p mixed) clear(from, to int) {
	switch {
	case to <= from:
	case p.h != nil:
		clear(p.h[from:to])
	default:
		clear(p.f[from:to])
	}
}

// number is v as products take it, and whether it is wild.
func (t *rowAttention) number(v float32) (float32, bool) {
	if t.bf16 {
		v = block.BF16ToF32(block.F32ToBF16(v))
	}
	return v, v-v != 0
}

// wild reports whether one of the first n numbers is: its exponent is all ones.
func (p mixed) wild(n int) bool {
	if p.h != nil {
		return allOnes(as[uint64](bytesOf(p.h[:n])), 0x0080_0080_0080_0080) || slices.ContainsFunc(p.h[n&^3:n], func(h uint16) bool { return h&0x7f80 == 0x7f80 })
	}
	return allOnes(as[uint64](bytesOf(p.f[:n])), 0x0080_0000_0080_0000) || n%2 == 1 && p.f[n-1]-p.f[n-1] != 0
}

// allOnes reports whether a number in words has an exponent of ones. lowest has the lowest
// bit of each exponent. Added to an exponent of ones it carries to the bit of the sign, and
// to no other one.
func allOnes(words []uint64, lowest uint64) bool {
	exponents, carry := lowest*0xff, uint64(0)
	for _, w := range words {
		carry |= w&exponents + lowest
	}
	return carry&(lowest<<8) != 0
}

// tameKeys returns n rows of keys (0) or values (1) from a row on, with zeros in the
// place of wild numbers.
func (t *rowAttention) tameKeys(w *worker, of, g, from, n int, x []float32, stride int) []float32 {
	marks := t.wild.keys[of][g*t.rows+from:][:n]
	tame := slice[float32](&w.scratch, n*t.hd)
	for r := range n {
		for i, v := range x[r*stride:][:t.hd] {
			if _, bad := t.number(v); bad {
				v, marks[r] = 0, true
			}
			tame[r*t.hd+i] = v
		}
	}
	t.wild.any.Store(true)
	return tame
}

// tameColumns writes zeros in the place of wild numbers of rows [all][wide], the queries
// (0) or dy (1) of a block.
func (t *rowAttention) tameColumns(of int, rows mixed, b *queryBlock, g int) {
	marks := t.wild.cols[of][g*t.cols+b.at:][:b.all]
	clear(marks)
	if !rows.wild(b.n * t.heads * t.wide) {
		return
	}
	t.wild.any.Store(true)
	v, scale := t.side(of)
	for c := range b.n * t.heads {
		x := elems[float32](v)[(b.row+c/t.heads)*v.RowStride()+(g*t.heads+c%t.heads)*t.hd:][:t.hd]
		for i, v := range x {
			if _, bad := t.number(v * scale); bad {
				rows.clear(c*t.wide+i, c*t.wide+i+1)
				marks[c] = true
			}
		}
	}
}

// addWildKeys adds to out [hd][all] the wild numbers of the keys (0) or values (1) of a
// piece times their weights, for columns that see them.
func (t *rowAttention) addWildKeys(out []float32, of, g int, b *queryBlock, p keyPiece, weights mixed) {
	if !t.wild.any.Load() {
		return
	}
	in := &t.a.In[1+of]
	for i := range p.n {
		if !t.wild.keys[of][g*t.rows+p.at+i] {
			continue
		}
		x := elems[float32](in)[(p.at+i)*in.RowStride()+g*t.hd:][:t.hd]
		for d, v := range x {
			v, bad := t.number(v)
			for c := t.hidden(b, p, p.at+i); bad && c < b.n*t.heads; c++ {
				out[d*b.all+c] += v * weights.at((i-i%t.unit)*b.all+c*t.unit+i%t.unit)
			}
		}
	}
}

// addWildColumns adds to the gradients [n][wide] of the keys (0) or values (1) of a piece
// the wild numbers of queries or dy times their weights [n][all], for keys that they see.
func (t *rowAttention) addWildColumns(out []float32, of, g int, b *queryBlock, p keyPiece, weights mixed) {
	if !t.wild.any.Load() {
		return
	}
	v, scale := t.side(of)
	for c := range b.n * t.heads {
		if !t.wild.cols[of][g*t.cols+b.at+c] {
			continue
		}
		x := elems[float32](v)[(b.row+c/t.heads)*v.RowStride()+(g*t.heads+c%t.heads)*t.hd:][:t.hd]
		for d, v := range x {
			v, bad := t.number(v * scale)
			for i := 0; bad && i < p.n && t.hidden(b, p, p.at+i) <= c; i++ {
				out[i*t.wide+d] += v * weights.at(i*b.all+c)
			}
		}
	}
}

// at is number i.
func (p mixed) at(i int) float32 {
	if p.h != nil {
		return block.BF16ToF32(p.h[i])
	}
	return p.f[i]
}
