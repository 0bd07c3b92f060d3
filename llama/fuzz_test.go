package llama_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/gguf"
)

// smallest is a whole model in about 2 KB: width 4, one layer, four tokens.
func smallest(t testing.TB) []byte {
	t.Helper()
	w := &gguf.Writer{}
	for _, kv := range []struct {
		key   string
		value any
	}{
		{"general.architecture", "llama"}, {"llama.block_count", uint32(1)}, {"llama.context_length", uint32(16)},
		{"llama.embedding_length", uint32(4)}, {"llama.feed_forward_length", uint32(4)}, {"llama.attention.head_count", uint32(2)},
		{"llama.attention.head_count_kv", uint32(1)}, {"llama.attention.layer_norm_rms_epsilon", float32(1e-5)},
		{"llama.rope.dimension_count", uint32(2)}, {"llama.rope.freq_base", float32(10000)},
		{"tokenizer.ggml.model", "llama"}, {"tokenizer.ggml.tokens", []string{"<unk>", "<s>", "</s>", "a"}},
		{"tokenizer.ggml.scores", []float32{0, 0, 0, -1}}, {"tokenizer.ggml.token_type", []int32{2, 3, 3, 1}},
	} {
		if err := w.Set(kv.key, kv.value); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range []struct {
		name  string
		shape []int
	}{
		{"token_embd.weight", []int{4, 4}}, {"output_norm.weight", []int{4}}, {"rope_freqs.weight", []int{1}},
		{"blk.0.attn_norm.weight", []int{4}}, {"blk.0.ffn_norm.weight", []int{4}}, {"blk.0.attn_q.weight", []int{4, 4}},
		{"blk.0.attn_k.weight", []int{2, 4}}, {"blk.0.attn_v.weight", []int{2, 4}}, {"blk.0.attn_output.weight", []int{4, 4}},
		{"blk.0.ffn_gate.weight", []int{4, 4}}, {"blk.0.ffn_up.weight", []int{4, 4}}, {"blk.0.ffn_down.weight", []int{4, 4}},
	} {
		n := 4
		for _, d := range m.shape {
			n *= d
		}
		if err := w.Add(m.name, backend.F32, m.shape, bytes.NewReader(bytes.Repeat([]byte{0, 0, 0x80, 0x3f}, n/4))); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzOpenReader opens damaged models, and runs those that open.
func FuzzOpenReader(f *testing.F) {
	f.Add(smallest(f))
	b, err := cpu.New(cpu.Options{Workers: 1})
	if err != nil {
		f.Fatal(err)
	}
	o := llama.Options{Backend: b, Context: 64, MemoryLimit: 1 << 24}
	f.Fuzz(func(t *testing.T, file []byte) {
		m, err := llama.OpenReader(context.Background(), bytes.NewReader(file), int64(len(file)), "fuzz", o)
		if err != nil {
			return
		}
		defer m.Close()
		s, err := m.NewSession(llama.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Logits(context.Background(), []int32{0, int32(m.Config().Vocab - 1)}); err != nil {
			t.Fatal(err)
		}
		for tok, err := range s.Generate(context.Background(), "a <s>", llama.GenerateOptions{MaxTokens: 3}) {
			_, _ = tok, err // an empty prompt or logits of NaN are errors
		}
	})
}

// TestSmallest: the seed of the fuzzing is a model.
func TestSmallest(t *testing.T) {
	file := smallest(t)
	m, err := llama.OpenReader(context.Background(), bytes.NewReader(file), int64(len(file)), "smallest", llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := session(t, m).Logits(context.Background(), []int32{1, 3}); err != nil {
		t.Fatal(err)
	}
}
