package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

// bytesOf returns the little-endian bytes of a golden tensor.
func bytesOf(x golden.Tensor) []byte {
	var b []byte
	for _, v := range x.F32 {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	for _, v := range x.U16 {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	for _, v := range x.I64 {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return append(b, x.U8...)
}

func readAll(t *testing.T, x *Tensor) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(x, 0, x.Bytes))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != x.Bytes {
		t.Fatalf("%s: read %d bytes of %d", x.Name, len(b), x.Bytes)
	}
	return b
}

// compare holds the tensors of f to those that the independent reader found.
func compare(t *testing.T, f *File, want map[string]golden.Tensor) {
	t.Helper()
	if len(f.Tensors()) != len(want) {
		t.Errorf("%d tensors, want %d", len(f.Tensors()), len(want))
	}
	for name, w := range want {
		x := f.Tensor(name)
		if x == nil {
			t.Fatalf("%s is missing", name)
		}
		if x.Name != name || x.TypeName != w.DType || !reflect.DeepEqual(x.Shape, append([]int{}, w.Shape...)) {
			t.Errorf("%s: got %s %v, want %s %v", name, x.TypeName, x.Shape, w.DType, w.Shape)
		}
		if x.Type == backend.Invalid {
			var e *Error
			if _, err := x.ReadAt(make([]byte, 1), 0); !errors.As(err, &e) || e.Tensor != name || !strings.Contains(e.Reason, w.DType) {
				t.Errorf("%s: reading gave %v", name, err)
			}
			continue
		}
		if x.Type.String() != w.DType {
			t.Errorf("%s: type %v, want %s", name, x.Type, w.DType)
		}
		if !bytes.Equal(readAll(t, x), bytesOf(w)) {
			t.Errorf("%s: bytes differ", name)
		}
	}
}

func TestGoldenFiles(t *testing.T) {
	for _, pattern := range []string{"models/*/hf/*.safetensors", "models/*/*.safetensors", "quant/dequant/*.safetensors"} {
		for _, path := range golden.Glob(t, pattern) {
			t.Run(golden.Name(path), func(t *testing.T) {
				f, err := Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				compare(t, f, golden.Safetensors(t, path))
			})
		}
	}
}

// weights returns the path to open in a Hugging Face folder and what the
// independent reader finds in all its files.
func weights(t *testing.T, dir string) (path string, want map[string]golden.Tensor) {
	want = map[string]golden.Tensor{}
	files, _ := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	for _, file := range files {
		for name, x := range golden.Safetensors(t, file) {
			want[name] = x
		}
	}
	if index, _ := filepath.Glob(filepath.Join(dir, "*.index.json")); len(index) > 0 {
		return index[0], want
	}
	return files[0], want
}

func TestRoundTrip(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*/hf") {
		t.Run(golden.Name(dir), func(t *testing.T) {
			path, want := weights(t, dir)
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			compare(t, f, want)
			var src []Source
			total := int64(0)
			for _, x := range f.Tensors() {
				src = append(src, Source{x.Name, x.Type, x.Shape, x})
				total += x.Bytes
			}
			for _, limit := range []int64{0, total, total - 1, total / 3, 1} {
				out := t.TempDir()
				names, err := WriteDir(out, src, f.Metadata(), limit)
				if err != nil {
					t.Fatal(err)
				}
				if single := limit == 0 || limit == total; single != (len(names) == 1) {
					t.Fatalf("limit %d of %d: wrote %v", limit, total, names)
				}
				if limit == 1 && len(names) != len(src)+1 {
					t.Fatalf("limit 1: %d files for %d tensors", len(names), len(src))
				}
				g, err := Open(filepath.Join(out, names[len(names)-1]))
				if err != nil {
					t.Fatal(err)
				}
				compare(t, g, want)
				if len(g.Warnings()) > 0 || !reflect.DeepEqual(g.Metadata(), f.Metadata()) {
					t.Errorf("limit %d: metadata %v, warnings %v", limit, g.Metadata(), g.Warnings())
				}
				g.Close()
				other := int64(1)
				if len(names) > 1 {
					other = total
				}
				if _, err := WriteDir(out, src, nil, other); err == nil {
					t.Errorf("writing the other form beside %v was not refused", names)
				}
			}
		})
	}
}

