package cpu

import (
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// Attention of training has keys and values in rows. Its scores lie with a
// row for each key and a column for each query, so that what belongs to a query (the
// largest score, the sum, the gradient's mean) is a vector along the row, and both the
// gradients of keys and values and the product with what keys hold are products of
// such rows as they come. Only a piece of keys by a block of queries is in memory at
// once.
const (
	queryCols = 192            // columns of a block of queries, about
	keyRows   = 96             // keys of a piece
	keyStep   = kernel.MaxRows // keys whose scores are computed at once

	// Gradients are computed stripe by stripe of the key rows: what a stripe gives to
	// queries is kept and added in order. Stripes are cut from the start of a span on,
	// so bits depend neither on workers nor on what is packed beside a document.
	// Memory grows with the rows, as a document has at most maxStripes.
	stripeRows = 3 * keyRows
	maxStripes = 8
)

// rowPhase is what the chunks of a rowAttention do.
type rowPhase uint8

const (
	packRows   rowPhase = iota // a block of queries, or keys and values of some rows, are laid out
	attendCols                 // output or statistics of a block of queries
	stripeBack                 // gradients of the keys and values of a stripe
	combineDQ                  // those of a block of queries
)

// mixed is numbers in F32, or where h is set in bfloat16.
type mixed struct {
	f []float32
	h []uint16
}

func (p mixed) from(i int) mixed {
	if p.h != nil {
		return mixed{h: p.h[i:]}
	}
	return mixed{f: p.f[i:]}
}

// queryBlock is rows of a segment, all their query heads of a key-value head: column
// j*heads+h is head h of row j. Columns are padded to whole groups of 32.
type queryBlock struct {
	s       *backend.Segment
	row, n  int // rows [row, row+n) of the step
	first   int // the key row of the first
	at, all int // columns [at, at+all) of a key-value head
	slots   []stripeSlot
}

// stripe is key rows [from, to) whose gradients a chunk computes.
type stripe struct{ from, to int }

// A stripeSlot says that a block sees a stripe, and which columns of what is kept are
// for what the stripe gives to it.
type stripeSlot struct{ stripe, at int }

// rowAttention is Attention without pages, rounded, or AttentionBackward.
type rowAttention struct {
	a          *backend.Args
	phase      rowPhase
	back, bf16 bool
	unit       int // 2 where inputs of a product go by pairs, else 1
	hd, k      int // head size, and that in whole pairs
	wide       int // in whole panels
	heads      int // query heads of a key-value head
	rows, cols int // of keys and values, and columns of a key-value head
	turned     int // row stride of keysT and valuesT
	wild       wild
	rowsRoom

	// By key-value head. Weights of products are panels of 16: queries [cols/16][k]
	// for scores, queryRows [cols][wide] for gradients; grads and gradRows are of dy.
	queries, queryRows, grads, gradRows mixed
	keys, values                        mixed // [rows][k], bfloat16 only
	keysT, valuesT                      mixed // [hd][turned]
	lse, mean                           []float32

	slotCols int       // of a key-value head
	kept     []float32 // [columns of a slot][wide] turned
}

// rowsRoom is the memory that a rowAttention leaves to the next.
type rowsRoom struct {
	blocks  []queryBlock
	stripes []stripe
	slots   []stripeSlot // of one block after the other, the stripes in order
	starts  []int        // of spans
}

// asColumns reports whether Attention is a rowAttention: where it rounds and all keys and
// values are in rows. Not rounded it has the bits of a step with pages.
func (e *exec) asColumns(a *backend.Args) bool {
	for i := range a.Layout.Segments {
		if a.Layout.Segments[i].Pages != nil {
			return false
		}
	}
	return a.Round == backend.RoundBothBF16 && e.b.kernels.HasBF16Dot() && a.In[1].Present()
}

// attentionRows is Attention of rows, rounded.
func (e *exec) attentionRows(a *backend.Args) {
	mark := e.arena.mark()
	defer e.arena.release(mark)
	t := e.rowTask(a, false)
	t.take(&e.arena)
	e.runPhase(packRows, len(t.blocks)+t.keyChunks())
	e.runPhase(attendCols, len(t.blocks))
	t.a = nil
}

func (e *exec) attentionBackward(a *backend.Args) {
	mark := e.arena.mark()
	defer e.arena.release(mark)
	t := e.rowTask(a, true)
	t.take(&e.arena)
	t.stripesOf(&e.arena)
	e.runPhase(packRows, len(t.blocks)+t.keyChunks())
	if !a.In[5].Present() {
		e.runPhase(attendCols, len(t.blocks))
	}
	e.runPhase(stripeBack, len(t.stripes))
	if a.Out[0].Present() {
		e.runPhase(combineDQ, len(t.blocks))
	}
	t.a = nil
}

// runPhase runs chunks for each key-value head.
func (e *exec) runPhase(p rowPhase, chunks int) {
	e.attendRows.phase = p
	e.b.pool.run(&e.attendRows, chunks*e.attendRows.a.KV.Heads)
}

// rowTask sets the sizes and cuts the segments into blocks of queries.
func (e *exec) rowTask(a *backend.Args, back bool) *rowAttention {
	t := &e.attendRows
	*t = rowAttention{a: a, back: back, bf16: a.Round == backend.RoundBothBF16 && e.b.kernels.HasBF16Dot(),
		rowsRoom: t.rowsRoom, unit: 1}
	t.blocks, t.stripes, t.slots = t.blocks[:0], t.stripes[:0], t.slots[:0]
	t.hd, t.heads, t.rows = a.KV.HeadDim, a.In[0].Cols()/(a.KV.Heads*a.KV.HeadDim), a.Layout.KeyRows()
	t.k, t.wide = t.hd, panels(t.hd)*panel
	if t.bf16 {
		t.unit, t.k = 2, (t.hd+1)&^1
	}
	t.turned = panels(t.rows) * panel
	most := max(1, queryCols/t.heads)
	for i := range a.Layout.Segments {
		s := &a.Layout.Segments[i]
		for j := 0; j < s.Rows; j += most {
			b := queryBlock{s: s, row: s.Row + j, n: min(most, s.Rows-j), first: s.KeyRow(j), at: t.cols}
			b.all = (b.n*t.heads + 2*panel - 1) / (2 * panel) * (2 * panel)
			t.cols += b.all
			t.blocks = append(t.blocks, b)
		}
	}
	return t
}

// keyChunks is how many runs of rows keys and values are laid out in.
func (t *rowAttention) keyChunks() int { return (t.rows + keyRows - 1) / keyRows }

// take takes memory for what is laid out.
func (t *rowAttention) take(m *arena) {
	g := t.a.KV.Heads
	numbers := func(n int) mixed {
		if t.bf16 {
			return mixed{h: slice[uint16](m, g*n)}
		}
		return mixed{f: slice[float32](m, g*n)}
	}
	t.queries, t.lse = numbers(t.cols*t.k), slice[float32](m, g*t.cols)
	t.wild.take(m, g*t.rows, g*t.cols)
	if t.bf16 {
		t.keys = numbers(t.rows * t.k)
		if t.back {
			t.values = numbers(t.rows * t.k)
		}
	}
	if !t.back {
		t.valuesT = numbers(t.hd * t.turned)
		return
	}
	t.keysT = numbers(t.hd * t.turned)
	t.queryRows, t.grads, t.gradRows = numbers(t.cols*t.wide), numbers(t.cols*t.k), numbers(t.cols*t.wide)
	t.mean = slice[float32](m, g*t.cols)
}

// stripesOf cuts the key rows into stripes and takes memory for what they give to
// blocks of queries.
func (t *rowAttention) stripesOf(m *arena) {
	t.starts = append(t.starts[:0], 0)
	for i := range t.a.Layout.Segments {
		for _, sp := range t.a.Layout.Segments[i].Spans {
			t.starts = append(t.starts, sp.Start)
		}
	}
	slices.Sort(t.starts)
	t.starts = slices.Compact(t.starts)
	for i, from := range t.starts {
		end := t.rows
		if i+1 < len(t.starts) {
			end = t.starts[i+1]
		}
		n := max(stripeRows, ((end-from+maxStripes-1)/maxStripes+keyRows-1)/keyRows*keyRows)
		for ; from < end; from += n {
			t.stripes = append(t.stripes, stripe{from, min(from+n, end)})
		}
	}
	for i := range t.blocks {
		t.slotsOf(&t.blocks[i])
	}
	for i, first := 0, 0; i < len(t.blocks); i++ { // slots has its place now
		b := &t.blocks[i]
		b.slots = t.slots[first:][:len(b.slots)]
		first += len(b.slots)
	}
	if t.a.Out[0].Present() {
		t.kept = slice[float32](m, t.a.KV.Heads*t.slotCols*t.wide)
	}
}

// slotsOf lists the stripes that a block sees.
func (t *rowAttention) slotsOf(b *queryBlock) {
	first := len(t.slots)
	for i := range b.s.Spans {
		from, to := b.sees(i)
		s, _ := slices.BinarySearchFunc(t.stripes, from, func(s stripe, row int) int { return s.to - row - 1 })
		for ; from < to && s < len(t.stripes) && t.stripes[s].from < to; s++ {
			t.slots = append(t.slots, stripeSlot{stripe: s})
		}
	}
	b.slots = t.slots[first:]
	slices.SortFunc(b.slots, func(x, y stripeSlot) int { return x.stripe - y.stripe })
	b.slots = slices.Compact(b.slots)
	t.slots = t.slots[:first+len(b.slots)]
	for i := range b.slots {
		b.slots[i].at = t.slotCols
		t.slotCols += b.all
	}
}

// slot is where the gradient is kept, [wide][all], that a stripe gives to a block; nil
// where none is wanted.
func (t *rowAttention) slot(g int, b *queryBlock, s stripeSlot) []float32 {
	if t.kept == nil {
		return nil
	}
	return t.kept[(g*t.slotCols+s.at)*t.wide:][:t.wide*b.all]
}

// sees is the key rows of span i of its segment that a block sees.
func (b *queryBlock) sees(i int) (from, to int) {
	sp := b.s.Spans[i]
	from, to = sp.Start, sp.Start+sp.Len
	if i == len(b.s.Spans)-1 && !b.s.Whole {
		to = min(to, b.first+b.n)
	}
	return from, to
}

// A keyPiece is key rows [at, at+n) that a block of queries sees; where cut is set,
// causality hides some of them from some of its rows.
type keyPiece struct {
	at, n int
	cut   bool
}

// pieces calls f for the key rows in [lo, hi) that a block sees, in order, until f
// returns false, and reports whether it never did.
func (t *rowAttention) pieces(b *queryBlock, lo, hi int, f func(p keyPiece) bool) bool {
	for i := range b.s.Spans {
		from, to := b.sees(i)
		from, to = max(from, lo), min(to, hi)
		last := i == len(b.s.Spans)-1 && !b.s.Whole
		for at := from; at < to; at += keyRows {
			p := keyPiece{at: at, n: min(keyRows, to-at)}
			p.cut = last && at+p.n-1 > b.first
			if !f(p) {
				return false
			}
		}
	}
	return true
}

// hidden is how many columns of a block do not see a key row of a piece.
func (t *rowAttention) hidden(b *queryBlock, p keyPiece, key int) int {
	if !p.cut {
		return 0
	}
	return max(0, key-b.first) * t.heads
}

func (t *rowAttention) run(w *worker, chunk int) {
	g, i := chunk%t.a.KV.Heads, chunk/t.a.KV.Heads
	switch {
	case t.phase == attendCols:
		t.attend(w, g, len(t.blocks)-1-i) // those that see most first
	case t.phase == stripeBack:
		t.backStripe(w, g, i)
	case t.phase == combineDQ:
		t.combine(w, g, i)
	case i < len(t.blocks):
		t.packQueries(w, g, i)
	default:
		t.packKeys(w, g, (i-len(t.blocks))*keyRows)
	}
}

// packQueries lays out queries, times Scale, and dy of a block, and works out the means
// of dy*y.
func (t *rowAttention) packQueries(w *worker, g, i int) {
	b := &t.blocks[i]
	at := g*t.cols + b.at
	t.packBlock(w, 0, t.queries.from(at*t.k), t.queryRows, at, b, g)
	if !t.back {
		return
	}
	t.packBlock(w, 1, t.grads.from(at*t.k), t.gradRows, at, b, g)
	lse, mean := t.lse[at:][:b.all], t.mean[at:][:b.all]
	y, dy, in := &t.a.In[3], &t.a.In[4], &t.a.In[5]
	for c := range lse {
		mean[c], lse[c] = 0, float32(math.Inf(1)) // of no query: no probability
		if c >= b.n*t.heads {
			continue
		}
		row, head := b.row+c/t.heads, g*t.heads+c%t.heads
		p, q := elems[float32](y)[row*y.RowStride()+head*t.hd:][:t.hd], elems[float32](dy)[row*dy.RowStride()+head*t.hd:][:t.hd]
		mean[c] = w.kernels.Dot(p, q)
		if in.Present() {
			lse[c] = elems[float32](in)[row*in.RowStride()+head]
		}
	}
}

// packBlock lays out the columns of a block of queries (0) or dy (1): for scores, and
// where there is room as rows, in which numbers that are not finite are zeros.
func (t *rowAttention) packBlock(w *worker, of int, words, rows mixed, at int, b *queryBlock, g int) {
	v, scale := t.side(of)
	if t.bf16 {
		half := slice[uint16](&w.scratch, b.all*t.wide)
		gatherBlock(t, w, half, v, b, g, w.kernels.ScaleBF16, scale)
		for c := 0; c < b.all; c += panel {
			w.kernels.PackWords(bytesOf(words.h[c*t.k:]), bytesOf(half[c*t.wide:]), 2*t.wide, t.k/2, 1, 0, 0)
		}
		if rows.h == nil {
			return
		}
		t.tameColumns(of, mixed{h: half}, b, g)
		for c := 0; c < b.all; c += 2 {
			w.kernels.Interleave(rows.h[(at+c)*t.wide:], half[c*t.wide:][:t.wide], half[(c+1)*t.wide:])
		}
		return
	}
	var x []float32
	if rows.f != nil {
		x = rows.f[at*t.wide:][:b.all*t.wide]
	} else {
		x = slice[float32](&w.scratch, b.all*t.wide)
	}
	gatherBlock(t, w, x, v, b, g, w.kernels.Scale, scale)
	for c := 0; c < b.all; c += panel {
		w.kernels.PackWords(bytesOf(words.f[c*t.k:]), bytesOf(x[c*t.wide:]), 4*t.wide, t.k, 1, 0, 0)
	}
	if rows.f != nil {
		t.tameColumns(of, rows.from(at*t.wide), b, g)
	}
}

// side is queries (0) or dy (1), and what they are multiplied with first.
func (t *rowAttention) side(of int) (*backend.View, float32) {
	if of == 0 {
		return &t.a.In[0], t.a.Scale
	}
	return &t.a.In[4], 1
}

// gatherBlock makes rows [all][wide] of the columns of a block of v, times scale, with
// zeros around them.
func gatherBlock[T number](t *rowAttention, w *worker, to []T, v *backend.View, b *queryBlock, g int, convert func(y []T, x []float32, scale float32), scale float32) {
	in, rs, n := elems[float32](v), v.RowStride(), b.n*t.heads
	whole := 1 // heads of a row that lie as they are wanted
	var pad []float32
	if t.wide == t.hd {
		whole = t.heads
	} else {
		pad = slice[float32](&w.scratch, t.wide)
		clear(pad)
	}
	for c := 0; c < n; c += whole {
		x := in[(b.row+c/t.heads)*rs+(g*t.heads+c%t.heads)*t.hd:][:whole*t.hd]
		if pad != nil {
			copy(pad, x)
			x = pad
		}
		convert(to[c*t.wide:][:whole*t.wide], x, scale)
	}
	clear(to[n*t.wide : b.all*t.wide])
}

// packKeys lays out keys and values of keyRows rows from a row on.
func (t *rowAttention) packKeys(w *worker, g, from int) {
	n := min(keyRows, t.rows-from)
	for i, p := range [2]struct{ rows, turned mixed }{{t.keys, t.keysT}, {t.values, t.valuesT}} {
		in := &t.a.In[1+i]
		x, rs := elems[float32](in)[from*in.RowStride()+g*t.hd:], in.RowStride()
		if p.rows.h != nil {
			to := p.rows.h[(g*t.rows+from)*t.k:]
			for r := range n {
				to, x := to[r*t.k:][:t.k], x[r*rs:][:t.hd]
				m := t.hd / panel * panel
				w.kernels.ScaleBF16(to, x[:m], 1)
				w.kernels.RoundBF16(to[m:], x[m:])
				clear(to[t.hd:])
			}
		}
		if p.turned.f != nil || p.turned.h != nil {
			to := p.turned.from(g*t.hd*t.turned + from)
			clear(t.wild.keys[i][g*t.rows+from:][:n])
			if !t.turn(w, to, x, rs, n) {
				t.turn(w, to, t.tameKeys(w, i, g, from, n, x, rs), t.hd, n)
			}
		}
	}
}

// turn makes n rows of x columns, n at most keyRows. It reports whether all their numbers
// are finite.
func (t *rowAttention) turn(w *worker, to mixed, x []float32, stride, n int) (finite bool) {
	cols, wide := to.f, t.turned
	if t.bf16 {
		cols, wide = slice[float32](&w.scratch, t.hd*keyRows), keyRows
	}
	for r := 0; r < n; r += panel {
		from, rs := x[min(r*stride, len(x)):], stride
		if n-r < panel { // whole panels
			last := slice[float32](&w.scratch, panel*t.hd)
			clear(last)
			for i := range n - r {
				copy(last[i*t.hd:][:t.hd], from[i*stride:])
			}
			from, rs = last, t.hd
		}
		w.kernels.TransposeWords(bytesOf(cols[r:]), 4*wide, bytesOf(from), 4*rs, t.hd)
	}
	finite = true
	for i := range t.hd {
		to := to.from(i * t.turned)
		if t.bf16 {
			w.kernels.ScaleBF16(to.h, cols[i*keyRows:][:panels(n)*panel], 1)
		}
		finite = finite && !to.wild(n)
	}
	return finite
}

// key is the rows of keys or values from a row on, and their stride.
func (t *rowAttention) key(value, g, at int) (mixed, int) {
	switch in := &t.a.In[1+value]; {
	case !t.bf16:
		return mixed{f: elems[float32](in)[at*in.RowStride()+g*t.hd:]}, in.RowStride()
	case value == 0:
		return t.keys.from((g*t.rows + at) * t.k), t.k
	default:
		return t.values.from((g*t.rows + at) * t.k), t.k
	}
}

// multiply multiplies rows of x with panels of p. The pause before is for the host program:
// whoever goes from piece to piece of the keys sees a stop.
func (t *rowAttention) multiply(w *worker, panels int, out []float32, outStride int, x mixed, xStride int, p mixed, stride, step, rows, k int, accumulate bool) {
	w.spent(rows * k * panels)
	if t.bf16 {
		w.kernels.BF16Dot(panels, out, outStride, x.h, xStride, p.h, stride, step, rows, k, accumulate)
		return
	}
	w.kernels.F32(panels, out, outStride, x.f, xStride, p.f, stride, step, rows, k, accumulate)
}
