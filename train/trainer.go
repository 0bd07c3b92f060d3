package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/optim"
	"github.com/herd-ml/herd/tensor"
)

// ErrNotFinite is wrapped by the error of a step whose loss or gradients are NaN or
// infinite. The weights are those of before the step.
var ErrNotFinite = optim.ErrNotFinite

// ErrClosed is returned by calls of a Trainer that has been closed. If its model has been
// closed they return llama.ErrClosed.
var ErrClosed = errors.New("train: the trainer is closed")

// ErrBusy is returned by a call to a Trainer that runs another call.
var ErrBusy = errors.New("train: the trainer runs another call")

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
	// Seed is the seed of an adapter's dropout. With the same seed the same steps drop the
	// same numbers.
	Seed uint64
	// Optimizer is AdamW.
	Optimizer optim.AdamWConfig
	// Extra are parameters of the caller's own that are trained and saved beside the
	// model's, a reward head for one. Their numbers are F32 that can change
	// (tensor.Param.BindMatrix or BindValue), in memory that outlives the trainer;
	// their names are not the model's.
	Extra []nn.Named
	// Group joins machines that train the same model, each on its own micro-batches of a
	// step. Weights of targets, losses and gradients are added up over all, so all take
	// the same step. All make the same calls; only the batches differ, and a machine may
	// have none. What fails on one machine is an error on all. nil is one machine.
	Group optim.Reducer
}

// Trainer is the step of training: gradients over micro-batches, then AdamW. It runs one
// call at a time and answers a second with ErrBusy.
//
// Sessions of the model may run beside it. Their steps come between its own. Update
// changes the weights, so what a session holds is stale afterwards. The session's next
// call computes it again. A call of a session that is under way returns llama.ErrStale.
type Trainer struct {
	m      *llama.Training
	model  *llama.Model
	o      TrainerOptions
	c      *tensor.Context
	params []nn.Named // those trained
	grads  backend.Buffer
	adam   *optim.AdamW

	scratch atomic.Int64 // what c has used
	mu      sync.Mutex   // held by a call
	broken  error        // why there is no next step: closed, or weights that are not of a whole step
}

// NewTrainer returns a trainer of the parameters of a model that can change, and of those of
// TrainerOptions.Extra. All parameters can change of a model that was opened with
// llama.Options.Trainable, those of the adapter alone where one was added. A model with
// neither can be used if there are Extra ones.
func NewTrainer(m *llama.Model, o TrainerOptions) (*Trainer, error) {
	if o.ZLoss < 0 || math.IsNaN(o.ZLoss) || math.IsInf(o.ZLoss, 0) {
		return nil, fmt.Errorf("train: ZLoss is %v, want 0 or more", o.ZLoss)
	}
	if o.Precision == backend.PrecisionAuto {
		o.Precision = backend.PrecisionF32
	}
	handle, err := m.Training()
	if err != nil {
		return nil, err
	}
	t := &Trainer{m: handle, model: m, o: o, params: append(handle.Trainable(), o.Extra...)}
	if len(t.params) == 0 {
		return nil, errors.New("train: the model has no parameter that can change: open it with Trainable, or give it an adapter")
	}
	n := int64(0)
	for _, p := range t.params {
		n += p.Param.Padded()
	}
	if t.c, err = t.m.NewContext(tensor.Options{Precision: o.Precision}); err != nil {
		return nil, err
	}
	if t.grads, err = t.m.Backend().Alloc(4 * n); err != nil {
		t.c.Close()
		return nil, fmt.Errorf("train: gradients of %d numbers: %w", n, err)
	}
	n = 0
	for _, p := range t.params {
		p.Param.BindGrad(backend.Contiguous(t.grads, backend.F32, int(n), p.Param.Shape))
		n += p.Param.Padded()
	}
	if t.adam, err = optim.NewAdamW(t.m.Backend(), t.params, o.Optimizer); err != nil {
		t.free()
		return nil, err
	}
	return t, nil
}

// Close waits for a call that is under way, then frees gradients and moments. The model
// keeps its weights. Closing twice is fine; what is called afterwards returns ErrClosed.
func (t *Trainer) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.broken == ErrClosed {
		return
	}
	t.broken = ErrClosed
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

