package vfs

import (
	"bytes"
	"errors"
	"io"
)

// ErrDamaged is in the chain of errors that say that the bytes of a file are not what its
// format wants: it was cut off, damaged on its way, or is of another kind. Of whole files
// that cannot be used errors do not have it.
var ErrDamaged = errors.New("damaged")

// Damage makes err, which may be nil, an ErrDamaged. The text stays, but that of
// io.ErrUnexpectedEOF: the reasons beside it say that better.
func Damage(err error) error { return damage{err} }

type damage struct{ cause error }

func (d damage) Error() string {
	if d.cause == nil || d.cause == io.ErrUnexpectedEOF {
		return ""
	}
	return d.cause.Error()
}

func (d damage) Is(target error) bool { return target == ErrDamaged }
func (d damage) Unwrap() error        { return d.cause }

// Kind says what a file is by its first bytes, where it is one that is often found in the
// place of a model, and what to do then; "" where it is not.
func (f *File) Kind() string {
	const (
		page    = "a page of HTML: fetch the file itself"
		unpack  = ": unpack it"
		another = ": name another file"
	)
	head := make([]byte, 64)
	n, _ := f.ReadAt(head, 0) // of a file that cannot be read, nothing is known
	head = bytes.TrimSpace(head[:n])
	for _, k := range []struct{ begin, kind string }{
		{"version https://git-lfs", "a pointer of Git LFS, not the file itself ('git lfs pull' fetches that)"},
		{"<!DOCTYPE", page}, {"<!doctype", page}, {"<html", page}, {"GGUF", "a GGUF file"}, {"{\"", "JSON" + another}, {"{\n", "JSON" + another},
		{"PK\x03\x04", "a zip archive" + unpack}, {"\x1f\x8b", "packed with gzip" + unpack}, {"\x28\xb5\x2f\xfd", "packed with zstd" + unpack},
		{"\xfd7zXZ", "packed with xz" + unpack}, {"BZh", "packed with bzip2" + unpack},
		{"\x89PNG", "a picture" + another}, {"\xff\xd8\xff", "a picture" + another}, {"%PDF", "a PDF document" + another},
	} {
		if bytes.HasPrefix(head, []byte(k.begin)) {
			return k.kind
		}
	}
	return ""
}
