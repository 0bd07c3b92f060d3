package gguf

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/herd-ml/herd/backend"
)

func TestWriterKeepsOrderAndAlignment(t *testing.T) {
	for _, align := range []uint32{8, 32, 256} {
		var w Writer
		err := errors.Join(
			w.Set("z", uint8(1)), w.Set(alignKey, align), w.Set("a", "x"), w.Set("z", "replaced"),
			w.Add("last", backend.I8, []int{3, 1, 3}, strings.NewReader("123456789")),
			w.Add("first", backend.I8, []int{1}, strings.NewReader("!")))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		n, err := w.WriteTo(&out)
		if err != nil || n != int64(out.Len()) || n%int64(align) != 0 {
			t.Fatalf("%d bytes written, %d counted, alignment %d, %v", out.Len(), n, align, err)
		}
		f, err := New(bytes.NewReader(out.Bytes()), n, "m.gguf")
		if err != nil {
			t.Fatal(err)
		}
		if f.Version() != 3 || !slices.Equal(f.Keys(), []string{"z", alignKey, "a"}) {
			t.Errorf("version %d, keys %v", f.Version(), f.Keys())
		}
		if z, err := f.String("z"); z != "replaced" || err != nil {
			t.Errorf("z is %q, %v", z, err)
		}
		for i, want := range []string{"123456789", "!"} {
			x := f.Tensors()[i]
			if got := string(readAll(t, x)); got != want || x.off%int64(align) != 0 {
				t.Errorf("tensor %s at %d holds %q", x.Name, x.off, got)
			}
		}
		if !slices.Equal(f.Tensors()[0].Shape, []int{3, 1, 3}) {
			t.Errorf("the shape is %v", f.Tensors()[0].Shape)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	var w Writer
	data := strings.NewReader("")
	if err := w.Add("w", backend.F32, []int{2}, data); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err   error
		words []string
	}{
		{w.Add("w", backend.F32, []int{2}, data), []string{`"w"`, "twice"}},
		{w.Add("", backend.F32, []int{2}, data), []string{"empty"}},
		{w.Add(strings.Repeat("w", 65), backend.F32, []int{2}, data), []string{"65 bytes"}},
		{w.Add("x", backend.Invalid, []int{2}, data), []string{`"x"`, "invalid"}},
		{w.Add("x", backend.DType(200), []int{2}, data), []string{`"x"`, "200"}},
		{w.Add("x", backend.F32, []int{2, 0}, data), []string{`"x"`, "[2 0]"}},
		{w.Add("x", backend.F32, []int{-1}, data), []string{`"x"`, "[-1]"}},
		{w.Add("x", backend.F32, []int{1, 1, 1, 1, 1}, data), []string{`"x"`, "5 dimensions"}},
		{w.Add("x", backend.Q4_0, []int{32, 31}, data), []string{`"x"`, "31", "Q4_0"}},
		{w.Add("x", backend.F32, []int{2}, nil), []string{`"x"`, "no data"}},
		{w.Set("", uint8(1)), []string{"empty"}},
		{w.Set("a\x00", uint8(1)), []string{"NUL"}},
		{w.Set(alignKey, uint64(32)), []string{alignKey, "u64"}},
		{w.Set(alignKey, uint32(33)), []string{alignKey, "33"}},
	} {
		wantError(t, c.err, c.words...)
	}
	if len(w.tensors) != 1 || len(w.keys) != 0 {
		t.Errorf("%d tensors and keys %v were taken", len(w.tensors), w.keys)
	}
}

// Where the data is wrong, WriteFile leaves the old file and nothing else.
func TestWriteFileIsAtomic(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		data io.Reader
		want error
	}{
		{"short", strings.NewReader("1234567"), io.ErrUnexpectedEOF},
		{"long", strings.NewReader("123456789"), errTooLong},
		{"failing", iotest.ErrReader(broken), broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "m.gguf")
			if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
			var w Writer
			if err := w.Add("w", backend.F32, []int{2}, c.data); err != nil {
				t.Fatal(err)
			}
			err := w.WriteFile(path)
			wantError(t, err, path, `"w"`, "8 bytes")
			if !errors.Is(err, c.want) {
				t.Errorf("the error is %v, wanted %v", err, c.want)
			}
			left, _ := os.ReadDir(dir)
			if b, _ := os.ReadFile(path); string(b) != "old" || len(left) != 1 {
				t.Errorf("the file holds %q, its folder %v", b, left)
			}
		})
	}
	var w Writer
	path := filepath.Join(t.TempDir(), "absent", "m.gguf")
	wantError(t, w.WriteFile(path), path, "cannot be written")
}

// zeros is data of any length that takes no memory.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestWriterStreams(t *testing.T) {
	const size = 64 << 20
	var w Writer
	if err := w.Add("w", backend.I8, []int{1 << 10, size >> 10}, io.LimitReader(zeros{}, size)); err != nil {
		t.Fatal(err)
	}
	var n int64
	var err error
	taken := allocated(func() { n, err = w.WriteTo(struct{ io.Writer }{io.Discard}) })
	if err != nil || n < size || taken > 1<<20 {
		t.Errorf("%d bytes written with %d of memory, %v", n, taken, err)
	}
}
