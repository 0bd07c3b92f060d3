package train_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// TestOpaqueMemory: training on a device whose memory moves at every step gives the bits
// of the ordinary oracle; so do the weights that are saved and opened again.
func TestOpaqueMemory(t *testing.T) {
	shape := llama.Config{Layers: 1, Dim: 32, Heads: 2, KVHeads: 1, HeadDim: 16, HiddenDim: 32, Vocab: 20, Context: 32,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true}
	batch := train.Batch{Docs: []int{5, 3}, IDs: []int32{1, 2, 3, 4, 5, 6, 7, 8}, Targets: []int32{2, 3, 4, 5, train.NoTarget, 7, 8, train.NoTarget}}
	run := func(b backend.Backend) (all []float32) {
		m, err := llama.New(t.Context(), shape, nil, llama.Init{Seed: 1}, llama.Options{Backend: b})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		tr, err := train.NewTrainer(m, train.TrainerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		for range 3 {
			r, err := tr.Step(t.Context(), []train.Batch{batch}, 1e-2)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, float32(r.Loss), float32(r.GradNorm))
		}
		dir := filepath.Join(t.TempDir(), "saved")
		if err := m.Save(t.Context(), dir, llama.SaveOptions{}); err != nil {
			t.Fatal(err)
		}
		state := filepath.Join(t.TempDir(), "state")
		if err := tr.Optimizer().Save(t.Context(), tr.Context(), state, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Optimizer().Load(t.Context(), tr.Context(), state); err != nil {
			t.Fatal(err)
		}
		again, err := llama.Open(t.Context(), dir, llama.Options{Backend: b, Trainable: true})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		saved := training(t, again).Params()
		for i, p := range tr.Params() {
			x, y := make([]float32, p.Param.Shape.Elems()), make([]float32, p.Param.Shape.Elems())
			if err := tensor.Download(b, x, p.Param.Numbers()); err != nil {
				t.Fatal(err)
			}
			if err := tensor.Download(b, y, saved[i].Param.Numbers()); err != nil || !slices.Equal(x, y) {
				t.Errorf("%s is another once saved, %v", p.Name, err)
			}
			all = append(all, x...)
		}
		return all
	}
	if want, got := run(ref.New()), run(ref.NewOpaque()); !slices.Equal(got, want) {
		t.Error("the numbers differ in memory that moves")
	}
}
