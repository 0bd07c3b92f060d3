package cpu

import (
	"fmt"
	"unsafe"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
	"github.com/herd-ml/herd/backend/ref"
)

const (
	// blockLen is the columns that many rows of floats are multiplied with at once: two
	// panels of F32 take 256 KiB of the second-level cache, and sums, which are in
	// registers for so long, cost little to store and load.
	blockLen  = 2048
	tileLen   = 256     // columns of a tile that is decoded for a few rows: [256, 16] F32 stay in the first cache
	unpackLen = 512     // of codes: those of two panels take 16 KiB
	callWork  = 1 << 17 // row-columns of a panel between two pauses: 50 us at most with vectors
	smallOp   = 1 << 15 // multiplications that are not worth a second worker
)

// matmulTask is MatMul, MatMulAdd and MatMulSwiGLU: chunks are runs of panels,
// counted over all weights, or over the gate's, whose up goes with it.
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
}

// input is the rows of a MatMul in blocks of columns [k/cols][rows][stride], each
// block without gaps: what a panel is multiplied with then lies together. cols is k
// where there is one block.
type input[T number] struct {
	s            []T
	cols, stride int
	rows         int
}

// newInput takes room for rows of k columns, in blocks of at most cols, whole groups,
// where there are enough rows for that to matter. Rows are a cache line longer, since
// those a power of two apart compete for the same lines of the first-level cache. An
// odd k is made even by zeros, as pairs want it.
func newInput[T number](a *arena, rows, k, cols, group int) input[T] {
	var one T
	in := input[T]{cols: k + k%2, rows: rows}
	if rows >= kernel.MaxRows { // blocks of about the same size, whole groups of codes
		n := (k + cols - 1) / cols
		in.cols = min(in.cols, ((k+n-1)/n+group-1)/group*group)
	}
	in.stride = in.cols + 64/int(unsafe.Sizeof(one))
	in.s = slice[T](a, in.blocks(k)*rows*in.stride)
	return in
}

// at is row r from column col on, which reaches to the end of its block.
func (in *input[T]) at(r, col int) []T {
	return in.s[(col/in.cols*in.rows+r)*in.stride+col%in.cols:]
}

// blocks is the number of blocks of k columns.
func (in *input[T]) blocks(k int) int { return (k + in.cols - 1) / in.cols }

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
	meta   []kernel.Meta  // [blocks][rows*codes][q.cols/Sub] where the weight takes codes of x
	dot    bool           // the weight takes bfloat16
}

func (e *exec) matMul(a *backend.Args)       { e.product(a, false, false) }
func (e *exec) matMulAdd(a *backend.Args)    { e.product(a, true, false) }
func (e *exec) matMulSwiGLU(a *backend.Args) { e.product(a, false, true) }

// product takes so many rows at a time that a block of their columns and the outputs
// of some panels stay in the second-level cache.
func (e *exec) product(a *backend.Args, add, gated bool) {
	const most = 512
	if a.Round == backend.RoundBothBF16 {
		op := backend.MatMul
		if add {
			op = backend.MatMulAdd
		} else if gated {
			op = backend.MatMulSwiGLU
		}
		ref.Run(op, a)
		return
	}
	rows := a.In[0].Rows()
	for from := 0; from < rows; from += most {
		e.productRows(a, add, gated, from, min(most, rows-from))
	}
}

func (e *exec) productRows(a *backend.Args, add, gated bool, from, rows int) {
	m := &e.matmul
	in := &a.In[0]
	m.rows, m.k, m.gated = rows, in.Cols(), gated
	if add {
		m.addStride = a.In[1].RowStride()
		m.add = elems[float32](&a.In[1])[from*m.addStride:]
	}
	m.parts, m.panels, m.codes = a.Weights(), 0, 1
	if a.Round.Twice() {
		m.codes = 2
	}
	t := &e.round
	*t = roundTask{m: m, round: a.Round, in: elems[float32](in)[from*in.RowStride():], stride: in.RowStride(), perChunk: max(1, chunkElems/m.k)}
	mark := e.arena.mark()
	pairs := false
	for i := range m.parts {
		p, w := &m.part[i], a.W[i]
		p.w, p.first = w, m.panels
		if out := &a.Out[i]; out.Present() {
			p.stride = out.RowStride()
			p.out = elems[float32](out)[from*p.stride:]
		}
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
		if codes && !t.codes {
			m.q = newInput[int8](&e.arena, m.rows*m.codes, m.k, unpackLen, p.format.Group)
		}
		if codes {
			p.meta = slice[kernel.Meta](&e.arena, m.q.blocks(m.k)*m.q.rows*m.q.cols/p.format.Sub)
		}
		t.codes, t.dot, t.values = t.codes || codes, t.dot || p.dot, t.values || !codes && !p.dot
		m.panels += panels(w.Rows())
	}
	if gated {
		m.panels = m.part[1].first
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
		rows := m.rows
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

// roundTask rounds the input of a MatMul: chunks are runs of rows.
type roundTask struct {
	m        *matmulTask
	round    backend.Rounding
	in       []float32 // [rows, stride]
	stride   int
	perChunk int
	codes    bool // fill m.q and the parts' meta
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
			var sum []float32
			if t.values {
				sum = slice[float32](&w.scratch, m.k)
				clear(sum)
			}
			for i := range m.codes {
				x = t.code(w, r, i, x, sum)
			}
			if sum != nil {
				m.x.set(r, sum)
			}
		}
		w.scratch.release(mark)
	}
}

