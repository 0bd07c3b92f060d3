package quantize_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/quantize"
)

// model reads what rules look at of a GGUF file.
func model(t *testing.T, path string) (m quantize.Model, matrices []quantize.Matrix, types []backend.DType) {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for key, n := range map[string]*int{"llama.block_count": &m.Layers, "llama.attention.head_count": &m.Heads, "llama.attention.head_count_kv": &m.KVHeads} {
		v, err := f.Uint(key)
		if err != nil {
			t.Fatal(err)
		}
		*n = int(v)
	}
	m.Tied = f.Tensor("output.weight") == nil
	for _, x := range f.Tensors() {
		if len(x.Shape) == 2 {
			matrices = append(matrices, quantize.Matrix{Name: x.Name, Cols: x.Shape[1]})
			types = append(types, x.Type)
		}
	}
	return m, matrices, types
}

// TestTypes holds the rules to every file that llama.cpp has made.
func TestTypes(t *testing.T) {
	for _, info := range golden.Glob(t, "quant/models/*/info.json") {
		b, err := os.ReadFile(info)
		if err != nil {
			t.Fatal(err)
		}
		var files struct {
			Files map[string]struct {
				Types map[string]string `json:"tensor_types"`
			}
		}
		if err := json.Unmarshal(b, &files); err != nil || len(files.Files) == 0 {
			t.Fatalf("%s: %v", info, err)
		}
		for name, file := range files.Files {
			mix, err := quantize.ParseMix(name)
			if err != nil {
				t.Error(err)
				continue
			}
			m, matrices, _ := model(t, filepath.Join(filepath.Dir(info), name+".gguf"))
			types, err := quantize.Rules{Mix: mix}.Types(m, matrices)
			if err != nil {
				t.Fatal(err)
			}
			for i, x := range matrices {
				if want := file.Types[x.Name]; types[i].String() != want {
					t.Errorf("%s: %s is %v, want %s", name, x.Name, types[i], want)
				}
			}
		}
	}
}

// TestTypesOfRealModel holds the rules to a file in use, which says what mix it is.
func TestTypesOfRealModel(t *testing.T) {
	path, _ := golden.RealModel(t)
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	number, err := f.Uint("general.file_type")
	if err != nil {
		t.Fatal(err)
	}
	for _, mix := range quantize.Mixes() {
		if uint64(mix.FileType()) != number {
			continue
		}
		m, matrices, want := model(t, path)
		types, err := quantize.Rules{Mix: mix}.Types(m, matrices)
		if err != nil {
			t.Fatal(err)
		}
		for i, x := range matrices {
			if types[i] != want[i] {
				t.Errorf("%v: %s is %v, want %v", mix, x.Name, types[i], want[i])
			}
		}
		return
	}
	t.Errorf("no mix has the number %d", number)
}
