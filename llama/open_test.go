package llama_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/gguf"
)

// sameLogits compares a model with one opened from a path.
func sameLogits(t *testing.T, path string, m *llama.Model) {
	t.Helper()
	ids := randomIDs(m.Config(), 8)
	want, err := session(t, open(t, path, llama.Options{})).Logits(context.Background(), ids)
	if err != nil {
		t.Fatal(err)
	}
	got, err := session(t, m).Logits(context.Background(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("logit %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// memory is a case's folder as a file system without a disk.
func memory(t *testing.T, dir string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		files["a/"+name] = &fstest.MapFile{Data: b}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// zipped is a file system in an archive, compressed or not.
func zipped(t *testing.T, files fstest.MapFS, method uint16) fs.FS {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for name, f := range files {
		out, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err == nil {
			_, err = out.Write(f.Data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := zip.NewReader(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestOpenFS opens each format from memory and from archives.
func TestOpenFS(t *testing.T) {
	dir := filepath.Dir(golden.Glob(t, "models/*/meta")[0])
	files := memory(t, dir)
	for what, fsys := range map[string]fs.FS{"memory": files, "zip": zipped(t, files, zip.Deflate), "store": zipped(t, files, zip.Store)} {
		for path := range formats(dir) {
			t.Run(what+"/"+filepath.Base(path), func(t *testing.T) {
				m, err := llama.OpenFS(context.Background(), fsys, "a/"+filepath.Base(path), llama.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				sameLogits(t, path, m)
			})
		}
	}
	if _, err := llama.OpenFS(context.Background(), files, "../a", llama.Options{}); err == nil {
		t.Error("a name that leads out of the file system is taken")
	}
}

// TestOpenReader gives a file's bytes with its size, and with others.
func TestOpenReader(t *testing.T) {
	path, _ := tiny(t, 0)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(content))
	m, err := llama.OpenReader(context.Background(), bytes.NewReader(content), size, "memory", llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	sameLogits(t, path, m)
	for _, wrong := range []int64{-1, 0, 3, 100, size / 2, size - 1, size + 1<<40} {
		m, err := llama.OpenReader(context.Background(), bytes.NewReader(content), wrong, "memory", llama.Options{})
		if err == nil && wrong < size {
			t.Errorf("a size of %d instead of %d is taken", wrong, size)
		}
		if err == nil {
			m.Close()
		} else if !strings.Contains(err.Error(), "memory") {
			t.Errorf("%q does not name the file", err)
		}
	}
}

// failing is a reader that changes after some calls.
type failing struct {
	io.ReaderAt
	calls atomic.Int64
	after int64
	with  func(p []byte) (int, error)
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.calls.Add(1) > f.after {
		return f.with(p)
	}
	return f.ReaderAt.ReadAt(p, off)
}

var errDisk = errors.New("the disk is gone")

// TestReadErrors: whenever reading begins to fail, as after the file was cut
// off, Open returns an error.
func TestReadErrors(t *testing.T) {
	path, _ := tiny(t, 0)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := &failing{ReaderAt: bytes.NewReader(content), after: 1 << 40}
	m, err := llama.OpenReader(context.Background(), whole, int64(len(content)), "memory", llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	calls := whole.calls.Load()
	for what, with := range map[string]func([]byte) (int, error){
		"error": func([]byte) (int, error) { return 0, errDisk },
		"short": func(p []byte) (int, error) { return len(p) / 2, io.EOF },
		"empty": func([]byte) (int, error) { return 0, nil },
	} {
		for after := int64(0); after < calls; after += max(1, calls/40) {
			r := &failing{ReaderAt: bytes.NewReader(content), after: after, with: with}
			m, err := llama.OpenReader(context.Background(), r, int64(len(content)), "memory", llama.Options{})
			if err == nil {
				m.Close()
				t.Fatalf("%s after %d of %d reads: no error", what, after, calls)
			}
			if what == "error" && !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "memory") {
				t.Errorf("%s after %d reads: %v", what, after, err)
			}
		}
	}
}

// TestTruncatedFile cuts a file off while its model loads, and after.
func TestTruncatedFile(t *testing.T) {
	path, ids := tiny(t, 5)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cut.gguf")
	write(t, file, string(content))
	cut := func(llama.Progress) {
		if err := os.Truncate(file, 64); err != nil {
			t.Error(err)
		}
	}
	m, err := llama.Open(context.Background(), file, llama.Options{Progress: cut})
	if err == nil {
		m.Close()
		t.Error("a file that was cut off while it loaded is taken")
	} else if !strings.Contains(err.Error(), "cut.gguf") {
		t.Errorf("%q does not name the file", err)
	}
	write(t, file, string(content))
	m = open(t, file, llama.Options{})
	cut(llama.Progress{})
	if _, err := session(t, m).Logits(context.Background(), ids); err != nil {
		t.Errorf("a loaded model needs its file: %v", err)
	}
}

// countingFS counts the bytes read from its files.
type countingFS struct {
	fs.FS
	read atomic.Int64
}

type countingFile struct {
	fs.File
	c *countingFS
}

func (c *countingFS) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	return &countingFile{f, c}, err
}

func (f *countingFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.c.read.Add(int64(n))
	return n, err
}

func (f *countingFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.(io.ReaderAt).ReadAt(p, off)
	f.c.read.Add(int64(n))
	return n, err
}

// TestLimits: a model above the limit is refused before a weight is read,
// progress ends at the total, and options are refused with all that is wrong.
func TestLimits(t *testing.T) {
	path, _ := tiny(t, 0)
	need, err := llama.Estimate(path, llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &countingFS{FS: os.DirFS(filepath.Dir(path))}
	_, err = llama.OpenFS(context.Background(), c, filepath.Base(path), llama.Options{MemoryLimit: need.Total() - 1})
	if !errors.Is(err, llama.ErrMemory) {
		t.Fatalf("a model above the limit: %v", err)
	}
	for _, n := range []int64{need.Total(), need.Total() - 1} {
		if !strings.Contains(err.Error(), strconv.FormatInt(n, 10)) {
			t.Errorf("%q does not say %d", err, n)
		}
	}
	header := c.read.Load()
	var steps []llama.Progress
	m, err := llama.OpenFS(context.Background(), c, filepath.Base(path), llama.Options{
		MemoryLimit: need.Total(), Progress: func(p llama.Progress) { steps = append(steps, p) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if all := c.read.Load() - header; header > all-need.Weights/4 {
		t.Errorf("%d bytes were read to refuse what takes %d to load", header, all)
	}
	last := llama.Progress{}
	for _, p := range steps {
		if p.Done <= last.Done || p.Total <= 0 || p.Done > p.Total {
			t.Errorf("progress %+v after %+v", p, last)
		}
		last = p
	}
	if last.Done != last.Total {
		t.Errorf("progress ends at %+v", last)
	}
	bad := llama.Options{Precision: 9, KVType: backend.Q4_0, MemoryLimit: -1, Context: -1, BatchRows: math.MaxInt}
	_, err = llama.Open(context.Background(), path, bad)
	for _, part := range []string{"Precision", "Q4_0", "MemoryLimit", "Context", "BatchRows"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("violations %v lack %s", err, part)
		}
	}
}

// TestCancelLoading ends loading with its context, at the start and halfway.
func TestCancelLoading(t *testing.T) {
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		ctx, cancel := context.WithCancel(context.Background())
		_, err := llama.Open(ctx, path, llama.Options{Progress: func(llama.Progress) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled halfway: %v", golden.Name(path), err)
		}
		if _, err := llama.Open(ctx, path, llama.Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: cancelled before: %v", golden.Name(path), err)
		}
	}
}

// TestChangingBytes: a reader that gives other bytes later gives another model,
// or an error.
func TestChangingBytes(t *testing.T) {
	path, ids := tiny(t, 3)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(7, 7))
	noise := func(p []byte) (int, error) {
		for i := range p {
			p[i] = byte(rng.Uint32())
		}
		return len(p), nil
	}
	b, err := cpu.New(cpu.Options{Workers: 1}) // readers are called in order
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	opened := 0
	for after := int64(0); after < 64; after += 3 {
		r := &failing{ReaderAt: bytes.NewReader(content), after: after, with: noise}
		m, err := llama.OpenReader(context.Background(), r, int64(len(content)), "memory", llama.Options{Backend: b})
		if err != nil {
			if !strings.Contains(err.Error(), "memory") {
				t.Errorf("%q does not name the file", err)
			}
			continue
		}
		opened++
		if _, err := session(t, m).Logits(context.Background(), ids); err != nil {
			t.Errorf("after %d reads: %v", after, err)
		}
		m.Close()
	}
	if opened == 0 {
		t.Error("noise in the weights is refused too: nothing ran")
	}
}

// TestSplit opens a model cut into three files, and lacks one.
func TestSplit(t *testing.T) {
	const count = 3
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		t.Run(golden.Name(path), func(t *testing.T) {
			all := takeApart(t, path)
			files := fstest.MapFS{}
			part := func(i int) string { return fmt.Sprintf("m-%05d-of-%05d.gguf", i+1, count) }
			for i := range count {
				p := &parts{meta: map[string]any{}, tensors: all.tensors[i*len(all.tensors)/count : (i+1)*len(all.tensors)/count]}
				if i == 0 {
					p.keys, p.meta = all.keys, all.meta
				}
				p.set("split.no", uint16(i))
				p.set("split.count", uint16(count))
				p.set("split.tensors.count", int32(len(all.tensors)))
				files[part(i)] = &fstest.MapFile{Data: p.bytes(t)}
			}
			m, err := llama.OpenFS(context.Background(), files, part(0), llama.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			sameLogits(t, path, m)
			for i := range count {
				without := maps.Clone(files)
				delete(without, part(i))
				_, err := llama.OpenFS(context.Background(), without, part(0), llama.Options{})
				if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), part(i)) {
					t.Errorf("without part %d: %v", i+1, err)
				}
			}
		})
	}
}

// TestLinkedShard: a shard may be a link to another place, as download caches
// make them; only names in an index must stay in their folder.
func TestLinkedShard(t *testing.T) {
	from := filepath.Dir(golden.Glob(t, "models/*/hf/config.json")[0])
	dir := copyFolder(t, from)
	shards, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil || len(shards) == 0 {
		t.Fatal("no weights", err)
	}
	elsewhere := filepath.Join(t.TempDir(), "blob")
	if err := os.Rename(shards[0], elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, shards[0]); err != nil {
		t.Skip(err) // a system without links
	}
	sameLogits(t, from, open(t, dir, llama.Options{}))
}

// TestLargeTokenizer: a vocabulary with more tokens than the embedding has rows
// is a warning, and text that needs them an error.
func TestLargeTokenizer(t *testing.T) {
	dir := copyFolder(t, filepath.Dir(golden.Glob(t, "models/*/hf/tokenizer.json")[0]))
	path := filepath.Join(dir, "tokenizer.json")
	var tok struct {
		Added []map[string]any `json:"added_tokens"`
	}
	golden.JSON(t, path, &tok)
	vocab := open(t, dir, llama.Options{}).Config().Vocab
	extra := map[string]any{"id": vocab, "content": "<|one more|>", "special": true, "normalized": false,
		"single_word": false, "lstrip": false, "rstrip": false}
	editJSON(t, path, map[string]any{"added_tokens": append(tok.Added, extra)})
	m := open(t, dir, llama.Options{})
	if w := strings.Join(m.Warnings(), " "); !strings.Contains(w, "tokens") {
		t.Errorf("warnings %q do not speak of the tokens", w)
	}
	for _, err := range session(t, m).Generate(context.Background(), "<|one more|>", llama.GenerateOptions{MaxTokens: 1}) {
		if err == nil || !strings.Contains(err.Error(), "outside the vocabulary") {
			t.Errorf("a token without an embedding: %v", err)
		}
	}
}

// TestNoTokenizer: a model without one takes ids and refuses text.
func TestNoTokenizer(t *testing.T) {
	dir := copyFolder(t, filepath.Dir(golden.Glob(t, "models/*/hf/config.json")[0]))
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "tokenizer.model"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "none.gguf")
	if _, err := llama.Convert(t.Context(), dir, file, llama.ConvertOptions{To: "gguf"}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, file} {
		m := open(t, path, llama.Options{})
		if w := strings.Join(m.Warnings(), " "); !strings.Contains(w, "no tokenizer") {
			t.Errorf("warnings %q do not say that there is no tokenizer", w)
		}
		takesIDs(t, session(t, m))
	}
}

// takesIDs checks that the session of a model without a tokenizer takes ids and no text.
func takesIDs(t *testing.T, s *llama.Session) {
	t.Helper()
	last := func(tokens iter.Seq2[llama.Token, error]) (err error) {
		for _, err = range tokens {
		}
		return err
	}
	if err := last(s.Generate(context.Background(), "text", llama.GenerateOptions{MaxTokens: 1})); !errors.Is(err, llama.ErrUnsupported) {
		t.Errorf("a text prompt: %v", err)
	}
	if err := last(s.GenerateIDs(context.Background(), []int32{1}, llama.GenerateOptions{MaxTokens: 1, Stop: []string{"x"}})); !errors.Is(err, llama.ErrUnsupported) {
		t.Errorf("a stop text: %v", err)
	}
	if got := collect(t, s, []int32{1, 2}, llama.GenerateOptions{MaxTokens: 2, IgnoreEOS: true}); len(got) != 2 {
		t.Errorf("from ids: %v", got)
	}
}

// TestWrongPath opens what is no model.
func TestWrongPath(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		write(t, path, text)
		return path
	}
	folder := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tokens := folder("tokens")
	write(t, filepath.Join(tokens, "tokenizer.json"), "{}")
	for _, c := range []struct{ path, want string }{
		{folder("empty"), "config.json"},
		{tokens, "config.json"},
		{folder("folder.gguf"), "folder"},
		{file("empty.gguf", ""), "is empty"},
		{file("picture.png", "\x89PNG\r\n\x1a\n0000000000000000000000000000"), "GGUF"},
		{file("lower.gguf", "gguf\x03\x00\x00\x00"+strings.Repeat("\x00", 64)), "GGUF"},
		{file("weights.safetensors", "x"), "folder"},
		{file("consolidated.00.pth", "x"), "folder"},
		{file("config.json", "{}"), "folder"},
	} {
		refused(t, c.path, c.want)
	}
	if err := refused(t, filepath.Join(dir, "nothing.gguf"), "nothing.gguf"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v is not fs.ErrNotExist", err)
	}
	var typed *gguf.Error
	if err := refused(t, filepath.Join(dir, "picture.png")); !errors.As(err, &typed) || typed.Reason == "" {
		t.Errorf("%v is not a *gguf.Error", err)
	}
}
