package cpu

import (
	"fmt"
	"unsafe"

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
	x       input[float32] // rounded if asked for
	b       input[uint16]  // bfloat16, for weights that are multiplied with such
	xq      []int8         // [rows*codes, qStride] codes of x, where a weight takes them
	qStride int
	codes   int // rows of codes for a row: 2 where what the first leaves is rounded too
	part    [backend.MaxWeights]matmulPart

	parts, panels, perChunk int
}

// input is the rows of a MatMul in blocks of columns [k/cols][rows][stride], each
// block without gaps: what a panel is multiplied with then lies together. cols is k
// where there is one block.
type input[T number] struct {
	s            []T
	cols, stride int
	rows         int
}

// newInput takes room for rows of k columns in blocks where there are enough rows
// for that to matter. Rows are a cache line longer, since those a power of two
// apart compete for the same lines of the first-level cache. An odd k is made even
// by zeros, as pairs want it.
func newInput[T number](a *arena, rows, k int) input[T] {
	var one T
	in := input[T]{cols: k + k%2, rows: rows}
	if rows >= kernel.MaxRows {
		in.cols = min(in.cols, tileLen)
	}
	in.stride = in.cols + 64/int(unsafe.Sizeof(one))
	in.s = slice[T](a, (k+in.cols-1)/in.cols*rows*in.stride)
	return in
}

// at is row r from column col on, which reaches to the end of its block.
func (in *input[T]) at(r, col int) []T {
	return in.s[(col/in.cols*in.rows+r)*in.stride+col%in.cols:]
}

// set copies a row.
func (in *input[T]) set(r int, x []T) {
	for col := 0; col < len(x); col += in.cols {
		y := in.at(r, col)[:in.cols]
		clear(y[copy(y, x[col:]):])
	}
}

// matmulPart is one weight of a MatMul.
type matmulPart struct {
	w      backend.Weight
	out    []float32
	stride int
	first  int            // panels of the weights before
	format *kernel.Format // of a packed weight with kernels for its codes, or nil
	meta   []kernel.Meta  // [rows*codes, k/Sub] where the weight takes codes of x
	dot    bool           // the weight takes bfloat16
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
	t := &e.round
	*t = roundTask{m: m, round: a.Round, in: elems[float32](in), stride: in.RowStride(), perChunk: max(1, chunkElems/m.k)}
	mark := e.arena.mark()
	pairs := false
	for i := range m.parts {
		p, w := &m.part[i], a.W[i]
		p.w, p.first = w, m.panels
		p.out, p.stride = elems[float32](&a.Out[i]), a.Out[i].RowStride()
		switch w := w.(type) {
		case *packed:
			p.format = e.b.kernels.Format(w.typ)
			p.dot = w.typ == backend.BF16 && a.Round == backend.RoundToBF16 && e.b.kernels.HasBF16Dot()
			pairs = pairs || w.typ == backend.BF16
		case *float:
		default:
			panic(&backend.ShapeError{Op: "MatMul", Detail: fmt.Sprintf("weight %s is of another backend", w.Name())})
		}
		codes := p.format != nil && p.format.Group == a.Round.Group()
		if codes {
			p.meta = slice[kernel.Meta](&e.arena, m.rows*m.codes*m.k/p.format.Sub)
		}
		t.codes, t.dot, t.values = t.codes || codes, t.dot || p.dot, t.values || !codes && !p.dot
		m.panels += panels(w.Rows())
	}
	m.prepare(e, pairs)
	m.divide(len(e.b.pool.workers))
	e.b.pool.run(m, (m.panels+m.perChunk-1)/m.perChunk)
	e.arena.release(mark)
	*m = matmulTask{} // keeps no operand alive
}

// prepare rounds the input, or lays it out. A few rows that are not rounded stay
// where they are, if they need not be made even.
func (m *matmulTask) prepare(e *exec, pairs bool) {
	t := &e.round
	if t.round == backend.RoundNone && m.rows < kernel.MaxRows && !(pairs && m.k%2 == 1) {
		m.x = input[float32]{t.in, m.k, t.stride, m.rows}
		*t = roundTask{}
		return
	}
	if t.values {
		m.x = newInput[float32](&e.arena, m.rows, m.k)
	}
	if t.dot {
		m.b = newInput[uint16](&e.arena, m.rows, m.k)
	}
	if t.codes {
		m.qStride = m.k + 64 // as in newInput
		m.xq = slice[int8](&e.arena, m.rows*m.codes*m.qStride)
	}
	e.b.pool.run(t, (m.rows+t.perChunk-1)/t.perChunk)
	*t = roundTask{}
}

