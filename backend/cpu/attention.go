package cpu

import (
	"math"
	"sync/atomic"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

const (
	// partLen is how many key rows have a softmax of their own. Parts start at
	// multiples of it, counted from the first page or, without pages, from the
	// start of the span, and are combined in order. So how rows are grouped into
	// chunks or steps, what is packed beside them, and who computes a part, does
	// not change a bit.
	partLen = 4 * backend.PageLen
	// groupHeads is how many query heads of rows are computed together, so that
	// keys and values are read and widened once for them.
	groupHeads = 96
	// fewHeads are as many as wait for memory: they take keys and values as
	// these come.
	fewHeads = 8

	scoreStride = partLen + panel // a product writes whole panels

	// Where there are fewer units than splitUnits a worker, parts are chunks of
	// their own, about splitChunks a worker, if what they keep has at most
	// splitKeep numbers.
	splitUnits  = 32
	splitChunks = 16
	splitKeep   = 1 << 22
)

// attendTask is Attention. A unit is one key-value head of a few rows of one
// segment; a chunk is a unit or, split, a run of its parts.
type attendTask struct {
	a               *backend.Args
	heads, hd, wide int // query heads for a key-value head, head size, and that in whole panels
	group           int // rows of a unit
	perChunk        int // parts of a chunk
	attendRoom
}

// attendRoom is the memory that an attendTask leaves to the next.
type attendRoom struct {
	segments []attendSegment

	// Split: what parts have computed, and the chunks of each unit that are done.
	// Whoever does the last combines them.
	keep []float32
	done []atomic.Int32
}

// attendSegment is where the units, chunks and kept parts of a segment start, how
// many parts and chunks a unit has, and how many numbers a part of it keeps.
type attendSegment struct {
	unit, chunk, keep         int
	groups, parts, runs, kept int
}

func (e *exec) attention(a *backend.Args) {
	if e.asColumns(a) {
		e.attentionRows(a)
		return
	}
	if e.roundedPages(a) {
		e.attentionPages(a)
		return
	}
	t := &e.attend
	*t = attendTask{a: a, hd: a.KV.HeadDim, heads: a.In[0].Cols() / (a.KV.Heads * a.KV.HeadDim), attendRoom: t.attendRoom}
	t.wide = panels(t.hd) * panel
	t.group = max(1, groupHeads/t.heads)
	workers := len(e.b.pool.workers)
	units, parts, keep := t.divide(math.MaxInt)
	chunks := units
	if workers > 1 && units < splitUnits*workers && parts > units && keep <= splitKeep {
		units, _, _ = t.divide(max(1, parts/(splitChunks*workers)))
		chunks = t.segments[len(t.segments)-1].chunk
		t.keep = grow(t.keep, keep)
		t.done = grow(t.done, units)
		for i := range t.done[:units] {
			t.done[i].Store(0)
		}
	}
	e.b.pool.run(t, chunks)
	t.a = nil
}

// grow returns s with at least n elements, contents undefined.
func grow[T any](s []T, n int) []T {
	if n > len(s) {
		return make([]T, n+n/2)
	}
	return s
}

// divide lists the segments with run parts a chunk and returns the units, all
// their parts and the numbers that these would keep.
func (t *attendTask) divide(run int) (units, parts, keep int) {
	t.perChunk = run
	t.segments = t.segments[:0]
	chunks := 0
	for i := range t.a.Layout.Segments {
		s := &t.a.Layout.Segments[i]
		d := attendSegment{unit: units, chunk: chunks, keep: keep, groups: (s.Rows + t.group - 1) / t.group}
		for _, sp := range s.Spans {
			d.parts += spanParts(s, sp)
		}
		d.runs = max(1, d.parts/run+min(1, d.parts%run)) // of no keys too: somebody writes the zeros
		d.kept = min(t.group, s.Rows) * t.heads * (t.wide + 2)
		n := d.groups * t.a.KV.Heads
		units += n
		chunks += n * d.runs
		parts += n * d.parts
		keep += n * d.parts * d.kept
		t.segments = append(t.segments, d)
	}
	t.segments = append(t.segments, attendSegment{unit: units, chunk: chunks})
	return units, parts, keep
}

// spanParts is the number of parts of a span.
func spanParts(s *backend.Segment, sp backend.Span) int {
	if sp.Len <= 0 {
		return 0
	}
	from := sp.Start - partsFrom(s, sp)
	return (from+sp.Len-1)/partLen - from/partLen + 1
}

// partsFrom is the key row that parts of a span are counted from.
func partsFrom(s *backend.Segment, sp backend.Span) int {
	if s.Pages == nil {
		return sp.Start
	}
	return 0
}

// attending is the state of a chunk: nq query heads, row by row.
type attending struct {
	*attendTask
	w        *worker
	s        *backend.Segment
	d        *attendSegment
	unit     int        // of the segment
	g        int        // key-value head
	row, n   int        // rows [row, row+n) of the segment
	nq       int        // their query heads
	from, to int        // parts [from, to) of the unit
	few      bool       // keys and values are not widened
	q        []float32  // [nq, hd]
	scores   []float32  // [nq, scoreStride]
	buf      [2]columns // for keys and values that are not read where they lie
	scales   []float32  // room for those of a block of Q8_0
	part     softmax    // room for one
	sum      softmax    // of all parts so far
	widths   []int32    // [n] keys that each row sees of the part
}

// softmax is, for nq query heads, the largest score, the sum of exp(score - top)
// and the sum of the values times that.
type softmax struct{ top, all, sum []float32 } // [nq], [nq], [nq, wide]

// columns is a matrix of F32, F16 or BF16, or codes with scales, whose rows are
// summed over.
type columns struct {
	f      []float32
	h      []uint16
	codes  []int8
	scales []float32
	stride int // of rows
}

// from returns the matrix from row i on.
func (c columns) from(i int) columns {
	switch {
	case c.codes != nil:
		c.codes, c.scales = c.codes[i*c.stride:], c.scales[i*(c.stride/backend.Q8_0.BlockElems()):]
	case c.h != nil:
		c.h = c.h[i*c.stride:]
	default:
		c.f = c.f[i*c.stride:]
	}
	return c
}

func (t *attendTask) run(w *worker, chunk int) {
	lo, hi := 0, len(t.segments)-1 // segments[lo].chunk <= chunk < segments[hi].chunk
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; t.segments[mid].chunk <= chunk {
			lo = mid
		} else {
			hi = mid
		}
	}
	d, s := &t.segments[lo], &t.a.Layout.Segments[lo]
	chunk -= d.chunk
	c := attending{attendTask: t, w: w, s: s, d: d, unit: chunk / d.runs}
	c.g, c.row = c.unit/d.groups, c.unit%d.groups*t.group
	c.n = min(t.group, s.Rows-c.row)
	c.nq = c.n * t.heads
	c.from, c.to = 0, d.parts
	if d.runs > 1 {
		c.from = chunk % d.runs * t.perChunk
		c.to = min(c.from+t.perChunk, d.parts)
	}
	c.begin()
	if !c.parts() {
		return
	}
	if d.runs > 1 {
		if int(t.done[d.unit+c.unit].Add(1)) < d.runs {
			return
		}
		c.from, c.to = 0, d.parts
		c.combine()
	}
	c.finish()
}

