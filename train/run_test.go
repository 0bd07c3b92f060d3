package train_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/train"
)

// tiny is a run of some steps on a model of bytes.
func tiny(t testing.TB, steps int) train.Config {
	t.Helper()
	dir := t.TempDir()
	text := strings.Repeat("the cat sat on the mat.\n\nthe dog sat on the log.\n\na hen in a pen.\n\n", 20)
	path := filepath.Join(dir, "text.txt")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c := train.Config{Out: filepath.Join(dir, "run"), Steps: steps, Seed: 3}
	c.Model = train.ModelConfig{Tokenizer: "../examples/train/bytes", Layers: 2, Dim: 32, Heads: 4, KVHeads: 2}
	c.Data = train.DataConfig{Files: []string{path}, Separator: "\n\n", ShuffleBuffer: 8}
	c.Batch = train.BatchConfig{Rows: 2, SeqLen: 24, Accumulate: 2}
	c.Optimizer.LR = 1e-2
	c.Precision = "f32"
	return c
}

// run runs to the end.
func run(t testing.TB, c train.Config, o train.Options) train.Report {
	t.Helper()
	r, err := train.Run(context.Background(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// files are the contents of a checkpoint's files that numbers are in.
func files(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil || len(list) == 0 {
		t.Fatalf("%s has no tensors: %v", dir, err)
	}
	m := map[string][]byte{}
	for _, f := range list {
		if m[filepath.Base(f)], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func sameFiles(t testing.TB, what string, a, b string) {
	t.Helper()
	x, y := files(t, a), files(t, b)
	if len(x) != len(y) {
		t.Errorf("%s: %d and %d files", what, len(x), len(y))
	}
	for name := range x {
		if !bytes.Equal(x[name], y[name]) {
			t.Errorf("%s: %s differs", what, name)
		}
	}
}

// TestRun: the loss falls, the folder has what it should, and a session of the model
// that is loaded from the checkpoint gives the logits that the trained one gives.
func TestRun(t *testing.T) {
	for _, precision := range []string{"f32", "bf16"} {
		c := tiny(t, 60)
		c.Precision = precision
		c.Data.Holdout = 0.3
		c.Eval.Every, c.Checkpoint.Every, c.Checkpoint.Keep = 20, 10, 2
		c.Sample = train.SampleConfig{Every: 30, Prompt: "the ", Tokens: 8}
		var losses []float64
		kinds := map[train.EventKind]int{}
		r := run(t, c, train.Options{
			Progress: func(p train.Progress) { losses = append(losses, p.Loss) },
			Event:    func(e train.Event) { kinds[e.Kind]++ },
		})
		if len(losses) != 60 || !(losses[59] < losses[0]/2) || r.Steps != 60 || math.IsNaN(r.EvalLoss) {
			t.Errorf("%s: losses %v to %v, report %+v", precision, losses[0], losses[len(losses)-1], r)
		}
		for kind, n := range map[train.EventKind]int{train.EventPlan: 1, train.EventEval: 3, train.EventSample: 2, train.EventCheckpoint: 6} {
			if kinds[kind] != n {
				t.Errorf("%d events of %s, want %d", kinds[kind], kind, n)
			}
		}
		for _, name := range []string{"metrics.jsonl", "checkpoints/step-00000050/config.json", "checkpoints/step-00000060/tokenizer.json"} {
			if _, err := os.Stat(filepath.Join(c.Out, name)); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(filepath.Join(c.Out, "checkpoints/step-00000010")); err == nil {
			t.Error("the oldest checkpoint is still there")
		}
		if events, _ := filepath.Glob(filepath.Join(c.Out, "events.out.tfevents.*")); len(events) != 1 {
			t.Errorf("event files %v", events)
		}
		if _, err := train.Run(context.Background(), c, train.Options{}); err == nil || !strings.Contains(err.Error(), "resume") {
			t.Errorf("a second run in the folder: %v", err)
		}
	}
}

// TestTrainedIsSaved: a session on the trained model gives the bits that one on the
// saved model gives, and forgets what it held before a step.
func TestTrainedIsSaved(t *testing.T) {
	c := tiny(t, 4)
	r := run(t, c, train.Options{})
	m, err := llama.Open(t.Context(), r.Checkpoint, llama.Options{Trainable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ids := []int32{104, 101, 32, 99, 97}
	live, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, err := live.Logits(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := train.NewTrainer(m, train.TrainerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	if _, err := tr.Step(t.Context(), []train.Batch{{IDs: ids, Targets: append(slices.Clone(ids[1:]), -1), Docs: []int{5}}}, 0.01); err != nil {
		t.Fatal(err)
	}
	after, err := live.Logits(t.Context(), ids)
	if err != nil || slices.Equal(after, before) {
		t.Fatalf("a step changed nothing: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "saved")
	if err := training(t, m).Save(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	loaded, err := llama.Open(t.Context(), dir, llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Close()
	s, err := loaded.NewSession(llama.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Logits(t.Context(), ids); err != nil || !slices.Equal(got, after) {
		t.Errorf("the saved model gives other logits: %v", err)
	}
}

// TestSameSeed: the same bytes, whatever the workers are.
func TestSameSeed(t *testing.T) {
	for _, precision := range []string{"f32", "bf16"} {
		var first string
		for _, workers := range []int{1, 2, 5} {
			b, err := cpu.New(cpu.Options{Workers: workers})
			if err != nil {
				t.Fatal(err)
			}
			c := tiny(t, 5)
			c.Precision = precision
			r := run(t, c, train.Options{Backend: b})
			b.Close()
			if first == "" {
				first = r.Checkpoint
				continue
			}
			sameFiles(t, fmt.Sprint(precision, ", workers ", workers), first, r.Checkpoint)
		}
		c := tiny(t, 5)
		c.Precision, c.Model.Recompute = precision, true
		sameFiles(t, precision+", recomputed", first, run(t, c, train.Options{}).Checkpoint)
	}
}

// TestResume: a run that is stopped in the middle of a step and goes on gives the bytes
// of one that is not, of models and of adapters.
func TestResume(t *testing.T) {
	base := run(t, tiny(t, 3), train.Options{}).Checkpoint
	bf16 := golden.Committed("models/tied-rope8/model.gguf")
	for name, change := range map[string]func(*train.Config){
		"model": func(*train.Config) {},
		"bf16":  func(c *train.Config) { c.Precision = "bf16" },
		"packed": func(c *train.Config) {
			c.Model = train.ModelConfig{Path: bf16}
			c.LoRA.Rank = 4
			c.Precision = "bf16"
		},
		"lora": func(c *train.Config) { c.Model = train.ModelConfig{Path: base}; c.LoRA.Rank = 4 },
		"dropout": func(c *train.Config) {
			c.Model = train.ModelConfig{Path: base}
			c.LoRA = train.LoRAConfig{Rank: 2, Dropout: 0.2}
		},
		"dora": func(c *train.Config) {
			c.Model = train.ModelConfig{Path: base}
			c.LoRA = train.LoRAConfig{Rank: 2, DoRA: true, RSLoRA: true, Targets: []string{"q_proj", "down_proj"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := tiny(t, 9)
			change(&c)
			whole := run(t, c, train.Options{})
			parts := c
			parts.Out = filepath.Join(t.TempDir(), "parts")
			for stop := 2; stop <= 6; stop += 4 {
				stopAt(t, parts, stop)
			}
			sameFiles(t, name, whole.Checkpoint, run(t, parts, train.Options{Resume: true}).Checkpoint)
			if a, b := losses(t, c.Out), losses(t, parts.Out); !slices.Equal(a, b) {
				t.Errorf("metrics %v, want %v", b, a)
			}
		})
	}
}

// stopAt runs, or goes on, to a step and cancels.
func stopAt(t *testing.T, c train.Config, step int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := train.Run(ctx, c, train.Options{Resume: true, Progress: func(p train.Progress) {
		if p.Stage == "train" && p.Step == step {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || r.Steps != step || r.Checkpoint == "" {
		t.Fatalf("stopped with %v, %+v", err, r)
	}
}

// losses are those of the metrics.
func losses(t *testing.T, out string) (list []float64) {
	t.Helper()
	for row, err := range train.ReadMetrics(filepath.Join(out, train.MetricsFile)) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, float64(row.Step), row.Loss)
	}
	return list
}

// TestOtherRun: a checkpoint of another shape, or of other settings, is refused.
func TestOtherRun(t *testing.T) {
	c := tiny(t, 2)
	run(t, c, train.Options{})
	for says, change := range map[string]func(*train.Config){
		"model.dim was 32 and is 64": func(c *train.Config) { c.Model.Dim = 64 },
		"seed was 3 and is 4":        func(c *train.Config) { c.Seed = 4 },
		"optimizer.lr":               func(c *train.Config) { c.Optimizer.LR = 1e-3 },
		"batch.rows":                 func(c *train.Config) { c.Batch.Rows = 3 },
	} {
		c := c
		c.Steps = 2
		change(&c)
		if _, err := train.Run(t.Context(), c, train.Options{Resume: true}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}

// TestNotFinite: a run that diverges stops, says the step and the batch, and keeps its
// last checkpoint.
func TestNotFinite(t *testing.T) {
	c := tiny(t, 20)
	c.Optimizer.LR, c.Optimizer.Warmup = 1e30, 1
	c.Checkpoint.Every = 1
	r, err := train.Run(t.Context(), c, train.Options{})
	if !errors.Is(err, train.ErrNotFinite) || !strings.Contains(err.Error(), "step ") || !strings.Contains(err.Error(), "batch ") {
		t.Fatalf("%v", err)
	}
	if r.Checkpoint == "" || !strings.Contains(err.Error(), r.Checkpoint) {
		t.Errorf("%v does not name the checkpoint %q", err, r.Checkpoint)
	}
	files(t, r.Checkpoint)
}

// TestInUse: a folder that a run works in is refused, and is free when the run is over.
func TestInUse(t *testing.T) {
	c := tiny(t, 2)
	var second error
	first := train.Options{Progress: func(p train.Progress) {
		if p.Step == 1 {
			_, second = train.Run(t.Context(), c, train.Options{Resume: true})
		}
	}}
	run(t, c, first)
	if !errors.Is(second, train.ErrInUse) || !strings.Contains(second.Error(), c.Out) || !strings.Contains(second.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("beside another run: %v", second)
	}
	run(t, c, train.Options{Resume: true})
}

// TestViolations: all of them are listed.
func TestViolations(t *testing.T) {
	err := train.Config{Steps: -1, Precision: "f8", LoRA: train.LoRAConfig{Rank: 2, Targets: []string{"lm_head"}}}.Validate()
	for _, says := range []string{"steps is -1", `"f8"`, "model.path", `"lm_head"`, "files is empty"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}

// killed is the run of TestKilled.
func killed(t *testing.T) train.Config {
	c := tiny(t, 0)
	c.Data.Epochs, c.Data.Holdout = 16, 0.3
	c.Checkpoint.Every, c.Checkpoint.Keep, c.Eval.Every = 1, 2, 3
	return c
}

// TestKilled: kill -9 at any time, while a checkpoint is written too, loses nothing.
func TestKilled(t *testing.T) {
	if os.Getenv("HERD_TEST_RUN") != "" { // the process that is killed
		c, err := train.ReadSettings(os.Getenv("HERD_TEST_RUN"))
		if errors.Is(err, fs.ErrNotExist) {
			c, err = killed(t), nil
			c.Out, c.Data.Files = os.Getenv("HERD_TEST_RUN"), []string{os.Getenv("HERD_TEST_TEXT")}
		}
		if err != nil {
			t.Fatal(err)
		}
		run(t, c, train.Options{Resume: true})
		return
	}
	c := killed(t)
	whole := run(t, c, train.Options{})
	out := filepath.Join(t.TempDir(), "killed")
	kills := 0
	for wait := 60 * time.Millisecond; ; wait += 25 * time.Millisecond {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "HERD_TEST_RUN="+out, "HERD_TEST_TEXT="+c.Data.Files[0],
			"TMPDIR="+filepath.Dir(out), "TMP="+filepath.Dir(out)) // what it leaves is removed with the test's own
		var text bytes.Buffer
		cmd.Stdout, cmd.Stderr = &text, &text
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(wait, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err == nil {
			break
		}
		if kills++; kills > 100 || cmd.ProcessState.ExitCode() > 0 {
			t.Fatalf("%v\n%s", err, text.String())
		}
	}
	t.Logf("killed %d times", kills)
	sameFiles(t, "killed", whole.Checkpoint, filepath.Join(out, "checkpoints", filepath.Base(whole.Checkpoint)))
	sameFiles(t, "the best", whole.Best, filepath.Join(out, "checkpoints", filepath.Base(whole.Best)))
	if a, b := losses(t, c.Out), losses(t, out); !slices.Equal(a, b) {
		t.Errorf("metrics %v, want %v", b, a)
	}
	if left, _ := filepath.Glob(filepath.Join(out, "checkpoints", ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
