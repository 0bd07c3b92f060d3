package train_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// TestOpaqueMemory: training on a device whose memory moves at every step gives the bits
// of the ordinary oracle; so do the weights that are saved and opened again.
func TestOpaqueMemory(t *testing.T) {
	shape := llama.Config{Layers: 1, Dim: 32, Heads: 2, KVHeads: 1, HeadDim: 16, HiddenDim: 32, Vocab: 20, Context: 32,
		NormEps: 1e-5, RopeTheta: 10000, TiedEmbeddings: true}
	batch := train.Batch{Docs: []int{5, 3}, IDs: []int32{1, 2, 3, 4, 5, 6, 7, 8}, Targets: []int32{2, 3, 4, 5, train.NoTarget, 7, 8, train.NoTarget}}
	run := func(t *testing.T, b backend.Backend, adapter *peft.Config) (all []float32) {
		if adapter != nil {
			return adapterNumbers(t, b, shape, batch, *adapter)
		}
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
	for name, adapter := range map[string]*peft.Config{
		"all": nil, "LoRA": {Rank: 2, Alpha: 4, Targets: []string{"q_proj", "down_proj"}},
		"DoRA": {Rank: 2, Alpha: 4, DoRA: true, Targets: []string{"q_proj", "down_proj"}},
	} {
		t.Run(name, func(t *testing.T) {
			if want, got := run(t, ref.New(), adapter), run(t, ref.NewOpaque(), adapter); !slices.Equal(got, want) {
				t.Error("the numbers differ in memory that moves")
			}
		})
	}
}

// adapterNumbers are those of an adapter that is trained, saved, opened and trained on.
func adapterNumbers(t *testing.T, b backend.Backend, shape llama.Config, batch train.Batch, config peft.Config) (all []float32) {
	dir := filepath.Join(t.TempDir(), "adapter")
	for _, saved := range []bool{false, true} {
		m, err := llama.NewRandom(t.Context(), shape, backend.F16, llama.Options{Backend: b})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if saved {
			err = m.LoadAdapter(t.Context(), dir)
		} else {
			err = m.AddAdapter(t.Context(), config, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		tr, err := train.NewTrainer(m, train.TrainerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		for range 2 {
			r, err := tr.Step(t.Context(), []train.Batch{batch}, 1e-2)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, float32(r.Loss), float32(r.GradNorm))
		}
		for _, p := range tr.Params() {
			x := make([]float32, p.Param.Shape.Elems())
			if err := tensor.Download(b, x, p.Param.Numbers()); err != nil {
				t.Fatal(err)
			}
			all = append(all, x...)
		}
		if !saved {
			if err := training(t, m).Save(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}
