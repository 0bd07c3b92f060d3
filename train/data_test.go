package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/llama/tokenizer"
)

// letters is a tokenizer of letters: a is 2, b is 3, ...; 0 is BOS, which it
// adds, and 1 is EOS.
func letters(t testing.TB, name string) *tokenizer.Tokenizer {
	t.Helper()
	v := tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"<s>", name}, Types: []int32{3, 3}}
	for c := 'a'; c <= 'z'; c++ {
		v.Tokens, v.Types = append(v.Tokens, string(c)), append(v.Types, 1)
	}
	v.Tokens, v.Types = append(v.Tokens, "Ġ", "Ċ", "<|end_of_text|>"), append(v.Types, 1, 1, 3)
	bos, eos, yes := int32(0), int32(1), true
	v.BOS, v.EOS, v.AddBOS = &bos, &eos, &yes
	tok, err := tokenizer.FromVocab(v)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// folder makes files and returns their folder.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// open opens data of one text file, a document a line.
func open(t testing.TB, content string, c DataConfig) *Data {
	t.Helper()
	c.Files, c.Separator = []string{folder(t, map[string]string{"a.txt": content})}, "\n"
	d, err := OpenData(c, letters(t, "</s>"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// collect reads batches until the end or n of them.
func collect(t testing.TB, it *Iterator, n int) (all []*Batch) {
	t.Helper()
	for len(all) < n {
		b, err := it.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

func TestPack(t *testing.T) {
	const none = NoTarget
	ordered := DataConfig{Ordered: true, Epochs: 1}
	whole, bare := ordered, ordered
	whole.WholeDocuments = true
	bare.BOS, bare.EOS = "never", "never"
	twice := bare
	twice.Epochs = 2
	for _, c := range []struct {
		name         string
		config       DataConfig
		content      string
		rows, seqLen int
		want         []Batch
	}{
		{"documents stand one after the other, and the rest is padding", ordered, "ab\nc", 1, 8, []Batch{{
			IDs:     []int32{0, 2, 3, 1, 0, 4, 1, 1},          // <s> a b </s>, <s> c </s>, padding
			Targets: []int32{2, 3, 1, none, 4, 1, none, none}, // each the next of its document
			Docs:    []int{4, 3, 1},
			Tokens:  5,
		}}},
		{"a document is cut at the end of a sequence, and its next token is still a target", ordered, "abcd\ne", 2, 4, []Batch{{
			IDs:     []int32{0, 2, 3, 4, 5, 1, 0, 6},    // <s> a b c | d </s>, <s> e
			Targets: []int32{2, 3, 4, 5, 1, none, 6, 1}, // d is predicted from "abc", </s> from "e" alone
			Docs:    []int{4, 2, 2},                     // d </s> sees nothing of "abc"
			Tokens:  7,
		}}},
		{"a document longer than a batch", bare, "abcdefgh", 1, 3, []Batch{
			{IDs: []int32{2, 3, 4}, Targets: []int32{3, 4, 5}, Docs: []int{3}, Tokens: 3},          // a b c
			{IDs: []int32{5, 6, 7}, Targets: []int32{6, 7, 8}, Docs: []int{3}, Tokens: 3},          // d e f
			{IDs: []int32{8, 9, 0}, Targets: []int32{9, none, none}, Docs: []int{2, 1}, Tokens: 1}, // g h, padding
		}},
		{"whole documents start the next sequence", whole, "ab\nc\nd", 1, 6, []Batch{{
			IDs:     []int32{0, 2, 3, 1, 1, 1}, // <s> a b </s>, padding: <s> c </s> does not fit
			Targets: []int32{2, 3, 1, none, none, none},
			Docs:    []int{4, 2},
			Tokens:  3,
		}, {
			IDs:     []int32{0, 4, 1, 0, 5, 1}, // <s> c </s>, <s> d </s>
			Targets: []int32{4, 1, none, 5, 1, none},
			Docs:    []int{3, 3},
			Tokens:  4,
		}}},
		{"epochs follow each other without padding; b, c of the last have no target", twice, "ab\nc", 1, 4, []Batch{
			{IDs: []int32{2, 3, 4, 2}, Targets: []int32{3, none, none, 3}, Docs: []int{2, 1, 1}, Tokens: 2}, // a b, c, a
		}},
	} {
		it, err := open(t, c.content, c.config).Train(c.rows, c.seqLen, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := collect(t, it, 100)
		if len(got) != len(c.want) {
			t.Fatalf("%s: %d batches, want %d", c.name, len(got), len(c.want))
		}
		for i := range got {
			if !reflect.DeepEqual(*got[i], c.want[i]) {
				t.Errorf("%s: batch %d:\n got %+v\nwant %+v", c.name, i, *got[i], c.want[i])
			}
		}
		it.Close()
	}
}

func TestBorders(t *testing.T) {
	for _, c := range []struct {
		eos    string // the name of the EOS token
		config DataConfig
		want   string
	}{
		{"</s>", DataConfig{}, "[0 2 1]"},
		{"<|eot_id|>", DataConfig{}, "[0 2 30]"}, // that ends a turn; <|end_of_text|> ends a text
		{"</s>", DataConfig{BOS: "never"}, "[2 1]"},
		{"</s>", DataConfig{EOS: "never"}, "[0 2]"},
		{"</s>", DataConfig{BOS: "always", EOS: "always"}, "[0 2 1]"},
	} {
		c.config.Files = []string{folder(t, map[string]string{"a.txt": "a"})}
		d, err := OpenData(c.config, letters(t, c.eos))
		if err != nil {
			t.Fatal(err)
		}
		if ids, err := d.encode(nil, "a"); fmt.Sprint(ids) != c.want || err != nil {
			t.Errorf("%s, %+v: %v, %v, want %s", c.eos, c.config, ids, err, c.want)
		}
	}
	// The name of a control token in a text is text.
	d := open(t, "a", DataConfig{})
	if ids, err := d.encode(nil, "<s>a"); err != nil || slices.Contains(ids[1:], 0) {
		t.Errorf("%v, %v", ids, err)
	}
}

// mixed makes a folder with documents in files of several kinds: one of n letters
// each, which differ.
func mixed(t testing.TB, documents int) string {
	r := rand.New(rand.NewPCG(1, 2))
	files := map[string]string{}
	for i := range documents {
		word := make([]byte, 1+r.IntN(40))
		for j := range word {
			word[j] = 'a' + byte(r.IntN(26))
		}
		switch i % 3 {
		case 0:
			files["a.txt"] += string(word) + "\n"
		case 1:
			files["b.jsonl"] += `{"text": "` + string(word) + "\"}\n"
		case 2:
			files[fmt.Sprintf("c%d.txt", i%5)] += string(word) + "\n"
		}
	}
	return folder(t, files)
}

// TestResume saves the position at every batch of a run, through JSON, and wants
// the same rest from there.
func TestResume(t *testing.T) {
	for _, c := range []struct {
		DataConfig
		bytes int // of the buffer
	}{
		{DataConfig{Epochs: 3, ShuffleBuffer: 7}, shuffleBytes},
		{DataConfig{Epochs: 2, Ordered: true}, shuffleBytes},
		{DataConfig{Epochs: 2, ShuffleBuffer: 1000, Holdout: 0.3}, shuffleBytes},
		{DataConfig{Epochs: 2, ShuffleBuffer: 5, WholeDocuments: true}, shuffleBytes},
		{DataConfig{Epochs: 2, MaxDocument: 60}, 50}, // full after two or three documents
	} {
		c.Files, c.Separator = []string{mixed(t, 60)}, "\n"
		d, err := OpenData(c.DataConfig, letters(t, "</s>"))
		if err != nil {
			t.Fatal(err)
		}
		d.bufferBytes = c.bytes
		it, err := d.Train(2, 45, 5)
		if err != nil {
			t.Fatal(err)
		}
		defer it.Close()
		var batches []*Batch
		positions := [][]byte{savedPosition(t, it)}
		for {
			b, err := it.Next(t.Context())
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			batches, positions = append(batches, b), append(positions, savedPosition(t, it))
		}
		if len(batches) < 10 {
			t.Fatalf("%d batches are no test", len(batches))
		}
		for i, saved := range positions {
			again, err := d.Train(2, 45, 5)
			if err != nil {
				t.Fatal(err)
			}
			var p Position
			if err := json.Unmarshal(saved, &p); err != nil {
				t.Fatal(err)
			}
			if err := again.Restore(t.Context(), p); err != nil {
				t.Fatalf("%+v: batch %d: %v", c, i, err)
			}
			if got := savedPosition(t, again); string(got) != string(saved) {
				t.Errorf("%+v: batch %d: restored to\n%s, want\n%s", c, i, got, saved)
			}
			if got := collect(t, again, 1000); !reflect.DeepEqual(got, slices.Clip(batches[i:])) && len(got)+len(batches[i:]) > 0 {
				t.Errorf("%+v: from batch %d on the rest differs", c, i)
			}
			again.Close()
		}
	}
}

func savedPosition(t testing.TB, it *Iterator) []byte {
	t.Helper()
	b, err := json.Marshal(it.Position())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// documentsOf cuts batches without BOS at each EOS.
func documentsOf(batches []*Batch) (docs []string) {
	var doc []byte
	for _, b := range batches {
		for _, id := range b.IDs {
			if id == 1 {
				if len(doc) > 0 {
					docs = append(docs, string(doc))
				}
				doc = nil
			} else {
				doc = append(doc, 'a'+byte(id-2))
			}
		}
	}
	return docs
}

// TestShuffle: every epoch holds every document once; two seeds, two epochs and
// the order of the files differ; the same seed does not.
func TestShuffle(t *testing.T) {
	dir := mixed(t, 90)
	read := func(c DataConfig, seed uint64) []string {
		c.Files, c.Separator, c.BOS = []string{dir}, "\n", "never"
		d, err := OpenData(c, letters(t, "</s>"))
		if err != nil {
			t.Fatal(err)
		}
		it, err := d.Train(1, 16, seed)
		if err != nil {
			t.Fatal(err)
		}
		defer it.Close()
		return documentsOf(collect(t, it, 1<<20))
	}
	order := read(DataConfig{Ordered: true, Epochs: 1}, 1)
	if len(order) != 90 {
		t.Fatalf("%d documents, want 90", len(order))
	}
	both := read(DataConfig{Epochs: 2}, 1)
	first, second := both[:90], both[90:]
	for _, epoch := range [][]string{first, second} {
		if !reflect.DeepEqual(slices.Sorted(slices.Values(epoch)), slices.Sorted(slices.Values(order))) {
			t.Error("an epoch does not hold every document once")
		}
	}
	small := read(DataConfig{Epochs: 1, ShuffleBuffer: 4}, 1)
	for name, other := range map[string][]string{"order of the files": order, "second epoch": second, "other seed": read(DataConfig{Epochs: 1}, 2), "small buffer": small} {
		if reflect.DeepEqual(first, other) {
			t.Errorf("the first epoch is as the %s", name)
		}
	}
	if !reflect.DeepEqual(both, read(DataConfig{Epochs: 2}, 1)) {
		t.Error("the same seed gives another order")
	}
}

// TestHoldout: what is held out and what is trained on are all, and apart, whatever
// the seed.
func TestHoldout(t *testing.T) {
	c := DataConfig{Files: []string{mixed(t, 300)}, Separator: "\n", BOS: "never", Holdout: 0.2, Epochs: 1}
	d, err := OpenData(c, letters(t, "</s>"))
	if err != nil {
		t.Fatal(err)
	}
	train, _ := d.Train(1, 64, 7)
	eval, err := d.Eval(1, 64)
	if err != nil {
		t.Fatal(err)
	}
	a, b := documentsOf(collect(t, train, 1<<20)), documentsOf(collect(t, eval, 1<<20))
	// Of 300 documents 60, give or take four standard deviations of 7.
	if !d.HasEval() || len(a)+len(b) != 300 || len(b) < 32 || len(b) > 88 {
		t.Errorf("%d documents to train on, %d held out", len(a), len(b))
	}
	for _, doc := range b {
		if slices.Contains(a, doc) {
			t.Errorf("%q is held out and trained on", doc)
		}
	}
}

func TestEvalFiles(t *testing.T) {
	dir := folder(t, map[string]string{"a.txt": "train", "b.txt": "held out"})
	d, err := OpenData(DataConfig{Files: []string{dir}, EvalFiles: []string{dir + "/b.txt"}}, letters(t, "</s>"))
	if err != nil {
		t.Fatal(err)
	}
	n, bytes := d.Files()
	m, more := d.EvalFiles()
	if n != 1 || bytes != 5 || m != 1 || more != 8 {
		t.Errorf("%d files of %d bytes to train on, %d of %d held out", n, bytes, m, more)
	}
	if _, err := OpenData(DataConfig{Files: []string{dir}, EvalFiles: []string{dir}}, letters(t, "</s>")); err == nil || !strings.Contains(err.Error(), "nothing is left") {
		t.Errorf("%v", err)
	}
}

func TestValidate(t *testing.T) {
	if err := (DataConfig{Files: []string{"a"}}).Validate(); err != nil {
		t.Error(err)
	}
	err := DataConfig{
		EvalFiles: []string{"b"}, Holdout: math.NaN(), MaxDocument: -1, ShuffleBuffer: 1 << 20, Epochs: -1,
		InvalidUTF8: "keep", BOS: "on", EOS: "off",
	}.Validate()
	for _, name := range []string{"files", "holdout", "eval_files exclude", "max_document", "shuffle_buffer", "epochs", "invalid_utf8", "bos", "eos"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
}

// TestBadData wants errors that name what is wrong and where.
func TestBadData(t *testing.T) {
	for _, c := range []struct {
		files  map[string]string
		config DataConfig
		want   string
	}{
		{map[string]string{"a.jsonl": `{"text": "a"}` + "\n{}"}, DataConfig{Ordered: true}, "a.jsonl: line 2: "},
		{map[string]string{"a.jsonl": `{"text": ""}`}, DataConfig{SkipEmpty: true}, "no row of the files has a text"},
		{map[string]string{"a.txt": "a"}, DataConfig{BOS: "never", EOS: "never"}, "no document has two tokens"},
		{map[string]string{"a.txt": "a"}, DataConfig{Holdout: 1e-9}, ""},
		{map[string]string{"a.txt": "abcdefghi"}, DataConfig{WholeDocuments: true}, "a.txt: the document at line or row 1 has 11 tokens, a sequence 8"},
	} {
		c.config.Files = []string{folder(t, c.files)}
		d, err := OpenData(c.config, letters(t, "</s>"))
		if err != nil {
			t.Fatal(err)
		}
		it, err := d.Train(1, 8, 0)
		if err != nil {
			t.Fatal(err)
		}
		before := it.Position()
		for range 5 {
			if _, err = it.Next(t.Context()); err != nil {
				break
			}
			before = it.Position()
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %s", c.files, err, c.want)
		}
		if err != nil {
			if _, again := it.Next(t.Context()); again != err {
				t.Errorf("then %v", again)
			}
			if !reflect.DeepEqual(it.Position(), before) {
				t.Error("an error moves the position")
			}
		}
		it.Close()
	}
	d := open(t, "a", DataConfig{Holdout: 1e-9})
	it, _ := d.Eval(1, 8)
	if _, err := it.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "takes none of the documents") {
		t.Errorf("%v", err)
	}
	for _, shape := range [][2]int{{0, 8}, {1, 1}, {1 << 20, 1 << 20}, {-1, -1}} {
		if _, err := d.Train(shape[0], shape[1], 0); err == nil {
			t.Errorf("batches of %v", shape)
		}
	}
	if _, err := open(t, "a", DataConfig{}).Eval(1, 8); err == nil {
		t.Error("held-out data of nothing")
	}
}

func TestCancel(t *testing.T) {
	it, err := open(t, "ab", DataConfig{}).Train(1, 8, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := it.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := it.Next(t.Context()); err != nil { // it had not begun
		t.Error(err)
	}
}

// TestOtherData: a position fits its data, its settings, its tokenizer and its
// seed, and nothing else.
func TestOtherData(t *testing.T) {
	files := map[string]string{"a.txt": "abc\ndef", "b.txt": "ghi"}
	c := DataConfig{Separator: "\n"}
	iterator := func(files map[string]string, c DataConfig, eos string, seed uint64) *Iterator {
		c.Files = []string{folder(t, files)}
		d, err := OpenData(c, letters(t, eos))
		if err != nil {
			t.Fatal(err)
		}
		it, err := d.Train(1, 4, seed)
		if err != nil {
			t.Fatal(err)
		}
		return it
	}
	it := iterator(files, c, "</s>", 1)
	want := collect(t, it, 2)[1]
	it = iterator(files, c, "</s>", 1)
	collect(t, it, 1)
	p := it.Position()

	other := c
	other.EOS = "never"
	for _, wrong := range []struct {
		it   *Iterator
		want string
	}{
		{iterator(map[string]string{"a.txt": "abcd\ndefg", "b.txt": "ghij"}, c, "</s>", 1), "given before are no longer the same"},
		{iterator(map[string]string{"a.txt": "a"}, c, "</s>", 1), "given before are no longer the same"},
		{iterator(files, other, "</s>", 1), "the tokenizer, or bos, eos or special, is not that"},
		{iterator(files, c, "<|eot_id|>", 1), "the tokenizer, or bos, eos or special, is not that"},
		{iterator(files, c, "</s>", 2), "the seed is 2 and was 1"},
	} {
		if err := wrong.it.Restore(t.Context(), p); !errors.Is(err, ErrInexact) || !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("%v, want %s", err, wrong.want)
		}
		if b, err := wrong.it.Next(t.Context()); err != nil || len(b.IDs) != 4 {
			t.Errorf("after a position of others: %v", err)
		}
	}
	moved := iterator(files, c, "</s>", 1) // the same files in another folder
	if err := moved.Restore(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if b := collect(t, moved, 1)[0]; !reflect.DeepEqual(b, want) {
		t.Errorf("%+v, want %+v", b, want)
	}
}
