package gguf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
)

// seedBytes bounds what the corpus takes of a file: the header of a small
// model and some of its data.
const seedBytes = 64 << 10

func FuzzOpen(f *testing.F) {
	truncated := false // one model, cut off, is enough
	for _, path := range goldenFiles(f) {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if len(b) <= seedBytes || !truncated {
			f.Add(b[:min(len(b), seedBytes)])
			truncated = truncated || len(b) > seedBytes
		}
	}
	for _, c := range badFiles {
		if len(c.bytes) < seedBytes {
			f.Add([]byte(c.bytes))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := New(bytes.NewReader(b), int64(len(b)), "fuzz.gguf")
		if err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) || e.File != "fuzz.gguf" {
				t.Fatalf("the error is %#v", err)
			}
			return
		}
		walk(t, file)
	})
}

// walk decodes all metadata and reads the first and last byte of each tensor.
func walk(t *testing.T, f *File) {
	for _, key := range f.Keys() {
		v, ok := f.Lookup(key)
		if !ok {
			t.Fatalf("key %q is listed but not there", key)
		}
		again, err := ValueOf(v.Any())
		if err != nil || again.Kind() != v.Kind() || !bytes.Equal(again.raw, v.raw) {
			t.Fatalf("key %q: %v becomes %v (%v)", key, v, again, err)
		}
		_ = fmt.Sprint(v)
	}
	for _, x := range f.Tensors() {
		var p [1]byte
		for _, off := range []int64{0, x.Bytes - 1} {
			if n, err := x.ReadAt(p[:], off); n != 1 || err != nil {
				t.Fatalf("tensor %q, byte %d of %d: %v", x.Name, off, x.Bytes, err)
			}
		}
	}
}
