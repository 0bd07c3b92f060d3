package train

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/corpus"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// rowsOf are JSON lines with the texts of some documents.
func rowsOf(texts ...string) string {
	var b strings.Builder
	for _, s := range texts {
		b.WriteString(`{"text":"` + s + "\"}\n")
	}
	return b.String()
}

// TestMended: where files are mended, grow, are packed or renamed behind what a run has
// had, a position in the old ones leads to the batches that the new ones give.
func TestMended(t *testing.T) {
	first := rowsOf("abc", "defgh", "ijklmn", "op", "qrs", "tuvw", "xyzab", "cd")
	for name, c := range map[string]struct {
		DataConfig
		old, mended map[string]string
	}{
		"bad row":       {DataConfig{Ordered: true}, map[string]string{"a.jsonl": first + "{\"text\":1}\n" + first}, map[string]string{"a.jsonl": first + rowsOf("zzzz") + first}},
		"bad row, left": {DataConfig{Ordered: true}, map[string]string{"a.jsonl": first + "{}\n" + first}, map[string]string{"a.jsonl": first + "{}\n" + first}},
		"shuffled":      {DataConfig{ShuffleBuffer: 3}, map[string]string{"a.jsonl": first + "x\n"}, map[string]string{"a.jsonl": first + first}},
		"later file": {DataConfig{Ordered: true}, map[string]string{"a.jsonl": first, "b.jsonl": "x\n"},
			map[string]string{"a.jsonl": first, "b.jsonl": first, "c.jsonl": first}},
		"renamed": {DataConfig{ShuffleBuffer: 4}, map[string]string{"a.jsonl": first + first}, map[string]string{"b.jsonl": first + first}},
		"packed":  {DataConfig{ShuffleBuffer: 4}, map[string]string{"a.jsonl": first + first}, map[string]string{"a.jsonl.gz": first + first}},
	} {
		t.Run(name, func(t *testing.T) {
			open := func(files map[string]string, skip bool) *Iterator {
				c.Files, c.Epochs, c.SkipEmpty = []string{folder(t, packed(files))}, 2, skip
				d, err := OpenData(c.DataConfig, letters(t, "</s>"))
				if err != nil {
					t.Fatal(err)
				}
				it, err := d.Train(1, 7, 5)
				if err != nil {
					t.Fatal(err)
				}
				return it
			}
			want := collect(t, open(c.mended, true), 1000)
			old := open(c.old, false)
			var had []*Batch
			for len(had) < 9 {
				b, err := old.Next(t.Context())
				var bad *corpus.Error
				if errors.As(err, &bad) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				had = append(had, b)
			}
			if len(had) < 2 || !reflect.DeepEqual(had, want[:len(had)]) {
				t.Fatalf("%d batches of the old files are no test", len(had))
			}
			p := old.Position()
			again := open(c.mended, true)
			if err := again.Restore(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			if got := collect(t, again, 1000); !reflect.DeepEqual(got, slices.Clip(want[len(had):])) {
				t.Errorf("the rest differs from that of a run over the mended files")
			}
			if !reflect.DeepEqual(p, old.Position()) {
				t.Error("the position was changed")
			}
		})
	}
}

// packed packs the contents of files whose names say so.
func packed(files map[string]string) map[string]string {
	out := map[string]string{}
	for name, content := range files {
		if strings.HasSuffix(name, ".gz") {
			var b strings.Builder
			w := gzip.NewWriter(&b)
			io.WriteString(w, content)
			w.Close()
			content = b.String()
		}
		out[name] = content
	}
	return out
}

// TestRestoreNear: where what was given has changed, an iterator goes on as many documents
// into the epoch, in each epoch; edits that leave names and sizes are seen too.
func TestRestoreNear(t *testing.T) {
	dir := folder(t, map[string]string{"a.txt": "ab\ncd\nef\ngh\nij\nkl\n"})
	open := func() *Iterator {
		d, err := OpenData(DataConfig{Files: []string{dir}, Separator: "\n", Ordered: true, Epochs: 2}, letters(t, "</s>"))
		if err != nil {
			t.Fatal(err)
		}
		it, err := d.Train(1, 4, 5) // a document a batch
		if err != nil {
			t.Fatal(err)
		}
		return it
	}
	for _, n := range []int{2, 8} { // of 12
		path := filepath.Join(dir, "a.txt")
		if err := os.WriteFile(path, []byte("ab\ncd\nef\ngh\nij\nkl\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		it := open()
		collect(t, it, n)
		p := it.Position()
		if err := os.WriteFile(path, []byte("xb\ncd\nef\ngh\nij\nkl\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		it = open()
		want := collect(t, open(), 1000)[n:]
		if err := it.Restore(t.Context(), p); !errors.Is(err, ErrInexact) {
			t.Errorf("after %d documents an edit of the first one: %v", n, err)
		}
		if err := it.RestoreNear(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if it.Tokens() != int64(4*n) {
			t.Errorf("%d tokens, want %d", it.Tokens(), 4*n)
		}
		if got := collect(t, it, 1000); !reflect.DeepEqual(got, slices.Clip(want)) {
			t.Errorf("after %d documents: %d batches, want %d, or they differ", n, len(got), len(want))
		}
	}
}

// TestSpecial: names of control tokens stay text and are counted, or become the tokens,
// and no document gets a second BOS or EOS.
func TestSpecial(t *testing.T) {
	const text = "ab<|end_of_text|>c<s>\n<s>de</s>\nfg<|end_of\nhi\n"
	for special, want := range map[string]struct {
		ids [][]int32
		Spelled
	}{
		"always": {[][]int32{{0, 2, 3, 30, 4, 0, 1}, {0, 5, 6, 1}}, Spelled{}},
		"never":  {nil, Spelled{Tokens: 4, Documents: 2, First: "<|end_of_text|>"}},
	} {
		d := open(t, text, DataConfig{Special: special, Ordered: true, Epochs: 1})
		it, err := d.Train(1, 100, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer it.Close()
		b, err := it.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		at := 0
		for i, ids := range want.ids {
			if got := b.IDs[at : at+b.Docs[i]]; !slices.Equal(got, ids) {
				t.Errorf("%s: document %d is %v, want %v", special, i, got, ids)
			}
			at += b.Docs[i]
		}
		if special == "never" && slices.Contains(b.IDs[:b.Docs[0]], 30) {
			t.Error("a control token came of text")
		}
		if it.Spelled() != want.Spelled {
			t.Errorf("%s: %+v, want %+v", special, it.Spelled(), want.Spelled)
		}
	}
}

// TestControls finds names that overlap, that are not ASCII, and none in parts.
func TestControls(t *testing.T) {
	v := tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a", "<|x", "<|x|>", "\u8a9e", "[y]"}, Types: []int32{1, 3, 3, 3, 3}}
	tok, err := tokenizer.FromVocab(v)
	if err != nil {
		t.Fatal(err)
	}
	c := newControls(tok)
	for text, want := range map[string]int{"": 0, "a<|y|>[y": 0, "<|x|>": 1, "<|x<|x|>a": 2, "\u65e5\u672c\u8a9e": 1, "[y][y]\u8a9e<|x": 4, "<<[[y]": 1} {
		if n, first := c.count(text); n != want || n > 0 && !strings.Contains(text, first) {
			t.Errorf("%q has %d, first %q, want %d", text, n, first, want)
		}
	}
}
