package checkpoint

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/llama/quantize"
)

// converted reads a tensor in another type and row order, block by block, on several
// goroutines. It serves one caller.
type converted struct {
	v     *converter
	t     *Tensor
	out   backend.DType
	order func(int) int // row of t that row i of the output is, or nil
	merge *merge        // or nil

	// measured sums up errors, and then refuses numbers that are not finite; nil does
	// neither.
	measured   *quantize.Errors
	importance []float32 // of the columns, or nil

	buf     []byte // rows [from, from+rows) of the output
	from    int
	rows    int
	work    []convertWork     // of each goroutine
	sums    []quantize.Errors // of each piece of a block
	rowsSum int               // rows that measured has
}

// convertWork is one goroutine's memory.
type convertWork struct {
	raw             []byte
	values, decoded []float32
	encoder         *block.Encoder
}

// About how many bytes are converted before they are handed on, and how many numbers a
// goroutine converts at once.
const (
	convertBlock = 1 << 21
	convertPiece = 1 << 16
)

// ReadAt implements io.ReaderAt.
func (r *converted) ReadAt(p []byte, off int64) (int, error) {
	size, err := r.out.RowBytes(int64(r.t.Cols()))
	if err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		row := int((off + int64(done)) / size)
		if row >= r.t.Rows() {
			return done, fmt.Errorf("llama: read beyond tensor %s", r.t.Name)
		}
		if row < r.from || row >= r.from+r.rows {
			if err := r.fill(row, int(size)); err != nil {
				return done, err
			}
		}
		done += copy(p[done:], r.buf[off+int64(done)-int64(r.from)*size:])
	}
	return done, nil
}

// fill converts rows from row on.
func (r *converted) fill(row, size int) error {
	n := min(max(1, convertBlock/size), r.t.Rows()-row)
	r.from, r.rows, r.buf = row, n, grow(r.buf, n*size)
	if r.work == nil {
		workers := runtime.GOMAXPROCS(0)
		if p := r.v.plan; p != nil && p.workers > 0 {
			workers = p.workers
		}
		r.work = make([]convertWork, workers)
	}
	if r.merge != nil {
		return r.fillMerged()
	}
	step := max(1, convertPiece/r.t.Cols())
	r.sums = grow(r.sums, (n+step-1)/step)
	err := parallel.Ranges(r.v.ctx, len(r.work), n, step, func(w, from, to int) error {
		return r.piece(&r.work[w], row+from, to-from, r.buf[from*size:to*size], &r.sums[from/step])
	})
	if err != nil {
		r.rows = 0
		return err
	}
	if r.measured != nil && row == r.rowsSum { // else they are read again
		for _, s := range r.sums { // in order, whoever did which piece
			r.measured.Add(s)
		}
		r.rowsSum += n
	}
	return nil
}

// read decodes rows from row on, as many as w.values holds.
func (r *converted) read(w *convertWork, row, n int) error {
	in := r.t.RowBytes()
	w.raw = grow(w.raw, n*in)
	read := r.t.Read
	if r.order != nil {
		read = permutedRows(read, in, r.order)
	}
	if err := read(w.raw, row, n); err != nil {
		return &FileError{File: r.t.File, Tensor: r.t.Name, Reason: "cannot be read", Err: err}
	}
	r.v.progress.Add(int64(n * in))
	w.values = grow(w.values, n*r.t.Cols())
	block.DecodeRows(r.t.Type, w.values, w.raw, r.t.Cols())
	return nil
}

// piece converts n rows from row on to dst.
func (r *converted) piece(w *convertWork, row, n int, dst []byte, sum *quantize.Errors) error {
	if err := r.read(w, row, n); err != nil {
		return err
	}
	switch same := r.out == r.t.Type; {
	case r.measured != nil:
		return r.quantize(w, row, n, dst, sum)
	case same:
		copy(dst, w.raw)
	default:
		block.Encode(r.out, dst, w.values)
	}
	return nil
}

// quantize converts n rows from row on, which w has, to dst, and sums up the errors.
func (r *converted) quantize(w *convertWork, row, n int, dst []byte, sum *quantize.Errors) error {
	*sum = quantize.Errors{}
	if r.t.Cols() == 1 { // a vector is one row
		n = 1
	}
	cols, size := len(w.values)/n, len(dst)/n
	fail := func(i int, err error) error {
		return &FileError{File: r.t.File, Tensor: r.t.Name, Reason: fmt.Sprintf("row %d", row+i), Err: err}
	}
	w.decoded = grow(w.decoded, cols)
	if w.encoder == nil {
		w.encoder = cpu.NewEncoder()
	}
	for i := range n {
		x, codes := w.values[i*cols:][:cols], dst[i*size:][:size]
		if r.out == r.t.Type && !r.out.Float() {
			copy(codes, w.raw[i*size:][:size])
		} else if err := w.encoder.Row(r.out, codes, x, r.importance); err != nil {
			return fail(i, err)
		}
		block.DecodeRows(r.out, w.decoded, codes, cols)
		sum.Row(x, w.decoded, r.importance)
		if !sum.Finite() {
			return fail(i, errors.New("it has numbers that are not finite"))
		}
	}
	return nil
}

// fillMerged converts the rows of the block with adapters merged into them.
func (r *converted) fillMerged() error {
	w := &r.work[0]
	if err := r.read(w, r.from, r.rows); err != nil {
		r.rows = 0
		return err
	}
	err := r.merge.apply(r.v.ctx, w.values, func(i int) int {
		if r.order != nil {
			return r.order(r.from + i)
		}
		return r.from + i
	})
	if err != nil {
		r.rows = 0
		return err
	}
	block.Encode(r.out, r.buf, w.values)
	if r.from < r.merge.rows {
		return nil // read again
	}
	block.Decode(r.out, w.values, r.buf)
	if err := r.merge.compare(w.values, r.out); err != nil {
		return err
	}
	if r.merge.rows == r.t.Rows() {
		r.v.report.Merged = append(r.v.report.Merged, r.merge.result())
		r.merge.free()
	}
	return nil
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
