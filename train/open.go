package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// open makes everything ready for the first step. It returns false where none is left.
func (r *run) open(ctx context.Context) (more bool, err error) {
	r.saved = -1
	from, err := r.resumeFrom()
	if err != nil {
		return false, err
	}
	if r.c.Data.Epochs == 0 && r.finished() { // without a look at model and data
		return false, mendRecord(r.c.Out, int64(r.done.Step))
	}
	if from == "" { // now, so that what stops before the first checkpoint goes on with them
		if err := writeSettings(r.given, r.c.Out); err != nil {
			return false, err
		}
	}
	if err := r.openModel(ctx, from); err != nil {
		return false, err
	}
	if err := r.openData(ctx, from); err != nil {
		return false, err
	}
	if r.c.Data.Epochs > 0 {
		if err := r.countSteps(ctx); err != nil {
			return false, err
		}
		if r.finished() {
			return false, mendRecord(r.c.Out, int64(r.done.Step))
		}
	}
	r.tellSteps()
	r.t, err = NewTrainer(r.m, TrainerOptions{
		Precision: r.c.precision(), Checkpoint: r.c.Model.Recompute, ZLoss: r.c.Optimizer.ZLoss, Seed: r.c.Seed, Optimizer: r.c.adamW(),
	})
	if err != nil {
		return false, err
	}
	if from != "" {
		if err := r.restore(ctx, from); err != nil {
			return false, err
		}
	}
	r.done.Position, r.done.Config = r.it.Position(), r.c
	if from != "" { // what would be refused above leaves those of before
		if err := writeSettings(r.given, r.c.Out); err != nil {
			return false, err
		}
	}
	if r.log, err = OpenRecorder(r.c.Out, int64(r.done.Step)); err != nil {
		return false, fmt.Errorf("train: %w", err)
	}
	if r.report.Plan, err = r.t.plan(ctx, r.c.Batch.Rows, r.c.Batch.SeqLen); err != nil {
		return false, err
	}
	r.t.c.Reserve(r.report.Plan.Activations) // so that the first step's arena does not grow
	if r.c.Sample.Every > 0 {
		m := r.m.Memory()
		r.report.Plan.Sampling = m.Session + m.Scratch + m.Snapshots
	}
	r.event(EventPlan, "%v", r.report.Plan)
	for _, w := range r.m.Warnings() {
		r.event(EventWarning, "%s", w)
	}
	r.peak = r.limit(ctx)
	r.kept = time.Now()
	r.clock.Start(r.kept)
	return true, nil
}

// finished reports whether a checkpoint is of the last step and has been evaluated, where
// something is held out.
func (r *run) finished() bool {
	if r.saved < 0 || r.done.Step < r.c.Steps {
		return false
	}
	holds := r.c.Data.Holdout > 0 || len(r.c.Data.EvalFiles) > 0
	if l := r.evals.last; holds && (l == nil || l.Step != int64(r.done.Step)) {
		return false
	}
	if r.evals.last != nil {
		r.report.EvalLoss = r.evals.last.Loss
	}
	r.event(EventFinished, "%d of %d steps are done: %s", r.done.Step, r.c.Steps, r.report.Checkpoint)
	return true
}

// openData opens what is trained on, where a checkpoint has left it.
func (r *run) openData(ctx context.Context, from string) (err error) {
	if r.data, err = OpenData(r.c.Data, r.m.Tokenizer()); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if r.it, err = r.data.Train(r.c.Batch.Rows, r.c.Batch.SeqLen, r.c.Seed); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if _, _, err := r.heldOut(ctx, 1); err != nil { // better than after the last step
		return fmt.Errorf("train: %w", err)
	}
	if from == "" {
		return nil
	}
	r.it.reread = func(documents int64) { r.progress(Progress{Stage: "reread", Step: r.done.Step, Documents: documents}) }
	err = r.it.Restore(ctx, r.done.Position)
	if errors.Is(err, ErrInexact) && r.o.Anyway {
		r.event(EventWarning, "not exact: %v: the data goes on %d documents into epoch %d; of that epoch some may come twice, others not at all",
			err, r.done.Position.Given, r.done.Position.Epoch+1)
		err = r.it.RestoreNear(ctx, r.done.Position)
	}
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// countSteps goes through the rest of the data without training, and sets the steps of the
// run to as many as the data's epochs give.
func (r *run) countSteps(ctx context.Context) error {
	it, err := r.data.Train(r.c.Batch.Rows, r.c.Batch.SeqLen, r.c.Seed)
	if err == nil {
		defer it.Close()
		err = it.Restore(ctx, r.it.Position())
	}
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	most := math.MaxInt32
	if r.given.Steps > 0 {
		most = r.given.Steps
	}
	steps, batches := r.done.Step, 0
	for steps < most || batches > 0 {
		_, err := it.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("train: counting the steps of %d epochs: %w", r.c.Data.Epochs, err)
		}
		if batches++; batches == 1 {
			steps++
			r.progress(Progress{Stage: "count", Step: steps, Tokens: it.Tokens()})
		}
		batches %= r.c.Batch.Accumulate
	}
	if r.given.Steps > steps {
		r.event(EventWarning, "the data of %d epochs ends after %d of %d steps: the schedule ends there too", r.c.Data.Epochs, steps, r.given.Steps)
	}
	r.tellSpelled(it.Spelled(), true)
	r.c.Steps = steps
	r.c.Optimizer.Warmup, r.c.Optimizer.Decay = r.given.Optimizer.Warmup, r.given.Optimizer.Decay
	r.c = r.c.WithDefaults()
	return r.c.Validate()
}

