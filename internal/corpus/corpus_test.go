package corpus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
)

// defaults are options for tests.
var defaults = Options{Field: "text", MaxBytes: 1 << 20}

// write makes a file and returns it as Find would.
func write(t testing.TB, name string, content []byte) File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return File{Path: path, Size: int64(len(content))}
}

// readAll returns the documents of a file, and checks that each can be read again
// from its place, the last first.
func readAll(t testing.TB, f File, o Options) (texts []string, err error) {
	t.Helper()
	r, err := Open(t.Context(), f, o)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var docs []Doc
	for {
		d, err := r.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			return texts, err
		}
		docs, texts = append(docs, d), append(texts, d.Text)
	}
	for i := len(docs) - 1; i >= 0; i-- {
		if err := r.Seek(t.Context(), docs[i].At); err != nil {
			t.Fatalf("%s: seek to %v: %v", f.Path, docs[i].At, err)
		}
		for _, want := range docs[i:min(i+2, len(docs))] {
			if d, err := r.Next(t.Context()); err != nil || d != want {
				t.Fatalf("%s: from %v on: %v, %v, want %v", f.Path, docs[i].At, d, err, want)
			}
		}
	}
	return texts, nil
}

func pack(t testing.TB, suffix, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	switch suffix {
	case "":
		return []byte(content)
	case ".gz":
		w := gzip.NewWriter(&b)
		io.WriteString(w, content)
		w.Close()
	case ".zst":
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, content)
		w.Close()
	}
	return b.Bytes()
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		name, separator, content string
		want                     []string
	}{
		{"a.txt", "", "one\n\ntwo\n", []string{"one\n\ntwo\n"}},                     // the file is the document
		{"a.md", "", "\uFEFFone", []string{"one"}},                                  // without the byte order mark
		{"a.txt", "\n\n", "one\n\n\n\ntwo\nlines\n", []string{"one", "two\nlines"}}, // at runs of blank lines
		{"a.txt", "\n\n", "one\n\n \n\ntwo", []string{"one", "two"}},                // a piece of white space is none
		{"a.txt", "\n", "one\r\ntwo\r\n", []string{"one", "two"}},                   // each line
		{"a.txt", "<|end|>", "one\n<|end|>\ntwo<|end|>", []string{"one", "two"}},
		{"a.txt", "aab", "1aaab2aab", []string{"1a", "2"}}, // a separator that starts like itself
		{"a.txt", "--", "one", []string{"one"}},            // none there
	} {
		for _, suffix := range []string{"", ".gz", ".zst"} {
			o := defaults
			o.Separator = c.separator
			got, err := readAll(t, write(t, c.name+suffix, pack(t, suffix, c.content)), o)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s%s, separator %q: %q: %q, %v, want %q", c.name, suffix, c.separator, c.content, got, err, c.want)
			}
		}
	}
}

func TestRows(t *testing.T) {
	for _, c := range []struct {
		field, content string
		want           []string
	}{
		{"text", `{"text": "one"}` + "\n" + `{"id": 1, "text": "two\nlines"}`, []string{"one", "two\nlines"}},
		{"text", "\n  \n{\"text\": \"one\"}\r\n\n", []string{"one"}},                                             // blank lines
		{"a.b", `{"a": {"b": "inner"}}`, []string{"inner"}},                                                      // a path
		{"a.b", `{"a.b": "whole", "a": {"b": "inner"}}`, []string{"whole"}},                                      // a name with a dot
		{"text", "\uFEFF" + `{"text": "\u00e9\ud83e\udd99"}`, []string{"é🦙"}},                                    // escapes, byte order mark
		{"text", `{"text": "one", "messages": [1]}` + "\n", []string{"one"}},                                     // text beside a chat
		{"text", `{"text": "` + strings.Repeat("long ", 50000) + `"}`, []string{strings.Repeat("long ", 50000)}}, // over the buffer
	} {
		for _, suffix := range []string{"", ".gz", ".zst"} {
			o := defaults
			o.Field = c.field
			got, err := readAll(t, write(t, "a.jsonl"+suffix, pack(t, suffix, c.content)), o)
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%.80s%s: %.80q, %v, want %.80q", c.content, suffix, got, err, c.want)
			}
		}
	}
}

