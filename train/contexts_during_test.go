package train_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// endingBackend calls end at the n-th of its operations and copies from now on.
type endingBackend struct {
	backend.Backend
	n   atomic.Int64
	end func()
}

func (b *endingBackend) count() {
	if b.n.Add(-1) == 0 {
		b.end()
	}
}

func (b *endingBackend) Upload(buf backend.Buffer, off int64, p []byte) error {
	b.count()
	return b.Backend.Upload(buf, off, p)
}

func (b *endingBackend) Download(p []byte, buf backend.Buffer, off int64) error {
	b.count()
	return b.Backend.Download(p, buf, off)
}

func (b *endingBackend) NewExec() (backend.Exec, error) {
	e, err := b.Backend.NewExec()
	return &endingExec{e, b}, err
}

type endingExec struct {
	backend.Exec
	b *endingBackend
}

func (e *endingExec) Backend() backend.Backend { return e.b }

func (e *endingExec) Run(op backend.Op, a *backend.Args) {
	e.b.count()
	e.Exec.Run(op, a)
}

// endingTrainer trains an adapter and a head on a backend that ends contexts.
func endingTrainer(t *testing.T) (b *endingBackend, m *llama.Model, tr *train.Trainer) {
	t.Helper()
	own, err := cpu.New(cpu.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Close() })
	b = &endingBackend{Backend: own}
	m, err = llama.NewRandom(t.Context(), small, backend.F32, llama.Options{Backend: b, Precision: llama.PrecisionF32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.AddAdapter(t.Context(), peft.Config{Rank: 2, Alpha: 4, DoRA: true, Targets: []string{"q_proj"}}, 1); err != nil {
		t.Fatal(err)
	}
	tr, err = train.NewTrainer(m, train.TrainerOptions{Extra: head(t, m)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return b, m, tr
}

// TestContextEndsDuring: a context that is cancelled with a cause at any operation of a call
// ends the call with an error in which errors.Is finds both. Weights are then what they
// were, and nothing is left of what was to be saved.
func TestContextEndsDuring(t *testing.T) {
	b, m, tr := endingTrainer(t)
	saved, out := filepath.Join(t.TempDir(), "saved"), filepath.Join(t.TempDir(), "out")
	if err := tr.Save(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	numbers := func() (all []float32) {
		for _, p := range tr.Params() {
			x := make([]float32, p.Param.Shape.Elems())
			if err := tensor.Download(b.Backend, x, p.Param.Numbers()); err != nil {
				t.Fatal(err)
			}
			all = append(all, x...)
		}
		return all
	}
	batches := []train.Batch{{IDs: []int32{1, 2, 3}, Targets: []int32{2, 3, train.NoTarget}, Docs: []int{3}}}
	for name, call := range map[string]func(ctx context.Context) error{
		"Step":          func(ctx context.Context) error { _, err := tr.Step(ctx, batches, 1e-2); return err },
		"Eval":          func(ctx context.Context) error { _, _, err := tr.Eval(ctx, batches); return err },
		"Update":        func(ctx context.Context) error { _, err := tr.Update(ctx, 1e-2); return err },
		"ZeroGrad":      func(ctx context.Context) error { return tr.ZeroGrad(ctx) },
		"Save":          func(ctx context.Context) error { return tr.Save(ctx, out) },
		"Load":          func(ctx context.Context) error { return tr.Load(ctx, saved) },
		"Training.Save": func(ctx context.Context) error { return training(t, m).Save(ctx, out) },
	} {
		failed := 0
		for n := int64(1); ; n++ {
			before := numbers()
			ctx, cancel := context.WithCancelCause(t.Context())
			b.end = func() { cancel(io.EOF) }
			b.n.Store(n)
			err := call(ctx)
			ended := b.n.Swap(0) <= 0
			cancel(nil)
			if err != nil {
				failed++
				if !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
					t.Fatalf("%s, cancelled at operation %d: %v", name, n, err)
				}
				if !slices.Equal(numbers(), before) {
					t.Fatalf("%s, cancelled at operation %d: weights have changed", name, n)
				}
				if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 {
					t.Fatalf("%s, cancelled at operation %d: %v is left, %v", name, n, left, err)
				}
			}
			os.RemoveAll(out)
			if !ended {
				break // it has fewer operations
			}
		}
		if failed == 0 {
			t.Errorf("%s never ends with its context", name)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	pass := train.Pass{IDs: []int32{1, 2}, Layout: backend.Documents(2), Loss: func(c *tensor.Context, h *tensor.Tensor) ([]tensor.Seed, error) {
		cancel(io.EOF)
		return []tensor.Seed{{Y: h, DY: h}}, nil
	}}
	if err := tr.Run(ctx, pass); !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
		t.Errorf("Run, cancelled in Loss: %v", err)
	}
}

// TestRunEndsDuring: Run ends with both errors whichever of its callbacks cancels, but the
// last, when all is done.
func TestRunEndsDuring(t *testing.T) {
	run := func(n int) (calls int, err error) {
		c := tiny(t, 3)
		c.Data.Holdout, c.Eval.Every, c.Sample.Every, c.Sample.Tokens, c.Checkpoint.Every = 0.3, 2, 2, 3, 2
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		count := func() {
			if calls++; calls == n {
				cancel(io.EOF)
			}
		}
		_, err = train.Run(ctx, c, train.Options{Progress: func(train.Progress) { count() }, Event: func(train.Event) { count() }})
		return calls, err
	}
	all, err := run(0)
	if err != nil || all < 8 {
		t.Fatalf("%d callbacks, %v", all, err)
	}
	for n := 1; n < all; n++ {
		if _, err := run(n); !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
			t.Errorf("cancelled in callback %d of %d: %v", n, all, err)
		}
	}
}