// bf16 rounds row r to bfloat16.
func (t *roundTask) bf16(w *worker, r int, x []float32) {
	if b := &t.m.b; t.dot {
		for col := 0; col < len(x); col += b.cols {
			y, n := b.at(r, col)[:b.cols], min(b.cols, len(x)-col)
			w.kernels.RoundBF16(y, x[col:][:n])
			clear(y[n:])
		}
	}
	if t.values {
		b, y := slice[uint16](&w.scratch, len(x)), slice[float32](&w.scratch, len(x))
		w.kernels.RoundBF16(b, x)
		w.kernels.WidenBF16(y, b)
		t.m.x.set(r, y)
	}
}

// code rounds x, which is row r or, where i is 1, what its first codes leave. It
// returns what these leave, and adds to sum, unless nil, what they stand for.
func (t *roundTask) code(w *worker, r, i int, x, sum []float32) []float32 {
	m, group := t.m, t.round.Group()
	length := m.k
	if t.codes {
		length = m.q.cols
	}
	d, sums := slice[float32](&w.scratch, length/group), slice[int32](&w.scratch, length/16)
	q, at := slice[int8](&w.scratch, length), r*m.codes+i
	var rest []float32
	if i < m.codes-1 {
		rest = slice[float32](&w.scratch, m.k)
	}
	for col := 0; col < m.k; col += length {
		n := min(length, m.k-col)
		if t.codes {
			q = m.q.at(at, col)
		}
		q, x := q[:n], x[col:][:n]
		w.kernels.RoundI8(q, d, sums, x, group)
		for i := range m.part[:m.parts] {
			if p := &m.part[i]; p.meta != nil {
				p.format.Metas(p.metas(&m.q, at, col)[:n/p.format.Sub], sums, d)
			}
		}
		if sum != nil {
			for i, c := range q {
				sum[col+i] += float32(float32(c) * d[i/group])
			}
		}
		if rest != nil {
			for i, v := range x {
				rest[col+i] = v - float32(float32(q[i])*d[i/group])
			}
		}
	}
	return rest
}

// metas is what belongs to row r of q from column col on, to the end of its block.
func (p *matmulPart) metas(q *input[int8], r, col int) []kernel.Meta {
	return p.meta[((col/q.cols*q.rows+r)*q.cols+col%q.cols)/p.format.Sub:]
}

func (m *matmulTask) run(w *worker, chunk int) {
	end := min((chunk+1)*m.perChunk, m.panels)
	most := m.panels
	if m.rows >= kernel.MaxRows { // outputs stay in the second-level cache
		most = max(1<<16/(m.rows*panel)/kernel.Pair, 1) * kernel.Pair
	}
	for p, i := chunk*m.perChunk, 0; p < end; {
		for i < m.parts-1 && p >= m.part[i+1].first {
			i++
		}
		part := &m.part[i]
		n := min(end-p, most, part.first+panels(part.w.Rows())-p)
		mark := w.scratch.mark()
		if !m.some(w, part, p-part.first, n) {
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
	work := 0 // since the last pause
	for i := 0; i < n; {
		if work += m.rows * m.k; work > callWork/8 {
			if work = 0; w.pause() {
				return false
			}
		}
		mark, k := w.scratch.mark(), max(m.together(part, at+i, n-i), 1)
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
	weight, ok := p.w.(*packed)
	switch {
	case !ok || p.meta == nil && !weight.typ.Float():
		return min(n, 1)
	case p.meta != nil && m.fused(p):
		return min(n, max(callWork/8/m.k, 1))
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
		multiply(w, w.kernels.F32, 1, out, stride, &m.x, tile, panel, 0, 1, col, n)
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
			if r > 0 && w.pause() {
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
// out, or writes it where col is 0, block by block.
func multiply[X, W number](wk *worker, f kernelFunc[X, W], panels int, out []float32, stride int, x *input[X], w []W, wStride, wStep, unit, col, n int) {
	for end := col + n; col < end; {
		n := min(x.cols-col%x.cols, end-col)
		step := rowsPerCall(n * panels)
		for r := 0; r < x.rows; r += step {
			if (r > 0 || col > 0) && wk.pause() {
				return
			}
			f(panels, out[r*stride:], stride, x.at(r, col), x.stride, w, wStride, wStep, min(step, x.rows-r), n, col > 0)
		}
		if col += n; col < end {
			w = w[n/unit*wStride:]
		}
	}
}

// floats multiplies with panels of a float type.
func (m *matmulTask) floats(w *worker, p *matmulPart, i, n int, out []float32, stride int) {
	weight, k := p.w.(*packed), m.k
	mem, step := weight.mem[i*weight.panelBytes():], weight.panelBytes()/2
	switch {
	case p.dot:
		multiply(w, w.kernels.BF16Dot, n, out, stride, &m.b, as[uint16](mem), 2*panel, step, 2, 0, k+k%2)
	case weight.typ == backend.F32:
		multiply(w, w.kernels.F32, n, out, stride, &m.x, as[float32](mem), panel, step/2, 1, 0, k)
	case m.rows >= kernel.MaxRows:
		m.widened(w, weight, mem, n, out, stride)
	case weight.typ == backend.F16:
		multiply(w, w.kernels.F16, n, out, stride, &m.x, as[uint16](mem), panel, step, 1, 0, k)
	default:
		multiply(w, w.kernels.BF16Pairs, n, out, stride, &m.x, as[uint16](mem), 2*panel, step, 2, 0, k+k%2)
	}
}

// widened multiplies with panels of 16-bit floats that are widened part by part,
// once for all rows.
func (m *matmulTask) widened(w *worker, weight *packed, mem []byte, n int, out []float32, stride int) {
	length, step, k := m.x.cols, weight.panelBytes()/2, weight.panelBytes()/(2*panel)
	tile := slice[float32](&w.scratch, n*length*panel)
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
		multiply(w, w.kernels.F32, n, out, stride, &m.x, tile, panel, length*panel, 1, col, cols)
	}
}
