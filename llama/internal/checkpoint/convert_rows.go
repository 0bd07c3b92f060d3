package checkpoint

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/ctxerr"
)

// converted reads a tensor in another type and row order, block by block. It
// serves one goroutine.
type converted struct {
	v     *converter
	t     *Tensor
	out   backend.DType
	order func(int) int // row of t that row i of the output is, or nil
	merge *merge        // or nil

	raw    []byte
	values []float32
	buf    []byte // rows [from, from+rows) of the output
	from   int
	rows   int
}

// convertBlock is about how many bytes are converted at once.
const convertBlock = 1 << 18

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
	if err := ctxerr.Of(r.v.ctx); err != nil {
		return err
	}
	n := min(max(1, convertBlock/size), r.t.Rows()-row)
	in := r.t.RowBytes()
	r.raw = grow(r.raw, n*in)
	read := r.t.Read
	if r.order != nil {
		read = permutedRows(read, in, r.order)
	}
	if err := read(r.raw, row, n); err != nil {
		return &FileError{File: r.t.File, Tensor: r.t.Name, Reason: "cannot be read", Err: err}
	}
	r.v.progress.Add(int64(n * in))
	r.from, r.rows = row, n
	if r.out == r.t.Type && r.merge == nil {
		r.buf = append(r.buf[:0], r.raw...)
		return nil
	}
	r.values, r.buf = grow(r.values, n*r.t.Cols()), grow(r.buf, n*size)
	block.DecodeRows(r.t.Type, r.values, r.raw, r.t.Cols())
	if r.merge == nil {
		block.Encode(r.out, r.buf, r.values)
		return nil
	}
	return r.fillMerged()
}

// fillMerged encodes the rows in values with adapters merged into them.
func (r *converted) fillMerged() error {
	err := r.merge.apply(r.v.ctx, r.values, func(i int) int {
		if r.order != nil {
			return r.order(r.from + i)
		}
		return r.from + i
	})
	if err != nil {
		return err
	}
	block.Encode(r.out, r.buf, r.values)
	if r.from < r.merge.rows {
		return nil // read again
	}
	block.Decode(r.out, r.values, r.buf)
	if err := r.merge.compare(r.values, r.out); err != nil {
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