// divide sets the panels of a chunk: a sixteenth of a worker's part, and of a few
// rows, which wait for memory, enough to be read without a stop.
func (m *matmulTask) divide(workers int) {
	const run = 1 << 18 // bytes
	m.perChunk = max(1, m.panels/(16*workers))
	if m.rows <= 2 {
		bytes := int64(0)
		for i := range m.part[:m.parts] {
			bytes += m.part[i].w.Bytes()
		}
		m.perChunk = max(m.perChunk, min(m.panels/(2*workers), int(run*int64(m.panels)/max(bytes, 1))))
	}
	group := kernel.Pair
	if m.rows == 1 {
		group = kernel.MaxPanels
	}
	if m.perChunk >= group {
		m.perChunk = (m.perChunk + group - 1) / group * group
	}
	if m.rows*m.k*m.panels < smallOp/panel {
		m.perChunk = m.panels
	}
}

// roundTask rounds the input of a MatMul: chunks are runs of rows.
type roundTask struct {
	m        *matmulTask
	round    backend.Rounding
	in       []float32 // [rows, stride]
	stride   int
	perChunk int
	codes    bool // fill m.xq and the parts' meta
	dot      bool // fill m.b
	values   bool // fill m.x
}

func (t *roundTask) run(w *worker, chunk int) {
	m, from := t.m, chunk*t.perChunk
	for r := from; r < min(from+t.perChunk, m.rows); r++ {
		x := t.in[r*t.stride:][:m.k]
		mark := w.scratch.mark()
		switch {
		case t.round == backend.RoundNone:
			m.x.set(r, x)
		case t.round == backend.RoundToBF16:
			t.bf16(w, r, x)
		default:
			sum := slice[float32](&w.scratch, m.k)
			clear(sum)
			for i := range m.codes {
				x = t.code(w, r, i, x, sum)
			}
			if t.values {
				m.x.set(r, sum)
			}
		}
		w.scratch.release(mark)
	}
}

// bf16 rounds row r to bfloat16.
func (t *roundTask) bf16(w *worker, r int, x []float32) {
	b := slice[uint16](&w.scratch, len(x))
	w.kernels.RoundBF16(b, x)
	if t.dot {
		t.m.b.set(r, b)
	}
	if t.values {
		y := slice[float32](&w.scratch, len(x))
		block.DecodeBF16(y, b)
		t.m.x.set(r, y)
	}
}

// code rounds x, which is row r or, where i is 1, what its first codes leave. It
// returns what these leave, and adds to sum what they stand for.
func (t *roundTask) code(w *worker, r, i int, x, sum []float32) []float32 {
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
		sum[i] += float32(float32(q[i]) * d[i/group])
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
	for p := chunk * m.perChunk; p < end; {
		i := m.parts - 1
		for p < m.part[i].first {
			i--
		}
		if work += m.rows * m.k; work > callWork/8 {
			if work = 0; w.pause() {
				return
			}
		}
		part, mark := &m.part[i], w.scratch.mark()
		at := p - part.first
		n := max(m.together(part, at, end-p), 1)
		if cols := min(n*panel, part.w.Rows()-at*panel); m.rows < kernel.MaxRows && cols == n*panel {
			m.panel(w, part, at, n, part.out[at*panel:], part.stride)
		} else {
			// The kernels write whole panels; and rows of the output, a power of two
			// apart, would compete for the same lines of the caches at every part of k.
			out := slice[float32](&w.scratch, m.rows*n*panel)
			m.panel(w, part, at, n, out, n*panel)
			for r := range m.rows {
				copy(part.out[r*part.stride+at*panel:][:cols], out[r*n*panel:])
			}
		}
		p += n
		w.scratch.release(mark)
	}
}

// together is how many of n panels from i on, all whole, are multiplied at once; 0
// where the first is not whole.
func (m *matmulTask) together(p *matmulPart, i, n int) int {
	n = min(n, p.w.Rows()/panel-i)
	weight, ok := p.w.(*packed)
	switch {
	case !ok || p.meta == nil && !weight.typ.Float():
		return min(n, 1)
	case p.meta != nil && m.rows*m.codes <= 2 && p.format.Fused():
		return min(n, 1)
	case p.meta != nil:
		return min(n, p.format.Panels())
	case m.rows == 1:
		return min(n, kernel.MaxPanels)
	}
	return min(n, kernel.Pair)
}

