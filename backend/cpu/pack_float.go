package cpu

import (
	"github.com/herd-ml/herd/backend"
)

// Operands of products that are packed on the fly: those of training, where no operand
// stays what it is for longer than a step. Panels are pairs of bfloat16 where the
// processor multiplies such, else F32.

const (
	windowBytes = 8 << 20 // of panels that are packed at once: a part of the last cache
	packLen     = 1024    // numbers of 16 rows that are rounded before they become panels: 32 KiB
)

// format says how the operands of a product are laid out.
type format struct {
	dot   bool // pairs of bfloat16
	round bool // F32 of bfloat16 values
}

// formatOf is that of products with both operands rounded, or neither.
func (e *exec) formatOf(r backend.Rounding) format {
	both, dot := r == backend.RoundBothBF16, e.b.kernels.HasBF16Dot()
	return format{dot: both && dot, round: both && !dot}
}

// step is the bytes of a panel of k inputs.
func (f format) step(k int) int {
	if f.dot {
		return (k + k%2) * panel * 2
	}
	return k * panel * 4
}

// source is a matrix whose rows are packed: F32 in memory, or a weight that is decoded.
type source struct {
	s      []float32 // nil where rows are decoded
	stride int
	w      backend.Weight
	order  []int32 // row r is the one that this says, unless nil
	base   int     // what row and column of the first number of s count as
}

func viewSource(v *backend.View) source { return source{s: elems[float32](v), stride: v.RowStride()} }

func weightSource(w backend.Weight) source {
	if f, ok := w.(*float); ok && f.v.Type == backend.F32 && (f.v.Stride[1] == 1 || f.Cols() == 1) {
		return source{s: elems[float32](&f.v), stride: f.v.Stride[0]}
	}
	return source{w: w}
}

// row is columns [col, col+n) of row r, in buf where it is decoded. Columns of a weight
// start at a multiple of 256 and end at another or the last: whole blocks.
func (m *source) row(buf []float32, r, col, n int) []float32 {
	if m.order != nil {
		r = int(m.order[r])
	}
	if m.s != nil {
		return m.s[r*m.stride+col-m.base:][:n]
	}
	m.w.Tile(buf[:n], r, 1, col, n)
	return buf[:n]
}

// decoded returns a source of columns [col, col+n) of rows [r, r+rows) that are decoded
// at once, panel by panel, where vectors do that; else m.
func (m *source) decoded(w *worker, r, rows, col, n int) source {
	p, ok := m.w.(*packed)
	if !ok || p.typ != backend.BF16 || r%panel != 0 || col%2 != 0 || m.order != nil {
		return *m
	}
	pairs := (n + 1) / 2
	wide := (pairs + panel - 1) / panel * panel // of words
	words, f := slice[uint16](&w.scratch, panel*2*wide), slice[float32](&w.scratch, (rows+panel-1)/panel*panel*n)
	for at := 0; at < rows; at += panel {
		mem := p.panel((r + at) / panel)[2*col*panel:]
		for i := 0; i < pairs; i += panel {
			w.spent(2 * panel * panel) // whoever asked sees a stop
			some := mem[4*panel*i:]
			if pairs-i < panel { // a panel ends with its last pair
				last := slice[byte](&w.scratch, 4*panel*panel)
				copy(last, some[:4*panel*(pairs-i)])
				some = last
			}
			w.kernels.TransposeWords(bytesOf(words[2*i:]), 4*wide, some, 4*panel, panel)
		}
		for j := range min(panel, rows-at) {
			w.spent(n)
			w.kernels.WidenBF16(f[(at+j)*n:][:n], words[j*2*wide:][:n])
		}
	}
	// Rows and columns as the caller counts them.
	return source{s: f, stride: n, base: r*n + col}
}

// rounded is row with values of bfloat16 where f says so.
func (m *source) rounded(w *worker, f format, buf []float32, r, col, n int) []float32 {
	x := m.row(buf, r, col, n)
	if f.round {
		mark := w.scratch.mark()
		b := slice[uint16](&w.scratch, n)
		w.kernels.RoundBF16(b, x)
		w.kernels.WidenBF16(buf[:n], b)
		w.scratch.release(mark)
		return buf[:n]
	}
	return x
}

// rowPanels packs panels of 16 rows of a weight, as Pack does: chunks are runs of
// panels.
type rowPanels struct {
	format
	src      source
	rows, k  int // of the weight
	first, n int // panels
	mem      []byte
	step     int
	perChunk int
}

func (t *rowPanels) run(w *worker, chunk int) {
	for i := chunk * t.perChunk; i < min((chunk+1)*t.perChunk, t.n); i++ {
		for col := 0; col < t.k; col += packLen {
			if w.pause() {
				return
			}
			mark, n := w.scratch.mark(), min(packLen, t.k-col)
			row, mem := (t.first+i)*panel, t.mem[i*t.step:]
			if t.dot {
				t.pairs(w, mem[2*panel*col:], row, col, n)
			} else {
				t.values(w, mem[4*panel*col:], row, col, n)
			}
			w.scratch.release(mark)
		}
	}
}

// pairs packs n columns of 16 rows as bfloat16, an odd one with a zero.
func (t *rowPanels) pairs(w *worker, mem []byte, row, col, n int) {
	const stride = packLen + 32
	b, buf, even := slice[uint16](&w.scratch, panel*stride), slice[float32](&w.scratch, packLen), n+n%2
	for r := range panel {
		y := b[r*stride:][:even]
		if row+r >= t.rows {
			clear(y)
			continue
		}
		y[even-1] = 0
		w.kernels.RoundBF16(y, t.src.row(buf, row+r, col, n))
	}
	w.kernels.PackWords(mem, bytesOf(b), 2*stride, even/2, 1, 0, 0)
}

