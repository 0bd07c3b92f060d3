package cpu

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

const (
	// blockLen is the columns that many rows of floats are multiplied with at once: two
	// panels of F32 take 256 KiB of the second-level cache, and sums, which are in
	// registers for so long, cost little to store and load.
	blockLen   = 2048
	tileLen    = 256     // columns of a tile that is decoded for a few rows: [256, 16] F32 stay in the first cache
	unpackLen  = 512     // of codes: those of two panels take 16 KiB
	callWork   = 1 << 17 // row-columns of a panel between two pauses: 50 us at most with vectors
	unpackRows = 32      // a panel's codes take as long to unpack, and turn into weights, as so many rows to multiply
	smallOp    = 1 << 15 // multiplications that are not worth a second worker
)

// matmulTask is MatMul, MatMulAdd and MatMulSwiGLU: chunks are runs of panels,
// counted over all weights, or over the gate's, whose up goes with it, for each block
// of rows.
type matmulTask struct {
	rows, k int
	x       input[float32] // rounded if asked for
	b       input[uint16]  // bfloat16, for weights that are multiplied with such
	q       input[int8]    // codes of x, where a weight takes them, codes rows for a row
	codes   int            // 2 where what the first codes leave is rounded too
	part    [backend.MaxWeights]matmulPart
	add     []float32 // of MatMulAdd [rows, addStride]
	gated   bool      // MatMulSwiGLU

	parts, panels, perChunk, addStride int
	rowsPer                            int // of a chunk
}

// matmulPart is one weight of a MatMul.
type matmulPart struct {
	w      backend.Weight
	out    []float32
	stride int
	first  int    // panels of the weights before
	at, n  int    // its panels that are multiplied with now
	mem    []byte // panels of floats from panel base on, step bytes each, or nil
	base   int
	step   int
	typ    backend.DType  // of mem
	pack   bool           // mem is packed on the fly
	format *kernel.Format // of a packed weight with kernels for its codes, or nil
	meta   []kernel.Meta  // [blocks][rows*codes][q.cols/Sub] where the weight takes codes of x
	dot    bool           // the weight takes bfloat16
}

func (e *exec) matMul(a *backend.Args)       { e.product(a, false, false) }
func (e *exec) matMulAdd(a *backend.Args)    { e.product(a, true, false) }
func (e *exec) matMulSwiGLU(a *backend.Args) { e.product(a, false, true) }

// product takes so many rows at a time that a block of their columns and the outputs
// of some panels stay in the second-level cache; more where panels are packed for them.
func (e *exec) product(a *backend.Args, add, gated bool) {
	most := 512
	for _, w := range a.W[:a.Weights()] {
		if packs(w, a.Round) {
			most = blockLen
		}
	}
	rows := a.In[0].Rows()
	for from := 0; from < rows; from += most {
		e.productRows(a, add, gated, from, min(most, rows-from))
	}
}

// packs reports whether panels of a weight are packed on the fly: values that may have
// changed, or are rounded.
func packs(w backend.Weight, r backend.Rounding) bool {
	p, ok := w.(*packed)
	return !ok || r == backend.RoundBothBF16 && p.typ != backend.BF16
}

func (e *exec) productRows(a *backend.Args, add, gated bool, from, rows int) {
	m := &e.matmul
	in := &a.In[0]
	*m = matmulTask{rows: rows, k: in.Cols(), gated: gated, parts: a.Weights(), codes: 1}
	if add {
		m.addStride = a.In[1].RowStride()
		m.add = elems[float32](&a.In[1])[from*m.addStride:]
	}
	if a.Round.Twice() {
		m.codes = 2
	}
	t := &e.round
	*t = roundTask{m: m, round: a.Round, in: elems[float32](in)[from*in.RowStride():], stride: in.RowStride(), perChunk: max(1, chunkElems/m.k)}
	mark := e.arena.mark()
	pairs := false
	for i := range m.parts {
		p, w := &m.part[i], a.W[i]
		if out := &a.Out[i]; out.Present() {
			p.stride = out.RowStride()
			p.out = elems[float32](out)[from*p.stride:]
		}
		p.use(e, w, a.Round)
		pairs = pairs || p.mem != nil && p.typ == backend.BF16
		codes := p.format != nil && p.format.Group == a.Round.Group()
		if codes && !t.codes {
			m.q = newInput[int8](&e.arena, m.rows*m.codes, m.k, unpackLen, unit(p.format))
		}
		if codes {
			p.meta = slice[kernel.Meta](&e.arena, m.q.blocks(m.k)*m.q.rows*m.q.cols/p.format.Sub)
		}
		t.codes, t.dot, t.values = t.codes || codes, t.dot || p.dot, t.values || !codes && !p.dot
	}
	m.prepare(e, pairs)
	m.windows(e, e.formatOf(a.Round))
	e.arena.release(mark)
	*m = matmulTask{} // keeps no operand alive
}

