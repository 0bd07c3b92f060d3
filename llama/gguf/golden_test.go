package gguf

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

// goldenFiles lists every GGUF file there is.
func goldenFiles(t testing.TB) []string {
	t.Helper()
	var files []string
	for _, dir := range golden.Roots() {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && filepath.Ext(path) == ".gguf" {
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(files) == 0 {
		t.Fatal("no golden file found, not even a committed one")
	}
	return files
}

func mustOpen(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func readAll(t testing.TB, x *Tensor) []byte {
	t.Helper()
	b, err := io.ReadAll(x.Reader())
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != x.Bytes {
		t.Fatalf("tensor %s: %d bytes read, wanted %d", x.Name, len(b), x.Bytes)
	}
	return b
}

// Every file, written again from what was read, reads the same: once from the
// raw values and once from the decoded ones.
func TestRoundTrip(t *testing.T) {
	for _, path := range goldenFiles(t) {
		t.Run(golden.Name(path), func(t *testing.T) {
			f := mustOpen(t, path)
			for _, decoded := range []bool{false, true} {
				var w Writer
				for _, key := range f.Keys() {
					v, _ := f.Lookup(key)
					var x any = v
					if decoded {
						x = v.Any()
					}
					if err := w.Set(key, x); err != nil {
						t.Fatal(err)
					}
				}
				for _, x := range f.Tensors() {
					if err := w.Add(x.Name, x.Type, x.Shape, x.Reader()); err != nil {
						t.Fatal(err)
					}
				}
				out := filepath.Join(t.TempDir(), "out.gguf")
				if err := w.WriteFile(out); err != nil {
					t.Fatal(err)
				}
				compare(t, mustOpen(t, out), f)
			}
		})
	}
}

func compare(t *testing.T, got, want *File) {
	t.Helper()
	if !slices.Equal(got.Keys(), want.Keys()) {
		t.Fatalf("keys are %v, wanted %v", got.Keys(), want.Keys())
	}
	for _, key := range want.Keys() {
		a, _ := got.Lookup(key)
		b, _ := want.Lookup(key)
		if a.Kind() != b.Kind() || !bytes.Equal(a.raw, b.raw) {
			t.Errorf("key %s is %v, wanted %v", key, a, b)
		}
	}
	if len(got.Tensors()) != len(want.Tensors()) {
		t.Fatalf("%d tensors, wanted %d", len(got.Tensors()), len(want.Tensors()))
	}
	for i, a := range got.Tensors() {
		b := want.Tensors()[i]
		if a.Name != b.Name || a.Type != b.Type || !slices.Equal(a.Shape, b.Shape) || a.Bytes != b.Bytes {
			t.Fatalf("tensor %d is %s %v %v, wanted %s %v %v", i, a.Name, a.Type, a.Shape, b.Name, b.Type, b.Shape)
		}
		if !bytes.Equal(readAll(t, a), readAll(t, b)) {
			t.Errorf("tensor %s: the bytes differ", a.Name)
		}
	}
}

// The embedding is the tensor that no format permutes: shape and numbers must
// be those of the Hugging Face folder.
func TestEmbeddingEqualsSafetensors(t *testing.T) {
	compared := 0
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		shards, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "hf", "*.safetensors"))
		x := mustOpen(t, path).Tensor("token_embd.weight")
		if x == nil {
			t.Fatalf("%s has no token_embd.weight", path)
		}
		for _, shard := range shards {
			want, ok := golden.Safetensors(t, shard)["model.embed_tokens.weight"]
			if !ok || want.DType != x.Type.String() {
				continue
			}
			compared++
			if !slices.Equal(x.Shape, want.Shape) {
				t.Errorf("%s: shape %v, wanted %v", path, x.Shape, want.Shape)
			}
			b := readAll(t, x)
			if want.F32 != nil {
				for i, v := range want.F32 {
					if binary.LittleEndian.Uint32(b[4*i:]) != math.Float32bits(v) {
						t.Fatalf("%s: element %d differs", path, i)
					}
				}
			}
			for i, v := range want.U16 {
				if binary.LittleEndian.Uint16(b[2*i:]) != v {
					t.Fatalf("%s: element %d differs", path, i)
				}
			}
		}
	}
	if compared == 0 {
		t.Error("no embedding was compared")
	}
}

// The types are those that the tool which wrote the files reported.
func TestTypesOfQuantizedFiles(t *testing.T) {
	for _, path := range golden.Glob(t, "quant/models/*/info.json") {
		var info struct {
			Files map[string]struct {
				Types map[string]string `json:"tensor_types"`
			}
		}
		golden.JSON(t, path, &info)
		for name, file := range info.Files {
			f := mustOpen(t, filepath.Join(filepath.Dir(path), name+".gguf"))
			if len(file.Types) != len(f.Tensors()) {
				t.Errorf("%s: %d tensors, wanted %d", name, len(f.Tensors()), len(file.Types))
			}
			for tensor, want := range file.Types {
				if x := f.Tensor(tensor); x == nil || x.Type.String() != want {
					t.Errorf("%s: tensor %s is %+v, wanted type %s", name, tensor, x, want)
				}
			}
		}
	}
}

func TestTypeNumbers(t *testing.T) {
	for _, want := range backend.DTypes() {
		id, ok := idOf(want)
		if want == backend.E4M3 { // GGUF has none
			continue
		}
		if !ok {
			t.Errorf("%v has no number", want)
			continue
		}
		if got, err := dtypeOf(id); got != want || err != nil || tensorTypes[id].name != want.String() {
			t.Errorf("number %d is %v %q (%v), wanted %v", id, got, tensorTypes[id].name, err, want)
		}
	}
	if _, ok := idOf(backend.Invalid); ok {
		t.Error("the invalid type has a number")
	}
}
