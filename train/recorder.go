package train

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/herd-ml/herd/internal/tfevents"
)

// MetricsFile is the name of the metrics in the folder of a run.
const MetricsFile = "metrics.jsonl"

// Recorder writes what a run gives into its folder: MetricsFile and an event file
// for TensorBoard. It serves one goroutine.
type Recorder struct {
	metrics *Metrics
	events  *tfevents.Writer
}

// OpenRecorder opens both files to go on after a step, as OpenMetrics does; step 0 starts
// over. It makes the folder if that is missing. It begins a new event file, which tells
// TensorBoard to forget later steps of older files. What a killed run left half written in
// those is cut. A run that starts over deletes them.
func OpenRecorder(dir string, step int64) (*Recorder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	clean := tfevents.Mend
	if step == 0 {
		clean = os.Remove
	}
	if err := eachEvents(dir, clean); err != nil {
		return nil, err
	}
	m, err := OpenMetrics(filepath.Join(dir, MetricsFile), step)
	if err != nil {
		return nil, err
	}
	first := step
	if step > 0 {
		first++
	}
	e, err := tfevents.Create(dir, time.Now(), first)
	if err != nil {
		m.Close()
		return nil, err
	}
	return &Recorder{m, e}, nil
}

// mendRecord cuts what follows a step, and what is half written, and adds nothing.
func mendRecord(dir string, step int64) error {
	m, err := OpenMetrics(filepath.Join(dir, MetricsFile), step)
	if err == nil {
		err = errors.Join(m.Close(), eachEvents(dir, tfevents.Mend))
	}
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// eachEvents does something with every event file of a folder.
func eachEvents(dir string, do func(path string) error) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if tfevents.IsName(e.Name()) {
			err = errors.Join(err, do(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// Add writes a row to both.
func (r *Recorder) Add(row Row) error {
	return errors.Join(r.metrics.Add(row), r.events.Add(time.Now(), row.Step, row.scalars()...))
}

// scalars are the row's values under the names that TensorBoard groups.
func (r Row) scalars() []tfevents.Scalar {
	if r.Eval {
		return []tfevents.Scalar{{Tag: "loss/eval", Value: r.Loss}}
	}
	return []tfevents.Scalar{
		{Tag: "loss/train", Value: r.Loss},
		{Tag: "optimizer/grad_norm", Value: r.GradNorm},
		{Tag: "optimizer/lr", Value: r.LR},
		{Tag: "speed/tokens_per_s", Value: r.TokensPerSecond},
		{Tag: "speed/mfu", Value: r.MFU},
	}
}

// Close closes both.
func (r *Recorder) Close() error { return errors.Join(r.metrics.Close(), r.events.Close()) }