// unit is the columns that parts of codes are multiples of: groups of the input, and whole
// blocks of any weight with such groups.
func unit(f *kernel.Format) int { return max(f.Group, 64) }

// use says how a weight is multiplied with.
func (p *matmulPart) use(e *exec, w backend.Weight, r backend.Rounding) {
	p.w = w
	switch w := w.(type) {
	case *packed:
		p.dot = w.typ == backend.BF16 && (r == backend.RoundToBF16 || r == backend.RoundBothBF16) && e.b.kernels.HasBF16Dot()
		if w.typ.Float() {
			p.mem, p.step, p.typ = w.mem, w.panelBytes(), w.typ
		} else {
			p.format = e.b.kernels.Format(w.typ)
		}
	case *float:
	default:
		panic(&backend.ShapeError{Op: "MatMul", Detail: fmt.Sprintf("weight %s is of another backend", w.Name())})
	}
	if p.pack = packs(w, r); p.pack {
		f := e.formatOf(r)
		p.format, p.mem, p.dot, p.step, p.typ = nil, nil, f.dot, f.step(w.Cols()), backend.F32
		if f.dot {
			p.typ = backend.BF16
		}
	}
}

// windows multiplies with some panels of the weights after others, those that are
// packed together.
func (m *matmulTask) windows(e *exec, f format) {
	bytes, codes := 0, false
	for i := range m.part[:m.parts] {
		p := &m.part[i]
		codes = codes || p.meta != nil
		if p.pack {
			bytes += panels(p.w.Rows()) * p.step
		}
	}
	m.rowsPer = m.rows
	if blocks := m.rows / rowsBlock; bytes > 0 && !codes && blocks > 1 {
		m.rowsPer = ((m.rows+blocks-1)/blocks + kernel.MaxRows - 1) / kernel.MaxRows * kernel.MaxRows
	}
	n := 1 + bytes/windowBytes
	for i := range n {
		mark := e.arena.mark()
		m.panels = 0
		for j := range m.part[:m.parts] {
			p, all := &m.part[j], panels(m.part[j].w.Rows())
			p.first, p.at, p.n = m.panels, all*i/n&^1, all
			if i < n-1 {
				p.n = all * (i + 1) / n &^ 1
			}
			p.n -= p.at
			if p.pack {
				p.base, p.mem = p.at, slice[byte](&e.arena, p.n*p.step)
				e.rowPanelsOf(f, p.w, p.at, p.n, p.mem)
			}
			if !m.gated || j == 0 {
				m.panels += p.n
			}
		}
		if m.panels == 0 { // of rows so wide that a window has not two panels
			e.arena.release(mark)
			continue
		}
		m.divide(len(e.b.pool.workers))
		e.b.pool.run(m, (m.panels+m.perChunk-1)/m.perChunk*((m.rows+m.rowsPer-1)/m.rowsPer))
		e.arena.release(mark)
	}
}

// rowsBlock is about the rows of a chunk where panels are packed on the fly.
const rowsBlock = 256

// prepare rounds the input, or lays it out. A few rows that are not rounded stay
// where they are, if they need not be made even.
func (m *matmulTask) prepare(e *exec, pairs bool) {
	t := &e.round
	if t.round == backend.RoundNone && m.rows < kernel.MaxRows && !(pairs && m.k%2 == 1) {
		m.x = input[float32]{t.in, m.k, t.stride, m.rows, m.rows}
		*t = roundTask{}
		return
	}
	if t.values {
		m.x = newInput[float32](&e.arena, m.rows, m.k, blockLen, tileLen)
	}
	if t.dot {
		m.b = newInput[uint16](&e.arena, m.rows, m.k, blockLen, 32)
	}
	e.b.pool.run(t, (m.rows+t.perChunk-1)/t.perChunk)
	*t = roundTask{}
}

