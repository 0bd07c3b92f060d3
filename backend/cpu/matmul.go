package cpu

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

const (
	tileLen  = 256     // columns of a decoded tile: [256, 16] F32 are 16 KiB, so it stays in the first cache
	callWork = 1 << 15 // row-columns of a panel between two pauses: 50 us at most with vectors
	smallOp  = 1 << 15 // multiplications that are not worth a second worker
)

// matmulTask is MatMul: chunks are runs of panels, counted over all weights.
type matmulTask struct {
	rows, k int
	x       []float32 // [rows, k], rounded if asked for
	xStride int
	xq      []int8 // [rows*codes, qStride] codes of x, where a weight takes them
	qStride int
	codes   int // rows of codes for a row: 2 where what the first leaves is rounded too
	part    [backend.MaxWeights]matmulPart

	parts, panels, perChunk int
}

// matmulPart is one weight of a MatMul.
type matmulPart struct {
	w      backend.Weight
	out    []float32
	stride int
	first  int            // panels of the weights before
	format *kernel.Format // of a packed weight with kernels for its codes, or nil
	meta   []kernel.Meta  // [rows*codes, k/Sub] where the weight takes codes of x
}

func (e *exec) matMul(a *backend.Args) {
	m := &e.matmul
	in := &a.In[0]
	m.rows, m.k = in.Rows(), in.Cols()
	m.parts, m.panels, m.codes = a.Weights(), 0, 1
	if a.Round.Twice() {
		m.codes = 2
	}
	if m.rows == 0 {
		return
	}
	m.x, m.xStride = elems[float32](in), in.RowStride()
	codes, values := false, false
	mark := e.arena.mark()
	for i := range m.parts {
		p, w := &m.part[i], a.W[i]
		p.w, p.first = w, m.panels
		p.out, p.stride = elems[float32](&a.Out[i]), a.Out[i].RowStride()
		switch w := w.(type) {
		case *packed:
			p.format = e.b.kernels.Format(w.typ)
		case *float:
		default:
			panic(&backend.ShapeError{Op: "MatMul", Detail: fmt.Sprintf("weight %s is of another backend", w.Name())})
		}
		rounded := p.format != nil && p.format.Group == a.Round.Group()
		if rounded {
			p.meta = slice[kernel.Meta](&e.arena, m.rows*m.codes*m.k/p.format.Sub)
		}
		codes = codes || rounded
		values = values || !rounded
		m.panels += panels(w.Rows())
	}
	if a.Round != backend.RoundNone {
		e.roundInput(a, codes, values)
	}
	m.perChunk = max(1, m.panels/(16*len(e.b.pool.workers)))
	if m.rows*m.codes > 2 {
		m.perChunk += m.perChunk % 2 // pairs
	}
	if m.rows*m.codes <= 2 && m.panels >= 4*streams*len(e.b.pool.workers) {
		m.perChunk = (m.perChunk + streams - 1) / streams * streams
	}
	if m.rows*m.k*m.panels < smallOp/panel {
		m.perChunk = m.panels
	}
	e.b.pool.run(m, (m.panels+m.perChunk-1)/m.perChunk)
	e.arena.release(mark)
	*m = matmulTask{} // keeps no operand alive
}

// roundTask rounds the input of a MatMul: chunks are runs of rows.
type roundTask struct {
	m        *matmulTask
	round    backend.Rounding
	in       []float32 // [rows, stride]
	stride   int
	perChunk int
	codes    bool // fill m.xq and the parts' meta
	values   bool // fill m.x
}

// roundInput replaces x by its rounded form: codes for weights that take them,
// values for those that do not.
func (e *exec) roundInput(a *backend.Args, codes, values bool) {
	m, t := &e.matmul, &e.round
	*t = roundTask{m, a.Round, m.x, m.xStride, max(1, chunkElems/m.k), codes, values}
	if values {
		m.x, m.xStride = slice[float32](&e.arena, m.rows*m.k), m.k
	}
	if codes {
		// A cache line more, since rows a power of two apart compete for the same
		// lines of the first-level cache.
		m.qStride = m.k + 64
		m.xq = slice[int8](&e.arena, m.rows*m.codes*m.qStride)
	}
	e.b.pool.run(t, (m.rows+t.perChunk-1)/t.perChunk)
	*t = roundTask{}
}