// panel multiplies all rows with n panels of a weight from i on.
func (m *matmulTask) panel(w *worker, p *matmulPart, i, n int, out []float32, stride int) {
	switch weight := p.w.(type) {
	case *packed:
		switch {
		case p.meta != nil:
			m.integer(w, p, i, n, out, stride)
		case p.format != nil:
			m.values(w, p, i, out, stride)
		case weight.typ.Float():
			m.floats(w, p, i, n, out, stride)
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
		multiply(w, w.kernels.F32, 1, out, stride, &m.x, tile, panel, 0, col, n)
	}
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
		f.ProductRows(&w.call, dst, dstStride, m.xq, m.qStride, p.meta, subs, weight.panel(i), scales, rows, m.k)
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
type kernelFunc[X, W number] = func(panels int, out []float32, outStride int, x []X, xStride int, w []W, wStride, wStep, rows, k int, accumulate bool)

// multiply adds the product of columns [col, col+n) of the input, which lie in one
// of its blocks, with panels of w to out, or writes it where col is 0.
func multiply[X, W number](wk *worker, f kernelFunc[X, W], panels int, out []float32, stride int, x *input[X], w []W, wStride, wStep, col, n int) {
	step := rowsPerCall(n * panels)
	for r := 0; r < x.rows; r += step {
		if r > 0 && wk.pause() {
			return
		}
		f(panels, out[r*stride:], stride, x.at(r, col), x.stride, w, wStride, wStep, min(step, x.rows-r), n, col > 0)
	}
}

// floats multiplies with panels of a float type.
func (m *matmulTask) floats(w *worker, p *matmulPart, i, n int, out []float32, stride int) {
	weight, k := p.w.(*packed), m.k
	mem, step := weight.mem[i*weight.panelBytes():], weight.panelBytes()/2
	switch {
	case p.dot:
		blocks(m, w, w.kernels.BF16Dot, n, out, stride, &m.b, as[uint16](mem), 2, step, k+k%2)
	case weight.typ == backend.F32:
		blocks(m, w, w.kernels.F32, n, out, stride, &m.x, as[float32](mem), 1, step/2, k)
	case m.rows >= kernel.MaxRows:
		m.widened(w, weight, mem, n, out, stride)
	case weight.typ == backend.F16:
		blocks(m, w, w.kernels.F16, n, out, stride, &m.x, as[uint16](mem), 1, step, k)
	default:
		blocks(m, w, w.kernels.BF16Pairs, n, out, stride, &m.x, as[uint16](mem), 2, step, k+k%2)
	}
}

// blocks multiplies with panels as they are, block by block of the input, unit
// inputs side by side.
func blocks[X, W number](m *matmulTask, w *worker, f kernelFunc[X, W], n int, out []float32, stride int, x *input[X], p []W, unit, step, k int) {
	length := x.cols
	if m.rows >= kernel.MaxRows {
		length = min(length, tileLen/n*unit)
	}
	for col := 0; col < k; col += length {
		if col > 0 && w.pause() {
			return
		}
		multiply(w, f, n, out, stride, x, p[col*panel:], panel*unit, step, col, min(length, k-col))
	}
}

// widened multiplies with panels of 16-bit floats that are widened part by part,
// once for all rows.
func (m *matmulTask) widened(w *worker, weight *packed, mem []byte, n int, out []float32, stride int) {
	length, step, k := tileLen/n, weight.panelBytes()/2, weight.panelBytes()/(2*panel)
	tile := slice[float32](&w.scratch, tileLen*panel)
	src := as[uint16](mem)
	for col := 0; col < k; col += length {
		if col > 0 && w.pause() {
			return
		}
		cols := min(length, k-col)
		for p := range n {
			to, from := tile[p*length*panel:][:cols*panel], src[p*step+col*panel:]
			if weight.typ == backend.F16 {
				w.kernels.WidenF16(to, from)
			} else {
				w.kernels.WidenPairs(to, from)
			}
		}
		multiply(w, w.kernels.F32, n, out, stride, &m.x, tile, panel, length*panel, col, cols)
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
		multiply(w, w.kernels.F32, 1, out, stride, &m.x, tile, panel, 0, col, cols)
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
func tiles[W number](m *matmulTask, w *worker, f kernelFunc[float32, W], out []float32, stride int, weight *float, i int) {
	tile := slice[W](&w.scratch, tileLen*panel)
	for col := 0; col < m.k; col += tileLen {
		if col > 0 && w.pause() {
			return
		}
		n := min(tileLen, m.k-col)
		gather(tile, &weight.v, i*panel, col, n)
		multiply(w, f, 1, out, stride, &m.x, tile, panel, 0, col, n)
	}
}