// use begins a call: the model stays open until done.
func (t *Trainer) use(ctx context.Context) (call context.Context, done func(), err error) {
	if !t.mu.TryLock() {
		return nil, nil, ErrBusy
	}
	leave := func() {}
	if err = t.broken; err == nil {
		call, leave, err = t.m.Use(ctx)
	}
	if err != nil {
		t.mu.Unlock()
		return nil, nil, err
	}
	return call, func() {
		t.scratch.Store(t.c.Scratch())
		leave()
		t.mu.Unlock()
	}, nil
}

// Optimizer is the trainer's optimizer: its state is saved and loaded there. Who calls it
// keeps the model open (llama.Training.Use).
func (t *Trainer) Optimizer() *optim.AdamW { return t.adam }

// Params lists what is trained.
func (t *Trainer) Params() []nn.Named { return t.params }

// Context is the context of the steps, for what runs between them.
func (t *Trainer) Context() *tensor.Context { return t.c }

// Scratch is the most memory that any call has used for activations, in bytes.
func (t *Trainer) Scratch() int64 { return t.scratch.Load() }

// A Pass is a forward pass of the caller's own layout and loss, and the backward pass that
// follows from the seeds which the loss returns.
type Pass struct {
	IDs []int32 // [R]
	// Layout says what each row sees, which rows results are wanted of, and which
	// adapters each segment has: a policy's rows, and those of the reference without
	// its adapter, may be in one pass.
	Layout *backend.Layout
	// Loss gets the hidden states [len(Layout.Logits), D], runs operations on them
	// (tensor.LogProb with Output for one), reads numbers, and returns where backward
	// starts. Without seeds there are no gradients. It must not use the model or the
	// trainer otherwise.
	Loss func(c *tensor.Context, h *tensor.Tensor) ([]tensor.Seed, error)
	// Forward leaves out the tape, and with it backward.
	Forward bool
	// Noise is the seed of the random numbers of dropout in this pass; 0 drops nothing.
	Noise uint64
}

// Output is the matrix [V, D] that makes logits of hidden states, for the loss of a Pass.
func (t *Trainer) Output() *tensor.Param { return t.m.Output() }

// Run runs a pass. Its gradients are added to those there are: ZeroGrad comes before the
// first pass of a step, Update after the last.
func (t *Trainer) Run(ctx context.Context, p Pass) error {
	call, done, err := t.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	return t.run(call, p)
}

// run is Run once the model is in use.
func (t *Trainer) run(ctx context.Context, p Pass) error { return t.runOn(ctx, t.c, p) }

// runOn is run on a context that may be another than the trainer's.
func (t *Trainer) runOn(ctx context.Context, c *tensor.Context, p Pass) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("train: a step failed: %v", fault)
		}
	}()
	return c.Step(ctx, p.Layout, t.m.KV(), func() error {
		tape := tensor.NewTape()
		if !p.Forward {
			c.Record(tape)
		}
		h, err := t.m.Forward(c, p.IDs, llama.ForwardOptions{Checkpoint: t.o.Checkpoint, Noise: p.Noise})
		if err != nil {
			return err
		}
		seeds, err := p.Loss(c, h)
		if err == nil && !p.Forward && len(seeds) > 0 {
			tape.Backward(seeds...)
		}
		return err
	})
}

// ZeroGrad makes all gradients zero: the start of a step.
func (t *Trainer) ZeroGrad(ctx context.Context) error {
	call, done, err := t.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	return t.adam.ZeroGrad(call, t.c)
}

