package quantize_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
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

// TestTypesAreWritten: there is an encoder for each type that may be asked for.
func TestTypesAreWritten(t *testing.T) {
	for _, x := range quantize.Types() {
		if !block.Encodable(x) {
			t.Errorf("%v is not written", x)
		}
	}
}

// TestKeep says by hand what patterns match.
func TestKeep(t *testing.T) {
	for pattern, names := range map[string]map[string]bool{
		"attn_v":              {"blk.0.attn_v.weight": true, "blk.10.attn_v.weight": true, "blk.0.attn_vv.weight": false},
		"attn":                {"blk.0.attn_v.weight": false},
		"attn_*":              {"blk.0.attn_v.weight": true, "blk.0.ffn_up.weight": false},
		"output.weight":       {"output.weight": true, "blk.0.attn_output.weight": false},
		"*output.weight":      {"output.weight": true, "blk.0.attn_output.weight": true},
		"*attn_output*":       {"blk.0.attn_output.weight": true},
		"blk.1":               {"blk.1.ffn_up.weight": true, "blk.11.ffn_up.weight": false, "blk.0.ffn_up.weight": false},
		"blk.[01].*":          {"blk.0.ffn_up.weight": true, "blk.1.attn_q.weight": true, "blk.2.attn_q.weight": false},
		"blk.?.ffn_down":      {"blk.7.ffn_down.weight": true, "blk.17.ffn_down.weight": false},
		"blk.*.ffn_down":      {"blk.17.ffn_down.weight": true},
		"blk.0.attn_v.weight": {"blk.0.attn_v.weight": true, "blk.0.attn_v.weightx": false},
		"*":                   {"token_embd.weight": true},
	} {
		for name, want := range names {
			if got := (quantize.Keep{Pattern: pattern}).Match(name); got != want {
				t.Errorf("%q matches %s: %v", pattern, name, got)
			}
		}
	}
	k, err := quantize.ParseKeep("blk.[0-3].*=q6_k")
	if err != nil || k != (quantize.Keep{Pattern: "blk.[0-3].*", Type: backend.Q6_K}) {
		t.Errorf("%v, %v", k, err)
	}
	for _, bad := range []string{"", "=", "=q8_0", "attn_v", "attn_v=", "attn_v=q9", "attn_v=q4_k_m", "[=q8_0", strings.Repeat("a", 300) + "=q8_0"} {
		if k, err := quantize.ParseKeep(bad); err == nil {
			t.Errorf("%.20q is taken as %v", bad, k)
		}
	}
}

// TestRules: what is asked for of single matrices comes before the mix, in the order of
// llama.cpp's flags, and gives way only to rows that are no whole blocks.
func TestRules(t *testing.T) {
	matrices := []quantize.Matrix{{Name: "token_embd.weight", Cols: 512}, {Name: "blk.0.attn_v.weight", Cols: 512}, {Name: "blk.0.ffn_down.weight", Cols: 96},
		{Name: "blk.1.ffn_down.weight", Cols: 100}, {Name: "output.weight", Cols: 512}}
	for what, c := range map[string]struct {
		r    quantize.Rules
		m    quantize.Model
		want []backend.DType
	}{
		"fallbacks": {quantize.Rules{Mix: quantize.Q6_K}, quantize.Model{Layers: 2},
			[]backend.DType{backend.Q6_K, backend.Q6_K, backend.Q8_0, backend.F16, backend.Q6_K}},
		"pure": {quantize.Rules{Mix: quantize.Q4_K_M, Pure: true}, quantize.Model{Layers: 2},
			[]backend.DType{backend.Q4_K, backend.Q4_K, backend.Q5_0, backend.F16, backend.Q4_K}},
		"floats": {quantize.Rules{Mix: quantize.BF16}, quantize.Model{Layers: 2},
			[]backend.DType{backend.BF16, backend.BF16, backend.BF16, backend.BF16, backend.BF16}},
		"named": {quantize.Rules{Mix: quantize.Q8_0, Output: backend.F16, Embedding: backend.Q4_K,
			Keep: []quantize.Keep{{Pattern: "attn_v", Type: backend.Q5_K}, {Pattern: "*", Type: backend.F32}}}, quantize.Model{Layers: 2},
			[]backend.DType{backend.Q4_K, backend.Q5_K, backend.F32, backend.F32, backend.F16}},
		"ternary": {quantize.Rules{Mix: quantize.TQ2_0}, quantize.Model{Layers: 2},
			[]backend.DType{backend.Q4_K, backend.TQ2_0, backend.Q4_0, backend.F16, backend.Q6_K}},
	} {
		got, err := c.r.Types(c.m, matrices)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, c.want)
		}
	}
	tied, err := quantize.Rules{Mix: quantize.Q4_0, Output: backend.Q5_1}.Types(quantize.Model{Layers: 1, Tied: true}, matrices[:1])
	if err != nil || tied[0] != backend.Q5_1 {
		t.Errorf("the embedding that is the output layer is %v, %v", tied, err)
	}
}
