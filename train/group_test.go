package train_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// pair is a group of two machines: each sends what it has and adds what it gets.
type pair struct{ to, from chan []float64 }

func newPair() [2]pair {
	a, b := make(chan []float64, 1), make(chan []float64, 1)
	return [2]pair{{a, b}, {b, a}}
}

func (p pair) Reduce(ctx context.Context, x []float64) error {
	select {
	case p.to <- slices.Clone(x):
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case other := <-p.from:
		for i, v := range other {
			x[i] += v
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// groupModel is a model to train, the same each time, on a backend of its own.
func groupModel(t *testing.T) *llama.Model {
	t.Helper()
	b, err := cpu.New(cpu.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	m, err := llama.New(t.Context(), small, nil, llama.Init{Seed: 3, Std: 0.1}, llama.Options{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// weightsOf are all numbers of a model, in order.
func weightsOf(t *testing.T, m *llama.Model) (all []float32) {
	t.Helper()
	for _, p := range training(t, m).Params() {
		x := make([]float32, p.Param.Shape.Elems())
		if err := tensor.Download(training(t, m).Backend(), x, p.Param.Numbers()); err != nil {
			t.Fatal(err)
		}
		all = append(all, x...)
	}
	return all
}

// groupBatches are micro-batches with weights, of different numbers of targets.
func groupBatches() []train.Batch {
	list := []train.Batch{
		{IDs: []int32{3, 1, 4, 1, 5}, Targets: []int32{1, 4, 1, 5, train.NoTarget}, Docs: []int{5}},
		{IDs: []int32{9, 2, 6, 5, 3, 5, 8, 9}, Targets: []int32{2, 6, train.NoTarget, 3, 5, 8, 9, train.NoTarget}, Docs: []int{3, 5}},
		{IDs: []int32{7, 9, 3}, Targets: []int32{9, 3, train.NoTarget}, Docs: []int{3}},
	}
	list[1].Weights = []float32{1, 0.5, 0, 2, 1, 0, 1, 0}
	return list
}

// TestGroup: two machines with some of a step's batches each take the steps of one with
// all: the same loss, norm and weights, up to the order in which gradients are added up;
// and the same evaluation. Between the two no bit differs. A machine may have no batch.
func TestGroup(t *testing.T) {
	batches := groupBatches()
	for name, cut := range map[string]int{"two and one": 2, "one and two": 1, "all and none": 3} {
		for _, precision := range []backend.Precision{backend.PrecisionF32, backend.PrecisionBF16} {
			o := train.TrainerOptions{Precision: precision, ZLoss: 1e-3, Optimizer: optim.AdamWConfig{ClipNorm: 0.5}}
			const steps = 3
			run := func(m *llama.Model, o train.TrainerOptions, part []train.Batch) (reports []train.StepReport, err error) {
				tr, err := train.NewTrainer(m, o)
				if err != nil {
					return nil, err
				}
				defer tr.Close()
				for range steps {
					r, err := tr.Step(t.Context(), part, 1e-2)
					if err != nil {
						return nil, err
					}
					reports = append(reports, r)
				}
				var r train.StepReport
				r.NLL, r.Tokens, err = tr.Eval(t.Context(), part)
				return append(reports, r), err
			}
			one := groupModel(t)
			want, err := run(one, o, batches)
			if err != nil {
				t.Fatal(err)
			}
			models, parts := [2]*llama.Model{groupModel(t), groupModel(t)}, [2][]train.Batch{batches[:cut], batches[cut:]}
			var got [2][]train.StepReport
			var errs [2]error
			var wg sync.WaitGroup
			for i, p := range newPair() {
				own := o
				own.Group = p
				wg.Go(func() { got[i], errs[i] = run(models[i], own, parts[i]) })
			}
			wg.Wait()
			if err := errors.Join(errs[:]...); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got[0], got[1]) || !slices.Equal(weightsOf(t, models[0]), weightsOf(t, models[1])) {
				t.Errorf("%s, %v: the machines differ: %v and %v", name, precision, got[0], got[1])
			}
			for i, w := range want {
				g := got[0][i]
				if g.Tokens != w.Tokens || g.Rows != w.Rows {
					t.Errorf("%s, %v, step %d: %+v, want %+v", name, precision, i, g, w)
				}
				for what, x := range map[string][2]float64{"loss": {g.Loss, w.Loss}, "nll": {g.NLL, w.NLL}, "norm": {g.GradNorm, w.GradNorm}} {
					// Gradients of few numbers, added up in another order in float32; the
					// first losses in float64.
					tolerance := 1e-6
					if i == 0 && what != "norm" {
						tolerance = 1e-14
					}
					if math.Abs(x[0]-x[1]) > tolerance*(1+math.Abs(x[1])) {
						t.Errorf("%s, %v, step %d: %s %v, want %v", name, precision, i, what, x[0], x[1])
					}
				}
			}
			// AdamW's first step is the sign of a gradient where that is not small beside
			// Eps: a gradient of rounding errors alone may move a weight by lr.
			far, mine, theirs := 0, weightsOf(t, models[0]), weightsOf(t, one)
			for i, x := range mine {
				if math.Abs(float64(x-theirs[i])) > 1e-5 {
					far++
				}
			}
			if far > len(mine)/1000 {
				t.Errorf("%s, %v: %d of %d weights differ", name, precision, far, len(mine))
			}
		}
	}
}

// TestGroupFails: what fails on one machine, in its batches, its loss or its context, is an
// error on both, and neither changes a weight.
func TestGroupFails(t *testing.T) {
	good := groupBatches()
	ended, end := context.WithCancel(t.Context())
	end()
	for name, bad := range map[string]struct {
		ctx     context.Context
		batches []train.Batch
		is      error
	}{
		"a batch":   {t.Context(), []train.Batch{{IDs: []int32{1}, Targets: []int32{1, 2}, Docs: []int{1}}}, nil},
		"an id":     {t.Context(), []train.Batch{{IDs: []int32{1000}, Targets: []int32{1}, Docs: []int{1}}}, nil},
		"a weight":  {t.Context(), []train.Batch{{IDs: []int32{1}, Targets: []int32{1}, Docs: []int{1}, Weights: []float32{float32(math.Inf(1))}}}, train.ErrNotFinite},
		"a context": {ended, good[1:], context.Canceled},
	} {
		models := [2]*llama.Model{groupModel(t), groupModel(t)}
		before := weightsOf(t, models[0])
		var errs [2]error
		var wg sync.WaitGroup
		// Whoever waits for a machine that is gone does so as long as its context lets it.
		patient, stop := context.WithCancel(t.Context())
		for i, p := range newPair() {
			tr, err := train.NewTrainer(models[i], train.TrainerOptions{Group: p})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			ctx, batches := patient, good[:1]
			if i == 1 {
				ctx, batches = bad.ctx, bad.batches
			}
			wg.Go(func() {
				_, errs[i] = tr.Step(ctx, batches, 1e-2)
				if ctx == ended { // it is gone
					stop()
				}
			})
		}
		wg.Wait()
		stop()
		if errs[1] == nil || bad.is != nil && !errors.Is(errs[1], bad.is) {
			t.Errorf("%s: the machine that fails has the error %v", name, errs[1])
		}
		if !errors.Is(errs[0], train.ErrNotFinite) && !(bad.ctx == ended && errors.Is(errs[0], context.Canceled)) {
			t.Errorf("%s: the other machine has the error %v", name, errs[0])
		}
		for i, m := range models {
			if !slices.Equal(weightsOf(t, m), before) {
				t.Errorf("%s: machine %d has changed its weights", name, i)
			}
		}
	}
}
