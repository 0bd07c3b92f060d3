package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/config"
	"github.com/herd-ml/herd/internal/lockfile"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// Options are how a run is done, beside what Config says. The zero value works.
type Options struct {
	// Resume goes on from the newest checkpoint of Config.Out, where there is one;
	// without it a folder that has checkpoints is refused.
	Resume bool
	// Backend computes; nil is cpu.Default().
	Backend backend.Backend
	// Progress is told after every step, from the goroutine of Run.
	Progress func(Progress)
	// Event is told what a user wants to read between steps.
	Event func(Event)
}

// An Event is something that a run reports.
type Event struct {
	Step int
	Kind EventKind
	Text string
}

// EventKind is what an Event is about.
type EventKind string

// The kinds of events.
const (
	EventPlan       EventKind = "plan"       // memory, before the first step
	EventResume     EventKind = "resume"     // the checkpoint that the run goes on from
	EventEval       EventKind = "eval"       // held-out loss
	EventSample     EventKind = "sample"     // a text of the model
	EventCheckpoint EventKind = "checkpoint" // its folder
	EventWarning    EventKind = "warning"    // what is not as one would expect
)

// Report says what a run did.
type Report struct {
	Steps      int     // updates done, those before a resume included
	Tokens     int64   // targets trained on
	Loss       float64 // of the last step
	EvalLoss   float64 // held out, at the end; NaN where nothing is
	Checkpoint string  // the folder of the last checkpoint
	Plan       Plan
	Scratch    int64 // most memory used for activations, in bytes
}

// Run trains as a configuration says. It writes checkpoints, metrics.jsonl and
// TensorBoard events below Config.Out; ReadLossCurves reads curves to draw from them.
// When ctx ends it saves what is done and returns the error of ctx. A later Run with
// Options.Resume goes on as if it had not stopped, bit for bit. A loss that is not finite ends the run with ErrNotFinite; the last
// checkpoint stays. A folder serves one run at a time: a second one, of this process or
// another, gets ErrInUse.
func Run(ctx context.Context, c Config, o Options) (Report, error) {
	c = c.WithDefaults()
	if err := c.Validate(); err != nil {
		return Report{}, err
	}
	r := &run{c: c, o: o, store: newStore(c.Out), report: Report{EvalLoss: math.NaN()}}
	defer r.close()
	if err := r.open(ctx); err != nil {
		return r.report, err
	}
	err := r.loop(ctx)
	r.report.Scratch = r.t.Scratch()
	return r.report, err
}

// ErrInUse is wrapped by the error of a Run whose folder another one works in.
var ErrInUse = lockfile.ErrHeld

// lockName is the file in a run's folder whose lock the run holds.
const lockName = ".lock"

// run is the state of Run.
type run struct {
	lock   *lockfile.Lock // of the folder
	c      Config
	o      Options
	store  *store
	m      *llama.Model
	t      *Trainer
	data   *Data
	it     *Iterator
	log    *Recorder
	peak   float64 // operations a second at most, 0 where unknown
	done   state   // as of the last step
	saved  int     // step of the newest checkpoint, or -1
	clock  Estimator
	report Report
}

func (r *run) event(kind EventKind, format string, a ...any) {
	if r.o.Event != nil {
		r.o.Event(Event{r.done.Step, kind, fmt.Sprintf(format, a...)})
	}
}

func (r *run) close() {
	if r.it != nil {
		r.it.Close()
	}
	if r.log != nil {
		r.log.Close()
	}
	if r.t != nil {
		r.t.Close()
	}
	if r.m != nil {
		r.m.Close()
	}
	if r.lock != nil {
		r.lock.Release()
	}
}

