package cpu

import (
	"slices"

	"github.com/herd-ml/herd/backend"
)

// stripeGrads is the state of a stripe: gradients of its keys and values [rows][wide],
// and room for the scores of a piece with a block of queries. ds [keys][all] are the
// gradients of scores, pairs the same by pairs; p and g are probabilities and ds of
// which products take rows.
type stripeGrads struct {
	from, to int // key rows
	dk, dv   []float32
	s, ds    []float32
	p, g     mixed
	pairs    []uint16
	pad      []uint16
}

// backStripe computes the gradients of the keys and values of a stripe, and what it
// gives to those of queries. D in the comment of the operation is in mean.
func (t *rowAttention) backStripe(w *worker, g, i int) {
	c := stripeGrads{from: t.stripes[i].from, to: t.stripes[i].to}
	c.dk, c.dv = slice[float32](&w.scratch, (c.to-c.from)*t.wide), slice[float32](&w.scratch, (c.to-c.from)*t.wide)
	clear(c.dk)
	clear(c.dv)
	mark := w.scratch.mark()
	for j := range t.blocks {
		b := &t.blocks[j]
		at := slices.IndexFunc(b.slots, func(s stripeSlot) bool { return s.stripe == i })
		if at < 0 {
			continue
		}
		w.scratch.release(mark)
		c.room(t, w, b)
		dq := t.slot(g, b, b.slots[at])
		clear(dq)
		if !t.pieces(b, c.from, c.to, func(p keyPiece) bool { return t.backPiece(w, &c, g, b, p, dq) }) {
			return
		}
	}
	for i, from := range [2][]float32{c.dk, c.dv} {
		if o := &t.a.Out[1+i]; o.Present() {
			for r := range c.to - c.from {
				copy(elems[float32](o)[(c.from+r)*o.RowStride()+g*t.hd:][:t.hd], from[r*t.wide:])
			}
		}
	}
}

// room takes room for the scores of a block.
func (c *stripeGrads) room(t *rowAttention, w *worker, b *queryBlock) {
	sc := &w.scratch
	if !t.bf16 { // products take what lies there
		c.s, c.ds = slice[float32](sc, keyRows*b.all), slice[float32](sc, keyRows*b.all)
		c.p, c.g = mixed{f: c.s}, mixed{f: c.ds}
		return
	}
	c.s, c.ds = slice[float32](sc, keyStep*b.all), slice[float32](sc, keyStep*b.all)
	c.p, c.g = mixed{h: slice[uint16](sc, keyRows*b.all)}, mixed{h: slice[uint16](sc, keyRows*b.all)}
	c.pairs, c.pad = t.pairRoom(w, b)
}

// backPiece adds the gradients of a piece of keys and a block of queries. It reports
// false where the step has been stopped.
func (t *rowAttention) backPiece(w *worker, c *stripeGrads, g int, b *queryBlock, p keyPiece, dq []float32) bool {
	if w.pause() {
		return false
	}
	for i := 0; i < p.n; i += keyStep {
		t.backScores(w, c, g, b, p, i)
	}
	for i := 0; i < p.n; i += p.step() {
		n, from := min(p.step(), p.n-i), t.seen(b, p, i)
		at := (g*t.cols + b.at + from) * t.wide
		t.keyGrads(w, c.dv[(p.at+i-c.from)*t.wide:], c.p.from(i*b.all+from), t.gradRows.from(at), b, n, from)
		t.keyGrads(w, c.dk[(p.at+i-c.from)*t.wide:], c.g.from(i*b.all+from), t.queryRows.from(at), b, n, from)
	}
	t.addWildColumns(c.dv[(p.at-c.from)*t.wide:], 1, g, b, p, c.p)
	t.addWildColumns(c.dk[(p.at-c.from)*t.wide:], 0, g, b, p, c.g)
	if dq != nil {
		t.addColumns(w, dq, 0, g, b, p, t.weights(c.pairs, c.ds), c.pad)
	}
	return true
}

// backScores computes probabilities and gradients of scores of keyStep keys of a piece,
// from key i on.
func (t *rowAttention) backScores(w *worker, c *stripeGrads, g int, b *queryBlock, p keyPiece, i int) {
	n, from := min(keyStep, p.n-i), t.seen(b, p, i-i%p.step())
	s, ds := c.s, c.ds
	if !t.bf16 {
		s, ds = s[i*b.all:], ds[i*b.all:]
	}
	t.scores(w, s, 0, g, b, t.queries, p.at+i, n, from)
	t.scores(w, ds, 1, g, b, t.grads, p.at+i, n, from)
	at := g*t.cols + b.at
	lse, mean := t.lse[at:][:b.all], t.mean[at:][:b.all]
	for r := range n {
		row := func(x []float32) []float32 { return x[r*b.all+from : (r+1)*b.all] }
		if t.bf16 {
			h := (i+r)*b.all + from
			w.kernels.ScoreGrads16(c.p.h[h:], c.g.h[h:], row(s), row(ds), lse[from:], mean[from:])
		} else {
			w.kernels.ScoreGrads(row(s), row(ds), lse[from:], mean[from:])
		}
		// Columns that do not see the key give it nothing, whatever they hold.
		if hidden := t.hidden(b, p, p.at+i+r); hidden > from {
			clear(ds[r*b.all+from : r*b.all+hidden])
			c.p.clear((i+r)*b.all+from, (i+r)*b.all+hidden)
			c.g.clear((i+r)*b.all+from, (i+r)*b.all+hidden)
		}
	}
	for r := 0; t.bf16 && r < n; r += 2 {
		even, odd := ds[r*b.all+from:][:b.all-from], ds[(r+1)*b.all+from:][:b.all-from]
		if r+1 == n {
			clear(odd)
		}
		w.kernels.RoundPairs(c.pairs[(i+r)*b.all+2*from:], 2*panel, even, odd)
	}
}

// keyGrads adds to n rows of gradients what the columns of x from column from on give.
func (t *rowAttention) keyGrads(w *worker, out []float32, x, rows mixed, b *queryBlock, n, from int) {
	t.multiply(w, t.wide/panel, out, t.wide, x, b.all, rows, t.unit*t.wide, t.unit*panel, n, b.all-from, true)
}

// combine adds up what the stripes give to a block of queries.
func (t *rowAttention) combine(w *worker, g, i int) {
	b := &t.blocks[i]
	var sum []float32 // none of a block that sees no key
	for _, s := range b.slots {
		if dq := t.slot(g, b, s); sum == nil {
			sum = dq
		} else {
			w.kernels.Add(sum, sum, dq)
		}
	}
	t.writeRows(w, &t.a.Out[0], g, b, sum, t.a.Scale)
}

// writeRows writes columns x [wide][all] times scale to the rows of a block; nil is
// zeros.
func (t *rowAttention) writeRows(w *worker, o *backend.View, g int, b *queryBlock, x []float32, scale float32) {
	rows := slice[float32](&w.scratch, b.all*t.wide)
	if x == nil {
		clear(rows)
	}
	for d := 0; x != nil && d < t.wide; d += panel {
		w.kernels.TransposeWords(bytesOf(rows[d:]), 4*t.wide, bytesOf(x[d*b.all:]), 4*b.all, b.all)
	}
	out, rs := elems[float32](o), o.RowStride()
	for c := range b.n * t.heads {
		to := out[(b.row+c/t.heads)*rs+(g*t.heads+c%t.heads)*t.hd:][:t.hd]
		w.kernels.Scale(to, rows[c*t.wide:], scale)
	}
}