func (t *roundTask) run(w *worker, chunk int) {
	m, from := t.m, chunk*t.perChunk
	group := t.round.Group()
	for r := from; r < min(from+t.perChunk, m.rows); r++ {
		x := t.in[r*t.stride:][:m.k]
		if group == 0 {
			for i, v := range x {
				m.x[r*m.k+i] = block.BF16ToF32(block.F32ToBF16(v))
			}
			continue
		}
		if t.values {
			clear(m.x[r*m.k:][:m.k])
		}
		mark := w.scratch.mark()
		for i := range m.codes {
			x = t.code(w, r, i, x)
		}
		w.scratch.release(mark)
	}
}

// code rounds x, which is row r or, where i is 1, what its first codes leave. It
// returns what these leave.
func (t *roundTask) code(w *worker, r, i int, x []float32) []float32 {
	m, group := t.m, t.round.Group()
	d, sums := slice[float32](&w.scratch, m.k/group), slice[int32](&w.scratch, m.k/16)
	q, at := slice[int8](&w.scratch, m.k), r*m.codes+i
	if t.codes {
		q = m.xq[at*m.qStride:][:m.k]
	}
	w.kernels.RoundI8(q, d, sums, x, group)
	for i := range m.part[:m.parts] {
		if p := &m.part[i]; p.meta != nil {
			n := m.k / p.format.Sub
			p.format.Metas(p.meta[at*n:][:n], sums, d)
		}
	}
	for i := 0; t.values && i < m.k; i++ {
		m.x[r*m.k+i] += float32(float32(q[i]) * d[i/group])
	}
	if i == m.codes-1 {
		return nil
	}
	rest := slice[float32](&w.scratch, m.k)
	for i, v := range x {
		rest[i] = v - float32(float32(q[i])*d[i/group])
	}
	return rest
}

func (m *matmulTask) run(w *worker, chunk int) {
	end := min((chunk+1)*m.perChunk, m.panels)
	work := 0 // since the last pause
	for p := chunk * m.perChunk; p < end; p++ {
		i := m.parts - 1
		for p < m.part[i].first {
			i--
		}
		if work += m.rows * m.k; work > callWork/8 {
			if work = 0; w.pause() {
				return
			}
		}
		mark := w.scratch.mark()
		at := p - m.part[i].first
		if n := m.together(&m.part[i], at, end-p); n > 1 {
			m.integer(w, &m.part[i], at, n, m.part[i].out[at*panel:], m.part[i].stride)
			p += n - 1
		} else {
			m.panel(w, i, at)
		}
		w.scratch.release(mark)
	}
}

// panel multiplies all rows with panel i of a weight.
func (m *matmulTask) panel(w *worker, part, i int) {
	p := &m.part[part]
	out, stride := p.out[i*panel:], p.stride
	n := p.w.Rows() - i*panel
	if n < panel { // the kernels write whole panels
		out, stride = slice[float32](&w.scratch, m.rows*panel), panel
	}
	switch weight := p.w.(type) {
	case *packed:
		switch {
		case p.meta != nil:
			m.integer(w, p, i, 1, out, stride)
		case p.format != nil:
			m.values(w, p, i, out, stride)
		case weight.typ == backend.F32:
			multiply(m, w, w.kernels.F32, out, stride, as[float32](weight.panel(i)), 0, m.k)
		case weight.typ == backend.F16:
			multiply(m, w, w.kernels.F16, out, stride, as[uint16](weight.panel(i)), 0, m.k)
		case weight.typ == backend.BF16:
			multiply(m, w, w.kernels.BF16, out, stride, as[uint16](weight.panel(i)), 0, m.k)
		default:
			m.decoded(w, out, stride, weight, i)
		}
	case *float:
		if weight.v.Type == backend.F32 {
			tiles(m, w, w.kernels.F32, out, stride, weight, i)
		} else {
			tiles(m, w, w.kernels.BF16, out, stride, weight, i)
		}
	}
	if n < panel {
		for r := range m.rows {
			copy(p.out[r*p.stride+i*panel:][:n], out[r*panel:])
		}
	}
}