// divide sets the panels of a chunk: a thirty-second of a worker's part, of many rows no
// more than a millisecond's work, for which the others may have to wait at the end, and
// of a few rows, which wait for memory, enough to be read without a stop.
func (m *matmulTask) divide(workers int) {
	const run = 1 << 18  // bytes
	const most = 1 << 12 // rows of panels
	m.perChunk = max(1, m.panels/(32*workers))
	if m.rows >= kernel.MaxRows {
		rows := m.rowsPer
		if m.gated {
			rows *= 2
		}
		m.perChunk = min(m.perChunk, max(most/rows, 1))
	}
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
	if m.perChunk >= group || m.rows > 1 {
		m.perChunk = (m.perChunk + group - 1) / group * group
	}
	if m.rows*m.k*m.panels < smallOp/panel {
		m.perChunk = m.panels
	}
}

// metas is what belongs to row r of q from column col on, to the end of its block.
func (p *matmulPart) metas(q *input[int8], r, col int) []kernel.Meta {
	return p.meta[((col/q.cols*q.rows+r)*q.cols+col%q.cols)/p.format.Sub:]
}

func (m *matmulTask) run(w *worker, chunk int) {
	across := (m.panels + m.perChunk - 1) / m.perChunk
	if m.rowsPer >= m.rows {
		m.panelsFrom(w, chunk*m.perChunk)
		return
	}
	block := m.block(chunk / across * m.rowsPer)
	block.panelsFrom(w, chunk%across*m.perChunk)
}

// block is the product of a chunk's rows from a row on, of floats.
func (m *matmulTask) block(from int) matmulTask {
	b := *m
	b.rows = min(m.rowsPer, m.rows-from)
	b.x, b.b = m.x.part(from, b.rows), m.b.part(from, b.rows)
	for i := range b.part[:b.parts] {
		if p := &b.part[i]; p.out != nil {
			p.out = p.out[from*p.stride:]
		}
	}
	if b.add != nil {
		b.add = b.add[from*b.addStride:]
	}
	return b
}

// panelsFrom multiplies with the panels of a chunk.
func (m *matmulTask) panelsFrom(w *worker, p int) {
	end := min(p+m.perChunk, m.panels)
	most := m.panels
	if m.rows >= kernel.MaxRows { // outputs stay in the second-level cache
		most = max(1<<16/(m.rows*panel)/kernel.Pair, 1) * kernel.Pair
	}
	for i := 0; p < end; {
		for i < m.parts-1 && p >= m.part[i+1].first {
			i++
		}
		part := &m.part[i]
		n := min(end-p, most, part.first+part.n-p)
		mark := w.scratch.mark()
		if !m.some(w, part, part.at+p-part.first, n) {
			return
		}
		w.scratch.release(mark)
		p += n
	}
}

// some multiplies with n panels of a weight from at on, and finishes the outputs. It
// reports false where the step has been stopped.
func (m *matmulTask) some(w *worker, part *matmulPart, at, n int) bool {
	cols := min(n*panel, part.w.Rows()-at*panel)
	// The kernels write whole panels; and rows of the output, a power of two apart,
	// would compete for the same lines of the caches at every part of k where parts
	// are short, as those of codes are.
	if (m.rows < kernel.MaxRows || part.meta == nil) && cols == n*panel && m.add == nil && !m.gated {
		return m.products(w, part, at, n, part.out[at*panel:], part.stride)
	}
	stride := n * panel
	y := slice[float32](&w.scratch, m.rows*stride)
	if !m.products(w, part, at, n, y, stride) {
		return false
	}
	var up []float32
	if m.gated {
		up = slice[float32](&w.scratch, m.rows*stride)
		if !m.products(w, &m.part[1], at, n, up, stride) {
			return false
		}
	}
	for r := range m.rows {
		out, y := part.out[r*part.stride+at*panel:][:cols], y[r*stride:][:cols]
		switch {
		case m.gated:
			w.kernels.SwiGLU(out, y, up[r*stride:][:cols])
		case m.add != nil:
			w.kernels.Add(out, m.add[r*m.addStride+at*panel:][:cols], y)
		default:
			copy(out, y)
		}
	}
	return true
}

