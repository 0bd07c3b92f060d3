package train_test

import (
	"bytes"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/train"
)

// TestQLoRA: an adapter on a quantised base learns a batch by heart, in both precisions,
// and the base keeps its bytes.
func TestQLoRA(t *testing.T) {
	shape := llama.Config{Layers: 2, Dim: 256, Heads: 4, KVHeads: 2, HeadDim: 64, HiddenDim: 512, Vocab: 300, Context: 64,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true}
	batch := train.Batch{Docs: []int{20, 12}}
	for i := range 32 {
		batch.IDs = append(batch.IDs, int32(i*37%300))
		batch.Targets = append(batch.Targets, int32((i+1)*37%300))
	}
	batch.Targets[19], batch.Targets[31] = train.NoTarget, train.NoTarget
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
				before := baseBytes(m)
				tr, err := train.NewTrainer(m, train.TrainerOptions{Precision: precision})
				if err != nil {
					t.Fatal(err)
				}
				defer tr.Close()
				var first, last float64
				for i := range 60 {
					r, err := tr.Step(t.Context(), []train.Batch{batch}, 2e-2)
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
				if !bytes.Equal(before, baseBytes(m)) {
					t.Error("the base has changed")
				}
			})
		}
	}
}

// baseBytes are the model's own matrices.
func baseBytes(m *llama.Model) (all []byte) {
	trained := map[any]bool{}
	for _, p := range m.Trainable() {
		trained[p.Param] = true
	}
	for _, p := range m.Params() {
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