// Update ends a step: it adds up the gradients over the group, clips them, and changes the
// parameters by AdamW.
func (t *Trainer) Update(ctx context.Context, lr float64) (norm float64, err error) {
	call, done, err := t.use(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	return t.update(call, lr)
}

func (t *Trainer) update(ctx context.Context, lr float64) (norm float64, err error) {
	if err := t.sumGradients(ctx); err != nil {
		return 0, err
	}
	t.m.Changed() // a session must not use what it computes while weights change
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

// StepReport says what a step did, on all machines of a group together.
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
	call, done, err := t.use(ctx)
	if err != nil {
		return StepReport{}, err
	}
	defer done()
	r, err := t.losses(call, batches, true)
	if err != nil {
		return r, err
	}
	r.GradNorm, err = t.update(call, lr)
	return r, err
}

// Eval is the mean negative log-likelihood of batches, and the targets that counted: bit
// for bit what Step reports for the same batches and weights. Nothing is changed.
func (t *Trainer) Eval(ctx context.Context, batches []Batch) (nll float64, tokens int, err error) {
	call, done, err := t.use(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer done()
	r, err := t.losses(call, batches, false)
	return r.NLL, r.Tokens, err
}

// losses runs a pass for each batch, with the gradients of their mean if learn is set.
func (t *Trainer) losses(ctx context.Context, batches []Batch, learn bool) (r StepReport, err error) {
	var total, tokens, rows float64
	for i := range batches {
		if err = batches[i].check(); err != nil {
			err = fmt.Errorf("batch %d: %w", i, err)
			break
		}
		total += batches[i].weight()
		tokens += float64(batches[i].count())
		rows += float64(len(batches[i].IDs))
	}
	if err := t.sum(ctx, err, &total, &tokens, &rows); err != nil {
		return r, err
	}
	r.Tokens, r.Rows = int(tokens), int(rows)
	if !(total > 0) {
		return r, errors.New("train: no token has a target that counts")
	}
	nll, z, err := t.passes(ctx, batches, total, learn)
	if err := t.sum(ctx, err, &nll, &z); err != nil {
		return r, err
	}
	r.NLL, r.Loss = nll/total, (nll+t.o.ZLoss*z)/total
	return r, nil
}

// pass is the pass of a batch. It calls sums with what Batch.sums returns.
func (t *Trainer) pass(b *Batch, total float64, learn bool, sums func(nll, z float64)) Pass {
	targets := tensor.Targets{IDs: b.Targets, Weights: b.Weights, Scale: float32(1 / total), ZLoss: float32(t.o.ZLoss)}
	return Pass{IDs: b.IDs, Layout: backend.Documents(b.Docs...), Forward: !learn,
		Loss: func(c *tensor.Context, h *tensor.Tensor) ([]tensor.Seed, error) {
			loss, logp, lse := tensor.CrossEntropy(c, h, t.m.Output(), targets)
			sums(b.sums(read(c, logp), read(c, lse)))
			return []tensor.Seed{{Y: loss}}, nil
		}}
}

// passes runs a pass for each batch and returns the sums of their losses. If learn is set it
// adds the gradients of these sums divided by total.
func (t *Trainer) passes(ctx context.Context, batches []Batch, total float64, learn bool) (nll, z float64, err error) {
	if learn {
		if err := t.adam.ZeroGrad(ctx, t.c); err != nil {
			return 0, 0, err
		}
	}
	for i := range batches {
		b := &batches[i]
		if b.weight() == 0 {
			continue
		}
		p := t.pass(b, total, learn, func(n, s float64) { nll, z = nll+n, z+s })
		if learn {
			p.Noise = noiseOf(t.o.Seed, t.adam.Steps(), i)
		}
		err := t.run(ctx, p)
		if sum := nll + t.o.ZLoss*z; err == nil && (math.IsNaN(sum) || math.IsInf(sum, 0)) {
			err = fmt.Errorf("the loss is %v: %w", sum/total, ErrNotFinite)
		}
		if err != nil {
			return nll, z, fmt.Errorf("batch %d: %w", i, err)
		}
	}
	return nll, z, nil
}

// noiseOf is the seed of dropout in a batch of a step: never 0, which drops nothing.
func noiseOf(seed uint64, step, batch int) uint64 {
	return rand.NewPCG(seed, uint64(step)<<32|uint64(batch)).Uint64() | 1
}

// read copies the numbers of a tensor to the host.
func read(c *tensor.Context, x *tensor.Tensor) []float32 {
	y := make([]float32, x.Shape().Elems())
	c.Read(y, x)
	return y
}
