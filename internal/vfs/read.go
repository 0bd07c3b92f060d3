package vfs

import (
	"io"
	"strings"
)

// ReadFull reads len(p) bytes from byte off on. Fewer come with an error always: of a
// file that has become shorter since it was looked at, io.ErrUnexpectedEOF.
func ReadFull(r io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return n, nil // readers may report io.EOF with the last byte
	case err == nil || err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// ReadString reads n bytes from byte off on: the head of a file, which the caller has
// checked to be as long, and not too long.
func ReadString(r io.ReaderAt, off, n int64) (string, error) {
	var b strings.Builder
	b.Grow(int(n))
	err := Copy(&b, io.NewSectionReader(r, off, n), n, nil)
	return b.String(), err
}

// Copy writes the first n bytes of r to w by way of buf, which may be nil. Where r has
// fewer the error is io.ErrUnexpectedEOF.
func Copy(w io.Writer, r io.ReaderAt, n int64, buf []byte) error {
	got, err := io.CopyBuffer(w, io.NewSectionReader(r, 0, n), buf)
	if err == nil && got < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}
