package vfs

import (
	"bytes"
	"errors"
)

// ErrDamaged is in the chain of errors that say that the bytes of a file are not what its
// format wants: it was cut off, damaged on its way, or is of another kind. Of whole files
// that cannot be used errors do not have it.
var ErrDamaged = errors.New("damaged")

// Damage makes err, which may be nil, an ErrDamaged. The text stays.
func Damage(err error) error { return damage{err} }

type damage struct{ cause error }

func (d damage) Error() string {
	if d.cause == nil {
		return ""
	}
	return d.cause.Error()
}

func (d damage) Is(target error) bool { return target == ErrDamaged }
func (d damage) Unwrap() error        { return d.cause }

// Kind says what a file is by its first bytes, where it is one that is often found in the
// place of a model; "" where it is not.
func (f *File) Kind() string {
	head := make([]byte, 64)
	n, _ := f.ReadAt(head, 0) // of a file that cannot be read, nothing is known
	head = bytes.TrimSpace(head[:n])
	for _, k := range []struct{ begin, kind string }{
		{"version https://git-lfs", "a pointer of Git LFS, not the file itself ('git lfs pull' fetches that)"},
		{"<!DOCTYPE", "a page of HTML"}, {"<!doctype", "a page of HTML"}, {"<html", "a page of HTML"}, {"GGUF", "a GGUF file"},
		{"PK\x03\x04", "a zip archive"}, {"\x1f\x8b", "packed with gzip"}, {"\x28\xb5\x2f\xfd", "packed with zstd"},
		{"{\"", "JSON"}, {"{\n", "JSON"},
	} {
		if bytes.HasPrefix(head, []byte(k.begin)) {
			return k.kind
		}
	}
	return ""
}
