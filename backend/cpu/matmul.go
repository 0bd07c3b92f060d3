package cpu

import (
	"encoding/binary"
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
	xq      []int8    // [rows, k] codes of x, where a weight takes them
	xd      []float32 // [rows, k/32]
	xsum    []int32   // [rows, k/16]
	part    [backend.MaxWeights]struct {
		w       backend.Weight
		out     []float32
		stride  int
		first   int  // panels of the weights before
		rounded bool // multiplied with xq
	}
	parts, panels, perChunk int
}

func (e *exec) matMul(a *backend.Args) {
	m := &e.matmul
	in := &a.In[0]
	m.rows, m.k = in.Rows(), in.Cols()
	m.parts, m.panels = a.Weights(), 0
	if m.rows == 0 {
		return
	}
	m.x, m.xStride = elems[float32](in), in.RowStride()
	codes, values := false, false
	for i := range m.parts {
		p, w := &m.part[i], a.W[i]
		p.w, p.first = w, m.panels
		p.out, p.stride = elems[float32](&a.Out[i]), a.Out[i].RowStride()
		switch w := w.(type) {
		case *packed:
			p.rounded = w.typ == backend.Q8_0 && a.Round == backend.RoundI8x32
		case *float:
			p.rounded = false
		default:
			panic(&backend.ShapeError{Op: "MatMul", Detail: fmt.Sprintf("weight %s is of another backend", w.Name())})
		}
		codes = codes || p.rounded
		values = values || !p.rounded
		m.panels += panels(w.Rows())
	}
	mark := e.arena.mark()
	if a.Round != backend.RoundNone {
		e.roundInput(a, codes, values)
	}
	m.perChunk = max(1, m.panels/(16*len(e.b.pool.workers)))
	if m.rows*m.k*m.panels < smallOp/panel {
		m.perChunk = m.panels
	}
	e.b.pool.run(m, (m.panels+m.perChunk-1)/m.perChunk)
	e.arena.release(mark)
	*m = matmulTask{} // keeps no operand alive
}

// roundInput replaces x by its rounded form: codes for weights that take them,
// values for those that do not.
func (e *exec) roundInput(a *backend.Args, codes, values bool) {
	m := &e.matmul
	x, xStride := m.x, m.xStride
	if values {
		m.x, m.xStride = slice[float32](&e.arena, m.rows*m.k), m.k
	}
	if a.Round == backend.RoundToBF16 {
		for r := range m.rows {
			for i, v := range x[r*xStride:][:m.k] {
				m.x[r*m.k+i] = block.BF16ToF32(block.F32ToBF16(v))
			}
		}
		return
	}
	group := a.Round.Group()
	n := m.k / group
	m.xq = slice[int8](&e.arena, m.rows*m.k)
	m.xd = slice[float32](&e.arena, m.rows*n)
	m.xsum = slice[int32](&e.arena, m.rows*m.k/16)
	for r := range m.rows {
		q, d := m.xq[r*m.k:][:m.k], m.xd[r*n:][:n]
		e.b.kernels.RoundI8(q, d, m.xsum[r*m.k/16:], x[r*xStride:][:m.k], group)
		for i := 0; values && i < m.k; i++ {
			m.x[r*m.k+i] = float32(q[i]) * d[i/group]
		}
	}
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
		m.panel(w, i, p-m.part[i].first)
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
		case p.rounded:
			m.int8(w, out, stride, weight.panel(i))
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

func (m *matmulTask) int8(w *worker, out []float32, stride int, p []byte) {
	step, blocks := rowsPerCall(m.k), m.k/32
	for r := 0; r < m.rows; r += step {
		if r > 0 && w.pause() {
			return
		}
		w.kernels.Q8_0(out[r*stride:], stride, m.xq[r*m.k:], m.k, m.xd[r*blocks:], blocks,
			m.xsum[r*2*blocks:], 2*blocks, p, min(step, m.rows-r), blocks, false)
	}
}

// kernelFunc is a float kernel of a kernel.Set.
type kernelFunc[W number] = func(out []float32, outStride int, x []float32, xStride int, w []W, rows, k int, accumulate bool)

// multiply adds the product of columns [col, col+n) of the input with w
// [n, 16] to out, or writes it where col is 0.
func multiply[W number](m *matmulTask, wk *worker, f kernelFunc[W], out []float32, stride int, w []W, col, n int) {
	step := rowsPerCall(n)
	for r := 0; r < m.rows; r += step {
		if r > 0 && wk.pause() {
			return
		}
		f(out[r*stride:], stride, m.x[r*m.xStride+col:], m.xStride, w, min(step, m.rows-r), n, col > 0)
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
	p := w.panel(i)
	if w.typ == backend.Q8_0 {
		tileQ8(dst, p[col/32*kernel.Q8Bytes:], cols/32)
		return
	}
	e, n := w.typ.BlockElems(), w.typ.BlockBytes()*panel
	blocks := cols / e
	p = p[col/e*n:][:blocks*n]
	if w.typ == backend.Q4_1 {
		tileQ4_1(dst, p, blocks)
		return
	}
	w.decode(tmp[:cols*panel], p)
	for b := range blocks {
		transpose(dst[b*e*panel:], tmp[b*e*panel:], e, e)
	}
}

// tileQ8 decodes blocks of a Q8_0 panel into dst [blocks*32, 16].
func tileQ8(dst []float32, p []byte, blocks int) {
	for b := range blocks {
		p := p[b*kernel.Q8Bytes:][:kernel.Q8Bytes]
		for r := range panel {
			d := block.F16ToF32(binary.LittleEndian.Uint16(p[2*r:]))
			for g := range 8 {
				q, y := p[2*panel+(g*panel+r)*4:][:4], dst[(b*32+g*4)*panel+r:][:3*panel+1]
				y[0] = d * float32(int8(q[0]))
				y[panel] = d * float32(int8(q[1]))
				y[2*panel] = d * float32(int8(q[2]))
				y[3*panel] = d * float32(int8(q[3]))
			}
		}
	}
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
