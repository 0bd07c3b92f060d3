package train

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/tensor"
)

// ErrNotFinite is wrapped by the error of a step whose loss or gradients are NaN or
// infinite. The weights are those of before the step.
var ErrNotFinite = optim.ErrNotFinite

// TrainerOptions are the settings of a Trainer. The zero value trains in float32.
type TrainerOptions struct {
	// Precision is backend.PrecisionF32, or PrecisionBF16 for mixed precision: float32
	// weights, residual stream and sums, products in bfloat16. PrecisionAuto is F32.
	Precision backend.Precision
	// Checkpoint keeps only the input of each layer for backward, which computes the
	// layer again: a third more arithmetic.
	Checkpoint bool
	// ZLoss is the factor of the squared log of the softmax's sum in the loss; see
	// tensor.Targets.
	ZLoss float64
	// Optimizer is AdamW.
	Optimizer optim.AdamWConfig
}

// Trainer is the step of training: gradients over micro-batches, then AdamW. It serves
// one goroutine.
type Trainer struct {
	m      *llama.Model
	o      TrainerOptions
	c      *tensor.Context
	params []nn.Named // those trained
	grads  backend.Buffer
	adam   *optim.AdamW
	broken error // the weights have changed, and what is computed from them has not
}

// NewTrainer trains those parameters of a model that can change: all of one that was
// opened with llama.Options.Trainable, or its adapters. The trainer is closed before
// the model.
func NewTrainer(m *llama.Model, o TrainerOptions) (*Trainer, error) {
	if o.ZLoss < 0 || math.IsNaN(o.ZLoss) || math.IsInf(o.ZLoss, 0) {
		return nil, fmt.Errorf("train: ZLoss is %v, want 0 or more", o.ZLoss)
	}
	if o.Precision == backend.PrecisionAuto {
		o.Precision = backend.PrecisionF32
	}
	t := &Trainer{m: m, o: o}
	n := int64(0)
	for _, p := range m.Trainable() {
		t.params = append(t.params, p)
		n += p.Param.Padded()
	}
	if len(t.params) == 0 {
		return nil, errors.New("train: the model has no parameter that can change: open it with Trainable, or give it an adapter")
	}
	var err error
	if t.c, err = m.NewContext(tensor.Options{Precision: o.Precision}); err != nil {
		return nil, err
	}
	if t.grads, err = m.Backend().Alloc(4 * n); err != nil {
		t.c.Close()
		return nil, fmt.Errorf("train: gradients of %d numbers: %w", n, err)
	}
	n = 0
	for _, p := range t.params {
		p.Param.BindGrad(backend.Contiguous(t.grads, backend.F32, int(n), p.Param.Shape))
		n += p.Param.Padded()
	}
	if t.adam, err = optim.NewAdamW(m.Backend(), t.params, o.Optimizer); err != nil {
		t.free()
		return nil, err
	}
	return t, nil
}

// Close frees gradients and moments. The model keeps its weights.
func (t *Trainer) Close() {
	t.adam.Close()
	t.free()
}

func (t *Trainer) free() {
	for _, p := range t.params {
		p.Param.BindGrad(backend.View{})
	}
	t.grads.Free()
	t.c.Close()
}

// Optimizer is the trainer's optimizer: its state is saved and loaded there.
func (t *Trainer) Optimizer() *optim.AdamW { return t.adam }

// load takes the optimizer's state from a file.
func (t *Trainer) load(ctx context.Context, path string) error {
	_, err := t.adam.Load(ctx, t.c, path)
	return err
}

// Params lists what is trained.
func (t *Trainer) Params() []nn.Named { return t.params }

// Context is the context of the steps, for what runs between them.
func (t *Trainer) Context() *tensor.Context { return t.c }

// Scratch is the most memory that any step has used for activations, in bytes.
func (t *Trainer) Scratch() int64 { return t.c.Scratch() }

// StepReport says what a step did.
type StepReport struct {
	Loss     float64 // mean over the targets, by their weights; with the z-loss
	NLL      float64 // mean negative log-likelihood, without it
	GradNorm float64 // of all gradients together, before clipping
	Tokens   int     // targets that counted
	Rows     int     // positions computed
}

