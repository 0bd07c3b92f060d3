package train

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/lockfile"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
)

// Options are how a run is done, beside what Config says. The zero value works.
type Options struct {
	// Resume goes on from the newest checkpoint of Config.Out, where there is one;
	// without it a folder that has checkpoints is refused.
	Resume bool
	// Anyway goes on, with Resume, also where that is not what would have come without
	// the stop: data that was changed, other settings of optimizer, batches, seed or
	// precision. A warning says what is not exact.
	Anyway bool
	// Save asks for a checkpoint after the present step, once for each value.
	Save <-chan struct{}
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
	EventBest       EventKind = "best"       // the folder of the checkpoint with the least held-out loss so far
	EventFinished   EventKind = "finished"   // a run that was resumed had nothing left to do
	EventWarning    EventKind = "warning"    // what is not as one would expect
)

// Report says what a run did.
type Report struct {
	Steps      int     // updates done, those before a resume included
	Tokens     int64   // targets trained on
	Loss       float64 // of the last step
	EvalLoss   float64 // held out, at the end; NaN where nothing is
	Checkpoint string  // the folder of the last checkpoint
	Best       string  // the folder of the checkpoint with the least held-out loss, or empty
	BestLoss   float64 // its loss; NaN where there is none
	Plan       Plan
	Scratch    int64 // most memory used for activations, in bytes
}

// Run trains as a configuration says. It writes checkpoints, metrics.jsonl and
// TensorBoard events below Config.Out; ReadLossCurves reads curves to draw from them.
//
// When ctx ends, Run saves what is done and returns the error of ctx. A later Run with
// Options.Resume goes on as if there had been no stop, bit for bit. It changes nothing of a
// run that is finished, unless Config.Steps or DataConfig.Epochs has grown. A loss that is
// not finite ends the run with ErrNotFinite; the last checkpoint stays. A folder serves
// one run at a time: a second one, of this process or another, gets ErrInUse.
//
// With DataConfig.Epochs, Run first goes through the data to count the steps exactly, so
// that the schedule ends where the data does.
func Run(ctx context.Context, c Config, o Options) (Report, error) {
	r := &run{given: c, c: c.WithDefaults(), o: o, report: Report{EvalLoss: math.NaN(), BestLoss: math.NaN()}}
	if err := r.c.Validate(); err != nil {
		return r.report, err
	}
	r.store = newStore(r.c.Out)
	defer r.close()
	more, err := r.open(ctx)
	if err == nil && more {
		err = r.loop(ctx)
	}
	if r.t != nil {
		r.report.Scratch = r.t.Scratch()
	}
	if best, ok := r.best(); ok {
		r.report.Best, r.report.BestLoss = r.store.path(int(best.Step)), best.Loss
	}
	return r.report, err
}

// ErrInUse is wrapped by the error of a Run whose folder another one works in.
var ErrInUse = lockfile.ErrHeld

// lockName is the file in a run's folder whose lock the run holds.
const lockName = ".lock"

// run is the state of Run.
type run struct {
	lock          *lockfile.Lock // of the folder
	given         Config         // without defaults
	c             Config         // with them
	o             Options
	store         *store
	m             *llama.Model
	t             *Trainer
	data          *Data
	it            *Iterator
	log           *Recorder
	peak          float64   // operations a second at most, 0 where unknown
	done          state     // as of the last step
	saved         int       // step of the newest checkpoint, or -1
	kept          time.Time // when it was written, or the run began
	evals         evals
	warned        int64 // control tokens that a warning counted
	warnedHeldOut bool  // of those in held-out texts
	clock         Estimator
	report        Report
}

// evals are what the metrics say of evaluations.
type evals struct{ last, best *Row }

func (e *evals) add(row Row) {
	e.last = &row
	if e.best == nil || row.Loss < e.best.Loss || math.IsNaN(e.best.Loss) {
		e.best = &row
	}
}

func (r *run) event(kind EventKind, format string, a ...any) {
	if r.o.Event != nil {
		r.o.Event(Event{r.done.Step, kind, fmt.Sprintf(format, a...)})
	}
}

