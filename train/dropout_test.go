package train_test

import (
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// TestDropout: the steps of an adapter with dropout follow from the seed, whether layers
// are computed again or not; evaluation and sessions drop nothing.
func TestDropout(t *testing.T) {
	shape := llama.Config{Layers: 2, Dim: 64, Heads: 4, KVHeads: 2, HeadDim: 16, HiddenDim: 96, Vocab: 120, Context: 64, NormEps: 1e-5, RopeTheta: 1e4}
	batches := make([]train.Batch, 2)
	for k := range batches {
		b := train.Batch{Docs: []int{11, 7}}
		for i := range 18 {
			b.IDs, b.Targets = append(b.IDs, int32((i*i+k)%120)), append(b.Targets, int32((7*i+k)%120))
		}
		batches[k] = b
	}
	run := func(dropout float64, o train.TrainerOptions) (losses []float64, numbers []float32) {
		m, err := llama.NewRandom(t.Context(), shape, backend.BF16, llama.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.AddAdapter(t.Context(), peft.Config{Rank: 4, Alpha: 8, Dropout: dropout, Targets: []string{"q_proj", "v_proj", "o_proj", "down_proj"}}, 1); err != nil {
			t.Fatal(err)
		}
		tr, err := train.NewTrainer(m, o)
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		for i := range 4 {
			before, _, err := tr.Eval(t.Context(), batches)
			if err != nil {
				t.Fatal(err)
			}
			again, _, _ := tr.Eval(t.Context(), batches)
			r, err := tr.Step(t.Context(), batches, 2e-2)
			if err != nil {
				t.Fatal(err)
			}
			if before != again {
				t.Error("evaluation drops something")
			}
			if dropped := r.NLL != before; i > 0 && dropped != (dropout > 0) { // at first the adapter is nothing
				t.Errorf("step %d has a loss of %v, evaluation %v", i, r.NLL, before)
			}
			losses = append(losses, r.NLL)
		}
		for _, p := range tr.Params() {
			x := make([]float32, p.Param.Shape.Elems())
			if err := tensor.Download(training(t, m).Backend(), x, p.Param.Numbers()); err != nil {
				t.Fatal(err)
			}
			numbers = append(numbers, x...)
		}
		return losses, numbers
	}
	run(0, train.TrainerOptions{Seed: 3})
	a, x := run(0.2, train.TrainerOptions{Seed: 3})
	b, y := run(0.2, train.TrainerOptions{Seed: 3, Checkpoint: true})
	if !slices.Equal(a, b) || !slices.Equal(x, y) {
		t.Errorf("computing again gives losses %v, want %v", b, a)
	}
	if c, z := run(0.2, train.TrainerOptions{Seed: 4}); slices.Equal(a, c) || slices.Equal(x, z) {
		t.Error("another seed gives the same")
	}
}