// open makes everything ready for the first step.
func (r *run) open(ctx context.Context) error {
	r.saved = -1
	from, err := r.resumeFrom()
	if err != nil {
		return err
	}
	if err := r.openModel(ctx, from); err != nil {
		return err
	}
	if r.data, err = OpenData(r.c.Data, r.m.Tokenizer()); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if r.it, err = r.data.Train(r.c.Batch.Rows, r.c.Batch.SeqLen, r.c.Seed); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if _, err := r.heldOut(ctx, 1); err != nil { // better than after the last step
		return fmt.Errorf("train: %w", err)
	}
	r.t, err = NewTrainer(r.m, TrainerOptions{
		Precision: r.c.precision(), Checkpoint: r.c.Model.Recompute, ZLoss: r.c.Optimizer.ZLoss, Optimizer: r.c.adamW(),
	})
	if err != nil {
		return err
	}
	if from != "" {
		if err := r.restore(ctx, from); err != nil {
			return err
		}
	}
	r.done.Position, r.done.Config = r.it.Position(), r.c
	if r.log, err = OpenRecorder(r.c.Out, int64(r.done.Step)); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	r.report.Plan = r.t.plan(r.c.Batch.Rows * r.c.Batch.SeqLen)
	r.event(EventPlan, "%v", r.report.Plan)
	for _, w := range r.m.Warnings() {
		r.event(EventWarning, "%s", w)
	}
	r.peak = r.limit(ctx)
	r.clock.Start(time.Now())
	return nil
}

// heldOut reads held-out batches of about so many tokens, none where nothing is held out.
func (r *run) heldOut(ctx context.Context, tokens int) (batches []Batch, err error) {
	if !r.data.HasEval() {
		return nil, nil
	}
	it, err := r.data.Eval(r.c.Batch.Rows, r.c.Batch.SeqLen)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for n := 0; n < tokens; {
		b, err := it.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		batches = append(batches, *b)
		n += b.Tokens
	}
	return batches, nil
}

// resumeFrom is the checkpoint to go on from, empty for none.
func (r *run) resumeFrom() (string, error) {
	if err := os.MkdirAll(r.c.Out, 0o755); err != nil {
		return "", fmt.Errorf("train: out: %w", err)
	}
	var err error
	if r.lock, err = lockfile.Acquire(filepath.Join(r.c.Out, lockName)); err != nil {
		return "", fmt.Errorf("train: the folder %s: %w", r.c.Out, err)
	}
	steps, err := r.store.steps()
	if err != nil {
		return "", fmt.Errorf("train: %w", err)
	}
	if len(steps) > 0 && !r.o.Resume {
		return "", fmt.Errorf("train: %s has checkpoints of a run: resume it, or name another folder as out", r.c.Out)
	}
	if err := r.store.clean(); err != nil {
		return "", fmt.Errorf("train: %w", err)
	}
	if len(steps) == 0 {
		return "", nil
	}
	r.saved = steps[len(steps)-1]
	dir := r.store.path(r.saved)
	if r.done, err = readState(dir); err != nil {
		return "", err
	}
	if r.done.Step != r.saved {
		return "", fmt.Errorf("train: %s says that it is of step %d", filepath.Join(dir, stateFile), r.done.Step)
	}
	r.report.Checkpoint, r.report.Steps, r.report.Tokens, r.report.Loss = dir, r.done.Step, r.done.Tokens, r.done.Loss
	return dir, sameRun(r.done.Config, r.c)
}

