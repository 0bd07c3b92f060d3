package llama_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
)

// convertAdapter writes an adapter in the other format.
func convertAdapter(t *testing.T, base, in, to string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "adapter.gguf")
	if to != "gguf" {
		out = filepath.Join(t.TempDir(), "adapter")
	}
	r, err := llama.Convert(context.Background(), in, out, llama.ConvertOptions{To: to, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Tensors) == 0 {
		t.Error("no tensors reported")
	}
	return out
}

// TestAdapterGGUF: the adapters that PEFT wrote, as GGUF files, give PEFT's logits, and
// come back with the bits they had.
func TestAdapterGGUF(t *testing.T) {
	for _, c := range adapterCases(t) {
		t.Run(golden.Name(c.path), func(t *testing.T) {
			if c.kind == "dora" {
				_, err := llama.Convert(context.Background(), c.path, filepath.Join(t.TempDir(), "a.gguf"), llama.ConvertOptions{To: "gguf", Base: c.base})
				if !errors.Is(err, llama.ErrUnsupported) || !strings.Contains(err.Error(), "DoRA") {
					t.Error(err)
				}
				return
			}
			file := convertAdapter(t, c.base, c.path, "gguf")
			again := convertAdapter(t, c.base, file, "safetensors")
			for _, path := range []string{file, again} {
				m := open(t, c.base, llama.Options{Adapters: []llama.Adapter{{Path: path}}})
				near(t, path, c.logits(t, m), c.want["logits"].F32, golden.TrainLogits)
			}
			a, errA := peft.Open(c.path)
			b, errB := peft.Open(again)
			if err := errors.Join(errA, errB); err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			defer b.Close()
			for i, m := range a.Modules {
				n := b.Modules[i]
				if m.Name != n.Name || m.Rank != n.Rank || math.Abs(m.Scale-n.Scale) > 1e-6*m.Scale {
					t.Errorf("%s of rank %d, factor %v, became %s of %d, %v", m.Name, m.Rank, m.Scale, n.Name, n.Rank, n.Scale)
				}
				for k, s := range []safetensors.Source{m.A, m.B} {
					x, errX := peft.Read(s)
					y, errY := peft.Read([]safetensors.Source{n.A, n.B}[k])
					if errX != nil || errY != nil || !slices.Equal(x, y) {
						t.Errorf("%s: other numbers (%v, %v)", s.Name, errX, errY)
					}
				}
			}
		})
	}
}