// TestJSON: an array, or rows one after the other, on however many lines.
func TestJSON(t *testing.T) {
	pretty := "{\n  \"text\": \"one\",\n  \"more\": [{\"a\": \"]}\\\"\"}]\n}"
	for content, want := range map[string][]string{
		`[{"text": "one"}, {"text": "two"}]`:               {"one", "two"},
		"[\n" + pretty + ",\n" + `{"text": "two"}` + "]\n": {"one", "two"},
		pretty: {"one"},
		pretty + "\n" + `{"text": "two"}` + pretty:           {"one", "two", "one"},
		`{"text": "one"}` + "\n" + `{"text": "two"}`:         {"one", "two"},
		"\uFEFF[ {\"text\": \"[one]\"} ]":                    {"[one]"},
		`{"text": "` + strings.Repeat("long ", 50000) + `"}`: {strings.Repeat("long ", 50000)}, // over the buffer
	} {
		for _, suffix := range []string{"", ".gz", ".zst"} {
			got, err := readAll(t, write(t, "a.json"+suffix, pack(t, suffix, content)), defaults)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%.80s%s: %.80q, %v, want %.80q", content, suffix, got, err, want)
			}
		}
	}
}

// rowOf is a row of a parquet file.
type rowOf struct {
	ID    int64   `parquet:"id"`
	Text  *string `parquet:"text,optional,dict"`
	Inner struct {
		Body string `parquet:"body"`
	} `parquet:"inner"`
	Words []string `parquet:"words,list"`
}

// parquetFile writes texts, nil for null, in groups of 3 rows and small pages.
func parquetFile(t testing.TB, codec compress.Codec, version int, texts ...*string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := parquet.NewGenericWriter[rowOf](&b, parquet.Compression(codec), parquet.PageBufferSize(16), parquet.DataPageVersion(version))
	for i, s := range texts {
		r := rowOf{ID: int64(i), Text: s, Words: []string{"a", "b"}}
		r.Inner.Body = fmt.Sprint("body ", i)
		if _, err := w.Write([]rowOf{r}); err != nil {
			t.Fatal(err)
		}
		if i%3 == 2 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ptr(s string) *string { return &s }

func TestParquet(t *testing.T) {
	for _, codec := range []compress.Codec{&parquet.Uncompressed, &parquet.Snappy, &parquet.Gzip, &parquet.Zstd, &parquet.Brotli, &parquet.Lz4Raw} {
		for version := 1; version <= 2; version++ {
			suffix := []string{"", ".gz", ".zst"}[version] // as a whole, too
			f := write(t, "a.parquet"+suffix, pack(t, suffix, string(parquetFile(t, codec, version, ptr("one"), ptr("two"), ptr(strings.Repeat("three ", 500)), ptr("four"), ptr("one")))))
			want := []string{"one", "two", strings.Repeat("three ", 500), "four", "one"}
			if got, err := readAll(t, f, defaults); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v, pages of version %d: %.80q, %v", codec, version, got, err)
			}
			o := defaults
			o.Field = "inner.body"
			want = []string{"body 0", "body 1", "body 2", "body 3", "body 4"}
			if got, err := readAll(t, f, o); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v, pages of version %d, nested: %q, %v", codec, version, got, err)
			}
		}
	}
}

