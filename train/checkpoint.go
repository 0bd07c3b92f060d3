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

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/tensor"
)

// A checkpoint is a folder step-00000100 below checkpoints: the model as a Hugging Face
// folder, or the adapter as PEFT has it, and beside it the files below. It is filled
// under another name and renamed, so what has the name is complete.
const (
	checkpointsDir = "checkpoints"
	optimizerFile  = "optimizer.safetensors"
	extraFile      = "extra.safetensors" // parameters of the caller's own, where there are any
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
	if err := t.fill(ctx, dir); err != nil {
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

// Save writes what training changes, and all that the next step depends on, to a folder
// that must not exist yet or be empty: the model as a Hugging Face folder or the adapter in
// PEFT's layout, optimizer.safetensors, and extra.safetensors with the parameters of
// TrainerOptions.Extra. On an error there is no folder.
func (t *Trainer) Save(ctx context.Context, dir string) error {
	return vfs.WriteFolder(dir, func(tmp string) error { return t.fill(ctx, tmp) })
}

// fill writes what Save says into a folder that nobody else looks at yet.
func (t *Trainer) fill(ctx context.Context, dir string) error {
	call, done, err := t.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := t.m.Save(call, dir); err != nil {
		return err
	}
	if err := t.adam.Save(call, t.c, filepath.Join(dir, optimizerFile), nil); err != nil || len(t.o.Extra) == 0 {
		return err
	}
	var list []safetensors.Source
	for _, p := range t.o.Extra {
		list = append(list, safetensors.Source{Name: p.Name, Type: backend.F32, Shape: p.Param.Shape.Dim[:p.Param.Shape.Rank],
			Data: ctxerr.Reader(call, tensor.Reader(t.m.Backend(), p.Param.Numbers()))})
	}
	return safetensors.WriteFile(filepath.Join(dir, extraFile), list, nil)
}

// Load takes the optimizer's state and the parameters of TrainerOptions.Extra from a folder
// of Save, whose model or adapter the trainer's model has been opened with: the next step
// is then, bit for bit, that of the trainer which saved. Where reading fails halfway, steps
// are refused until a Load succeeds.
func (t *Trainer) Load(ctx context.Context, dir string) error {
	call, done, err := t.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	extra, err := t.readExtra(call, filepath.Join(dir, extraFile))
	if err != nil {
		return err
	}
	if _, err = t.adam.Load(call, t.c, filepath.Join(dir, optimizerFile)); err != nil {
		return err
	}
	for i, p := range t.o.Extra {
		if err := tensor.Upload(t.m.Backend(), p.Param.Numbers(), extra[i]); err != nil {
			return err
		}
		if p.Param.Matrix() {
			p.Param.Weight().Changed()
		}
	}
	return nil
}

// readExtra reads the parameters of the caller's own, all of which the file must have.
func (t *Trainer) readExtra(ctx context.Context, path string) (all [][]float32, err error) {
	if len(t.o.Extra) == 0 {
		return nil, nil
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, p := range t.o.Extra {
		switch x := f.Tensor(p.Name); {
		case x == nil:
			return nil, fmt.Errorf("train: %s has no tensor %s", path, p.Name)
		case x.Type != backend.F32 || !slices.Equal(x.Shape, p.Param.Shape.Dim[:p.Param.Shape.Rank]):
			return nil, fmt.Errorf("train: %s: %s is %s %v, want F32 %v", path, p.Name, x.TypeName, x.Shape, p.Param.Shape)
		}
	}
	for _, p := range t.o.Extra {
		values := make([]float32, p.Param.Shape.Elems())
		raw := make([]byte, 4*len(values))
		if _, err := vfs.ReadFull(ctxerr.Reader(ctx, f.Tensor(p.Name)), raw, 0); err != nil {
			return nil, fmt.Errorf("train: %s: %s: %w", path, p.Name, err)
		}
		block.Decode(backend.F32, values, raw)
		all = append(all, values)
	}
	return all, nil
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

// has reports whether there is a checkpoint of a step.
func (s *store) has(step int) bool {
	info, err := os.Stat(s.path(step))
	return err == nil && info.IsDir()
}

// prune removes all but the newest checkpoints and that of one step.
func (s *store) prune(keep, also int) error {
	steps, err := s.steps()
	if err != nil {
		return err
	}
	for _, n := range steps[:max(0, len(steps)-keep)] {
		if n == also {
			continue
		}
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
		err = jsontext.Unmarshal(b, &st)
	}
	if err == nil && (st.Step < 0 || st.Tokens < 0) {
		err = fmt.Errorf("step %d, %d tokens", st.Step, st.Tokens)
	}
	if err != nil {
		return st, fmt.Errorf("train: %s: %w", filepath.Join(dir, stateFile), err)
	}
	return st, nil
}
