package checkpoint

import (
	"context"
	"encoding/json"
	"io"
	"runtime"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/internal/vfs"
)

// Tensor is a tensor of a checkpoint.
type Tensor struct {
	File string // for messages
	Name string // in the file
	Type backend.DType
	// TypeName is the file's name of a type that is Invalid here.
	TypeName string
	Shape    []int // [n] or [rows, cols]
	// Read fills dst with rows [row, row+n) in the type's encoding; a vector has
	// rows of one element. Safe for concurrent use.
	Read func(dst []byte, row, n int) error
}

// Rows is the number of rows; a vector has rows of one element, a scalar is one.
func (t *Tensor) Rows() int {
	if len(t.Shape) == 0 {
		return 1
	}
	return t.Shape[0]
}

// Cols is the number of elements of a row.
func (t *Tensor) Cols() int {
	if len(t.Shape) < 2 {
		return 1
	}
	return t.Shape[1]
}

// RowBytes is the size of a row; the file's reader has checked that it exists.
func (t *Tensor) RowBytes() int {
	n, err := t.Type.RowBytes(int64(t.Cols()))
	if err != nil {
		return 0
	}
	return int(n)
}

// PlainRows reads rows that lie in the order wanted.
func PlainRows(r io.ReaderAt, rowBytes int) func([]byte, int, int) error {
	return func(dst []byte, row, n int) error {
		_, err := vfs.ReadFull(r, dst[:n*rowBytes], int64(row)*int64(rowBytes))
		return err
	}
}

// permutedRows reads row order(i) for row i.
func permutedRows(read func([]byte, int, int) error, rowBytes int, order func(int) int) func([]byte, int, int) error {
	return func(dst []byte, row, n int) error {
		for i := range n {
			if err := read(dst[i*rowBytes:(i+1)*rowBytes], order(row+i), 1); err != nil {
				return err
			}
		}
		return nil
	}
}

// Decode reads a whole tensor as F32.
func (t *Tensor) Decode() ([]float32, error) {
	raw := make([]byte, t.Rows()*t.RowBytes())
	if err := t.Read(raw, 0, t.Rows()); err != nil {
		return nil, &FileError{File: t.File, Tensor: t.Name, Reason: "cannot be read", Err: err}
	}
	values := make([]float32, t.Rows()*t.Cols())
	block.DecodeRows(t.Type, values, raw, t.Cols())
	return values, nil
}

// DecodeTo writes the numbers of a tensor to a buffer as F32, in parallel.
func (t *Tensor) DecodeTo(ctx context.Context, b backend.Backend, buf backend.Buffer, progress func(int64)) error {
	const some = 1 << 18 // bytes read at once
	step := max(1, some/max(t.RowBytes(), 1))
	type rows struct {
		raw, out []byte
		values   []float32
	}
	memory := make([]rows, runtime.GOMAXPROCS(0))
	return parallel.Ranges(ctx, len(memory), t.Rows(), step, func(w, from, to int) error {
		m, n := &memory[w], to-from
		if m.raw == nil {
			*m = rows{make([]byte, step*t.RowBytes()), make([]byte, 4*step*t.Cols()), make([]float32, step*t.Cols())}
		}
		raw, out, values := m.raw[:n*t.RowBytes()], m.out[:4*n*t.Cols()], m.values[:n*t.Cols()]
		if err := t.Read(raw, from, n); err != nil {
			return &FileError{File: t.File, Tensor: t.Name, Reason: "cannot be read", Err: err}
		}
		block.DecodeRows(t.Type, values, raw, t.Cols())
		block.Encode(backend.F32, out, values)
		if err := b.Upload(buf, 4*int64(from)*int64(t.Cols()), out); err != nil {
			return err
		}
		progress(int64(len(raw)))
		return nil
	})
}

// TensorInfo describes a tensor of a model's files.
type TensorInfo struct {
	Name  string        `json:"name"`  // in the file
	Type  backend.DType `json:"-"`     // of the file
	Shape []int         `json:"shape"` // row-major, rows first
	Bytes int64         `json:"bytes"`
}

// MarshalJSON adds the type's name to the fields.
func (t TensorInfo) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		Shape []int  `json:"shape"`
		Bytes int64  `json:"bytes"`
	}{t.Name, t.Type.String(), t.Shape, t.Bytes})
}
