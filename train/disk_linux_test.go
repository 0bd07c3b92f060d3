package train_test

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/herd-ml/herd/train"
)

// TestFullDisk: where a checkpoint cannot be written the one before survives, and a
// later run goes on from it. A limit on the size of files stands for a full disk.
func TestFullDisk(t *testing.T) {
	if out := os.Getenv("HERD_TEST_FULL"); out != "" { // the process with the limit
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: 20000, Max: 20000} // less than the weights of a checkpoint
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Skip(err)
		}
		c := tiny(t, 6)
		c.Out, c.Data.Files, c.Checkpoint.Every = out, []string{os.Getenv("HERD_TEST_TEXT")}, 1
		_, err := train.Run(t.Context(), c, train.Options{Resume: true})
		t.Fatal(err)
	}
	c := tiny(t, 6)
	whole := run(t, c, train.Options{})
	part := c
	part.Out, part.Steps = filepath.Join(t.TempDir(), "run"), 6
	stopAt(t, part, 2)
	cmd := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	cmd.Env = append(os.Environ(), "HERD_TEST_FULL="+part.Out, "HERD_TEST_TEXT="+c.Data.Files[0])
	text, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(text), "those before it stay") || !strings.Contains(string(text), "step-00000003") {
		t.Fatalf("%v\n%s", err, text)
	}
	left, _ := filepath.Glob(filepath.Join(part.Out, "checkpoints", "*"))
	if len(left) != 1 || filepath.Base(left[0]) != "step-00000002" {
		t.Errorf("checkpoints %v", left)
	}
	sameFiles(t, "after a full disk", whole.Checkpoint, run(t, part, train.Options{Resume: true}).Checkpoint)
}
