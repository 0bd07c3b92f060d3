package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/herd-ml/herd/internal/config"
	"github.com/herd-ml/herd/internal/lockfile"
	"github.com/herd-ml/herd/internal/tfevents"
	"github.com/herd-ml/herd/internal/vfs"
)

// SettingsFile is the file in the folder of a run that holds the settings it was last
// started with.
const SettingsFile = "config.yaml"

// ReadSettings reads the settings of the run in a folder, with Out set to that folder. Run
// can go on with them as they are. If there is no run, the error wraps fs.ErrNotExist.
func ReadSettings(out string) (c Config, err error) {
	b, err := vfs.ReadFile(os.DirFS(out), SettingsFile, config.MaxSize)
	if err != nil {
		return Config{}, fmt.Errorf("train: %s holds no run to go on with: %w", out, err)
	}
	if err := config.Decode(b, filepath.Join(out, SettingsFile), &c); err != nil {
		return Config{}, fmt.Errorf("train: the settings of a run: %w", err)
	}
	c.Out = out
	return c, nil
}

// settingsHead begins the SettingsFile that a run writes, and tells it from a user's own.
const settingsHead = "# The settings of the run in this folder, written by it.\n\n"

// writeSettings writes settings as they were given, without defaults, because some defaults
// follow from settings that may be given otherwise when the run goes on.
func writeSettings(given Config, out string) error {
	b := bytes.NewBufferString(settingsHead)
	err := config.Print(b, &given)
	if err == nil {
		err = vfs.WriteBytes(filepath.Join(out, SettingsFile), b.Bytes())
	}
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// checkFresh refuses to start a run in a folder where it would replace files that no run has
// written. The settings there tell that a run stopped before its first checkpoint; what
// that run has left may be replaced.
func checkFresh(out string) error {
	b, err := vfs.ReadFile(os.DirFS(out), SettingsFile, config.MaxSize)
	if err == nil && bytes.HasPrefix(b, []byte(settingsHead)) {
		return nil
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		return fmt.Errorf("train: out: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); name == SettingsFile || name == MetricsFile || tfevents.IsName(name) {
			return fmt.Errorf("train: %s is there, and no run has written it: move it, or name another folder as out", filepath.Join(out, name))
		}
	}
	return nil
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
		return "", checkFresh(r.c.Out)
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
	if err := r.readEvals(); err != nil {
		return "", err
	}
	return dir, r.sameRun()
}

// readEvals reads the evaluations up to the checkpoint from the metrics.
func (r *run) readEvals() error {
	for row, err := range ReadMetrics(filepath.Join(r.c.Out, MetricsFile)) {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("train: %w", err)
		}
		if row.Step > int64(r.done.Step) {
			return nil
		}
		if row.Eval {
			r.evals.add(row)
		}
	}
	return nil
}

// sameRun refuses settings with which the run would not go on as if it had not stopped. With
// Anyway it refuses only those that do not fit the weights.
func (r *run) sameRun() error {
	was := r.done.Config
	old, derived := map[string]string{}, followers(was, r.given)
	for _, k := range config.Keys(&was) {
		old[k.Path] = k.Value
	}
	var weights, others []string
	for _, k := range config.Keys(&r.c) {
		if old[k.Path] == k.Value || derived[k.Path] {
			continue
		}
		differs := fmt.Sprintf("%s was %s and is %s", k.Path, old[k.Path], k.Value)
		switch group, _, _ := strings.Cut(k.Path, "."); {
		case k.Path == "model.recompute" || k.Path == "batch.seq_len" && r.c.Batch.SeqLen == 0:
		case group == "model" || group == "lora":
			weights = append(weights, differs)
		case group == "batch" || group == "optimizer" || k.Path == "seed" || k.Path == "precision":
			others = append(others, differs)
		}
	}
	switch all := append(weights, others...); {
	case len(weights) > 0:
		return fmt.Errorf("train: the checkpoint is of another run: %s", strings.Join(all, "; "))
	case len(others) > 0 && !r.o.Anyway:
		return fmt.Errorf("train: the checkpoint is of another run: %s; %w", strings.Join(all, "; "), ErrInexact)
	case len(others) > 0:
		r.event(EventWarning, "not exact: %s", strings.Join(all, "; "))
	}
	return nil
}

// followers are the keys that were given neither then nor now: they follow from steps.
func followers(was, given Config) map[string]bool {
	plain := was
	plain.Optimizer.Warmup, plain.Optimizer.Decay = 0, 0
	plain = plain.WithDefaults()
	return map[string]bool{
		"optimizer.warmup": was.Optimizer.Warmup == plain.Optimizer.Warmup && given.Optimizer.Warmup == 0 && was.Optimizer.NoWarmup == given.Optimizer.NoWarmup,
		"optimizer.decay":  was.Optimizer.Decay == plain.Optimizer.Decay && given.Optimizer.Decay == 0,
	}
}

// tellSteps tells what changes in a run that goes on with another number of steps.
func (r *run) tellSteps() {
	was := r.done.Config
	if r.saved < 0 || was.Steps == r.c.Steps {
		return
	}
	if r.done.Position.Ended && r.done.Step < r.c.Steps {
		r.event(EventWarning, "the data had ended before the last batch was full, and now goes on: one run over all of it would have filled that batch")
	}
	next := r.done.Step + 1
	text := fmt.Sprintf("steps was %d and is %d", was.Steps, r.c.Steps)
	if a, b := was.Optimizer.Warmup, r.c.Optimizer.Warmup; a != b {
		text += fmt.Sprintf(", so optimizer.warmup was %d and is %d", a, b)
	}
	if a, b := was.Optimizer.Decay, r.c.Optimizer.Decay; a != b {
		text += fmt.Sprintf(", so optimizer.decay was %d and is %d", a, b)
	}
	switch a, b := was.schedule().At(next), r.c.schedule().At(next); {
	case next > r.c.Steps:
	case next > was.Steps:
		text += fmt.Sprintf(": the learning rate, which has fallen to %.3g, goes on at %.3g", was.schedule().At(was.Steps), b)
	case a != b:
		text += fmt.Sprintf(": the learning rate of step %d was to be %.3g and is %.3g", next, a, b)
	}
	r.event(EventWarning, "%s", text)
}

// restore brings the optimizer to where the checkpoint was.
func (r *run) restore(ctx context.Context, dir string) error {
	if err := r.t.Load(ctx, dir); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	if n := r.t.adam.Steps(); n != r.done.Step {
		return fmt.Errorf("train: %s is of step %d, %s of %d", optimizerFile, n, stateFile, r.done.Step)
	}
	r.event(EventResume, "%s", dir)
	return nil
}
