package train_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// TestQLoRA: an adapter on a quantised base learns a batch by heart, in both precisions,
// and the base keeps its bytes.
func TestQLoRA(t *testing.T) {
	// The smallest widths of which all types have whole blocks.
	shape := llama.Config{Layers: 1, Dim: 256, Heads: 2, KVHeads: 1, HeadDim: 32, HiddenDim: 256, Vocab: 40, Context: 32,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true}
	batch := train.Batch{Docs: []int{10, 6}}
	for i := range 16 {
		batch.IDs = append(batch.IDs, int32(i*37%40))
		batch.Targets = append(batch.Targets, int32((i+1)*37%40))
	}
	batch.Targets[9], batch.Targets[15] = train.NoTarget, train.NoTarget
	for _, typ := range []backend.DType{backend.Q4_0, backend.Q8_0, backend.Q4_K, backend.Q6_K, backend.IQ4_XS, backend.BF16} {
		for _, precision := range []backend.Precision{backend.PrecisionF32, backend.PrecisionBF16} {
			t.Run(typ.String()+" "+precision.String(), func(t *testing.T) {
				m, err := llama.NewRandom(t.Context(), shape, typ, llama.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				config := peft.Config{Rank: 8, Alpha: 16, DoRA: typ == backend.Q4_K, Targets: []string{"q_proj", "v_proj", "o_proj", "up_proj", "down_proj"}}
				if err := m.AddAdapter(t.Context(), config, 1); err != nil {
					t.Fatal(err)
				}
				before := baseBytes(t, m)
				tr, err := train.NewTrainer(m, train.TrainerOptions{Precision: precision})
				if err != nil {
					t.Fatal(err)
				}
				defer tr.Close()
				var first, last float64
				for i := range 24 {
					r, err := tr.Step(t.Context(), []train.Batch{batch}, 4e-2)
					if err != nil {
						t.Fatal(err)
					}
					if last = r.Loss; i == 0 {
						first = last
					}
				}
				if !(last < first-0.3) { // small random weights bound the logits
					t.Errorf("the loss went from %v to %v", first, last)
				}
				if !bytes.Equal(before, baseBytes(t, m)) {
					t.Error("the base has changed")
				}
			})
		}
	}
}

// baseBytes are the model's own matrices.
func baseBytes(t testing.TB, m *llama.Model) (all []byte) {
	trained := map[any]bool{}
	for _, p := range training(t, m).Trainable() {
		trained[p.Param] = true
	}
	for _, p := range training(t, m).Params() {
		if !p.Param.Matrix() || trained[p.Param] {
			continue
		}
		w := p.Param.Weight()
		size, _ := w.Type().RowBytes(int64(w.Cols()))
		b := make([]byte, w.Rows()*int(size))
		w.Unpack(b, 0, w.Rows())
		all = append(all, b...)
	}
	return all
}

// TestAdapterRecomputed: adapters of feed-forward layers alone learn the same where layers
// are computed again.
func TestAdapterRecomputed(t *testing.T) {
	shape := llama.Config{Layers: 3, Dim: 64, Heads: 2, KVHeads: 1, HeadDim: 32, HiddenDim: 96, Vocab: 90, Context: 512,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true}
	batch := train.Batch{Docs: []int{300}} // more rows than go through a layer at once without a tape
	for i := range 300 {
		batch.IDs, batch.Targets = append(batch.IDs, int32(i*7%90)), append(batch.Targets, int32((i+1)*7%90))
	}
	var want []byte
	for _, again := range []bool{false, true} {
		m, err := llama.NewRandom(t.Context(), shape, backend.F16, llama.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.AddAdapter(t.Context(), peft.Config{Rank: 2, Alpha: 4, Targets: []string{"gate_proj", "up_proj", "down_proj"}}, 1); err != nil {
			t.Fatal(err)
		}
		tr, err := train.NewTrainer(m, train.TrainerOptions{Checkpoint: again})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		for range 3 {
			r, err := tr.Step(t.Context(), []train.Batch{batch}, 1e-2)
			if err != nil || r.GradNorm == 0 {
				t.Fatalf("norm %v, %v", r.GradNorm, err)
			}
		}
		var got []byte
		for _, p := range training(t, m).Trainable() {
			raw := make([]byte, 4*p.Param.Shape.Elems())
			if _, err := tensor.Reader(training(t, m).Backend(), p.Param.Numbers()).ReadAt(raw, 0); err != nil {
				t.Fatal(err)
			}
			got = append(got, raw...)
		}
		if want == nil {
			want = got
		} else if !bytes.Equal(got, want) {
			t.Error("computed again, the adapter is another")
		}
	}
}

// TestWindow: without a length of its own a run takes sequences that a model with a
// sliding window sees whole.
func TestWindow(t *testing.T) {
	base := run(t, tiny(t, 1), train.Options{}).Checkpoint
	path := filepath.Join(base, "config.json")
	var config map[string]any
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	config["model_type"], config["architectures"], config["sliding_window"] = "mistral", []string{"MistralForCausalLM"}, 9
	if b, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	c := tiny(t, 2)
	c.Model, c.LoRA.Rank, c.Batch.SeqLen = train.ModelConfig{Path: base}, 1, 0
	if r := run(t, c, train.Options{}); r.Tokens == 0 || r.Tokens > 2*2*2*9 {
		t.Errorf("%d tokens of 2 steps of 4 sequences of 9 positions", r.Tokens)
	}
}
