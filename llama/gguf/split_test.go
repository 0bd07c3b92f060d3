package gguf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
)

// part describes one file of a split set for a test.
type part struct {
	no, count, total int
	tensors          []string // each is one F32 row of its number in the set
	arch             string
	keyless          bool // no split.* keys
}

func (p part) bytes(t *testing.T) []byte {
	t.Helper()
	var w Writer
	set := func(key string, x any) {
		if err := w.Set(key, x); err != nil {
			t.Fatal(err)
		}
	}
	if p.arch != "" {
		set("general.architecture", p.arch)
	}
	if !p.keyless {
		set("split.no", uint16(p.no))
		set("split.count", uint16(p.count))
		set("split.tensors.count", int32(p.total))
	}
	for _, name := range p.tensors {
		if err := w.Add(name, backend.I8, []int{len(name)}, strings.NewReader(name)); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if _, err := w.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestSplitSet(t *testing.T) {
	parts := []part{
		{0, 3, 4, []string{"aa", "b"}, "llama", false},
		{1, 3, 4, []string{"cccc"}, "llama", false},
		{2, 3, 4, []string{"ddd"}, "", false},
	}
	dir := t.TempDir()
	for i, p := range parts {
		name := filepath.Join(dir, fmt.Sprintf("m-%05d-of-00003.gguf", i+1))
		if err := os.WriteFile(name, p.bytes(t), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first := filepath.Join(dir, "m-00001-of-00003.gguf")
	f, err := Open(first)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range f.Tensors() {
		names = append(names, x.Name)
		if got := string(readAll(t, f.Tensor(x.Name))); got != x.Name {
			t.Errorf("tensor %s holds %q", x.Name, got)
		}
	}
	if got := strings.Join(names, " "); got != "aa b cccc ddd" {
		t.Errorf("the tensors are %s", got)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := f.Tensor("ddd").ReadAt(make([]byte, 3), 0); err == nil {
		t.Error("the last part can be read after Close")
	}
	_, err = Open(filepath.Join(dir, "m-00002-of-00003.gguf"))
	wantError(t, err, "part 2 of 3", "open the first", first)
	_, err = Open(filepath.Join(dir, "x.gguf"))
	wantError(t, err, filepath.Join(dir, "x.gguf"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a path that is not there gives %v", err)
	}
}

// 23: split sets with missing, repeated, mixed or misnamed parts.
func TestBadSplitSets(t *testing.T) {
	const p1, p2 = "d/m-00001-of-00002.gguf", "d/m-00002-of-00002.gguf"
	good1 := part{0, 2, 2, []string{"a"}, "llama", false}
	good2 := part{1, 2, 2, []string{"b"}, "llama", false}
	for _, c := range []struct {
		name  string
		open  string
		files map[string]part
		words []string
	}{
		{"missing", p1, map[string]part{p1: good1}, []string{p2, "part 2 of 2 is missing"}},
		{"repeated", p1, map[string]part{p1: good1, p2: good1}, []string{p2, "this is part 1 of 2", "wanted part 2"}},
		{"repeated tensor", p1, map[string]part{p1: good1, p2: {1, 2, 2, []string{"a"}, "", false}}, []string{p2, `"a"`, "earlier part"}},
		{"mixed counts", p1, map[string]part{p1: good1, p2: {1, 3, 2, []string{"b"}, "", false}}, []string{p2, "part 2 of 3"}},
		{"mixed tensor counts", p1, map[string]part{p1: good1, p2: {1, 2, 7, []string{"b"}, "", false}}, []string{p2, "with 7 tensors"}},
		{"mixed architectures", p1, map[string]part{p1: good1, p2: {1, 2, 2, []string{"b"}, "other", false}}, []string{p2, `"other"`, `"llama"`}},
		{"mixed with an ordinary file", p1, map[string]part{p1: good1, p2: {tensors: []string{"b"}, keyless: true}}, []string{p2, "part 1 of 1"}},
		{"too few tensors", p1, map[string]part{p1: {0, 2, 3, []string{"a"}, "", false}, p2: {1, 2, 3, []string{"b"}, "", false}}, []string{p1, "split.tensors.count", "hold 2"}},
		{"not the first, by name", p2, map[string]part{p1: good1, p2: good2}, []string{"part 2 of 2", "open the first", p1}},
		{"not the first, by key", "m.gguf", map[string]part{"m.gguf": good2}, []string{"part 2 of 2", "open the first"}},
		{"not the first under the first's name", p1, map[string]part{p1: good2, p2: good2}, []string{"part 2 of 2"}},
		{"a name that is not a part's", "m.gguf", map[string]part{"m.gguf": good1}, []string{"m.gguf", "-00001-of-00002.gguf"}},
		{"a name with another count", "m-00001-of-00003.gguf", map[string]part{"m-00001-of-00003.gguf": good1}, []string{"name says", "3 parts", "2"}},
		{"a part's name without keys", p1, map[string]part{p1: {tensors: []string{"a"}, keyless: true}}, []string{"name says", "2 parts", "1"}},
		{"count 0", "m.gguf", map[string]part{"m.gguf": {0, 0, 1, []string{"a"}, "", false}}, []string{"split.no"}},
		{"a path out of the folder", "../m-00001-of-00002.gguf", map[string]part{"m-00001-of-00002.gguf": good1}, []string{"../m", "leads out"}},
		{"parts out of the folder", "d/../m-00001-of-00002.gguf", map[string]part{"m-00001-of-00002.gguf": good1}, []string{"leads out"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := fstest.MapFS{}
			for name, p := range c.files {
				fsys[name] = &fstest.MapFile{Data: p.bytes(t)}
			}
			_, err := OpenFS(fsys, c.open)
			wantError(t, err, c.words...)
		})
	}
	t.Run("a folder as a part", func(t *testing.T) {
		fsys := fstest.MapFS{p1: {Data: good1.bytes(t)}, p2: {Mode: fs.ModeDir}}
		_, err := OpenFS(fsys, p1)
		wantError(t, err, p2, "not a regular file")
	})
}

func TestPartNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"m-00001-of-00002.gguf":   true,
		"-00012-of-99999.gguf":    true,
		"m-00001-of-00002.GGUF":   false,
		"m-0001-of-00002.gguf":    false,
		"m-000001-of-000002.gguf": false,
		"m-+0001-of-00002.gguf":   false,
		"m_00001-of-00002.gguf":   false,
		"00001-of-00002.gguf":     false,
		".gguf":                   false,
		"":                        false,
	} {
		stem, no, count, got := parsePartName(name)
		if got != ok || ok && partName(stem, no, count) != name {
			t.Errorf("%q gives %q %d %d %v", name, stem, no, count, got)
		}
	}
}
