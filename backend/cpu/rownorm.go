package cpu

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// rowNormTask is RowNorms: a chunk is a panel of rows.
type rowNormTask struct {
	w               backend.Weight
	norms, inverses []float32 // [rows], or nil

	// The change scale b a, where there is one.
	change bool
	scale  float32
	b      source // [rows, rank]
	rank   int
	mem    []byte // panels of a's columns
	step   int
	sizes  []float64 // [rank] norms of a's rows
}

// rowNorms adds changes in float32, as products are, and squares in float64. Where little
// is left of a row's terms it computes the row again, all in float64.
func (e *exec) rowNorms(a *backend.Args) {
	mark := e.arena.mark()
	defer e.arena.release(mark)
	t := &e.rowNorm
	*t = rowNormTask{w: a.W[0], scale: a.Scale}
	for i, out := range [2]*[]float32{&t.norms, &t.inverses} {
		if a.Out[i].Present() {
			*out = elems[float32](&a.Out[i])
		}
	}
	if a.Weights() == 3 {
		first, k := weightSource(a.W[1]), a.W[0].Cols()
		t.change, t.b, t.rank = true, weightSource(a.W[2]), a.W[1].Rows()
		t.sizes = slice[float64](&e.arena, t.rank)
		mark := e.arena.mark()
		row, w := slice[float32](&e.arena, k), e.b.pool.workers[0]
		for r := range t.sizes {
			if !w.read(row, &first, r) {
				return
			}
			t.sizes[r] = math.Sqrt(w.sumSquares(row))
		}
		e.arena.release(mark)
		t.mem, t.step = e.panelsOf(format{}, first, 0, t.rank, 0, k)
	}
	e.b.pool.run(t, panels(t.w.Rows()))
	*t = rowNormTask{}
}

// read decodes row r of a matrix to dst. It reports false where the step has been stopped.
func (w *worker) read(dst []float32, m *source, r int) bool {
	return w.pieces(len(dst), func(from, to int) { copy(dst[from:to], m.row(dst[from:to], r, from, to-from)) })
}

func (t *rowNormTask) run(w *worker, chunk int) {
	k, first := t.w.Cols(), chunk*panel
	rows, stride := min(panel, t.w.Rows()-first), panels(k)*panel
	v, squares := slice[float32](&w.scratch, rows*stride), slice[float64](&w.scratch, rows)
	src := weightSource(t.w)
	for from := 0; from < k; from += packLen {
		if w.pause() {
			return
		}
		mark, n := w.scratch.mark(), min(packLen, k-from)
		part := src.decoded(w, first, rows, from, n)
		for r := range rows {
			y := v[r*stride+from:][:n]
			copy(y, part.row(y, first+r, from, n))
		}
		w.scratch.release(mark)
	}
	for r := range rows {
		squares[r] = w.sumSquares(v[r*stride:][:k])
	}
	if t.change && !t.changed(w, v, stride, first, squares) {
		return
	}
	for r, s := range squares {
		norm, inverse := math.Sqrt(s), 0.0
		if norm != 0 {
			inverse = 1 / norm
		}
		if t.norms != nil {
			t.norms[first+r] = float32(norm)
		}
		if t.inverses != nil {
			t.inverses[first+r] = float32(inverse)
		}
	}
}

// changed replaces the sums of squares of rows v by those of the rows once they are
// changed. It reports false where the step has been stopped.
func (t *rowNormTask) changed(w *worker, v []float32, stride, first int, squares []float64) bool {
	k, rows := t.w.Cols(), len(squares)
	b, scaled := slice[float32](&w.scratch, rows*t.rank), slice[float32](&w.scratch, rows*t.rank)
	for r := range rows {
		if !w.read(b[r*t.rank:][:t.rank], &t.b, first+r) {
			return false
		}
	}
	w.kernels.Scale(scaled, b, t.scale)
	x := input[float32]{scaled, t.rank, t.rank, rows, rows}
	for p := 0; p < panels(k); {
		n := min(kernel.Pair, panels(k)-p)
		multiply(w, w.kernels.F32, n, v[p*panel:], stride, &x, as[float32](t.mem[p*t.step:]), panel, t.step/4, 1, 0, t.rank, true)
		if p += n; !w.spent(n * rows * t.rank) {
			return false
		}
	}
	for r := range rows {
		size, b := math.Sqrt(squares[r]), b[r*t.rank:][:t.rank] // of all terms
		for i, x := range b {
			size += math.Abs(float64(t.scale)*float64(x)) * t.sizes[i]
		}
		squares[r] = w.sumSquares(v[r*stride:][:k])
		// A sixteenth of the terms, and far from what float32 takes for zero or infinity:
		// what float32 rounds is then below 2^-20 a term.
		if s := squares[r]; s > size*size/256 && s > 1e-60 && s < 1e60 {
			continue
		}
		if !w.read(v[r*stride:][:k], &source{w: t.w}, first+r) {
			return false
		}
		squares[r] = 0
		for p := range panels(k) {
			if !w.spent(panel * t.rank) {
				return false
			}
			squares[r] += t.exact(v[r*stride+p*panel:][:min(panel, k-p*panel)], b, as[float32](t.mem[p*t.step:]))
		}
	}
	return true
}

// exact is the sum of squares of some columns of a row v that is changed by b.
func (t *rowNormTask) exact(v, b, a []float32) (sum float64) {
	var delta [panel]float64
	for i, b := range b {
		for j, a := range a[i*panel:][:panel] {
			delta[j] += float64(b) * float64(a)
		}
	}
	for j, v := range v {
		x := float64(v) + float64(t.scale)*delta[j]
		sum += x * x
	}
	return sum
}