func (r *run) progress(p Progress) {
	if r.o.Progress != nil {
		r.o.Progress(p)
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

// loop runs the steps.
func (r *run) loop(ctx context.Context) error {
	schedule := r.c.schedule()
	if r.done.Step > 0 && r.due(r.c.Eval.Every) { // what a stop has left out
		if err := r.eval(ctx); err != nil {
			return r.stop(ctx, err)
		}
	}
	for r.done.Step < r.c.Steps {
		batches, err := r.batches(ctx)
		if err == io.EOF {
			r.event(EventWarning, "the data ended after %d of %d steps", r.done.Step, r.c.Steps)
			break
		}
		if err != nil {
			return r.stop(ctx, err)
		}
		r.tellSpelled(r.it.Spelled(), false)
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

// tellSpelled warns of text that spells control tokens, when the first is met and, with
// all, at the end of the run.
func (r *run) tellSpelled(s Spelled, all bool) {
	if s.Tokens == 0 || r.warned > 0 && !all || r.warned == s.Tokens {
		return
	}
	r.warned = s.Tokens
	so := "so far"
	if all {
		so = "in all"
	}
	r.event(EventWarning, "the data, %s, %s", so, s.phrase())
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
	r.progress(p)
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
	if r.due(r.c.Checkpoint.Every) || r.asked() || time.Since(r.kept).Minutes() >= r.c.Checkpoint.Minutes {
		return r.save(ctx)
	}
	return nil
}

// asked reports whether a checkpoint was asked for.
func (r *run) asked() bool {
	select {
	case _, ok := <-r.o.Save:
		return ok
	default:
		return false
	}
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

// finish is the end of a run: the last checkpoint, evaluation and text.
func (r *run) finish(ctx context.Context) error {
	r.tellSpelled(r.it.Spelled(), true)
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

// eval measures held-out loss, where something is held out and this step has none yet.
// Where there was no less before, it writes a checkpoint, which stays.
func (r *run) eval(ctx context.Context) error {
	if l := r.evals.last; l != nil && l.Step == int64(r.done.Step) {
		r.report.EvalLoss = l.Loss
		return nil
	}
	batches, spelled, err := r.heldOut(ctx, r.c.Eval.Tokens)
	if err != nil || batches == nil {
		return err
	}
	if spelled.Tokens > 0 && !r.warnedHeldOut { // each evaluation has the same texts
		r.warnedHeldOut = true
		r.event(EventWarning, "the held-out data %s", spelled.phrase())
	}
	loss, tokens, err := r.t.Eval(ctx, batches)
	if err != nil {
		return err
	}
	r.report.EvalLoss = loss
	r.event(EventEval, "loss %.4f, perplexity %.2f of %d held-out tokens", loss, math.Exp(loss), tokens)
	row := Row{Step: int64(r.done.Step), Eval: true, Loss: loss, Tokens: int64(tokens)}
	if err := r.log.Add(row); err != nil {
		return err
	}
	r.evals.add(row)
	if r.evals.best.Step != row.Step {
		return nil
	}
	if err := r.save(ctx); err != nil {
		return err
	}
	r.event(EventBest, "%s", r.store.path(r.done.Step))
	r.prune()
	return nil
}

// best is the evaluation with the least loss, where its checkpoint is there.
func (r *run) best() (Row, bool) {
	if r.evals.best == nil || !r.store.has(int(r.evals.best.Step)) {
		return Row{}, false
	}
	return *r.evals.best, true
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
	r.saved, r.kept, r.report.Checkpoint = r.done.Step, time.Now(), dir
	r.event(EventCheckpoint, "%s", dir)
	r.prune()
	return nil
}

// prune removes all checkpoints but the newest and the best.
func (r *run) prune() {
	best := -1
	if r.evals.best != nil {
		best = int(r.evals.best.Step)
	}
	if err := r.store.prune(r.c.Checkpoint.Keep, best); err != nil {
		r.event(EventWarning, "older checkpoints stay: %v", err)
	}
}
