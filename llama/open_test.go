package llama_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

// sameLogits compares a model with one opened from a path.
func sameLogits(t *testing.T, path string, m *llama.Model) {
	t.Helper()
	_, ids := tiny(t, 8)
	for i := range ids {
		ids[i] %= int32(m.Config().Vocab)
	}
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
		t.Errorf("a model above the limit: %v", err)
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
	bad := llama.Options{Precision: 9, KVType: backend.Q4_0, MemoryLimit: -1, Context: -1, BatchRows: -5}
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

// TestNoTokenizer: a model without one takes ids and refuses text.
func TestNoTokenizer(t *testing.T) {
	dir := copyFolder(t, filepath.Dir(golden.Glob(t, "models/*/hf/config.json")[0]))
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "tokenizer.model"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	m := open(t, dir, llama.Options{})
	if w := strings.Join(m.Warnings(), " "); !strings.Contains(w, "tokenizer") {
		t.Errorf("warnings %q do not say that there is no tokenizer", w)
	}
	s := session(t, m)
	for _, err := range s.Generate(context.Background(), "text", llama.GenerateOptions{MaxTokens: 1}) {
		if !errors.Is(err, llama.ErrUnsupported) {
			t.Errorf("a text prompt: %v", err)
		}
	}
	if got := collect(t, s, []int32{1, 2}, llama.GenerateOptions{MaxTokens: 2, IgnoreEOS: true}); len(got) != 2 {
		t.Errorf("from ids: %v", got)
	}
}
