package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

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

	from, rows int // of the output, that the converter's block holds if it is this tensor's
	rowsSum    int // rows that measured has
}

// convertBlock is memory that the tensors of a converter use one after the other.
type convertBlock struct {
	of   *converted        // whose rows buf holds, or nil
	buf  []byte            // of the output
	work []convertWork     // of each goroutine
	sums []quantize.Errors // of each piece
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
	blockBytes   = 1 << 21
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
		if r.v.block.of != r || row < r.from || row >= r.from+r.rows {
			if err := r.fill(row, int(size)); err != nil {
				return done, err
			}
		}
		done += copy(p[done:], r.v.block.buf[off+int64(done)-int64(r.from)*size:])
	}
	return done, nil
}

// WriteTo implements io.WriterTo: blocks go to out as they are converted.
func (r *converted) WriteTo(out io.Writer) (written int64, err error) {
	size, err := r.out.RowBytes(int64(r.t.Cols()))
	for row := 0; row < r.t.Rows() && err == nil; row += r.rows {
		if err = r.fill(row, int(size)); err == nil {
			var n int
			n, err = out.Write(r.v.block.buf)
			written += int64(n)
		}
	}
	return written, err
}

// reader reads all of the tensor, which takes so many bytes. It is an io.WriterTo.
func (r *converted) reader(size int64) io.Reader {
	return struct {
		io.Reader
		io.WriterTo
	}{io.NewSectionReader(r, 0, size), r}
}

// fill converts rows from row on.
func (r *converted) fill(row, size int) error {
	b := &r.v.block
	n := min(max(1, blockBytes/size), r.t.Rows()-row)
	r.from, r.rows = row, n
	b.of, b.buf = nil, slices.Grow(b.buf[:0], n*size)[:n*size]
	if b.work == nil {
		workers := runtime.GOMAXPROCS(0)
		if p := r.v.plan; p != nil && p.workers > 0 {
			workers = p.workers
		}
		b.work = make([]convertWork, workers)
	}
	if r.merge != nil {
		return r.fillMerged(b)
	}
	step := max(1, convertPiece/r.t.Cols())
	pieces := (n + step - 1) / step
	b.sums = slices.Grow(b.sums[:0], pieces)[:pieces]
	err := parallel.Ranges(r.v.ctx, len(b.work), n, step, func(w, from, to int) error {
		return r.piece(&b.work[w], row+from, to-from, b.buf[from*size:to*size], &b.sums[from/step])
	})
	if err != nil {
		return err
	}
	b.of = r
	if r.measured != nil && row == r.rowsSum { // else they are read again
		for _, s := range b.sums { // in order, whoever did which piece
			r.measured.Add(s)
		}
		r.rowsSum += n
	}
	return nil
}

// read reads n rows from row on.
func (r *converted) read(w *convertWork, row, n int) error {
	in := r.t.RowBytes()
	w.raw = slices.Grow(w.raw[:0], n*in)[:n*in]
	read := r.t.Read
	if r.order != nil {
		read = permutedRows(read, in, r.order)
	}
	if err := read(w.raw, row, n); err != nil {
		return &FileError{File: r.t.File, Tensor: r.t.Name, Reason: "cannot be read", Err: err}
	}
	r.v.progress.Add(int64(n * in))
	return nil
}

// decode decodes the n rows that were read.
func (r *converted) decode(w *convertWork, n int) {
	size := n * r.t.Cols()
	w.values = slices.Grow(w.values[:0], size)[:size]
	block.DecodeRows(r.t.Type, w.values, w.raw, r.t.Cols())
}

// piece converts n rows from row on to dst.
func (r *converted) piece(w *convertWork, row, n int, dst []byte, sum *quantize.Errors) error {
	if err := r.read(w, row, n); err != nil {
		return err
	}
	if r.measured == nil && r.out == r.t.Type {
		copy(dst, w.raw)
		return nil
	}
	r.decode(w, n)
	if r.measured != nil {
		return r.quantize(w, row, n, dst, sum)
	}
	block.Encode(r.out, dst, w.values)
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
	w.decoded = slices.Grow(w.decoded[:0], cols)[:cols]
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
func (r *converted) fillMerged(b *convertBlock) error {
	w := &b.work[0]
	if err := r.read(w, r.from, r.rows); err != nil {
		return err
	}
	r.decode(w, r.rows)
	err := r.merge.apply(r.v.ctx, w.values, func(i int) int {
		if r.order != nil {
			return r.order(r.from + i)
		}
		return r.from + i
	})
	if err != nil {
		return err
	}
	block.Encode(r.out, b.buf, w.values)
	b.of = r
	if r.from < r.merge.rows {
		return nil // read again
	}
	block.Decode(r.out, w.values, b.buf)
	if err := r.merge.compare(w.values, r.out); err != nil {
		return err
	}
	if r.merge.rows == r.t.Rows() {
		r.v.report.Merged = append(r.v.report.Merged, r.merge.result())
		r.merge.free()
	}
	return nil
}