// TestAdapterGGUFLayout: what is in the file: row 2i+j of a head of B of q is PEFT's row
// i + j*hd/2, the embedding's A has a row for each token, and factors that differ go into B.
func TestAdapterGGUFLayout(t *testing.T) {
	base := golden.Glob(t, "models/*/hf")[0]
	c := open(t, base, llama.Options{}).Config()
	const q, down = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
	n := c.Heads * c.HeadDim
	rows := make([]float32, n*2)
	for i := range rows {
		rows[i] = float32(i / 2)
	}
	tensors := map[string]safetensors.Source{
		q + ".lora_A.weight": peft.Tensor(numbers(1, 2*c.Dim), 2, c.Dim), q + ".lora_B.weight": peft.Tensor(rows, n, 2),
		down + ".lora_A.weight": peft.Tensor(numbers(2, c.HiddenDim), 1, c.HiddenDim), down + ".lora_B.weight": peft.Tensor(numbers(3, c.Dim), c.Dim, 1),
		"model.embed_tokens.lora_embedding_A": peft.Tensor(numbers(4, 2*c.Vocab), 2, c.Vocab), "model.embed_tokens.lora_embedding_B": peft.Tensor(numbers(5, c.Dim*2), c.Dim, 2),
		"lm_head.lora_A.weight": peft.Tensor(numbers(6, 2*c.Dim), 2, c.Dim), "lm_head.lora_B.weight": peft.Tensor(numbers(7, c.Vocab*2), c.Vocab, 2),
	}
	adapter := adapterFolder(t, map[string]any{"target_modules": []string{"q_proj", "down_proj", "embed_tokens", "lm_head"},
		"rank_pattern": map[string]int{"down_proj": 1}, "alpha_pattern": map[string]float64{"down_proj": 12}}, tensors)
	file := convertAdapter(t, base, adapter, "gguf")
	f := openGGUF(t, file)
	alpha, err := f.Float("adapter.lora.alpha")
	if kind, _ := f.String("adapter.type"); err != nil || kind != "lora" || alpha != 3 {
		t.Errorf("type %q, alpha %v (%v)", kind, alpha, err)
	}
	read := func(name string, shape ...int) []float32 {
		x := f.Tensor(name)
		if x == nil || !slices.Equal(x.Shape, shape) || x.Type != backend.F32 {
			t.Fatalf("%s is %+v, want %v", name, x, shape)
		}
		v, err := peft.Read(safetensors.Source{Type: x.Type, Shape: x.Shape, Data: x})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	b := read("blk.0.attn_q.weight.lora_b", n, 2)
	for head := range c.Heads {
		for i := range c.HeadDim / 2 {
			for j := range 2 {
				if got, want := b[2*(head*c.HeadDim+2*i+j)], float32(head*c.HeadDim+i+j*c.HeadDim/2); got != want {
					t.Fatalf("row %d of head %d is %v, want %v", 2*i+j, head, got, want)
				}
			}
		}
	}
	a, table := numbers(4, 2*c.Vocab), read("token_embd.weight.lora_a", c.Vocab, 2)
	for v := range c.Vocab {
		if table[2*v] != a[v] || table[2*v+1] != a[c.Vocab+v] {
			t.Fatalf("token %d is %v, want %v and %v", v, table[2*v:2*v+2], a[v], a[c.Vocab+v])
		}
	}
	for i, x := range read("blk.1.ffn_down.weight.lora_b", c.Dim, 1) {
		if want := 4 * numbers(3, c.Dim)[i]; x != want { // alpha 12 of rank 1, the file's 3
			t.Fatalf("number %d is %v, want %v", i, x, want)
		}
	}
	ids := randomIDs(c, 9)
	logits := func(path string) []float32 {
		return scoreAll(t, session(t, open(t, base, llama.Options{Precision: llama.PrecisionF32, Adapters: []llama.Adapter{{Path: path}}})), ids)
	}
	near(t, "as GGUF", logits(file), logits(adapter), golden.F32Logits/10)
	near(t, "as PEFT again", logits(convertAdapter(t, base, file, "safetensors")), logits(adapter), golden.F32Logits/10)
}

// TestAdapterGGUFErrors: what is no adapter, or fits no model, is named.
func TestAdapterGGUFErrors(t *testing.T) {
	base := golden.Glob(t, "models/*/hf")[0]
	c := open(t, base, llama.Options{}).Config()
	type tensors map[string][]int
	file := func(kind, adapter, arch string, list tensors) string {
		w := &gguf.Writer{}
		for k, v := range map[string]any{"general.type": kind, "general.architecture": arch, "adapter.type": adapter, "adapter.lora.alpha": float32(2)} {
			if err := w.Set(k, v); err != nil {
				t.Fatal(err)
			}
		}
		for name, shape := range list {
			if err := w.Add(name, backend.F32, shape, bytes.NewReader(make([]byte, 4*shape[0]*shape[1]))); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(t.TempDir(), "a.gguf")
		if err := w.WriteFile(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const k = "blk.0.attn_k.weight"
	good := tensors{k + ".lora_a": {1, c.Dim}, k + ".lora_b": {c.KVHeads * c.HeadDim, 1}}
	open(t, base, llama.Options{Adapters: []llama.Adapter{{Path: file("adapter", "lora", "llama", good)}}})
	for want, path := range map[string]string{
		"not an adapter":     file("model", "lora", "llama", good),
		`"control_vector"`:   file("adapter", "control_vector", "llama", good),
		"norms of queries":   file("adapter", "lora", "qwen3", good),
		"no factor":          file("adapter", "lora", "llama", tensors{k: {1, 2}}),
		"does not have":      file("adapter", "lora", "llama", tensors{"blk.99.attn_k.weight.lora_a": {1, 2}}),
		"one of the two":     file("adapter", "lora", "llama", tensors{k + ".lora_a": {1, c.Dim}}),
		"rank of this layer": file("adapter", "lora", "llama", tensors{k + ".lora_a": {1, c.Dim}, k + ".lora_b": {c.KVHeads * c.HeadDim, 2}}),
		"want [1":            file("adapter", "lora", "llama", tensors{k + ".lora_a": {1, c.Dim + 1}, k + ".lora_b": {c.KVHeads * c.HeadDim, 1}}),
		"holds no adapter":   file("adapter", "lora", "llama", nil),
	} {
		_, err := llama.Open(context.Background(), base, llama.Options{Adapters: []llama.Adapter{{Path: path}}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "a.gguf") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	adapter := file("adapter", "lora", "llama", good)
	if _, err := llama.Open(context.Background(), adapter, llama.Options{}); err == nil || !strings.Contains(err.Error(), "is an adapter") {
		t.Errorf("an adapter as a model: %v", err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if _, err := llama.Convert(context.Background(), adapter, out, llama.ConvertOptions{To: "safetensors"}); err == nil || !strings.Contains(err.Error(), "Base") {
		t.Errorf("without a base: %v", err)
	}
	if _, err := llama.Convert(context.Background(), adapter, out, llama.ConvertOptions{To: "meta", Base: base}); !errors.Is(err, llama.ErrUnsupported) {
		t.Errorf("to Meta's format: %v", err)
	}
}
