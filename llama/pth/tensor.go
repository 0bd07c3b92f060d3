package pth

import (
	"fmt"
	"io"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
)

// gatherBytes is the largest span read at once where the elements of a row do
// not lie side by side.
const gatherBytes = 1 << 16

// Tensor is one tensor of a file. It may be read by several goroutines at once.
type Tensor struct {
	Name     string
	Type     backend.DType // Invalid for a type that no operation takes; see TypeName
	TypeName string        // "F32"; torch's name where Type is Invalid: "Long", "Double"
	Shape    []int         // row-major, as torch prints it; empty for a scalar
	Bytes    int64         // size of the data in row-major order

	file  *vfs.File
	view  *view
	start int64 // of the first element in file, bytes

	// The view with its dimensions merged where they are contiguous: runs of
	// runBytes, laid out by dims. A run's elements are step elements apart.
	dims     []dim
	runBytes int64
	step     int64
}

// dim is an outer dimension: count runs or groups of runs, stride bytes apart.
type dim struct{ count, stride int64 }

// Storage returns the key of the tensor's storage in the archive and where the
// tensor starts there, in elements.
func (t *Tensor) Storage() (key string, offset int64) { return t.view.storage.key, t.view.offset }

// SameData reports whether t and o are two names for the same elements of one
// file, as tied weights are.
func (t *Tensor) SameData(o *Tensor) bool {
	a, b := t.view, o.view
	return t.file == o.file && a.storage.key == b.storage.key && a.offset == b.offset &&
		slices.Equal(a.shape, b.shape) && slices.Equal(a.strides, b.strides)
}

// setRuns merges dimensions from the last to the first: a dimension whose
// stride is the extent of the ones after it continues them.
func (t *Tensor) setRuns() {
	size := t.view.storage.kind.size
	count, step := int64(1), int64(1) // of the run
	for i := len(t.view.shape) - 1; i >= 0; i-- {
		d, stride := t.view.shape[i], t.view.strides[i]
		switch {
		case d == 1:
		case count == 1 && len(t.dims) == 0:
			count, step = d, stride
		case len(t.dims) == 0 && stride == count*step:
			count *= d
		default:
			t.dims = append(t.dims, dim{d, stride * size}) // innermost first
		}
	}
	t.runBytes, t.step = count*size, step
}

// ReadAt reads len(p) of the tensor's bytes from off on: elements in row-major
// order, little-endian, whatever the order in the file. As io.ReaderAt says,
// fewer come with io.EOF at the tensor's end. A tensor of a type that is
// Invalid here cannot be read. Each contiguous run of elements is one read of
// the file; a view without any (a transposed matrix) reads small spans.
func (t *Tensor) ReadAt(p []byte, off int64) (n int, err error) {
	switch {
	case t.Type == backend.Invalid:
		return 0, &Error{t.file.Name, t.Name, "type " + t.TypeName + " is not supported", nil}
	case off < 0:
		return 0, &Error{t.file.Name, t.Name, fmt.Sprintf("read at offset %d", off), nil}
	case off >= t.Bytes:
		return 0, io.EOF
	}
	var end error
	if left := t.Bytes - off; int64(len(p)) > left {
		p, end = p[:left], io.EOF
	}
	var scratch []byte
	for n < len(p) {
		run, within := off/t.runBytes, off%t.runBytes
		at := t.start
		for _, d := range t.dims {
			at += run % d.count * d.stride
			run /= d.count
		}
		part := p[n:]
		if left := t.runBytes - within; int64(len(part)) > left {
			part = part[:left]
		}
		var got int
		if t.step == 1 {
			got, err = t.read(part, at+within)
		} else {
			if scratch == nil {
				scratch = make([]byte, gatherBytes)
			}
			got, err = t.gather(part, at, within, scratch)
		}
		n += got
		off += int64(got)
		if err != nil {
			return n, err
		}
	}
	return n, end
}

// read reads bytes of the file.
func (t *Tensor) read(p []byte, at int64) (int, error) {
	n, err := vfs.ReadFull(t.file, p, at)
	if err != nil {
		return n, &Error{t.file.Name, t.Name, fmt.Sprintf("reading %d bytes at %d", len(p), at), err}
	}
	return n, nil
}

// gather reads len(p) bytes, from byte within on, of the run that starts at
// byte at of the file and whose elements are apart.
func (t *Tensor) gather(p []byte, at, within int64, scratch []byte) (n int, err error) {
	size := t.view.storage.kind.size
	stride := t.step * size // bytes; below the file's size, as checked at opening
	most := max(1, (gatherBytes-size)/max(1, stride)+1)
	for n < len(p) {
		elem, skip := within/size, within%size
		count := min(most, (skip+int64(len(p)-n)+size-1)/size)
		span := scratch[:(count-1)*stride+size]
		if _, err := t.read(span, at+elem*stride); err != nil {
			return n, err
		}
		for ; count > 0; count-- {
			c := copy(p[n:], span[skip:size])
			n, within, skip = n+c, within+int64(c), 0
			span = span[min(int64(len(span)), stride):]
		}
	}
	return n, nil
}