// begin takes scratch and gathers the queries.
func (c *attending) begin() {
	sc, nq := &c.w.scratch, c.nq
	c.few = nq <= fewHeads
	c.q = slice[float32](sc, nq*c.hd)
	c.scores = slice[float32](sc, nq*scoreStride)
	c.buffers()
	c.part, c.sum = newSoftmax(sc, nq, c.wide), newSoftmax(sc, nq, c.wide)
	c.widths = slice[int32](sc, c.n)
	clear(c.sum.sum)
	clear(c.sum.all)
	for i := range c.sum.top {
		c.sum.top[i] = float32(math.Inf(-1))
	}
	in, rs := elems[float32](&c.a.In[0]), c.a.In[0].RowStride()
	for j := range c.n {
		copy(c.q[j*c.heads*c.hd:][:c.heads*c.hd], in[(c.s.Row+c.row+j)*rs+c.g*c.heads*c.hd:])
	}
}

func newSoftmax(sc *arena, nq, wide int) softmax {
	return softmax{slice[float32](sc, nq), slice[float32](sc, nq), slice[float32](sc, nq*wide)}
}

// kept is where part p of the unit is kept.
func (c *attending) kept(p int) softmax {
	s := c.keep[c.d.keep+(c.unit*c.d.parts+p)*c.d.kept:][:c.d.kept]
	return softmax{s[:c.nq], s[c.nq:][:c.nq], s[2*c.nq:][:c.nq*c.wide]}
}

