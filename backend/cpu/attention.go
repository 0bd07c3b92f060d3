package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// groupHeads is how many query heads of rows are computed together, so that
// keys and values are read and laid out once for them.
const groupHeads = 64

// attendTask is Attention: a chunk is one key-value head of a few rows of one
// segment. first[i] is the first chunk of segment i, and the last entry their
// number.
type attendTask struct {
	a         *backend.Args
	heads, hd int // query heads for a key-value head, head size
	group     int // rows of a chunk
	first     []int32
}

func (e *exec) attention(a *backend.Args) {
	t := &e.attend
	kv := a.KV.Heads * a.KV.HeadDim
	t.a, t.hd, t.heads = a, a.KV.HeadDim, a.In[0].Cols()/kv
	t.group = max(1, groupHeads/t.heads)
	t.first = append(t.first[:0], 0)
	n := 0
	for i := range a.Layout.Segments {
		n += (a.Layout.Segments[i].Rows + t.group - 1) / t.group * a.KV.Heads
		t.first = append(t.first, int32(n))
	}
	e.b.pool.run(t, n)
	t.a = nil
}

// attending is the state of a chunk: nq query heads, row by row.
type attending struct {
	*attendTask
	w        *worker
	s        *backend.Segment
	g        int        // key-value head
	row, n   int        // rows [row, row+n) of the segment
	q        []float32  // [nq, hd]
	scores   []float32  // [nq, PageLen]
	keys     columns    // [hd][keys] of a block
	values   columns    // [keys][hd]
	buf      [2]columns // for keys and values that must be laid out first
	part     []float32  // [nq, wide] of one block
	sum      []float32  // [nq, wide] of all blocks so far
	top, all []float32  // [nq] largest score and sum of exp(score - top) so far
	blockTop []float32  // [nq] the same of the block
	blockAll []float32
	wide     int     // hd rounded up to whole panels
	widths   []int32 // [n] keys that each row sees of the block
}

// columns is a matrix of F32, F16 or BF16 whose rows are summed over.
type columns struct {
	f      []float32
	h      []uint16
	stride int // of rows
}

func (t *attendTask) run(w *worker, chunk int) {
	lo, hi := 0, len(t.first)-1 // first[lo] <= chunk < first[hi]
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; int(t.first[mid]) <= chunk {
			lo = mid
		} else {
			hi = mid
		}
	}
	s := &t.a.Layout.Segments[lo]
	chunk -= int(t.first[lo])
	groups := (s.Rows + t.group - 1) / t.group
	c := attending{attendTask: t, w: w, s: s, g: chunk / groups, row: chunk % groups * t.group}
	c.n = min(t.group, s.Rows-c.row)
	c.begin()
	for i := range s.Spans {
		if !c.span(&s.Spans[i], i == len(s.Spans)-1) {
			return
		}
	}
	c.finish()
}

// begin takes scratch and gathers the queries.
func (c *attending) begin() {
	sc, nq := &c.w.scratch, c.n*c.heads
	c.wide = panels(c.hd) * panel
	c.q = slice[float32](sc, nq*c.hd)
	c.scores = slice[float32](sc, nq*backend.PageLen)
	size := c.wide * backend.PageLen
	for i := range c.buf {
		switch {
		case c.direct(i):
		case c.half():
			c.buf[i].h = slice[uint16](sc, size)
		default:
			c.buf[i].f = slice[float32](sc, size)
		}
	}
	c.part, c.sum = slice[float32](sc, nq*c.wide), slice[float32](sc, nq*c.wide)
	c.top, c.all = slice[float32](sc, nq), slice[float32](sc, nq)
	c.blockTop, c.blockAll = slice[float32](sc, nq), slice[float32](sc, nq)
	c.widths = slice[int32](sc, c.n)
	clear(c.sum)
	clear(c.all)
	for i := range c.top {
		c.top[i] = float32(math.Inf(-1))
	}
	in, rs := elems[float32](&c.a.In[0]), c.a.In[0].RowStride()
	for j := range c.n {
		copy(c.q[j*c.heads*c.hd:][:c.heads*c.hd], in[(c.s.Row+c.row+j)*rs+c.g*c.heads*c.hd:])
	}
}

// half reports whether keys and values have 16 bits.
func (c *attending) half() bool { return c.s.Pages != nil && c.a.KV.Type != backend.F32 }

// direct reports whether the keys (0) or values (1) are read where they lie:
// pages hold them as the products want, but for values of heads that are not
// whole panels, which a product would read beyond.
func (c *attending) direct(value int) bool {
	return c.s.Pages != nil && (value == 0 || c.hd%panel == 0)
}

// span adds the keys of a span, block by block. Blocks are cut at multiples of
// PageLen of the key row, so how rows are grouped into chunks or steps does not
// change a sum. It reports false where the step has been stopped.
func (c *attending) span(s *backend.Span, last bool) bool {
	end := s.Start + s.Len
	if last {
		end -= c.s.Rows - (c.row + c.n) // what the last of our rows sees
	}
	for at := s.Start; at < end; {
		if c.w.pause() {
			return false
		}
		to := min(end, (at/backend.PageLen+1)*backend.PageLen)
		for j := range c.n {
			see := to
			if last {
				see = min(to, end-(c.n-1-j))
			}
			c.widths[j] = int32(max(0, see-at))
		}
		c.block(at, to-at)
		at = to
	}
	return true
}

