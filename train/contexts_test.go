package train_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// TestContextCauses: a context that was cancelled with a cause ends every call with an error
// in which errors.Is finds both, and nothing is left of what was to be saved.
func TestContextCauses(t *testing.T) {
	m := adapted(t)
	tr, err := train.NewTrainer(m, train.TrainerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	saved, out := filepath.Join(t.TempDir(), "saved"), filepath.Join(t.TempDir(), "out")
	if err := tr.Save(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	batches := []train.Batch{{IDs: []int32{1, 2}, Targets: []int32{2, train.NoTarget}, Docs: []int{2}}}
	none := func(*tensor.Context, *tensor.Tensor) ([]tensor.Seed, error) { return nil, nil }
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.EOF)
	for name, call := range map[string]func() error{
		"Step":     func() error { _, err := tr.Step(ctx, batches, 1); return err },
		"Eval":     func() error { _, _, err := tr.Eval(ctx, batches); return err },
		"Update":   func() error { _, err := tr.Update(ctx, 1); return err },
		"ZeroGrad": func() error { return tr.ZeroGrad(ctx) },
		"Run": func() error {
			return tr.Run(ctx, train.Pass{IDs: []int32{1, 2}, Layout: backend.Documents(2), Loss: none})
		},
		"Save":          func() error { return tr.Save(ctx, out) },
		"Load":          func() error { return tr.Load(ctx, saved) },
		"Training.Save": func() error { return training(t, m).Save(ctx, out) },
		"AdamW.Save":    func() error { return tr.Optimizer().Save(ctx, tr.Context(), out, nil) },
		"AdamW.Step":    func() error { _, err := tr.Optimizer().Step(ctx, tr.Context(), 1); return err },
		"Average": func() error {
			return optim.Average(ctx, out, []string{saved + "/adapter_model.safetensors"}, optim.AverageOptions{})
		},
		"Run of a configuration": func() error {
			c := tiny(t, 1)
			_, err := train.Run(ctx, c, train.Options{})
			return err
		},
	} {
		if err := call(); !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s has left what it was to save", name)
			os.RemoveAll(out)
		}
	}
	if err := tr.Load(t.Context(), saved); err != nil {
		t.Error(err)
	}
	if _, err := tr.Step(t.Context(), batches, 1e-3); err != nil {
		t.Error(err)
	}
}