// A stretch is the key rows [at, at+n) of a part.
type stretch struct {
	part, at, n int
	last        bool // of a span that causality cuts
	end         int  // of the span, or where causality cuts it
}

// stretches calls f for those of the parts [from, to) that a row of the chunk
// sees, in order, until f returns false, and reports whether it never did.
func (c *attending) stretches(f func(s stretch) bool) bool {
	part := 0
	for i := range c.s.Spans {
		sp := &c.s.Spans[i]
		s := stretch{end: sp.Start + sp.Len, last: i == len(c.s.Spans)-1 && !c.s.Whole}
		next, base := part+spanParts(c.s, *sp), partsFrom(c.s, *sp)
		if s.last {
			s.end -= c.s.Rows - (c.row + c.n) // what the last of our rows sees
		}
		for s.at, s.part = sp.Start, part; s.at < s.end && s.part < c.to; s.part++ {
			s.n = min(s.end, base+((s.at-base)/partLen+1)*partLen) - s.at
			if s.part >= c.from && !f(s) {
				return false
			}
			s.at += s.n
		}
		part = next
	}
	return true
}

// parts computes the chunk's parts. It reports false where the step has been
// stopped.
func (c *attending) parts() bool {
	return c.stretches(func(s stretch) bool {
		if c.w.pause() {
			return false
		}
		for j := range c.n {
			see := s.at + s.n
			if s.last {
				see = min(see, s.end-(c.n-1-j))
			}
			c.widths[j] = int32(max(0, see-s.at))
		}
		if c.d.runs > 1 {
			return c.compute(c.kept(s.part), s.at, s.n)
		}
		if !c.compute(c.part, s.at, s.n) {
			return false
		}
		c.add(c.part)
		return true
	})
}

// combine adds the parts that were kept.
func (c *attending) combine() {
	c.stretches(func(s stretch) bool {
		c.add(c.kept(s.part))
		return true
	})
}

// add adds a part to the sums so far.
func (c *attending) add(p softmax) {
	for i, t := range p.top {
		if math.IsInf(float64(t), -1) {
			continue // nothing to see
		}
		top := max(c.sum.top[i], t)
		old, add := kernel.Exp(c.sum.top[i]-top), kernel.Exp(t-top)
		c.sum.top[i] = top
		c.sum.all[i] = float32(c.sum.all[i]*old) + float32(p.all[i]*add)
		c.w.kernels.Mix(c.sum.sum[i*c.wide:][:c.wide], p.sum[i*c.wide:], old, add)
	}
}

