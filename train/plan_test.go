package train

import (
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
)

// TestPlan compares what is planned for activations with what the first step takes, of every
// golden model, of adapters, with and without recomputation.
func TestPlan(t *testing.T) {
	const rows, seqLen = 2, 48
	for _, dir := range golden.Glob(t, "models/*/hf") {
		for _, adapter := range []bool{false, true} {
			for _, precision := range []backend.Precision{backend.PrecisionF32, backend.PrecisionBF16} {
				for _, checkpoint := range []bool{false, true} {
					m, err := llama.Open(t.Context(), dir, llama.Options{Trainable: !adapter})
					if err != nil {
						t.Fatal(err)
					}
					defer m.Close()
					if adapter {
						if err := m.AddAdapter(t.Context(), peft.Config{Rank: 4, Alpha: 8, Targets: []string{"q_proj", "v_proj", "down_proj"}}, 1); err != nil {
							t.Fatal(err)
						}
					}
					tr, err := NewTrainer(m, TrainerOptions{Precision: precision, Checkpoint: checkpoint})
					if err != nil {
						t.Fatal(err)
					}
					defer tr.Close()
					plan, err := tr.plan(t.Context(), rows, seqLen)
					if err != nil {
						t.Fatal(err)
					}
					tr.c.Reserve(plan.Activations) // as a run does
					b := Batch{IDs: make([]int32, rows*seqLen), Targets: make([]int32, rows*seqLen), Docs: slices.Repeat([]int{seqLen}, rows)}
					if _, err := tr.Step(t.Context(), []Batch{b}, 1e-3); err != nil {
						t.Fatal(err)
					}
					if got := tr.c.Scratch(); got > plan.Activations || got < plan.Activations*3/4 {
						t.Errorf("%s, adapter %v, %v, recomputed %v: %d bytes planned, %d taken", dir, adapter, precision, checkpoint, plan.Activations, got)
					}
				}
			}
		}
		if testing.Short() {
			break
		}
	}
}