// sameRun refuses to go on with settings that would give another run.
func sameRun(was, is Config) error {
	old, differ := map[string]string{}, []string(nil)
	for _, k := range config.Keys(&was) {
		old[k.Path] = k.Value
	}
	for _, k := range config.Keys(&is) {
		group, _, _ := strings.Cut(k.Path, ".")
		switch {
		case group != "model" && group != "batch" && group != "optimizer" && group != "lora" && k.Path != "seed" && k.Path != "precision":
		case k.Path == "model.recompute", k.Path == "batch.seq_len" && is.Batch.SeqLen == 0:
		case old[k.Path] != k.Value:
			differ = append(differ, fmt.Sprintf("%s was %s and is %s", k.Path, old[k.Path], k.Value))
		}
	}
	if len(differ) > 0 {
		return fmt.Errorf("train: the checkpoint is of another run: %s", strings.Join(differ, "; "))
	}
	return nil
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
		err = m.AddAdapter(ctx, peft.Config{Rank: l.Rank, Alpha: l.Alpha, RSLoRA: l.RSLoRA, DoRA: l.DoRA, Targets: l.Targets,
			BaseModel: r.c.Model.Path}, r.c.Seed)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// restore brings optimizer and data to where the checkpoint was.
func (r *run) restore(ctx context.Context, dir string) error {
	if err := r.t.Load(ctx, dir); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if n := r.t.adam.Steps(); n != r.done.Step {
		return fmt.Errorf("train: %s is of step %d, %s of %d", optimizerFile, n, stateFile, r.done.Step)
	}
	if err := r.it.Restore(ctx, r.done.Position); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	r.event(EventResume, "%s", dir)
	return nil
}

// limit is what the device computes at most a second, 0 where that is not known.
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

// loop runs the steps.
func (r *run) loop(ctx context.Context) error {
	schedule := r.c.schedule()
	for r.done.Step < r.c.Steps {
		batches, err := r.batches(ctx)
		if err == io.EOF {
			r.event(EventWarning, "the data ended after %d of %d steps", r.done.Step, r.c.Steps)
			break
		}
		if err != nil {
			return r.stop(ctx, err)
		}
		lr := schedule.At(r.done.Step + 1)
		step, err := r.t.Step(ctx, batches, lr)
		if err != nil {
			return r.stop(ctx, err)
		}
		r.done.Step++
		r.done.Tokens += int64(step.Tokens)
		r.done.Position = r.it.Position()
		r.done.Loss = step.Loss
		r.report.Steps, r.report.Tokens, r.report.Loss = r.done.Step, r.done.Tokens, r.done.Loss
		if err := r.tell(batches, step, lr); err != nil {
			return r.stop(ctx, err)
		}
		if err := r.between(ctx); err != nil {
			return r.stop(ctx, err)
		}
	}
	return r.finish(ctx)
}

// batches are the micro-batches of the next step.
func (r *run) batches(ctx context.Context) ([]Batch, error) {
	var list []Batch
	for len(list) < r.c.Batch.Accumulate {
		b, err := r.it.Next(ctx)
		if err == io.EOF && len(list) > 0 {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		list = append(list, *b)
	}
	return list, nil
}

// tell reports a step.
func (r *run) tell(batches []Batch, step StepReport, lr float64) error {
	keys, rows := 0.0, 0.0
	for _, b := range batches {
		for _, n := range b.Docs {
			keys += float64(n) * float64(n+1) / 2
			rows += float64(n)
		}
	}
	now := time.Now()
	r.clock.Step(now)
	p := Progress{Stage: "train", Step: r.done.Step, Steps: r.c.Steps, Loss: step.Loss, GradNorm: step.GradNorm, LR: lr,
		Tokens: r.done.Tokens, TokensPerSecond: r.clock.PerSecond(rows), Elapsed: r.clock.Elapsed(now), Left: r.clock.Left(r.c.Steps - r.done.Step)}
	if r.peak > 0 {
		p.MFU = flops(r.m.Config(), keys/rows) * p.TokensPerSecond / r.peak
	}
	if r.o.Progress != nil {
		r.o.Progress(p)
	}
	return r.log.Add(Row{Step: int64(p.Step), Loss: p.Loss, GradNorm: p.GradNorm, LR: lr, Tokens: p.Tokens, TokensPerSecond: p.TokensPerSecond, MFU: p.MFU})
}

// due reports whether something is to be done after this step.
func (r *run) due(every int) bool {
	return every > 0 && r.done.Step%every == 0 && r.done.Step < r.c.Steps
}

// between is what is done after some steps.
func (r *run) between(ctx context.Context) error {
	if r.due(r.c.Eval.Every) {
		if err := r.eval(ctx); err != nil {
			return err
		}
	}
	if r.due(r.c.Sample.Every) {
		if err := r.sample(ctx); err != nil {
			return err
		}
	}
	if r.due(r.c.Checkpoint.Every) {
		return r.save(ctx)
	}
	return nil
}

// stop saves what is done, and names the step of an error.
func (r *run) stop(ctx context.Context, err error) error {
	// The last whole step is saved. Where the loss is no number its weights may be the
	// cause, so an earlier checkpoint is better.
	if r.done.Step > 0 && (!errors.Is(err, ErrNotFinite) || r.saved < 0) {
		if e := r.save(context.WithoutCancel(ctx)); e != nil && !errors.Is(err, e) {
			err = errors.Join(err, e)
		}
	}
	if ctx.Err() != nil {
		return err
	}
	last := "there is no checkpoint yet"
	if r.report.Checkpoint != "" {
		last = "the last checkpoint is " + r.report.Checkpoint
	}
	return fmt.Errorf("train: step %d, epoch %d: %w; %s", r.done.Step+1, r.it.Epoch(), err, last)
}

// finish is the end of a run: the last evaluation, text and checkpoint.
func (r *run) finish(ctx context.Context) error {
	if err := r.save(ctx); err != nil {
		return r.stop(ctx, err)
	}
	if err := r.eval(ctx); err != nil {
		return r.stop(ctx, err)
	}
	if r.c.Sample.Every > 0 {
		if err := r.sample(ctx); err != nil {
			return r.stop(ctx, err)
		}
	}
	return nil
}

// eval measures held-out loss, where something is held out.
func (r *run) eval(ctx context.Context) error {
	batches, err := r.heldOut(ctx, r.c.Eval.Tokens)
	if err != nil || batches == nil {
		return err
	}
	loss, tokens, err := r.t.Eval(ctx, batches)
	if err != nil {
		return err
	}
	r.report.EvalLoss = loss
	r.event(EventEval, "loss %.4f, perplexity %.2f of %d held-out tokens", loss, math.Exp(loss), tokens)
	return r.log.Add(Row{Step: int64(r.done.Step), Eval: true, Loss: loss, Tokens: int64(tokens)})
}

// sample writes a text.
func (r *run) sample(ctx context.Context) error {
	s, err := r.m.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	tok := r.m.Tokenizer()
	ids, err := r.m.Encode(r.c.Sample.Prompt)
	if err != nil {
		return err
	}
	if len(ids) == 0 { // a text begins where another ends
		id, ok := tok.BOS()
		if !ok {
			id, _ = tok.EOS()
		}
		ids = []int32{id}
	}
	o := llama.GenerateOptions{MaxTokens: r.c.Sample.Tokens, Sampling: sample.Params{
		Temperature: float32(r.c.Sample.Temperature), Seed: r.c.Seed + uint64(r.done.Step)}}
	var text strings.Builder
	for token, err := range s.GenerateIDs(ctx, ids, o) {
		if err != nil && !errors.Is(err, llama.ErrContextFull) {
			return err
		}
		text.WriteString(token.Text)
	}
	r.event(EventSample, "%s%s", r.c.Sample.Prompt, text.String())
	return nil
}

// save writes a checkpoint of what is done, unless there is one.
func (r *run) save(ctx context.Context) error {
	if r.saved == r.done.Step {
		return nil
	}
	dir, err := r.store.write(ctx, r.done, r.t)
	if err != nil {
		return err
	}
	r.saved, r.report.Checkpoint = r.done.Step, dir
	r.event(EventCheckpoint, "%s", dir)
	if err := r.store.prune(r.c.Checkpoint.Keep); err != nil {
		r.event(EventWarning, "older checkpoints stay: %v", err)
	}
	return nil
}