// Step trains on micro-batches: the loss is the mean over the targets of all of them
// together, whatever batch they are in. On an error the weights are what they were; what
// is not finite is ErrNotFinite, with the batch's number where it can be told.
func (t *Trainer) Step(ctx context.Context, batches []Batch, lr float64) (StepReport, error) {
	var r StepReport
	if t.broken != nil {
		return r, t.broken
	}
	total := 0.0
	for i := range batches {
		if err := batches[i].check(); err != nil {
			return r, fmt.Errorf("batch %d: %w", i, err)
		}
		total += batches[i].weight()
		r.Tokens += batches[i].count()
		r.Rows += len(batches[i].IDs)
	}
	if !(total > 0) {
		return r, errors.New("train: no token of the step has a target that counts")
	}
	if err := t.adam.ZeroGrad(ctx, t.c); err != nil {
		return r, err
	}
	for i := range batches {
		loss, nll, err := t.pass(ctx, &batches[i], float32(1/total), true)
		if err == nil && (math.IsNaN(loss) || math.IsInf(loss, 0)) {
			err = fmt.Errorf("the loss is %v: %w", loss, ErrNotFinite)
		}
		if err != nil {
			return r, fmt.Errorf("batch %d: %w", i, err)
		}
		r.Loss += loss
		r.NLL += nll
	}
	norm, err := t.Update(ctx, lr)
	r.GradNorm = norm
	return r, err
}

// Update is the end of a step whose gradients are there: clipping and AdamW.
func (t *Trainer) Update(ctx context.Context, lr float64) (norm float64, err error) {
	t.m.Changed() // what a session computes meanwhile is of neither
	norm, err = t.adam.Step(ctx, t.c, lr)
	if err != nil {
		return norm, err
	}
	err = t.m.Refresh(context.WithoutCancel(ctx)) // else what follows from the weights is of the step before
	t.m.Changed()
	if err != nil {
		t.broken = fmt.Errorf("train: the weights have changed, what follows from them has not: %w", err)
	}
	return norm, err
}

// Eval is the mean negative log-likelihood of batches, and the targets that counted.
// Nothing is changed.
func (t *Trainer) Eval(ctx context.Context, batches []Batch) (nll float64, tokens int, err error) {
	total := 0.0
	for i := range batches {
		if err := batches[i].check(); err != nil {
			return 0, 0, fmt.Errorf("batch %d: %w", i, err)
		}
		w := batches[i].weight()
		if w == 0 {
			continue
		}
		_, sum, err := t.pass(ctx, &batches[i], 1, false)
		if err != nil {
			return 0, 0, fmt.Errorf("batch %d: %w", i, err)
		}
		nll += sum
		total += w
		tokens += batches[i].count()
	}
	if total == 0 {
		return 0, 0, errors.New("train: no token of the evaluation has a target that counts")
	}
	return nll / total, tokens, nil
}

// pass runs one micro-batch and, where learn is set, adds its gradients to those of the
// batches before. loss and nll are sums times scale.
func (t *Trainer) pass(ctx context.Context, b *Batch, scale float32, learn bool) (loss, nll float64, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("train: a step failed: %v", fault)
		}
	}()
	err = t.c.Step(ctx, backend.Documents(b.Docs...), t.m.KV(), func() error {
		loss, nll, err = t.within(b, scale, learn)
		return err
	})
	return loss, nll, err
}

// within is what pass does within its step.
func (t *Trainer) within(b *Batch, scale float32, learn bool) (loss, nll float64, err error) {
	tape := tensor.NewTape()
	if learn {
		t.c.Record(tape)
	}
	h, err := t.m.Forward(t.c, b.IDs, llama.ForwardOptions{Checkpoint: t.o.Checkpoint})
	if err != nil {
		return 0, 0, err
	}
	targets := tensor.Targets{IDs: b.Targets, Weights: b.Weights, Scale: scale, ZLoss: float32(t.o.ZLoss)}
	sum, logp, _ := tensor.CrossEntropy(t.c, h, t.m.Output(), targets)
	one, rows := make([]float32, 1), make([]float32, len(b.IDs))
	t.c.Read(one, sum)
	t.c.Read(rows, logp)
	for i, y := range b.Targets {
		if y >= 0 {
			w := float64(scale)
			if b.Weights != nil {
				w *= float64(b.Weights[i])
			}
			if w != 0 {
				nll -= w * float64(rows[i])
			}
		}
	}
	if learn {
		tape.Backward(tensor.Seed{Y: sum})
	}
	return float64(one[0]), nll, nil
}
