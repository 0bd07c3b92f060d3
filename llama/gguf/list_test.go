package gguf

import (
	"errors"
	"slices"
	"testing"
)

// TestStringList: a list yields what Strings returns, and refuses the same keys.
func TestStringList(t *testing.T) {
	const key = "tokenizer.ggml.tokens"
	for _, path := range goldenFiles(t) {
		f := mustOpen(t, path)
		for _, key := range f.Keys() {
			want, wantErr := f.Strings(key)
			l, err := f.StringList(key)
			if wantErr != nil {
				if err == nil || err.Error() != wantErr.Error() {
					t.Errorf("%s, %s: %v, want %v", path, key, err, wantErr)
				}
				continue
			}
			var got []string
			for i, s := range l.All() {
				if i != len(got) {
					t.Fatalf("%s, %s: string %d has the place %d", path, key, len(got), i)
				}
				got = append(got, s)
			}
			made := ListOf(want)
			if err != nil || !slices.Equal(got, want) || l.Len() != len(want) || l.Bytes() != made.Bytes() {
				t.Errorf("%s, %s: %d strings of %d bytes, %v, want %d of %d", path, key, l.Len(), l.Bytes(), err, len(want), made.Bytes())
			}
			for i, s := range made.All() {
				if s != want[i] {
					t.Errorf("%s, %s: string %d is %q, want %q", path, key, i, s, want[i])
				}
				break // All may be left
			}
		}
		bare := f.WithoutMetadata()
		if _, err := bare.StringList(key); !errors.Is(err, ErrNoKey) || len(bare.Keys()) > 0 {
			t.Errorf("%s: without metadata %v, %d keys", path, err, len(bare.Keys()))
		}
		for _, x := range f.Tensors()[:min(1, len(f.Tensors()))] {
			if !slices.Equal(readAll(t, bare.Tensor(x.Name)), readAll(t, x)) {
				t.Errorf("%s: tensor %s differs without metadata", path, x.Name)
			}
		}
	}
}
