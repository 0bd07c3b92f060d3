package gguf

import (
	"io"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
)

// Tensor describes one tensor of an open file and reads its data. The fields
// are the caller's to read, not to change.
type Tensor struct {
	Name  string
	Type  backend.DType
	Shape []int // row-major as in torch, rows first; the file has the reverse order
	Bytes int64 // of data: whole blocks of Type, rows without padding

	src *vfs.File
	off int64 // of the first byte, in src
}

// ReadAt reads the tensor's bytes, little-endian and as the file stores them,
// from byte off. As io.ReaderAt demands, it returns io.EOF where p reaches past
// the last byte. A file that ends early or cannot be read gives an *Error. Any
// number of goroutines may call it at once.
func (t *Tensor) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > t.Bytes {
		return 0, &Error{File: t.src.Name, Tensor: t.Name, Reason: "read outside the tensor's data"}
	}
	var end error
	if int64(len(p)) > t.Bytes-off {
		p, end = p[:t.Bytes-off], io.EOF
	}
	if len(p) == 0 {
		return 0, end
	}
	n, err := vfs.ReadFull(t.src, p, t.off+off)
	if err != nil {
		return n, &Error{File: t.src.Name, Tensor: t.Name, Reason: "its data cannot be read", Err: err}
	}
	return n, end
}

// Reader returns the tensor's bytes from first to last.
func (t *Tensor) Reader() io.Reader { return io.NewSectionReader(t, 0, t.Bytes) }