// products writes the products with n panels of a weight from at on to out, whole
// panels. It reports false where the step has been stopped.
func (m *matmulTask) products(w *worker, part *matmulPart, at, n int, out []float32, stride int) bool {
	rows, work := m.rows, 0 // since the last pause
	if part.format != nil && !(part.meta != nil && m.fused(part)) {
		rows += unpackRows
	}
	for i := 0; i < n; {
		mark, k := w.scratch.mark(), max(m.together(part, at+i, n-i), 1)
		if work += rows * m.k * k; work > callWork/8 {
			if work = 0; w.pause() {
				return false
			}
		}
		m.panel(w, part, at+i, k, out[i*panel:], stride)
		w.scratch.release(mark)
		i += k
	}
	return true
}

// together is how many of n panels from i on, all whole, are multiplied at once; 0
// where the first is not whole.
func (m *matmulTask) together(p *matmulPart, i, n int) int {
	n = min(n, p.w.Rows()/panel-i)
	switch {
	case p.meta == nil && p.mem == nil:
		return min(n, 1)
	case p.meta != nil && m.fused(p):
		return min(n, max(callWork/8/m.k, 1))
	case p.meta != nil && m.q.rows <= 2: // a weight is read from its start to its end
		return min(n, 1)
	case p.meta != nil:
		return min(n, p.format.Panels())
	case m.rows == 1:
		return min(n, kernel.MaxPanels)
	}
	return min(n, kernel.Pair)
}

// fused reports whether the codes of a weight are multiplied as they are read.
func (m *matmulTask) fused(p *matmulPart) bool { return p.format.Fused() && m.q.rows <= 2 }

// panel multiplies all rows with n panels of a weight from i on.
func (m *matmulTask) panel(w *worker, p *matmulPart, i, n int, out []float32, stride int) {
	switch {
	case p.meta != nil:
		m.integer(w, p, i, n, out, stride)
	case p.mem != nil:
		m.floats(w, p, i, n, out, stride)
	case p.format != nil:
		m.values(w, p, i, out, stride)
	default:
		m.decoded(w, out, stride, p.w.(*packed), i)
	}
}

// rowsPerCall is how many rows of k columns go between two pauses.
func rowsPerCall(k int) int {
	return max(callWork/max(k, 1)/kernel.MaxRows, 1) * kernel.MaxRows
}

// tileCols is how many columns of a panel are decoded at once.
func (m *matmulTask) tileCols() int {
	if m.rows < kernel.MaxRows {
		return tileLen
	}
	return m.x.cols
}

// values multiplies with a panel whose codes are unpacked, and turned into
// weights, part by part, once for all rows.
func (m *matmulTask) values(w *worker, p *matmulPart, i int, out []float32, stride int) {
	f, mem, length := p.format, p.w.(*packed).panel(i), m.tileCols()
	tile := slice[float32](&w.scratch, length*panel)
	codes, scales := slice[byte](&w.scratch, length*panel), slice[float32](&w.scratch, f.Scales(length))
	for col := 0; col < m.k; col += length {
		n := min(length, m.k-col)
		f.Unpack(codes, scales, mem[col/f.Block*f.Bytes:], n)
		f.Tile(tile, codes, scales, n)
		if !multiply(w, w.kernels.F32, 1, out, stride, &m.x, tile, panel, 0, 1, col, n, col > 0) {
			return
		}
	}
}

// integer multiplies the codes of all rows with those of n panels from i on, as
// many as together says.
func (m *matmulTask) integer(w *worker, p *matmulPart, i, n int, out []float32, stride int) {
	f, weight := p.format, p.w.(*packed)
	rows, dst, dstStride := m.q.rows, out, stride
	if m.codes == 2 {
		dst, dstStride = slice[float32](&w.scratch, rows*n*panel), n*panel
	}
	if m.fused(p) {
		scales := slice[float32](&w.scratch, f.Scales(f.Block))
		f.ProductRows(&w.call, n, dst, dstStride, m.q.s, m.q.stride, p.meta, m.k/f.Sub, weight.mem[i*weight.panelBytes():], scales, rows, m.k)
	} else if !m.spread(w, p, i, n, dst, dstStride) {
		return
	}
	if m.codes == 2 {
		m.addCodes(out, stride, dst, dstStride)
	}
}