// rowsPerCall is how many rows of k columns go between two pauses.
func rowsPerCall(k int) int {
	return max(callWork/max(k, 1)/kernel.MaxRows, 1) * kernel.MaxRows
}

// unpackLen is the inputs of a panel that are unpacked at once: their codes are
// 16 KiB, and stay in the first-level cache with the codes of a tile of rows.
const unpackLen = 1024

// values multiplies with a panel whose codes are unpacked, and turned into
// weights, part by part, once for all rows.
func (m *matmulTask) values(w *worker, p *matmulPart, i int, out []float32, stride int) {
	f, mem := p.format, p.w.(*packed).panel(i)
	tile := slice[float32](&w.scratch, tileLen*panel)
	codes, scales := slice[byte](&w.scratch, tileLen*panel), slice[float32](&w.scratch, f.Scales(tileLen))
	for col := 0; col < m.k; col += tileLen {
		n := min(tileLen, m.k-col)
		f.Unpack(codes, scales, mem[col/f.Block*f.Bytes:], n)
		f.Tile(tile, codes, scales, n)
		multiply(m, w, w.kernels.F32, out, stride, tile, col, n)
	}
}

// streams is how many panels of small blocks are read at once for a row: one
// alone does not keep memory busy. A panel's block of 256 inputs does.
const streams = 4

// together is how many of n panels from i on are multiplied at once.
func (m *matmulTask) together(p *matmulPart, i, n int) int {
	n = min(n, p.w.Rows()/panel-i) // whole ones
	switch {
	case p.meta == nil:
		return 1
	case m.rows*m.codes <= 2 && p.format.Fused() && p.format.Block == 32:
		return min(n, streams)
	case m.rows*m.codes > 2:
		return min(n, p.format.Panels())
	}
	return 1
}

// integer multiplies the codes of all rows with those of n panels from i on, as
// many as together says.
func (m *matmulTask) integer(w *worker, p *matmulPart, i, n int, out []float32, stride int) {
	f, weight := p.format, p.w.(*packed)
	rows, subs, dst, dstStride := m.rows*m.codes, m.k/p.format.Sub, out, stride
	if m.codes == 2 {
		dst, dstStride = slice[float32](&w.scratch, rows*n*panel), n*panel
	}
	if f.Fused() && rows <= 2 {
		scales := slice[float32](&w.scratch, f.Scales(f.Block))
		for r := range rows {
			f.ProductRow(&w.call, n, dst[r*dstStride:], m.xq[r*m.qStride:], p.meta[r*subs:], weight.mem[i*weight.panelBytes():], weight.panelBytes(), scales, m.k)
		}
	} else if !m.spread(w, p, i, n, dst, dstStride) {
		return
	}
	if m.codes == 2 {
		m.addCodes(out, stride, dst, dstStride)
	}
}

// spread is integer with codes that are unpacked part by part, once for all
// rows. It reports false where the step has been stopped.
func (m *matmulTask) spread(w *worker, p *matmulPart, i, n int, dst []float32, dstStride int) bool {
	f, weight, length := p.format, p.w.(*packed), unpackLen/n
	rows, subs, step := m.rows*m.codes, m.k/p.format.Sub, rowsPerCall(unpackLen)
	codes, scales := slice[byte](&w.scratch, unpackLen*panel), slice[float32](&w.scratch, f.Scales(unpackLen))
	for col := 0; col < m.k; col += length {
		k := min(length, m.k-col)
		for j := range n {
			f.Unpack(codes[j*k*panel:], scales[j*f.Scales(k):], weight.panel(i + j)[col/f.Block*f.Bytes:], k)
		}
		for r := 0; r < rows; r += step {
			if r > 0 && w.pause() {
				return false
			}
			f.Product(&w.call, n, dst[r*dstStride:], dstStride, m.xq[r*m.qStride+col:], m.qStride,
				p.meta[r*subs+col/f.Sub:], subs, codes, scales, min(step, rows-r), k, col > 0)
		}
	}
	return true
}

