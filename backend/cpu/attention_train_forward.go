package cpu

import (
	"math"
)

// scores multiplies keys (0) or values (1) [at, at+n) of a piece with the columns of a
// block, those from column from on, a multiple of a panel. words are the queries or dy.
func (t *rowAttention) scores(w *worker, out []float32, value, g int, b *queryBlock, words mixed, at, n, from int) {
	x, stride := t.key(value, g, at)
	c := g*t.cols + b.at + from
	t.multiply(w, (b.all-from)/panel, out[from:], b.all, x, stride, words.from(c*t.k), t.unit*panel, t.k*panel, n, t.k, false)
}

// hide makes scores of key rows [at, at+n) minus infinity where a column does not see
// them, from column from on.
func (t *rowAttention) hide(out []float32, b *queryBlock, p keyPiece, at, n, from int) {
	if !p.cut {
		return
	}
	for i := range n {
		row := out[i*b.all:][:b.all]
		for c := from; c < t.hidden(b, p, at+i); c++ {
			row[c] = float32(math.Inf(-1))
		}
	}
}

// seen is the first column, of whole panels, that sees one of the keyStep keys from key
// i of a piece on.
func (t *rowAttention) seen(b *queryBlock, p keyPiece, i int) int {
	return min(t.hidden(b, p, p.at+i)/panel*panel, b.all)
}

// step is how many keys of a piece have the same columns.
func (p keyPiece) step() int {
	if p.cut {
		return keyStep
	}
	return p.n
}

// attending columns: the state of a block of queries.
type columnSums struct {
	top, sum []float32 // of a column: the largest score, the sum of exp(score - top)
	out      []float32 // [wide][all], the sums of values times that, or nil
	any      bool      // there is a key to see
}

// attend computes the output of a block of queries; for gradients their statistics only.
func (t *rowAttention) attend(w *worker, g, i int) {
	b, sc := &t.blocks[i], &w.scratch
	c := columnSums{top: slice[float32](sc, b.all), sum: slice[float32](sc, b.all)}
	for j := range c.top {
		c.top[j] = float32(math.Inf(-1))
	}
	clear(c.sum)
	if !t.back {
		c.out = slice[float32](sc, t.wide*b.all)
		clear(c.out)
	}
	s, old, room := slice[float32](sc, (keyRows+1)*b.all), slice[float32](sc, b.all), slice[float32](sc, b.all)
	p16, pad := t.pairRoom(w, b)
	done := t.pieces(b, 0, t.rows, func(p keyPiece) bool {
		if w.pause() {
			return false
		}
		c.any = true
		copy(old, c.top)
		for i := 0; i < p.n; i += p.step() {
			n, from := min(p.step(), p.n-i), t.seen(b, p, i)
			rows := s[i*b.all:]
			t.scores(w, rows, 0, g, b, t.queries, p.at+i, n, from)
			t.hide(rows, b, p, p.at+i, n, from)
			for r := range n {
				w.kernels.MaxInto(c.top[from:], rows[r*b.all+from:][:b.all-from])
			}
		}
		t.rescale(w, &c, old, room)
		t.exps(w, &c, p16, s, b, p)
		if c.out != nil {
			t.addColumns(w, c.out, 1, g, b, p, t.weights(p16, s), pad)
		}
		return true
	})
	if done {
		t.finish(w, g, b, &c)
	}
}

// rescale makes the sums those of the new top; old is the one before and spoilt.
func (t *rowAttention) rescale(w *worker, c *columnSums, old, room []float32) {
	w.kernels.ExpInto(old, c.top, room)
	for _, v := range old {
		if v != 1 {
			w.kernels.Mul(c.sum, c.sum, old)
			for d := 0; c.out != nil && d < t.hd; d++ {
				row := c.out[d*len(old):][:len(old)]
				w.kernels.Mul(row, row, old)
			}
			return
		}
	}
}

// pairRoom is room for weights by pairs, and for the columns of an odd number of keys.
func (t *rowAttention) pairRoom(w *worker, b *queryBlock) (pairs, pad []uint16) {
	if !t.bf16 {
		return nil, nil
	}
	return slice[uint16](&w.scratch, (keyRows+1)*b.all), slice[uint16](&w.scratch, t.hd*(keyRows+1))
}

// weights are the rows of a piece as a product takes them.
func (t *rowAttention) weights(pairs []uint16, rows []float32) mixed {
	if t.bf16 {
		return mixed{h: pairs}
	}
	return mixed{f: rows}
}

// exps turns the scores of a piece into weights, by pairs where rounded. A missing last
// one of a pair is zeros.
func (t *rowAttention) exps(w *worker, c *columnSums, pairs []uint16, s []float32, b *queryBlock, p keyPiece) {
	for i := 0; i < p.n; i += t.unit {
		from := t.seen(b, p, i-i%p.step())
		row := func(i int) []float32 { return s[i*b.all+from : (i+1)*b.all] }
		switch {
		case !t.bf16:
			w.kernels.ExpInto(row(i), c.top[from:], c.sum[from:])
			continue
		case i+1 == p.n:
			for c := from; c < b.all; c++ {
				row(i + 1)[c-from] = float32(math.Inf(-1))
			}
		}
		w.kernels.ExpPairs(pairs[i*b.all+2*from:], row(i), row(i+1), c.top[from:], c.sum[from:])
	}
}

// addColumns adds to out [hd][all] the keys (0) or values (1) of a piece times their
// weights.
func (t *rowAttention) addColumns(w *worker, out []float32, of, g int, b *queryBlock, p keyPiece, weights mixed, pad []uint16) {
	cols := t.keysT
	if of == 1 {
		cols = t.valuesT
	}
	x, stride := cols.from(g*t.hd*t.turned+p.at), t.turned
	if t.bf16 && p.n%2 != 0 {
		n := p.n + 1 // the key after the last may hold anything
		for d := range t.hd {
			copy(pad[d*n:][:p.n], x.h[d*t.turned:])
			pad[d*n+p.n] = 0
		}
		x, stride = mixed{h: pad}, n
	}
	for i := 0; i < p.n; i += p.step() {
		end, from, to := min(i+p.step(), p.n), t.seen(b, p, i), b.all
		if end < p.n {
			to = t.seen(b, p, end)
		}
		if from < to {
			t.multiply(w, (to-from)/panel, out[from:], b.all, x, stride, weights.from(t.unit*from), t.unit*b.all, t.unit*panel,
				t.hd, (end+t.unit-1)/t.unit*t.unit, true)
		}
	}
	t.addWildKeys(out, of, g, b, p, weights)
}

// finish writes the rows of a block's output and the logarithms of the sums.
func (t *rowAttention) finish(w *worker, g int, b *queryBlock, c *columnSums) {
	n := b.n * t.heads
	lse := t.lse[g*t.cols+b.at:]
	for i := range n {
		lse[i] = float32(float64(c.top[i]) + math.Log(float64(c.sum[i])))
	}
	if t.back {
		return
	}
	for i, v := range c.sum {
		if c.any { // else zeros
			c.sum[i] = 1 / v
		}
	}
	for d := range t.hd {
		row := c.out[d*b.all:][:b.all]
		w.kernels.Mul(row, row, c.sum)
	}
	t.writeRows(w, &t.a.Out[0], g, b, c.out, 1)
	if o := &t.a.Out[1]; o.Present() {
		to := elems[float32](o)
		for i := range n {
			to[(b.row+i/t.heads)*o.RowStride()+g*t.heads+i%t.heads] = lse[i]
		}
	}
}
