package main

import (
	"bytes"
	"context"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herd-ml/herd/train"
)

// watcher cancels once a text was written.
type watcher struct {
	bytes.Buffer
	text   string
	cancel context.CancelFunc
}

func (w *watcher) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.String(), w.text) {
		w.cancel()
	}
	return n, err
}

// TestTrainInterrupted: Ctrl-C saves and stops; --resume goes on.
func TestTrainInterrupted(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("to be or not to be\n", 50)), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"train", "--out=" + filepath.Join(dir, "run"), "--steps=1000", "--model.tokenizer=../../examples/train/bytes",
		"--model.layers=1", "--model.dim=32", "--model.heads=2", "--data.files=" + text, "--batch.seq_len=32"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out bytes.Buffer
	errs := &watcher{text: "step 1/1000", cancel: cancel}
	if code := run(ctx, args, strings.NewReader(""), &out, errs); code != exitCancelled {
		t.Fatalf("exit code %d\n%s", code, errs.String())
	}
	if !strings.Contains(errs.String(), "--resume goes on") || !strings.HasSuffix(errs.String(), "herd: interrupted\n") {
		t.Errorf("%s", errs.String())
	}
	picture := filepath.Join(dir, "run", "loss.png")
	if _, err := os.Stat(picture); err != nil {
		t.Errorf("no picture of what was done: %v", err)
	}
	stdout, stderr, code := herd(t, "train", "--resume", "--out="+filepath.Join(dir, "run"), "--sample.every=1000", "--sample.tokens=2", "--steps=200")
	if code != exitDone || !strings.HasPrefix(stdout, "200 steps, ") || !strings.Contains(stderr, "going on from ") || !strings.Contains(stderr, "steps was 1000 and is 200") {
		t.Errorf("exit code %d, %s\n%s", code, stdout, stderr)
	}
	stdout, stderr, code = herd(t, "train", "--resume", "--out="+filepath.Join(dir, "run"))
	if code != exitDone || !strings.HasPrefix(stdout, "200 steps, ") || !strings.Contains(stderr, "nothing is left to do") {
		t.Errorf("exit code %d, %s\n%s", code, stdout, stderr)
	}
	const lr = "--optimizer.lr=0.5"
	stdout, stderr, code = herd(t, "train", "--resume", "--out="+filepath.Join(dir, "run"), "--steps=201", lr)
	if code != exitFailed || !strings.Contains(stderr, "--resume=anyway") {
		t.Errorf("exit code %d, %s\n%s", code, stdout, stderr)
	}
	stdout, stderr, code = herd(t, "train", "--resume=anyway", "--out="+filepath.Join(dir, "run"), "--steps=201", lr)
	if code != exitDone || !strings.HasPrefix(stdout, "201 steps, ") || !strings.Contains(stderr, "not exact: optimizer.lr") {
		t.Errorf("exit code %d, %s\n%s", code, stdout, stderr)
	}
}

// TestResumeNothing: a folder without a run cannot be gone on with alone, and only words
// that mean something are taken.
func TestResumeNothing(t *testing.T) {
	if _, stderr, code := herd(t, "train", "--resume", "--out="+t.TempDir()); code != exitFailed || !strings.Contains(stderr, "holds no run to go on with") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, stderr, code := herd(t, "train", "--resume=perhaps", "--out="+t.TempDir()); code != exitUsage || !strings.Contains(stderr, "anyway") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// TestDrawLoss: a picture is drawn of what a run wrote, and none where it wrote nothing.
func TestDrawLoss(t *testing.T) {
	dir := t.TempDir()
	if err := drawLoss(dir); err == nil {
		t.Error("no metrics are drawn")
	}
	r, err := train.OpenRecorder(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := drawLoss(dir); err == nil || !strings.Contains(err.Error(), "loss.png") {
		t.Errorf("no row is drawn: %v", err)
	}
	for i := 1; i <= 5000; i++ {
		loss := 10 * math.Pow(float64(i), -0.2)
		if i == 100 || i == 4000 {
			loss = math.NaN()
		}
		r.Add(train.Row{Step: int64(i), Loss: loss})
		if i%1000 == 0 {
			r.Add(train.Row{Step: int64(i), Eval: true, Loss: loss + 0.1})
		}
	}
	r.Close()
	if err := drawLoss(dir); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "loss.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 500 {
		t.Errorf("%v", err)
	}
}