// spread is integer with codes that are unpacked block by block of the input, once
// for all rows. It reports false where the step has been stopped.
func (m *matmulTask) spread(w *worker, p *matmulPart, i, n int, dst []float32, dstStride int) bool {
	f, weight, q := p.format, p.w.(*packed), &m.q
	length := min(unpackLen, q.cols)
	step := rowsPerCall(n * length)
	codes, scales := slice[byte](&w.scratch, n*length*panel), slice[float32](&w.scratch, n*f.Scales(length))
	for col := 0; col < m.k; col += length {
		k := min(length, m.k-col)
		for j := range n {
			f.Unpack(codes[j*k*panel:], scales[j*f.Scales(k):], weight.panel(i + j)[col/f.Block*f.Bytes:], k)
		}
		for r := 0; r < q.rows; r += step {
			if (r > 0 || col > 0) && w.pause() {
				return false
			}
			f.Product(&w.call, n, dst[r*dstStride:], dstStride, q.at(r, col), q.stride,
				p.metas(q, r, col), q.cols/f.Sub, codes, scales, min(step, q.rows-r), k, col > 0)
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

// multiply adds the product of columns [col, col+n) of the input with panels of w to
// out, or writes it unless accumulate, block by block. Calls that go on with a sum start
// at multiples of 32 columns, as tiles of pairs want it. It pauses before each block but
// the first of a sum, and reports false where the step has been stopped.
func multiply[X, W number](wk *worker, f kernelFunc[X, W], panels int, out []float32, stride int, x *input[X], w []W, wStride, wStep, unit, col, n int, accumulate bool) bool {
	most := max(callWork/(panels*max(min(x.n, kernel.MaxRows), 1))&^31, 32)
	for end := col + n; col < end; {
		n := min(x.cols-col%x.cols, end-col, most)
		step := rowsPerCall(n * panels)
		for r := 0; r < x.n; r += step {
			if (r > 0 || col > 0) && wk.pause() {
				return false
			}
			f(panels, out[r*stride:], stride, x.at(r, col), x.stride, w, wStride, wStep, min(step, x.n-r), n, accumulate)
		}
		accumulate = true
		if col += n; col < end {
			w = w[n/unit*wStride:]
		}
	}
	return true
}

// floats multiplies with panels of a float type.
func (m *matmulTask) floats(w *worker, p *matmulPart, i, n int, out []float32, stride int) {
	k := m.k
	mem, step := p.mem[(i-p.base)*p.step:], p.step/2
	switch {
	case p.dot:
		multiply(w, w.kernels.BF16Dot, n, out, stride, &m.b, as[uint16](mem), 2*panel, step, 2, 0, k+k%2, false)
	case p.typ == backend.F32:
		multiply(w, w.kernels.F32, n, out, stride, &m.x, as[float32](mem), panel, step/2, 1, 0, k, false)
	case m.rows >= kernel.MaxRows:
		m.widened(w, p, mem, n, out, stride)
	case p.typ == backend.F16:
		multiply(w, w.kernels.F16, n, out, stride, &m.x, as[uint16](mem), panel, step, 1, 0, k, false)
	default:
		multiply(w, w.kernels.BF16Pairs, n, out, stride, &m.x, as[uint16](mem), 2*panel, step, 2, 0, k+k%2, false)
	}
}

// widened multiplies with panels of 16-bit floats that are widened part by part,
// once for all rows.
func (m *matmulTask) widened(w *worker, p *matmulPart, mem []byte, n int, out []float32, stride int) {
	length, step, k := m.x.cols, p.step/2, p.step/(2*panel)
	tile := slice[float32](&w.scratch, n*length*panel)
	src := as[uint16](mem)
	for col := 0; col < k; col += length {
		cols := min(length, k-col)
		for i := range n {
			to, from := tile[i*length*panel:][:cols*panel], src[i*step+col*panel:]
			if p.typ == backend.F16 {
				w.kernels.WidenF16(to, from)
			} else {
				w.kernels.WidenPairs(to, from)
			}
		}
		if !multiply(w, w.kernels.F32, n, out, stride, &m.x, tile, panel, length*panel, 1, col, cols, col > 0) {
			return
		}
	}
}