// compute is the softmax p of keys [at, at+n), which lie in one part. It reports false where
// the step has been stopped.
func (c *attending) compute(p softmax, at, n int) bool {
	for off := 0; off < n; {
		m := c.piece(at+off, n-off)
		if !c.w.spent(c.cost(m)) {
			return false
		}
		next := c.ahead(0, at, off+m, n)
		// Scores of keys beyond m are overwritten or not used.
		if k := c.keys(at+off, m, next); k.codes != nil {
			c.w.kernels.Q8Keys(c.scores[off:], scoreStride, c.q, c.hd, k.codes, k.scales, next, c.nq, c.hd)
		} else {
			c.product(panels(m), c.scores[off:], scoreStride, c.q, c.hd, &k, next, c.nq, c.hd, false)
		}
		off += m
	}
	for i := range c.nq {
		p.top[i], p.all[i] = c.w.kernels.Exps(c.scores[i*scoreStride:][:c.widths[i/c.heads]], c.a.Scale)
	}
	for off := 0; off < n; {
		m := c.piece(at+off, n-off)
		if !c.w.spent(c.cost(m)) {
			return false
		}
		next := c.ahead(1, at, off+m, n)
		v := c.values(at+off, m, next)
		all := min(m, max(0, int(c.widths[0])-off)) // all rows see these
		if all > 0 {
			c.product(c.wide/panel, p.sum, c.wide, c.scores[off:], scoreStride, &v, next, c.nq, all, off > 0)
		}
		for j := 0; j < c.n && all < m; j++ {
			if own := min(m, int(c.widths[j])-off); own > all {
				rest, q := v.from(all), j*c.heads
				c.product(c.wide/panel, p.sum[q*c.wide:], c.wide, c.scores[q*scoreStride+off+all:], scoreStride, &rest, nil, c.heads, own-all, off+all > 0)
			}
		}
		off += m
	}
	return true
}

// cost is that of the products with n keys or values, in elements.
func (c *attending) cost(n int) int { return c.nq * n * c.hd / panel }

// piece is how many of n key rows from at on lie in the page of the first; without
// pages, as many as a page holds.
func (c *attending) piece(at, n int) int {
	if c.s.Pages == nil {
		return min(n, backend.PageLen)
	}
	return min(n, backend.PageLen-at%backend.PageLen)
}

// product multiplies rows of x with so many panels of p. next is what is read
// after p.
func (c *attending) product(panels int, out []float32, outStride int, x []float32, xStride int, p *columns, next []byte, rows, k int, accumulate bool) {
	switch kernels := c.w.kernels; {
	case p.codes != nil:
		kernels.Q8Values(out, outStride, x, xStride, p.codes, p.scales, p.stride, next, rows, k, accumulate)
	case p.h == nil && !c.few:
		kernels.F32(panels, out, outStride, x, xStride, p.f, p.stride, panel, rows, k, accumulate)
	case p.h == nil && c.coded():
		kernels.F32Ahead(panels, out, outStride, x, xStride, p.f, p.stride, nil, rows, k, accumulate) // widening has asked
	case p.h == nil:
		kernels.F32Ahead(panels, out, outStride, x, xStride, p.f, p.stride, next, rows, k, accumulate)
	case c.a.KV.Type == backend.F16:
		kernels.F16Ahead(panels, out, outStride, x, xStride, p.h, p.stride, next, rows, k, accumulate)
	default:
		kernels.BF16Ahead(panels, out, outStride, x, xStride, p.h, p.stride, next, rows, k, accumulate)
	}
}

// finish divides by the sums and writes the rows.
func (c *attending) finish() {
	out, rs := elems[float32](&c.a.Out[0]), c.a.Out[0].RowStride()
	for i := range c.nq {
		r := c.s.Row + c.row + i/c.heads
		y, all := out[r*rs+(c.g*c.heads+i%c.heads)*c.hd:][:c.hd], c.sum.all[i]
		if c.d.parts == 0 {
			all = 1 // no key: zeros
		}
		for j, v := range c.sum.sum[i*c.wide:][:c.hd] {
			y[j] = v / all
		}
		if lse := &c.a.Out[1]; lse.Present() {
			elems[float32](lse)[r*lse.RowStride()+c.g*c.heads+i%c.heads] = float32(float64(c.sum.top[i]) + math.Log(float64(all)))
		}
	}
}