// TestMixedTypes writes every type, scalars and empty tensors, in an order
// that would leave wide types unaligned.
func TestMixedTypes(t *testing.T) {
	var src []Source
	want := map[string][]byte{}
	for i, typ := range []backend.DType{backend.I8, backend.F16, backend.F32, backend.BF16, backend.I32} {
		for j, shape := range [][]int{{3}, {}, {0, 5}, {1, 3, 1}} {
			n := typ.BlockBytes()
			for _, d := range shape {
				n *= d
			}
			data := bytes.Repeat([]byte{byte(i + 1), byte(j + 1)}, n)[:n]
			name := typ.String() + strings.Repeat("<é\"\\>", j)
			src = append(src, Source{name, typ, shape, bytes.NewReader(data)})
			want[name] = data
		}
	}
	meta := map[string]string{"format": "pt", "quote\"": "line\nbreak"}
	var a, b bytes.Buffer
	if err := Write(&a, src, meta); err != nil {
		t.Fatal(err)
	}
	if err := Write(&b, src, meta); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("writing twice gives different bytes (%v)", err)
	}
	f, err := New(bytes.NewReader(a.Bytes()), int64(a.Len()), "mixed")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.Metadata(), meta) {
		t.Errorf("metadata %q", f.Metadata())
	}
	for _, s := range src {
		x := f.Tensor(s.Name)
		if x == nil || x.Type != s.Type || !reflect.DeepEqual(x.Shape, s.Shape) {
			t.Fatalf("%q: got %+v", s.Name, x)
		}
		if !bytes.Equal(readAll(t, x), want[s.Name]) {
			t.Errorf("%q: bytes differ", s.Name)
		}
		if x.start%int64(x.Type.BlockBytes()) != 0 {
			t.Errorf("%q: data at %d is not aligned", s.Name, x.start)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	one := bytes.NewReader(make([]byte, 4))
	for what, src := range map[string][]Source{
		"twice":      {{"a", backend.F32, []int{1}, one}, {"a", backend.F32, []int{1}, one}},
		"block type": {{"a", backend.Q8_0, []int{32}, one}},
		"no type":    {{"a", backend.Invalid, []int{1}, one}},
		"reserved":   {{metaKey, backend.F32, []int{1}, one}},
		"negative":   {{"a", backend.F32, []int{-1}, one}},
		"overflow":   {{"a", backend.F32, []int{math.MaxInt, math.MaxInt}, one}},
		"short data": {{"a", backend.F32, []int{2}, one}},
		"bad name":   {{"\xff", backend.F32, []int{1}, one}},
	} {
		dir := t.TempDir()
		var e *Error
		if err := WriteFile(filepath.Join(dir, "x"), src, nil); !errors.As(err, &e) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := WriteDir(dir, src, nil, 1); err == nil {
			t.Errorf("%s: WriteDir took it", what)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 { // hidden ones too
			t.Errorf("%s: left %v", what, left)
		}
	}
	many := make([]Source, maxShards+1)
	for i := range many {
		many[i] = Source{fmt.Sprint(i), backend.I8, []int{1}, one}
	}
	if _, err := WriteDir(t.TempDir(), many, nil, 1); err == nil || !strings.Contains(err.Error(), "shards") {
		t.Errorf("too many shards: %v", err)
	}
}

func TestReadAtBounds(t *testing.T) {
	data := []byte{1, 2, 3, 4, 5, 6, 7, 8}
	var b bytes.Buffer
	src := []Source{{"a", backend.F16, []int{2, 2}, bytes.NewReader(data)}, {"b", backend.F16, []int{4}, bytes.NewReader(data)}}
	if err := Write(&b, src, nil); err != nil {
		t.Fatal(err)
	}
	f, err := New(bytes.NewReader(b.Bytes()), int64(b.Len()), "bounds")
	if err != nil {
		t.Fatal(err)
	}
	x := f.Tensor("a")
	for off := int64(-1); off < 10; off++ {
		for n := 0; n < 10; n++ {
			p := make([]byte, n)
			got, err := x.ReadAt(p, off)
			if off < 0 {
				if err == nil || err == io.EOF {
					t.Errorf("offset %d: %v", off, err)
				}
				continue
			}
			want := data[min(8, off):min(8, off+int64(n))]
			if !bytes.Equal(p[:got], want) {
				t.Errorf("ReadAt(%d bytes, %d) = %v, want %v", n, off, p[:got], want)
			}
			if short := len(want) < n || off >= 8; (err == io.EOF) != short || !short && err != nil {
				t.Errorf("ReadAt(%d bytes, %d): %v", n, off, err)
			}
		}
	}
}

func TestTruncatedWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	src := []Source{{"a", backend.F32, []int{64}, bytes.NewReader(make([]byte, 256))}}
	if err := WriteFile(path, src, nil); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := f.Tensor("a").ReadAt(make([]byte, 256), 0); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.As(err, &e) || e.Tensor != "a" || e.File != path {
		t.Errorf("reading a truncated file: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Tensor("a").ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("reading a closed file: %v", err)
	}
}

// file makes a file of a header and n bytes of data.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func TestOpenFSOfShards(t *testing.T) {
	fsys := fstest.MapFS{
		"m/a.safetensors": {Data: file(`{"__metadata__":{"k":"a"},"x":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"more":{"dtype":"I8","shape":[1],"data_offsets":[2,3]}}`, 3)},
		"m/b.safetensors": {Data: file(`{"__metadata__":{"k":"b","l":"b"},"x":{"dtype":"I8","shape":[9],"data_offsets":[0,9]},"y":{"dtype":"I8","shape":[1],"data_offsets":[9,10]}}`, 10)},
		"m/model.safetensors.index.json": {Data: []byte(`{"weight_map":{"y":"b.safetensors","x":"a.safetensors"},
			"metadata":{"total_size":3,"other":[1,-2.5e3,null,{"a":true}]}}`)},
	}
	f, err := OpenFS(fsys, "m/model.safetensors.index.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(f.Tensors()) != 2 || f.Tensor("x").Bytes != 2 || f.Tensor("y").Bytes != 1 || f.Tensor("more") != nil {
		t.Errorf("tensors %v", f.Tensors())
	}
	if want := map[string]string{"k": "a", "l": "b"}; !reflect.DeepEqual(f.Metadata(), want) {
		t.Errorf("metadata %v, want %v", f.Metadata(), want)
	}
	if w := f.Warnings(); len(w) != 2 || !strings.Contains(w[0], `"more"`) || !strings.Contains(w[1], `"x"`) {
		t.Errorf("warnings %q", w)
	}
}
