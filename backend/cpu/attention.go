package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
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
	g        int       // key-value head
	row, n   int       // rows [row, row+n) of the segment
	q        []float32 // [nq, hd]
	scores   []float32 // [nq, PageLen]
	keys     panelBuf  // a block's keys as panels [keys/16][hd][16]
	values   panelBuf  // a block's values as panels [hd/16][keys][16]
	part     []float32 // [nq, wide] of one block
	sum      []float32 // [nq, wide] of all blocks so far
	top, all []float32 // [nq] largest score and sum of exp(score - top) so far
	blockTop []float32 // [nq] the same of the block
	blockAll []float32
	wide     int     // hd rounded up to whole panels
	widths   []int32 // [n] keys that each row sees of the block
}

// panelBuf holds panels of F32 or F16.
type panelBuf struct {
	f []float32
	h []uint16
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
	if c.half() {
		c.keys.h, c.values.h = slice[uint16](sc, size), slice[uint16](sc, size)
	} else {
		c.keys.f, c.values.f = slice[float32](sc, size), slice[float32](sc, size)
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

// half reports whether keys and values are F16.
func (c *attending) half() bool { return c.s.Pages != nil && c.a.KV.Type == backend.F16 }

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
	for p := range panels(n) { // scores of keys beyond n are not used
		c.product(c.scores[p*panel:], backend.PageLen, c.q, c.hd, &c.keys, p*c.hd*panel, nq, c.hd)
	}
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
		c.blockTop[i], c.blockAll[i] = exps(c.scores[i*backend.PageLen:][:n], c.a.Scale)
	}
	for p := range c.wide / panel {
		c.product(c.part[from*c.wide+p*panel:], c.wide, c.scores[from*backend.PageLen:], backend.PageLen,
			&c.values, p*backend.PageLen*panel, nq, n)
	}
	for i := from; i < from+nq; i++ {
		if math.IsInf(float64(c.blockTop[i]), -1) {
			continue
		}
		top := max(c.top[i], c.blockTop[i])
		old, add := exp32(c.top[i]-top), exp32(c.blockTop[i]-top)
		c.top[i] = top
		c.all[i] = float32(c.all[i]*old) + float32(c.blockAll[i]*add)
		part := c.part[i*c.wide:][:c.wide]
		for j, v := range c.sum[i*c.wide:][:c.wide] {
			c.sum[i*c.wide+j] = float32(v*old) + float32(part[j]*add)
		}
	}
}

// exps replaces scores by exp(scale*score - top), top the largest; it returns
// top and the sum.
func exps(s []float32, scale float32) (top, sum float32) {
	top = float32(math.Inf(-1))
	for i, v := range s {
		s[i] = v * scale
		top = max(top, s[i])
	}
	if math.IsInf(float64(top), -1) {
		clear(s)
		return top, 0
	}
	for i, v := range s {
		s[i] = exp32(v - top)
		sum += s[i]
	}
	return top, sum
}

// product multiplies rows of x with the panel of p that starts at element at.
func (c *attending) product(out []float32, outStride int, x []float32, xStride int, p *panelBuf, at, rows, k int) {
	if p.h != nil {
		c.w.kernels.F16(out, outStride, x, xStride, p.h[at:], rows, k, false)
	} else {
		c.w.kernels.F32(out, outStride, x, xStride, p.f[at:], rows, k, false)
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

// load lays out keys and values [at, at+n) as panels.
func (c *attending) load(at, n int) {
	if c.s.Pages == nil {
		k, v := &c.a.In[1], &c.a.In[2]
		ks, vs := k.RowStride(), v.RowStride()
		layOut(c.keys.f, c.values.f, elems[float32](k)[at*ks+c.g*c.hd:], ks, elems[float32](v)[at*vs+c.g*c.hd:], vs, n, c.hd)
		return
	}
	page, slot := c.s.Pages[at/backend.PageLen].Bytes(), at%backend.PageLen
	k := c.a.KV.Offset(c.a.Layer, 0, c.g) + slot*c.hd
	v := c.a.KV.Offset(c.a.Layer, 1, c.g) + slot*c.hd
	if c.half() {
		mem := as[uint16](page)
		layOut(c.keys.h, c.values.h, mem[k:], c.hd, mem[v:], c.hd, n, c.hd)
	} else {
		mem := as[float32](page)
		layOut(c.keys.f, c.values.f, mem[k:], c.hd, mem[v:], c.hd, n, c.hd)
	}
}

// layOut writes n keys as panels [n/16][hd][16], padded with zeros, and n values
// as panels [hd/16][PageLen][16].
func layOut[T number](keys, values, k []T, kStride int, v []T, vStride, n, hd int) {
	for t := 0; t < n; t += panel {
		dst := keys[t*hd:][:panel*hd]
		if n-t >= panel {
			transpose(dst, k[t*kStride:], hd, kStride)
			continue
		}
		clear(dst)
		for r := range n - t {
			for i, x := range k[(t+r)*kStride:][:hd] {
				dst[i*panel+r] = x
			}
		}
	}
	for t := range n {
		row := v[t*vStride:][:hd]
		for i := 0; i < hd; i += panel {
			dst := values[(i*backend.PageLen + t*panel):][:panel]
			if copied := copy(dst, row[i:]); copied < panel {
				clear(dst[copied:])
			}
		}
	}
}