// block adds keys [at, at+n), which lie in one block of PageLen.
func (c *attending) block(at, n int) {
	c.load(at, n)
	nq := c.n * c.heads
	// Scores of keys beyond n are not used.
	c.product(panels(n), c.scores, backend.PageLen, c.q, c.hd, &c.keys, nq, c.hd)
	full := int(c.widths[0]) == n
	if full { // all rows see all keys
		c.weigh(0, nq, n)
	}
	for j := 0; j < c.n && !full; j++ {
		c.weigh(j*c.heads, c.heads, int(c.widths[j]))
	}
}

// weigh adds the first n keys of the block to query heads [from, from+nq): their
// softmax over the block, then the values, then both into the sums so far.
func (c *attending) weigh(from, nq, n int) {
	if n == 0 {
		return
	}
	for i := from; i < from+nq; i++ {
		c.blockTop[i], c.blockAll[i] = c.w.kernels.Exps(c.scores[i*backend.PageLen:][:n], c.a.Scale)
	}
	c.product(c.wide/panel, c.part[from*c.wide:], c.wide, c.scores[from*backend.PageLen:], backend.PageLen, &c.values, nq, n)
	for i := from; i < from+nq; i++ {
		if math.IsInf(float64(c.blockTop[i]), -1) {
			continue
		}
		top := max(c.top[i], c.blockTop[i])
		old, add := kernel.Exp(c.top[i]-top), kernel.Exp(c.blockTop[i]-top)
		c.top[i] = top
		c.all[i] = float32(c.all[i]*old) + float32(c.blockAll[i]*add)
		c.w.kernels.Mix(c.sum[i*c.wide:][:c.wide], c.part[i*c.wide:], old, add)
	}
}

// product multiplies rows of x with so many panels of p.
func (c *attending) product(panels int, out []float32, outStride int, x []float32, xStride int, p *columns, rows, k int) {
	switch {
	case p.h == nil:
		c.w.kernels.F32(panels, out, outStride, x, xStride, p.f, p.stride, panel, rows, k, false)
	case c.a.KV.Type == backend.F16:
		c.w.kernels.F16(panels, out, outStride, x, xStride, p.h, p.stride, panel, rows, k, false)
	default:
		c.w.kernels.BF16(panels, out, outStride, x, xStride, p.h, p.stride, panel, rows, k, false)
	}
}

// finish divides by the sums and writes the rows.
func (c *attending) finish() {
	out, rs := elems[float32](&c.a.Out[0]), c.a.Out[0].RowStride()
	for i := range c.n * c.heads {
		r := c.s.Row + c.row + i/c.heads
		y := out[r*rs+(c.g*c.heads+i%c.heads)*c.hd:][:c.hd]
		for j, v := range c.sum[i*c.wide:][:c.hd] {
			y[j] = v / c.all[i]
		}
	}
}

// load finds keys and values [at, at+n), or lays them out.
func (c *attending) load(at, n int) {
	k, v := &c.buf[0], &c.buf[1]
	k.stride, v.stride = backend.PageLen, c.wide
	if c.s.Pages == nil {
		in, stride := &c.a.In[1], c.a.In[1].RowStride()
		for t, x := 0, elems[float32](in)[at*stride+c.g*c.hd:]; t < n; t++ {
			for i, e := range x[t*stride:][:c.hd] {
				k.f[i*backend.PageLen+t] = e
			}
		}
		in, stride = &c.a.In[2], c.a.In[2].RowStride()
		widenRows(v.f, c.wide, elems[float32](in)[at*stride+c.g*c.hd:], stride, n, c.hd)
		c.keys, c.values = *k, *v
		return
	}
	page, slot := c.s.Pages[at/backend.PageLen].Bytes(), at%backend.PageLen
	kAt, vAt := c.a.KV.At(c.a.Layer, 0, c.g, slot, 0), c.a.KV.At(c.a.Layer, 1, c.g, slot, 0)
	if c.half() {
		k.h, v.h, v.stride = inPage(c, as[uint16](page), kAt, vAt, v.h, n)
	} else {
		k.f, v.f, v.stride = inPage(c, as[float32](page), kAt, vAt, v.f, n)
	}
	c.keys, c.values = *k, *v
}

// inPage finds the n keys and values that start at k and v of a page; values that
// cannot be read there are copied to buf.
func inPage[T number](c *attending, page []T, k, v int, buf []T, n int) (keys, values []T, stride int) {
	if c.direct(1) {
		return page[k:], page[v:], c.hd
	}
	widenRows(buf, c.wide, page[v:], c.hd, n, c.hd)
	return page[k:], buf, c.wide
}

// widenRows copies n rows of hd to rows of wide, the rest zeros.
func widenRows[T number](dst []T, wide int, src []T, stride, n, hd int) {
	for t := range n {
		row := dst[t*wide:][:wide]
		clear(row[copy(row, src[t*stride:][:hd]):])
	}
}
