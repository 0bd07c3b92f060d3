package tensor

import (
	"fmt"
	"io"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
)

// The functions below move numbers of buffers, those of parameters for one, outside of
// steps; backend.Backend.Upload says when they may be called. Within a step Context.Read
// and Context.Write do so, in order with its operations.

// uploadElems is how many numbers are converted at once.
const uploadElems = 1 << 14

// Upload copies host numbers to a view of F32 without gaps.
func Upload(b backend.Backend, v backend.View, src []float32) error {
	dense("Upload", &v, len(src))
	raw := make([]byte, 4*min(uploadElems, len(src)))
	for at := 0; at < len(src); at += uploadElems {
		n := min(uploadElems, len(src)-at)
		block.Encode(backend.F32, raw[:4*n], src[at:at+n])
		if err := b.Upload(v.Buf, 4*int64(v.Off+at), raw[:4*n]); err != nil {
			return err
		}
	}
	return nil
}

// Download copies a view of F32 without gaps to the host.
func Download(b backend.Backend, dst []float32, v backend.View) error {
	dense("Download", &v, len(dst))
	raw := make([]byte, 4*min(uploadElems, len(dst)))
	for at := 0; at < len(dst); at += uploadElems {
		n := min(uploadElems, len(dst)-at)
		if err := b.Download(raw[:4*n], v.Buf, 4*int64(v.Off+at)); err != nil {
			return err
		}
		block.Decode(backend.F32, dst[at:at+n], raw[:4*n])
	}
	return nil
}

func dense(op string, v *backend.View, n int) {
	if v.Type != backend.F32 || v.Shape.Elems() != n || !v.IsContiguous() {
		panic(&backend.ShapeError{Op: op, Detail: fmt.Sprintf("%d numbers for a view of %v %v", n, v.Type, v.Shape)})
	}
}

// Reader reads the bytes of a view without gaps, as a file would have them.
func Reader(b backend.Backend, v backend.View) io.ReaderAt {
	if !v.IsContiguous() {
		panic(&backend.ShapeError{Op: "Reader", Detail: "a view of " + v.Shape.String() + " has gaps"})
	}
	return &reader{b, v}
}

type reader struct {
	b backend.Backend
	v backend.View
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	size := int64(r.v.Type.BlockBytes())
	total := size * int64(r.v.Shape.Elems())
	if off < 0 {
		return 0, fmt.Errorf("tensor: read at %d", off)
	}
	n := int(min(int64(len(p)), max(total-off, 0)))
	if n > 0 {
		if err := r.b.Download(p[:n], r.v.Buf, size*int64(r.v.Off)+off); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
