package llama

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// full is a disk with room for so many bytes.
type full struct{ left int }

var errFull = errors.New("no space left")

func (f *full) Write(p []byte) (int, error) {
	if len(p) > f.left {
		return f.left, errFull
	}
	f.left -= len(p)
	return len(p), nil
}

// TestSaveFull: whatever part of a session the disk has no room for, saving it fails.
func TestSaveFull(t *testing.T) {
	m := randomModel(t, backend.Q8_0, Options{})
	s := newSession(t, m, SessionOptions{})
	if _, err := s.Logits(t.Context(), randomTokens(1, 70)); err != nil {
		t.Fatal(err)
	}
	write := func(w io.Writer) error { return s.write(t.Context(), w, s.from()) }
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	for _, room := range []int{0, 1, 100, b.Len() / 2, b.Len() - 40, b.Len() - 1} {
		if err := write(&full{room}); !errors.Is(err, errFull) {
			t.Errorf("with room for %d of %d bytes: %v", room, b.Len(), err)
		}
	}
	if err := write(&full{b.Len()}); err != nil {
		t.Error(err)
	}
}

// TestLoadedPages: whole pages have the same bytes after a file as before it, in every type of
// keys and values: codes and scales of Q8_0 too.
func TestLoadedPages(t *testing.T) {
	for _, typ := range []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0} {
		var pages [2][][]byte
		file := filepath.Join(t.TempDir(), "session")
		for i := range pages {
			m := randomModel(t, backend.BF16, Options{KVType: typ})
			s := newSession(t, m, SessionOptions{})
			var err error
			if i == 1 {
				err = s.Load(t.Context(), file)
			} else if _, err = s.Logits(t.Context(), randomTokens(1, 192)); err == nil {
				err = s.Save(t.Context(), file)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range s.pages {
				b := make([]byte, m.b.PageBytes(m.pages.kv))
				if err := m.b.Download(b, p.buf, 0); err != nil {
					t.Fatal(err)
				}
				pages[i] = append(pages[i], b)
			}
		}
		if len(pages[0]) != 3 || !slices.EqualFunc(pages[0], pages[1], bytes.Equal) {
			t.Errorf("%v: %d pages become %d others", typ, len(pages[0]), len(pages[1]))
		}
	}
}

// TestIdentity: sets of adapters have identities of their own, of what the adapters hold and
// not of their places in the model.
func TestIdentity(t *testing.T) {
	m := adaptedModel(t, backend.BF16)
	identity := func(set []int) string {
		t.Helper()
		id, err := m.identity(t.Context(), set)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	seen := map[string]bool{}
	for _, set := range [][]int{{}, {0}, {1}, nil} {
		id := identity(set)
		if seen[id] {
			t.Errorf("set %v has the identity of another", set)
		}
		seen[id] = true
	}
	if identity(nil) != identity([]int{1, 0, 1}) {
		t.Error("all adapters, named, are others than all")
	}
	plain := randomModel(t, backend.BF16, Options{})
	base, err := plain.identity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if base != identity([]int{}) {
		t.Error("a model with adapters that a row does not have is another than the one without")
	}
}
