package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/herd-ml/herd/internal/vfs"
)

// A checkpoint is a folder step-00000100 below checkpoints: the model as a Hugging Face
// folder, or the adapter as PEFT has it, and beside it the two files below. It is filled
// under another name and renamed, so what has the name is complete.
const (
	checkpointsDir = "checkpoints"
	optimizerFile  = "optimizer.safetensors"
	stateFile      = "train.json"
	unfinished     = ".tmp"
	stepPrefix     = "step-"
)

// state is what a run goes on from, beside the weights and the optimizer.
type state struct {
	Step     int      `json:"step"`   // updates done
	Tokens   int64    `json:"tokens"` // targets trained on
	Loss     float64  `json:"loss"`   // of the last step
	Position Position `json:"position"`
	Config   Config   `json:"config"` // of the run, with defaults
}

// maxState bounds train.json: the shuffle buffer's places make up most of it.
const maxState = 64 << 20

// store is the checkpoints of a run.
type store struct{ dir string }

func newStore(out string) *store { return &store{filepath.Join(out, checkpointsDir)} }

func (s *store) path(step int) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s%08d", stepPrefix, step))
}

// steps lists the checkpoints there are, in ascending order.
func (s *store) steps() ([]int, error) {
	list, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var steps []int
	for _, e := range list {
		n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), stepPrefix))
		if err == nil && n >= 0 && e.IsDir() && e.Name() == filepath.Base(s.path(n)) { // else it is the user's
			steps = append(steps, n)
		}
	}
	slices.Sort(steps)
	return steps, nil
}

// clean removes what a run that was killed left unfinished.
func (s *store) clean() error {
	list, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), unfinished) {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// write fills a new checkpoint and returns its folder. On an error nothing has changed.
func (s *store) write(ctx context.Context, st state, t *Trainer) (string, error) {
	dir := s.path(st.Step)
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("train: checkpoint %s could not be written, those before it stay: %w", dir, err)
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fail(err)
	}
	tmp := filepath.Join(s.dir, fmt.Sprintf(".%s%08d%s", stepPrefix, st.Step, unfinished))
	if err := os.RemoveAll(tmp); err != nil {
		return fail(err)
	}
	err := s.fill(ctx, tmp, st, t)
	if err == nil {
		if err = os.Rename(tmp, dir); err == nil {
			err = syncDir(s.dir)
		}
	}
	if err != nil {
		os.RemoveAll(tmp)
		return fail(err)
	}
	return dir, nil
}

func (s *store) fill(ctx context.Context, dir string, st state, t *Trainer) error {
	if err := t.m.SaveTrained(ctx, dir); err != nil {
		return err
	}
	if err := t.adam.Save(ctx, t.c, filepath.Join(dir, optimizerFile), nil); err != nil {
		return err
	}
	b, err := json.MarshalIndent(st, "", " ")
	if err != nil {
		return err
	}
	if err := vfs.WriteBytes(filepath.Join(dir, stateFile), b); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir writes a folder's entries to the disk, where the system does that.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// prune removes all but the newest checkpoints.
func (s *store) prune(keep int) error {
	steps, err := s.steps()
	if err != nil {
		return err
	}
	for _, n := range steps[:max(0, len(steps)-keep)] {
		gone := filepath.Join(s.dir, fmt.Sprintf(".%s%08d%s", stepPrefix, n, unfinished))
		if err := os.Rename(s.path(n), gone); err != nil {
			return err
		}
		if err := os.RemoveAll(gone); err != nil {
			return err
		}
	}
	return nil
}

// readState reads train.json of a checkpoint.
func readState(dir string) (st state, err error) {
	b, err := vfs.ReadFile(os.DirFS(dir), stateFile, maxState)
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err == nil && (st.Step < 0 || st.Tokens < 0) {
		err = fmt.Errorf("step %d, %d tokens", st.Step, st.Tokens)
	}
	if err != nil {
		return st, fmt.Errorf("train: %s: %w", filepath.Join(dir, stateFile), err)
	}
	return st, nil
}