func TestSkipEmpty(t *testing.T) {
	o := defaults
	o.SkipEmpty = true
	rows := `{"text": ""}` + "\n" + `{"text": "one"}` + "\n" + `{"id": 1}` + "\n" + `{"text": null}` + "\n"
	if got, err := readAll(t, write(t, "a.jsonl", []byte(rows)), o); err != nil || !reflect.DeepEqual(got, []string{"one"}) {
		t.Errorf("%q, %v", got, err)
	}
	f := write(t, "a.parquet", parquetFile(t, &parquet.Snappy, 1, nil, ptr("one"), ptr(""), nil))
	if got, err := readAll(t, f, o); err != nil || !reflect.DeepEqual(got, []string{"one"}) {
		t.Errorf("%q, %v", got, err)
	}
	// A file of nothing else has rows, only no text.
	if got, err := readAll(t, write(t, "b.jsonl", []byte(`{"text": ""}`)), o); err != nil || got != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestWrong wants errors that name the file and the line, or the row.
func TestWrong(t *testing.T) {
	row := `{"text": "fine"}` + "\n"
	zipped, zst := pack(t, ".gz", strings.Repeat(row, 10000)), pack(t, ".zst", strings.Repeat(row, 10000))
	table := parquetFile(t, &parquet.Snappy, 2, ptr("one"), nil, ptr("three"), ptr(""))
	whole := pack(t, ".gz", string(table))
	for _, c := range []struct {
		name    string
		content []byte
		o       Options
		want    string
	}{
		{"a.jsonl", []byte(row + `{"id": 1, "body": "x"}`), defaults, `line 2: the row cannot be used: no text: it has no field "text" (it has "body", "id")`},
		{"a.jsonl", []byte(row + "\n" + `{"text": ""}`), defaults, `line 3: the row cannot be used: no text: field "text" is empty`},
		{"a.jsonl", []byte(`{"text": null}`), defaults, `line 1: the row cannot be used: no text: field "text" is null`},
		{"a.jsonl", []byte(`{"text": 3}`), defaults, `field "text" is a number, want a string`},
		{"a.jsonl", []byte(`{"messages": []}`), defaults, `it is a row of chats ("messages"), which come with post-training`},
		{"a.jsonl", []byte(row + row + `{"text": "half`), defaults, `line 3: the row cannot be used: it is not JSON: byte 14`},
		{"a.jsonl", []byte(`["text"]`), defaults, `it is a list, want an object`},
		{"a.jsonl", []byte(`null`), defaults, `it is null, want an object`},
		{"a.jsonl", []byte(`{"text": "one"} {"text": "two"}`), defaults, `it is not JSON`},
		{"a.jsonl", []byte(strings.Repeat("[", 100000)), defaults, `line 1: the row cannot be used`},
		{"a.jsonl", []byte("\n \n"), defaults, "the file holds no document"},
		{"a.jsonl", []byte(row + "{\"text\": \"a\xff\"}"), defaults, "line 2: byte 11 of the row is not UTF-8"},
		{"a.jsonl", []byte(row + row), Options{Field: "text", MaxBytes: 15}, "line 1: the row has more than the 15 bytes allowed"},
		{"a.txt", []byte("one\xfe"), defaults, "line 1: byte 3 of the document is not UTF-8"},
		{"a.txt", []byte(" \n"), defaults, "the file holds no text"},
		{"a.txt", []byte("\n\n \n\n"), Options{Separator: "\n\n", MaxBytes: 9}, "the file holds no document"},
		{"a.txt", []byte("too long"), Options{MaxBytes: 7}, "the document has more than the 7 bytes allowed; a separator would cut"},
		{"a.txt", []byte("one\n\ntoo long\n\n"), Options{Separator: "\n\n", MaxBytes: 7}, "line 3: the document has more than the 7 bytes allowed"},
		{"a.jsonl.gz", zipped[:len(zipped)-9], defaults, "the file is broken or cut off: it ends too early"},
		{"a.jsonl.gz", zipped[:5], defaults, "not gzip: it ends too early"},
		{"a.jsonl.gz", []byte(row), defaults, "not gzip"},
		{"a.jsonl", []byte("\xff\xfe{\x00"), defaults, "the file is UTF-16: save it as UTF-8"},
		{"a.txt", []byte("\xfe\xff\x00a"), defaults, "the file is UTF-16: save it as UTF-8"},
		{"a.jsonl.gz", append(bytes.Clone(zipped), "more"...), defaults, "the file is broken or cut off"},
		{"a.jsonl.zst", zst[:len(zst)-9], defaults, "the file is broken or cut off"},
		{"a.jsonl.zst", []byte(row), defaults, "line 1: "},
		{"a.jsonl.zst", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff}, defaults, "line 1: "}, // a window of terabytes
		{"a.parquet", table, defaults, `row 2: the row cannot be used: no text: column "text" is null`},
		{"a.parquet", table, Options{Field: "inner.body", MaxBytes: 3}, "row 1: the document has 6 bytes, of 3 allowed"},
		{"a.parquet", table, Options{Field: "body", MaxBytes: 9}, `it has no column "body" (it has "id", "text", "inner", "words")`},
		{"a.parquet", table, Options{Field: "id", MaxBytes: 9}, `column "id" does not hold one string a row`},
		{"a.parquet", table, Options{Field: "words", MaxBytes: 9}, `column "words" does not hold one string a row`},
		{"a.parquet", table, Options{Field: "inner", MaxBytes: 9}, `column "inner" does not hold one string a row`},
		{"a.parquet", table[:len(table)-2], defaults, "cut off, or another kind of file"},
		{"a.parquet", []byte(row), defaults, "not a parquet file that can be read"},
		{"a.parquet", []byte("PAR1"), defaults, "too short"},
		{"a.parquet", []byte("PAR1\xff\xff\xff\x7fPAR1"), defaults, "its metadata is broken"},
		{"a.parquet.gz", whole[:len(whole)-9], defaults, "cannot be unpacked: it ends too early"},
		{"a.parquet.gz", table, defaults, "cannot be unpacked: not gzip"},
		{"a.json", []byte(`[` + row + `, {"text": 3}]`), defaults, `line 2: the row cannot be used: field "text" is a number`},
		{"a.json", []byte(`[` + row), defaults, "line 2: the array has no end"},
		{"a.json", []byte(`[` + row + row + `]`), defaults, "'{' where a comma or the array's end belongs"},
		{"a.json", []byte(`[` + row + `,]`), defaults, "']' where a value belongs"},
		{"a.json", []byte(`[` + row + `] {}`), defaults, "'{' behind the array"},
		{"a.json", []byte(row + `{"text": "half`), defaults, "line 2: the value has no end: it ends too early"},
		{"a.json", []byte(row + `,` + row), defaults, "',' where a value belongs"},
		{"a.json", []byte(`["one"]`), defaults, "it is a string, want an object"},
		{"a.json", []byte(`[]`), defaults, "the file holds no document"},
		{"a.json", []byte(` `), defaults, "the file holds no document"},
		{"a.json", []byte(`[` + row + row + `]`), Options{Field: "text", MaxBytes: 15}, "line 1: the row has more than the 15 bytes allowed"},
		{"a.json", []byte(strings.Repeat("[", 100000)), defaults, "has no end"},
	} {
		f := write(t, c.name, c.content)
		_, err := readAll(t, f, c.o)
		var typed *Error
		if !errors.As(err, &typed) || typed.File != f.Path || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %.40q: %v, want %s", c.name, c.content, err, c.want)
		}
	}
}

