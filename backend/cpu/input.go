package cpu

import (
	"unsafe"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// input is the rows of a MatMul in blocks of columns [k/cols][rows][stride], each
// block without gaps: what a panel is multiplied with then lies together. cols is k
// where there is one block.
type input[T number] struct {
	s            []T
	cols, stride int
	rows         int // of a block
	n            int // rows from s on
}

// newInput takes room for rows of k columns, in blocks of at most cols, whole groups,
// where there are enough rows for that to matter. Rows are a cache line longer, since
// those a power of two apart compete for the same lines of the first-level cache. An
// odd k is made even by zeros, as pairs want it.
func newInput[T number](a *arena, rows, k, cols, group int) input[T] {
	in := inputOf[T](rows, k, cols, group)
	in.s = slice[T](a, in.elems(k))
	return in
}

// inputOf is newInput without room.
func inputOf[T number](rows, k, cols, group int) input[T] {
	var one T
	in := input[T]{cols: k + k%2, rows: rows, n: rows}
	if rows >= kernel.MaxRows { // blocks of about the same size, whole groups of codes
		n := (k + cols - 1) / cols
		in.cols = min(in.cols, ((k+n-1)/n+group-1)/group*group)
	}
	in.stride = in.cols + 64/int(unsafe.Sizeof(one))
	return in
}

// elems is the room of k columns, in numbers.
func (in *input[T]) elems(k int) int { return in.blocks(k) * in.rows * in.stride }

// at is row r from column col on, which reaches to the end of its block.
func (in *input[T]) at(r, col int) []T {
	return in.s[(col/in.cols*in.rows+r)*in.stride+col%in.cols:]
}

// part is n rows from a row on.
func (in input[T]) part(from, n int) input[T] {
	if len(in.s) > 0 {
		in.s, in.n = in.s[from*in.stride:], n
	}
	return in
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
		case t.round == backend.RoundToBF16, t.round == backend.RoundBothBF16:
			t.bf16(w, r, x)
		case t.round == backend.RoundToE4M3:
			codes, y := slice[uint8](&w.scratch, m.k), slice[float32](&w.scratch, m.k)
			d := block.RoundE4M3(codes, x, backend.E4M3Bound)
			for i, c := range codes {
				y[i] = block.E4M3ToF32(c) * d
			}
			m.x.set(r, y)
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