// addCodes adds the products of a row's first and second codes.
func (m *matmulTask) addCodes(out []float32, stride int, both []float32, wide int) {
	for r := range m.rows {
		first, second := both[2*r*wide:][:wide], both[(2*r+1)*wide:][:wide]
		for j, v := range first {
			out[r*stride+j] = v + second[j]
		}
	}
}

// kernelFunc is a float kernel of a kernel.Set.
type kernelFunc[W number] = func(out []float32, outStride int, x []float32, xStride int, w []W, wStride, rows, k int, accumulate bool)

// multiply adds the product of columns [col, col+n) of the input with w
// [n, 16] to out, or writes it where col is 0.
func multiply[W number](m *matmulTask, wk *worker, f kernelFunc[W], out []float32, stride int, w []W, col, n int) {
	step := rowsPerCall(n)
	for r := 0; r < m.rows; r += step {
		if r > 0 && wk.pause() {
			return
		}
		f(out[r*stride:], stride, m.x[r*m.xStride+col:], m.xStride, w, panel, min(step, m.rows-r), n, col > 0)
	}
}

// decoded multiplies with a panel that is decoded tile by tile, once for all
// rows.
func (m *matmulTask) decoded(w *worker, out []float32, stride int, weight *packed, i int) {
	e := weight.typ.BlockElems()
	n := max(tileLen/e, 1) * e
	tile, tmp := slice[float32](&w.scratch, n*panel), slice[float32](&w.scratch, n*panel)
	for col := 0; col < m.k; col += n {
		if col > 0 && w.pause() {
			return
		}
		cols := min(n, m.k-col)
		weight.tile(tile, tmp, i, col, cols)
		multiply(m, w, w.kernels.F32, out, stride, tile, col, cols)
	}
}

// tile decodes columns [col, col+cols) of a panel into dst [cols, 16]. tmp is
// as large.
func (w *packed) tile(dst, tmp []float32, i, col, cols int) {
	for r := range panel {
		w.rowTile(tmp[r*cols:][:cols], i*panel+r, col)
	}
	transpose(dst, tmp, cols, cols)
}

// transpose writes the 16 rows of n that are stride apart in src as dst [n, 16].
func transpose[T number](dst, src []T, n, stride int) {
	r0, r1, r2, r3 := row(src, 0, stride, n), row(src, 1, stride, n), row(src, 2, stride, n), row(src, 3, stride, n)
	r4, r5, r6, r7 := row(src, 4, stride, n), row(src, 5, stride, n), row(src, 6, stride, n), row(src, 7, stride, n)
	for k := range r0 {
		y := (*[8]T)(dst[k*panel:])
		y[0], y[1], y[2], y[3] = r0[k], r1[k], r2[k], r3[k]
		y[4], y[5], y[6], y[7] = r4[k], r5[k], r6[k], r7[k]
	}
	r0, r1, r2, r3 = row(src, 8, stride, n), row(src, 9, stride, n), row(src, 10, stride, n), row(src, 11, stride, n)
	r4, r5, r6, r7 = row(src, 12, stride, n), row(src, 13, stride, n), row(src, 14, stride, n), row(src, 15, stride, n)
	for k := range r0 {
		y := (*[8]T)(dst[k*panel+8:])
		y[0], y[1], y[2], y[3] = r0[k], r1[k], r2[k], r3[k]
		y[4], y[5], y[6], y[7] = r4[k], r5[k], r6[k], r7[k]
	}
}

// tiles multiplies with a panel of a float weight that is packed tile by tile.
func tiles[W number](m *matmulTask, w *worker, f kernelFunc[W], out []float32, stride int, weight *float, i int) {
	tile := slice[W](&w.scratch, tileLen*panel)
	for col := 0; col < m.k; col += tileLen {
		if col > 0 && w.pause() {
			return
		}
		n := min(tileLen, m.k-col)
		gather(tile, &weight.v, i*panel, col, n)
		multiply(m, w, f, out, stride, tile, col, n)
	}
}
