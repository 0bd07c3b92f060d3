package llama

import (
	"context"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/llama/safetensors"
)

// Memory is what a model takes, in bytes.
type Memory struct {
	Weights int64 `json:"weights"`     // packed, those of adapters too
	Session int64 `json:"per_session"` // keys and values of a full session
	Scratch int64 `json:"scratch"`     // of a step, shared by all sessions
	// Snapshots are the packed copies of matrices that may change, with which sessions
	// multiply: see Options.Trainable. They are made when the first session computes.
	Snapshots int64 `json:"snapshots,omitempty"`
}

// Total is the need with one full session.
func (m Memory) Total() int64 { return m.Weights + m.Session + m.Scratch + m.Snapshots }

// String gives the parts in MiB.
func (m Memory) String() string {
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	s := fmt.Sprintf("weights %.1f MiB, session %.1f MiB, scratch %.1f MiB", mib(m.Weights), mib(m.Session), mib(m.Scratch))
	if m.Snapshots > 0 {
		s += fmt.Sprintf(", snapshots %.1f MiB", mib(m.Snapshots))
	}
	return s
}

// Estimate says what Open would take, from the files' headers alone.
func Estimate(path string, o Options) (Memory, error) {
	if err := o.Validate(); err != nil {
		return Memory{}, err
	}
	c, err := checkpoint.Open(context.Background(), path)
	if err != nil {
		return Memory{}, err
	}
	defer c.Close()
	if err := c.OpenAdapters(o.Adapters); err != nil {
		return Memory{}, err
	}
	return estimate(c, o)
}

// logitRows is how many rows of logits are in memory at once.
const logitRows = 32

// logitBytes is the host's copy of the logits of a step of so many rows.
func logitBytes(c Config, rows int) int64 { return 4 * int64(min(rows, logitRows)) * int64(c.Vocab) }

// estimate checks that every tensor is there with the right shape and adds up
// their sizes.
func estimate(c *checkpoint.Checkpoint, o Options) (Memory, error) {
	var m Memory
	for _, p := range checkpoint.Parameters(c.Config) {
		t, err := c.Find(p)
		if err != nil {
			return Memory{}, err
		}
		n := int64(t.Rows()) * 4 // a vector, kept as F32
		switch {
		case p.Matrix() && o.Trainable:
			n = 4 * int64(t.Rows()) * int64(t.Cols()) // below 2^62: the configuration is bounded
		case p.Matrix():
			if n, err = o.backend().WeightBytes(t.Type, t.Rows(), t.Cols()); err != nil {
				return Memory{}, &FileError{File: t.File, Tensor: t.Name, Reason: "cannot be packed", Err: err}
			}
		}
		if m.Weights > math.MaxInt64-n {
			return Memory{}, checkpoint.Errorf(c.Path, "", "the sum of the tensors does not fit 63 bits")
		}
		m.Weights += n
	}
	adapters, err := adapterMemory(c, o.backend())
	if err != nil {
		return Memory{}, err
	}
	if m.Weights > math.MaxInt64-adapters {
		return Memory{}, checkpoint.Errorf(c.Path, "", "the sum of the tensors does not fit 63 bits")
	}
	m.Weights += adapters
	var ok bool
	positions := o.context(c.Config, 0)
	if err := o.checkContext(c.Config, positions); err != nil {
		return Memory{}, fmt.Errorf("%s: %w", c.Path, err)
	}
	if err := kvGeometry(c, o).Err(); err != nil {
		return Memory{}, fmt.Errorf("llama: %s: %w: %w", c.Path, err, ErrUnsupported)
	}
	if m.Session, ok = mul(int64(ceilDiv(positions, backend.PageLen)), o.backend().PageBytes(kvGeometry(c, o))); !ok {
		return Memory{}, checkpoint.Errorf(c.Path, "", "a session of %d positions does not fit 63 bits", positions)
	}
	arena, snapshots, err := measure(c, o, o.batchRows())
	if err != nil {
		return Memory{}, err
	}
	m.Scratch, m.Snapshots = arena+logitBytes(c.Config, o.batchRows()), snapshots
	sum := int64(0)
	for _, n := range []int64{m.Weights, m.Session, m.Scratch, m.Snapshots} {
		if n > math.MaxInt64-sum {
			return Memory{}, checkpoint.Errorf(c.Path, "", "%v do not fit 63 bits together", m)
		}
		sum += n
	}
	return m, nil
}

// kvGeometry is the geometry of the pages of keys and values.
func kvGeometry(c *checkpoint.Checkpoint, o Options) backend.KV {
	t := o.KVType
	if t == backend.Invalid {
		t = backend.F16
		if w := c.Tensors["model.layers.0.self_attn.k_proj.weight"]; o.Precision != PrecisionAuto || o.Trainable || w != nil && w.Type == backend.F32 {
			t = backend.F32
		}
	}
	return backend.KV{Type: t, Layers: c.Config.Layers, Heads: c.Config.KVHeads, HeadDim: c.Config.HeadDim}
}

// adapterMemory is what adapters take: their matrices as others, and two vectors for
// DoRA.
func adapterMemory(c *checkpoint.Checkpoint, b backend.Backend) (n int64, err error) {
	for _, a := range c.Adapters {
		for _, m := range a.Modules {
			if m.Embedding { // A is turned into a table of float32
				m.A.Type, m.A.Shape = backend.F32, []int{m.In, m.Rank}
			}
			for _, s := range []safetensors.Source{m.A, m.B} {
				size, err := b.WeightBytes(s.Type, s.Shape[0], s.Shape[1])
				if err != nil {
					return 0, &FileError{File: a.File, Tensor: s.Name, Reason: "cannot be packed", Err: err}
				}
				n += size
			}
			if m.Magnitude.Data != nil {
				n += 8 * int64(m.Out)
			}
			if m.Bias.Data != nil {
				n += 4 * int64(m.Out)
			}
		}
	}
	return n, nil
}