// openModel opens the model of a checkpoint, of files, or a new one.
func (r *run) openModel(ctx context.Context, from string) (err error) {
	o := llama.Options{Backend: r.o.Backend, Trainable: r.c.LoRA.Rank == 0}
	switch {
	case r.c.LoRA.Rank > 0:
		r.m, err = r.openAdapted(ctx, from, o)
	case from != "":
		r.m, err = llama.Open(ctx, from, o)
	case r.c.Model.Path != "":
		r.m, err = llama.Open(ctx, r.c.Model.Path, o)
	default:
		var tok *tokenizer.Tokenizer
		if tok, err = tokenizer.Open(r.c.Model.Tokenizer); err == nil {
			r.m, err = llama.New(ctx, r.c.shape(tok.VocabSize()), tok, llama.Init{Seed: r.c.Seed, Std: r.c.Model.InitStd}, o)
		}
	}
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if r.m.Tokenizer() == nil {
		return fmt.Errorf("train: %s has no tokenizer", r.c.Model.Path)
	}
	if r.c.Batch.SeqLen == 0 {
		r.c.Batch.SeqLen = min(1024, r.m.Config().Context)
		if window := r.m.Config().SlidingWindow; window > 0 {
			r.c.Batch.SeqLen = min(r.c.Batch.SeqLen, window)
		}
	}
	if n := r.m.Config().Context; r.c.Batch.SeqLen > n {
		return fmt.Errorf("train: batch.seq_len is %d, the model is made for %d positions", r.c.Batch.SeqLen, n)
	}
	return nil
}

// openAdapted opens the model that an adapter is trained on, with the adapter of a
// checkpoint or a new one.
func (r *run) openAdapted(ctx context.Context, from string, o llama.Options) (*llama.Model, error) {
	m, err := llama.Open(ctx, r.c.Model.Path, o)
	if err != nil {
		return nil, err
	}
	if from != "" {
		err = m.LoadAdapter(ctx, from)
	} else {
		l := r.c.LoRA
		err = m.AddAdapter(ctx, peft.Config{Rank: l.Rank, Alpha: l.Alpha, RSLoRA: l.RSLoRA, DoRA: l.DoRA, Dropout: l.Dropout, Targets: l.Targets,
			BaseModel: r.c.Model.Path}, r.c.Seed)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// heldOut reads held-out batches of about so many tokens, none where nothing is held out,
// and says what their texts spell.
func (r *run) heldOut(ctx context.Context, tokens int) (batches []Batch, spelled Spelled, err error) {
	if !r.data.HasEval() {
		return nil, Spelled{}, nil
	}
	it, err := r.data.Eval(r.c.Batch.Rows, r.c.Batch.SeqLen)
	if err != nil {
		return nil, Spelled{}, err
	}
	defer it.Close()
	for n := 0; n < tokens; {
		b, err := it.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, Spelled{}, err
		}
		batches = append(batches, *b)
		n += b.Tokens
	}
	return batches, it.Spelled(), nil
}

// limit is the most operations a second that the device can do, 0 where that is not known.
func (r *run) limit(ctx context.Context) float64 {
	b, ok := r.t.m.Backend().(backend.Prober)
	if !ok {
		return 0
	}
	peak, err := b.Peak(ctx, r.c.precision())
	if err != nil {
		return 0
	}
	return peak
}