// values packs n columns of 16 rows as F32.
func (t *rowPanels) values(w *worker, mem []byte, row, col, n int) {
	const stride = packLen + 16
	if t.src.s != nil && !t.round && row+panel <= t.rows {
		w.kernels.PackWords(mem, bytesOf(t.src.s[row*t.src.stride+col:]), 4*t.src.stride, n, 1, 0, 0)
		return
	}
	f, buf := slice[float32](&w.scratch, panel*stride), slice[float32](&w.scratch, packLen)
	for r := range panel {
		y := f[r*stride:][:n]
		if row+r >= t.rows {
			clear(y)
			continue
		}
		copy(y, t.src.rounded(w, t.format, buf, row+r, col, n))
	}
	w.kernels.PackWords(mem, bytesOf(f), 4*stride, n, 1, 0, 0)
}

// colPanels packs rows [from, from+n) of a matrix for sums over them: panels of 16 of
// its columns [col, col+cols). Chunks are runs of rowsTogether rows.
type colPanels struct {
	format
	src       source
	from, n   int
	col, cols int
	mem       []byte
	step      int
}

// rowsTogether is a line of cache of pairs.
const rowsTogether = 32

// padded is a step that keeps panels apart in the caches: those a power of two apart
// would compete for the same lines.
func (f format) padded(k int) int { return f.step(k) + 64 }

func (t *colPanels) run(w *worker, chunk int) {
	whole := t.cols / panel * panel
	buf, other, last := slice[float32](&w.scratch, t.cols), slice[float32](&w.scratch, t.cols), slice[float32](&w.scratch, 2*panel)
	from := chunk * rowsTogether
	src := t.src.decoded(w, t.from+from, min(rowsTogether, t.n-from), t.col, t.cols)
	for r := from; r < min(from+rowsTogether, t.n); {
		if w.pause() {
			return
		}
		if !t.dot {
			x, mem := src.rounded(w, t.format, buf, t.from+r, t.col, t.cols), as[float32](t.mem)[r*panel:]
			for c := 0; c < t.cols; c += panel {
				y := mem[c/panel*t.step/4:][:panel]
				clear(y[copy(y, x[c:]):])
			}
			r++
			continue
		}
		a, b := src.row(buf, t.from+r, t.col, t.cols), other
		if r+1 < t.n {
			b = src.row(other, t.from+r+1, t.col, t.cols)
		} else {
			clear(b)
		}
		mem := as[uint16](t.mem)[r*panel:]
		w.kernels.RoundPairs(mem, t.step/2, a[:whole], b[:whole])
		if whole < t.cols {
			clear(last)
			copy(last, a[whole:])
			copy(last[panel:], b[whole:])
			w.kernels.RoundPairs(mem[whole/panel*t.step/2:], t.step/2, last[:panel], last[panel:])
		}
		r += 2
	}
}

// turned turns columns [col, col+cols) of rows [from, from+n) of a matrix into the rows
// of an operand. Chunks are runs of rowsTogether rows.
type turned struct {
	format
	src       source
	from, n   int
	col, cols int
	to        operand
}

func (t *turned) run(w *worker, chunk int) {
	const most = 512 // columns at once: 32 KiB
	r, rows := chunk*rowsTogether, min(rowsTogether, t.n-chunk*rowsTogether)
	for c := 0; c < t.cols; c += most {
		if w.pause() {
			return
		}
		mark, n := w.scratch.mark(), min(most, t.cols-c)
		if t.dot {
			t.pairs(w, r, rows, c, n)
		} else {
			for i := 0; i < rows; i += panel {
				t.values(w, r+i, min(panel, rows-i), c, n)
			}
		}
		w.scratch.release(mark)
	}
}

// pairs writes rows from r on, the missing ones of 32 as zeros.
func (t *turned) pairs(w *worker, r, rows, c, n int) {
	wide := (n + panel - 1) / panel * panel
	stride := 2*wide + 32
	words := slice[uint16](&w.scratch, panel*stride)
	a, b := slice[float32](&w.scratch, wide), slice[float32](&w.scratch, wide)
	row := func(buf []float32, i int) []float32 {
		if i >= rows {
			clear(buf)
			return buf
		}
		x := t.src.row(buf, t.from+r+i, t.col+c, n)
		if n < wide {
			clear(buf[copy(buf, x):])
			return buf
		}
		return x
	}
	for q := range panel {
		w.kernels.RoundPairs(words[q*stride:], 2*panel, row(a, 2*q), row(b, 2*q+1))
	}
	w.kernels.TransposeWords(bytesOf(t.to.b.at(c, r)), 2*t.to.b.stride, bytesOf(words), 2*stride, n)
}

// values writes rows from r on, the missing ones of 16 as zeros.
func (t *turned) values(w *worker, r, rows, c, n int) {
	to, stride := bytesOf(t.to.x.at(c, r)), 4*t.to.x.stride
	if rows == panel && t.src.s != nil && t.src.order == nil && !t.round {
		w.kernels.TransposeWords(to, stride, bytesOf(t.src.s[(t.from+r)*t.src.stride+t.col+c:]), 4*t.src.stride, n)
		return
	}
	wide := n + panel
	f, buf := slice[float32](&w.scratch, panel*wide), slice[float32](&w.scratch, n)
	for i := range panel {
		if i < rows {
			copy(f[i*wide:], t.src.rounded(w, t.format, buf, t.from+r+i, t.col+c, n))
		} else {
			clear(f[i*wide:][:n])
		}
	}
	w.kernels.TransposeWords(to, stride, bytesOf(f), 4*wide, n)
}
