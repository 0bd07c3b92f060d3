package train_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/train"
)

// folderOf are the files below a folder.
func folderOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// told runs with what it is told, and returns the texts of one kind of events.
func told(t *testing.T, c train.Config, o train.Options, kind train.EventKind) (r train.Report, texts []string) {
	t.Helper()
	o.Event = func(e train.Event) {
		if e.Kind == kind && !strings.Contains(e.Text, "no vector kernels") { // of a build without assembly
			texts = append(texts, e.Text)
		}
	}
	return run(t, c, o), texts
}

// settings are those in a run's folder.
func settings(t *testing.T, out string) train.Config {
	t.Helper()
	c, err := train.ReadSettings(out)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFinished: a run that is finished is left as it is, with the settings of its folder
// too, and its report is the same.
func TestFinished(t *testing.T) {
	for name, change := range map[string]func(*train.Config){
		"steps":  func(*train.Config) {},
		"evals":  func(c *train.Config) { c.Data.Holdout, c.Eval.Every = 0.3, 2 },
		"epochs": func(c *train.Config) { c.Steps, c.Data.Epochs, c.Data.Holdout = 0, 1, 0.3 },
		"fewer":  func(c *train.Config) { c.Data.Epochs = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := tiny(t, 6)
			change(&c)
			first := run(t, c, train.Options{})
			want := folderOf(t, c.Out)
			for range 2 {
				f, err := os.OpenFile(filepath.Join(c.Out, train.MetricsFile), os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				f.WriteString("{\"step\":7,\"lo") // of a run that was killed
				f.Close()
				r, finished := told(t, settings(t, c.Out), train.Options{Resume: true}, train.EventFinished)
				if len(finished) != 1 || r.Steps != first.Steps || r.Loss != first.Loss || r.Checkpoint != first.Checkpoint || r.Best != first.Best ||
					r.EvalLoss != first.EvalLoss && !(math.IsNaN(r.EvalLoss) && math.IsNaN(first.EvalLoss)) {
					t.Errorf("%v: %+v, want %+v", finished, r, first)
				}
				if got := folderOf(t, c.Out); !maps.Equal(got, want) {
					t.Errorf("files %v, want %v, or their contents differ", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
				}
			}
		})
	}
}

// TestLonger: a finished run goes on to more steps, bit for bit where the schedule is the
// same; else it says what changes.
func TestLonger(t *testing.T) {
	c := tiny(t, 9)
	c.Optimizer.Schedule, c.Optimizer.NoWarmup, c.Optimizer.NoFloor = "constant", true, true
	whole := run(t, c, train.Options{})
	parts := c
	parts.Out, parts.Steps = filepath.Join(t.TempDir(), "parts"), 4
	run(t, parts, train.Options{})
	parts = settings(t, parts.Out)
	parts.Steps = 9
	r, warnings := told(t, parts, train.Options{Resume: true}, train.EventWarning)
	sameFiles(t, "longer", whole.Checkpoint, r.Checkpoint)
	if a, b := losses(t, c.Out), losses(t, parts.Out); !slices.Equal(a, b) {
		t.Errorf("metrics %v, want %v", b, a)
	}
	if !slices.ContainsFunc(warnings, func(s string) bool { return strings.Contains(s, "steps was 4 and is 9") }) {
		t.Errorf("%q", warnings)
	}
	for _, schedule := range []string{"cosine", "wsd"} {
		c := tiny(t, 50)
		c.Batch.Accumulate, c.Optimizer.Schedule = 1, schedule
		run(t, c, train.Options{})
		c.Steps = 100
		_, warnings := told(t, c, train.Options{Resume: true}, train.EventWarning)
		if text := strings.Join(warnings, "\n"); !strings.Contains(text, "optimizer.warmup was 1 and is 2") || !strings.Contains(text, "learning rate") {
			t.Errorf("%s: %q", schedule, warnings)
		}
		c.Steps, c.Optimizer.Warmup = 110, 7 // given, so of another run
		if _, err := train.Run(t.Context(), c, train.Options{Resume: true}); !errors.Is(err, train.ErrInexact) || !strings.Contains(err.Error(), "optimizer.warmup") {
			t.Errorf("%s: %v", schedule, err)
		}
	}
}

// TestSettings: a run that was stopped goes on with nothing but its folder, also where the
// stop came before an evaluation that was due.
func TestSettings(t *testing.T) {
	if _, err := train.ReadSettings(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no run: %v", err)
	}
	c := tiny(t, 7)
	c.Data.Holdout, c.Eval.Every, c.Sample.Prompt = 0.3, 2, "a: \"b\"\n#c "
	whole := run(t, c, train.Options{})
	parts := c
	parts.Out = filepath.Join(t.TempDir(), "parts")
	stopAt(t, parts, 4)
	sameFiles(t, "settings", whole.Checkpoint, run(t, settings(t, parts.Out), train.Options{Resume: true}).Checkpoint)
	if a, b := losses(t, c.Out), losses(t, parts.Out); !slices.Equal(a, b) {
		t.Errorf("metrics %v, want %v", b, a)
	}
}

// TestEpochs: epochs give the steps, so that the schedule ends with the data; a run that
// was stopped counts the same, and more steps than there are end there.
func TestEpochs(t *testing.T) {
	c := tiny(t, 0)
	c.Data.Epochs, c.Optimizer.NoFloor = 2, true
	var lrs []float64
	counted := 0
	whole := run(t, c, train.Options{Progress: func(p train.Progress) {
		if p.Stage == "count" {
			counted = p.Step
			return
		}
		lrs = append(lrs, p.LR)
	}})
	// 20 times 3 documents of 23, 23 and 15 bytes, cut at blank lines, each with the token
	// that ends it, twice, in steps of 2 by 2 sequences of 24 tokens.
	tokens := 2 * 20 * (len("the cat sat on the mat.") + len("the dog sat on the log.") + len("a hen in a pen.") + 3)
	if want := (tokens + 95) / 96; len(lrs) != want || counted != want || whole.Steps != want {
		t.Fatalf("%d steps, %d counted, %d reported, want %d", len(lrs), counted, whole.Steps, want)
	}
	if last := lrs[len(lrs)-1]; last != 0 {
		t.Errorf("the learning rate ends at %v", last)
	}
	parts := c
	parts.Out = filepath.Join(t.TempDir(), "parts")
	stopAt(t, parts, 3)
	sameFiles(t, "epochs", whole.Checkpoint, run(t, settings(t, parts.Out), train.Options{Resume: true}).Checkpoint)
	more := c
	more.Out, more.Steps = filepath.Join(t.TempDir(), "more"), 1000
	r, warnings := told(t, more, train.Options{}, train.EventWarning)
	sameFiles(t, "more", whole.Checkpoint, r.Checkpoint)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "of 1000 steps") {
		t.Errorf("%q", warnings)
	}
}

// TestNoCheckpoint: what stops before its first checkpoint goes on with its folder alone,
// and settings that are refused leave those of before.
func TestNoCheckpoint(t *testing.T) {
	c := tiny(t, 0)
	c.Data.Epochs = 1
	good, err := os.ReadFile(c.Data.Files[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Data.Files[0], append(slices.Clone(good), 0xff), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := train.Run(t.Context(), c, train.Options{}); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Fatalf("bad data: %v", err)
	}
	if err := os.WriteFile(c.Data.Files[0], good, 0o644); err != nil {
		t.Fatal(err)
	}
	r := run(t, settings(t, c.Out), train.Options{Resume: true})
	refused := c
	refused.Data.Epochs, refused.Data.EOS = 2, "never"
	if _, err := train.Run(t.Context(), refused, train.Options{Resume: true}); !errors.Is(err, train.ErrInexact) {
		t.Fatalf("%v", err)
	}
	if got := run(t, settings(t, c.Out), train.Options{Resume: true}); got.Steps != r.Steps {
		t.Errorf("%d steps, want %d", got.Steps, r.Steps)
	}
}

// TestMoreEpochs: a finished run goes on to more epochs, and says that the batch between
// them is not what it would have been.
func TestMoreEpochs(t *testing.T) {
	c := tiny(t, 0)
	c.Data.Epochs = 1
	run(t, c, train.Options{})
	c.Data.Epochs = 2
	r, warnings := told(t, c, train.Options{Resume: true}, train.EventWarning)
	if text := strings.Join(warnings, "\n"); r.Steps != 28 || !strings.Contains(text, "before the last batch was full") || !strings.Contains(text, "steps was 14 and is 28") {
		t.Errorf("%d steps, %q", r.Steps, warnings)
	}
}

// TestMendedRun: a run that met a bad row goes on, once it is mended or left out, as one
// over the mended file.
func TestMendedRun(t *testing.T) {
	row := func(s string) string { return `{"text":"` + s + "\"}\n" }
	good := strings.Repeat(row("the cat sat on the mat.")+row("the dog sat on the log."), 10)
	for name, c := range map[string]struct {
		bad, mended string
		skip        bool
	}{
		"mended":   {`{"text":5}` + "\n", row("a hen"), false},
		"removed":  {"nonsense\n", "", false},
		"left out": {"{}\n", "{}\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.jsonl")
			write := func(row string) {
				if err := os.WriteFile(path, []byte(good+row+good), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			conf := tiny(t, 9)
			conf.Data = train.DataConfig{Files: []string{path}, ShuffleBuffer: 4}
			write(c.bad)
			r, err := train.Run(t.Context(), conf, train.Options{})
			if err == nil || r.Steps < 2 || !strings.Contains(err.Error(), "line 21") {
				t.Fatalf("after %d steps: %v", r.Steps, err)
			}
			write(c.mended)
			conf.Data.SkipEmpty = c.skip
			r, warnings := told(t, conf, train.Options{Resume: true}, train.EventWarning)
			whole := conf
			whole.Out = filepath.Join(t.TempDir(), "whole")
			sameFiles(t, name, run(t, whole, train.Options{}).Checkpoint, r.Checkpoint)
			if len(warnings) > 0 {
				t.Errorf("%q", warnings)
			}
		})
	}
}

// TestAnyway: what is not exact is refused, and is done with a warning where that is
// asked for; other weights never.
func TestAnyway(t *testing.T) {
	for says, change := range map[string]func(t *testing.T, c *train.Config){
		"no longer the same": func(t *testing.T, c *train.Config) {
			b, err := os.ReadFile(c.Data.Files[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(c.Data.Files[0], bytes.ReplaceAll(b, []byte("cat"), []byte("cow")), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"optimizer.lr was 0.01 and is 0.02": func(_ *testing.T, c *train.Config) { c.Optimizer.LR = 0.02 },
		"seed was 3 and is 4":               func(_ *testing.T, c *train.Config) { c.Seed = 4 },
		"batch.rows was 2 and is 3":         func(_ *testing.T, c *train.Config) { c.Batch.Rows = 3 },
		"bos, eos or special":               func(_ *testing.T, c *train.Config) { c.Data.EOS = "never" },
	} {
		c := tiny(t, 8)
		stopAt(t, c, 3)
		change(t, &c)
		if _, err := train.Run(t.Context(), c, train.Options{Resume: true}); !errors.Is(err, train.ErrInexact) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
		r, warnings := told(t, c, train.Options{Resume: true, Anyway: true}, train.EventWarning)
		if r.Steps != 8 || !slices.ContainsFunc(warnings, func(s string) bool { return strings.HasPrefix(s, "not exact: ") && strings.Contains(s, says) }) {
			t.Errorf("%d steps, %q does not say %q", r.Steps, warnings, says)
		}
	}
	c := tiny(t, 2)
	run(t, c, train.Options{})
	c.Model.Dim = 64
	if _, err := train.Run(t.Context(), c, train.Options{Resume: true, Anyway: true}); err == nil || errors.Is(err, train.ErrInexact) {
		t.Errorf("another width: %v", err)
	}
}

// TestBest: the checkpoint of the least held-out loss stays, whatever comes after it.
func TestBest(t *testing.T) {
	c := tiny(t, 12)
	c.Optimizer.LR = 0.3 // which soon makes it worse
	c.Data.Holdout, c.Eval.Every, c.Checkpoint.Every, c.Checkpoint.Keep = 0.3, 1, 1, 1
	stopAt(t, c, 7)
	r, best := told(t, c, train.Options{Resume: true}, train.EventBest)
	least, step := math.Inf(1), int64(0)
	for row, err := range train.ReadMetrics(filepath.Join(c.Out, train.MetricsFile)) {
		if err != nil {
			t.Fatal(err)
		}
		if row.Eval && row.Loss < least {
			least, step = row.Loss, row.Step
		}
	}
	if step == 12 {
		t.Fatal("the last is the best: no test")
	}
	if r.BestLoss != least || !strings.HasSuffix(r.Best, "0"+string(rune('0'+step))) && step < 10 || len(best) == 12 {
		t.Errorf("%s with %v, want step %d with %v; %q", r.Best, r.BestLoss, step, least, best)
	}
	files(t, r.Best)
	if list, _ := filepath.Glob(filepath.Join(c.Out, "checkpoints", "step-*")); len(list) != 2 {
		t.Errorf("%q stay, want the newest and the best", list)
	}
}

// TestSaves: checkpoints are written when they are asked for, and by the clock.
func TestSaves(t *testing.T) {
	c := tiny(t, 6)
	asked := make(chan struct{}, 1)
	var saved []int
	o := train.Options{Save: asked, Progress: func(p train.Progress) {
		if p.Step == 2 || p.Step == 4 {
			asked <- struct{}{}
		}
	}, Event: func(e train.Event) {
		if e.Kind == train.EventCheckpoint {
			saved = append(saved, e.Step)
		}
	}}
	run(t, c, o)
	if !slices.Equal(saved, []int{2, 4, 6}) {
		t.Errorf("asked for after 2 and 4: %v", saved)
	}
	c, saved = tiny(t, 3), nil
	c.Checkpoint.Minutes = 1e-9
	run(t, c, train.Options{Event: o.Event})
	if !slices.Equal(saved, []int{1, 2, 3}) {
		t.Errorf("by the clock: %v", saved)
	}
	if got := (train.Config{}).WithDefaults().Checkpoint.Minutes; got != 10 {
		t.Errorf("every %v minutes", got)
	}
}

// TestSpelled: a run warns of text that spells control tokens, with their number at last.
func TestSpelled(t *testing.T) {
	c := tiny(t, 4)
	if err := os.WriteFile(c.Data.Files[0], []byte(strings.Repeat("what <|end|> is\n\n", 30)), 0o644); err != nil {
		t.Fatal(err)
	}
	_, warnings := told(t, c, train.Options{}, train.EventWarning)
	if len(warnings) != 2 || !strings.Contains(warnings[0], "<|end|>") || !strings.Contains(warnings[1], "in all") {
		t.Errorf("%q", warnings)
	}
	plain := filepath.Join(t.TempDir(), "plain.txt")
	if err := os.WriteFile(plain, []byte(strings.Repeat("what is it\n\n", 30)), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Out, c.Data.EvalFiles, c.Data.Files, c.Eval.Every = filepath.Join(t.TempDir(), "held"), c.Data.Files, []string{plain}, 1
	if _, warnings := told(t, c, train.Options{}, train.EventWarning); len(warnings) != 1 || !strings.Contains(warnings[0], "held-out") ||
		!strings.Contains(warnings[0], "30 of them in 30") {
		t.Errorf("held out: %q", warnings)
	}
	c.Out, c.Data.Special = filepath.Join(t.TempDir(), "always"), "always"
	if _, warnings := told(t, c, train.Options{}, train.EventWarning); len(warnings) > 0 {
		t.Errorf("%q", warnings)
	}
}

// TestForeign: a run that starts replaces nothing that no run has written; what one left
// that ended before its first checkpoint, it does.
func TestForeign(t *testing.T) {
	for _, name := range []string{train.MetricsFile, train.SettingsFile, "events.out.tfevents.0000000001.herd"} {
		c := tiny(t, 1)
		path := filepath.Join(c.Out, name)
		if err := errors.Join(os.Mkdir(c.Out, 0o755), os.WriteFile(path, []byte("steps: 7\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		for _, resume := range []bool{false, true} {
			if _, err := train.Run(t.Context(), c, train.Options{Resume: resume}); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("over %s: %v", name, err)
			}
		}
		if b, err := os.ReadFile(path); string(b) != "steps: 7\n" {
			t.Errorf("%s now is %q, %v", name, b, err)
		}
	}
	c := tiny(t, 1)
	text := c.Data.Files[0]
	c.Data.Files = []string{text + ".none"}
	if _, err := train.Run(t.Context(), c, train.Options{}); err == nil {
		t.Fatal("trained on what is not there")
	}
	if err := os.WriteFile(filepath.Join(c.Out, train.MetricsFile), []byte("{\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Data.Files = []string{text}
	run(t, c, train.Options{})
}

func ExampleReadSettings() {
	c, err := train.ReadSettings("run/of-mine")
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Println("no run has begun there")
		return
	}
	train.Run(context.Background(), c, train.Options{Resume: true})
	// Output: no run has begun there
}