func TestReplaceInvalid(t *testing.T) {
	o := defaults
	o.ReplaceInvalid = true
	got, err := readAll(t, write(t, "a.txt", []byte("a\xff\xfeb")), o)
	if err != nil || !reflect.DeepEqual(got, []string{"a\uFFFDb"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestPlaces refuses places that no document has given.
func TestPlaces(t *testing.T) {
	for _, f := range []File{
		write(t, "a.jsonl", []byte(`{"text": "one"}`)),
		write(t, "a.txt.gz", pack(t, ".gz", "text")),
		write(t, "a.parquet", parquetFile(t, &parquet.Snappy, 2, ptr("one"))),
	} {
		for _, p := range []Place{{Offset: -1}, {Line: -1}, {Offset: 1 << 40}} {
			r, err := Open(t.Context(), f, defaults)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Seek(t.Context(), p); err == nil {
				t.Errorf("%s: a place at %+v", f.Path, p)
			}
			r.Close()
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.txt", "a.jsonl", "sub/c.parquet", "sub/d.MD", ".hidden/e.txt", ".f.txt", "g.bin", "h.txt.zst"} {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		patterns []string
		want     string
	}{
		{[]string{"."}, "[a.jsonl b.txt h.txt.zst sub/c.parquet sub/d.MD]"},
		{[]string{"b.txt", "./b.txt", "*.jsonl"}, "[a.jsonl b.txt]"}, // in order, each once
		{[]string{"sub/*"}, "[sub/c.parquet sub/d.MD]"},
	} {
		var patterns, got []string
		for _, p := range c.patterns {
			patterns = append(patterns, dir+"/"+p)
		}
		files, err := Find(patterns)
		for _, f := range files {
			name, _ := filepath.Rel(dir, f.Path)
			got = append(got, filepath.ToSlash(name))
		}
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%v: %v, %v, want %s", c.patterns, got, err, c.want)
		}
	}
	os.WriteFile(filepath.Join(dir, "empty.txt"), nil, 0o644)
	os.Mkdir(filepath.Join(dir, "nothing"), 0o755)
	for pattern, want := range map[string]string{
		"missing.txt": "cannot be read",
		"*.csv":       "no file has such a name",
		"[":           "not a pattern of files",
		"g.bin":       "unknown kind of file: want .txt",
		"empty.txt":   "the file is empty",
		"nothing":     "the folder holds no file that ends in .txt",
	} {
		if files, err := Find([]string{filepath.Join(dir, pattern)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %s", pattern, files, err, want)
		}
	}
}

// TestFindLevels: "**" is any number of folders.
func TestFindLevels(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.jsonl", "x/b.jsonl", "x/y/c.jsonl", "x/y/d.txt", "x/y/e.bin", "x/.z/f.jsonl", "w/y/g.jsonl"} {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for pattern, want := range map[string]string{
		"**/*.jsonl":        "[a.jsonl w/y/g.jsonl x/b.jsonl x/y/c.jsonl]",
		"x/**/*.jsonl":      "[x/b.jsonl x/y/c.jsonl]",
		"**/y/*.jsonl":      "[w/y/g.jsonl x/y/c.jsonl]",
		"*/**/y/**/*.jsonl": "[w/y/g.jsonl x/y/c.jsonl]",
		"x/**":              "[x/b.jsonl x/y/c.jsonl x/y/d.txt]",
		"**/**/a.*":         "[a.jsonl]",
	} {
		var got []string
		files, err := Find([]string{dir + "/" + pattern})
		for _, f := range files {
			name, _ := filepath.Rel(dir, f.Path)
			got = append(got, filepath.ToSlash(name))
		}
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v, want %s", pattern, got, err, want)
		}
	}
	for pattern, want := range map[string]string{
		"x/**.jsonl": `"**" must be a part of its own`,
		"x/**/*.csv": "no file has such a name",
		"**/[":       "not a pattern of files",
		"**/e.*":     "unknown kind of file",
	} {
		if files, err := Find([]string{dir + "/" + pattern}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v, want %s", pattern, files, err, want)
		}
	}
	if long := strings.Repeat("**/a/", 2000) + "b.txt"; fits(strings.Split(long, "/"), strings.Split(strings.Repeat("a/", 2000)+"c", "/")) {
		t.Error("a pattern fits what it should not")
	}
}

// TestSameFile: a file is one, by whatever path it is named.
func TestSameFile(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, content := range map[string]string{"a.txt": "text", "copy.txt": "text", "b.txt": "other"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a.txt", "link.txt"); err != nil {
		t.Skip("no links here:", err)
	}
	if err := os.Link("a.txt", "hard.txt"); err != nil {
		t.Skip("no links here:", err)
	}
	if err := os.Symlink(".", "folder"); err != nil {
		t.Fatal(err)
	}
	all, err := Find([]string{"*.txt", dir, filepath.Join(dir, "a.txt"), "folder/a.txt"})
	if err != nil || len(all) != 3 { // a, b and the copy, which is another file
		t.Fatalf("%v, %v", all, err)
	}
	for _, name := range []string{"./a.txt", filepath.Join(dir, "a.txt"), "link.txt", "hard.txt", "folder/link.txt"} {
		held, err := Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		if rest := Without(all, held); len(rest) != 2 || filepath.Base(rest[0].Path) != "b.txt" || filepath.Base(rest[1].Path) != "copy.txt" {
			t.Errorf("without %s: %v", name, rest)
		}
	}
}

// TestBrokenLZ4: what does not unpack is refused before the parquet library tries with
// more and more memory.
func TestBrokenLZ4(t *testing.T) {
	for _, block := range [][]byte{{}, {0xff}, {0x1f, 'a', 0xff, 0xff, 1}, {0x00, 0x00, 0x00}} {
		if err := checkLZ4(bytes.NewReader(block), pageHead{unpacked: 100}); err == nil && len(block) > 0 {
			t.Errorf("% x unpacks", block)
		}
	}
}

// TestChanged: a file of another size than Find saw is another file.
func TestChanged(t *testing.T) {
	f := write(t, "a.txt", []byte("text"))
	f.Size++
	if _, err := Open(t.Context(), f, defaults); err == nil || !strings.Contains(err.Error(), "the file has changed") {
		t.Errorf("%v", err)
	}
}

// TestMemory reads 64 MiB of zeros that a kilobyte or two claims, and documents
// of 64 MiB altogether, and takes neither.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("reads 192 MiB")
	}
	zeros := strings.Repeat("\x00", 64<<20)
	many := strings.Repeat(`{"text": "`+strings.Repeat("x", 1000)+`"}`+"\n", 64<<10)
	for _, c := range []struct {
		name    string
		content []byte
		ok      bool
	}{
		{"a.txt.gz", pack(t, ".gz", zeros), false},
		{"a.jsonl.zst", pack(t, ".zst", zeros), false},
		{"b.jsonl.gz", pack(t, ".gz", many), true},
	} {
		f := write(t, c.name, c.content)
		r, err := Open(t.Context(), f, defaults)
		if err != nil {
			t.Fatal(err)
		}
		peak := uint64(0)
		for n := 0; err == nil; n++ {
			_, err = r.Next(t.Context())
			if n%4096 == 0 || err != nil {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
		r.Close()
		if (err == io.EOF) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		// The test's own two strings are 128 MiB.
		if peak > uint64(len(zeros)+len(many))+32<<20 {
			t.Errorf("%s: %d MiB in use", c.name, peak>>20)
		}
	}
	runtime.KeepAlive(zeros)
	runtime.KeepAlive(many)
}
