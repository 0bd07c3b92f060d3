package llama

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/llama/safetensors"
)

// Memory is what a model takes, in bytes.
type Memory struct {
	Weights int64 `json:"weights"`     // packed, those of adapters too
	Session int64 `json:"per_session"` // keys and values of a full session
	Scratch int64 `json:"scratch"`     // of a step, shared by all sessions
}

// Total is the need with one full session.
func (m Memory) Total() int64 { return m.Weights + m.Session + m.Scratch }

// String gives the parts in MiB.
func (m Memory) String() string {
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	return fmt.Sprintf("weights %.1f MiB, session %.1f MiB, scratch %.1f MiB", mib(m.Weights), mib(m.Session), mib(m.Scratch))
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
	m.Scratch = scratch(c, o.batchRows())
	if m.Session > math.MaxInt64-m.Weights || m.Scratch > math.MaxInt64-m.Weights-m.Session {
		return Memory{}, checkpoint.Errorf(c.Path, "", "%v do not fit 63 bits together", m)
	}
	return m, nil
}

// scratch is the arena of a prefill step of r rows: what transformer.hidden and
// one layer allocate, and a block of logits.
func scratch(p *checkpoint.Checkpoint, rows int) int64 {
	c := p.Config
	r, d, q, kv := int64(rows), int64(c.Dim), int64(c.Heads*c.HeadDim), int64(c.KVHeads*c.HeadDim)
	h := int64(c.HiddenDim)
	common := r * (1 + d + int64(c.HeadDim)) // ids, residual, rotations
	common += r * adapterWidth(p, "model.embed_tokens")
	// Each half of a layer gives its memory back: the norm, products, and beside them
	// a copy of a product's input.
	attend := r * (d + 2*q + 2*kv + input(max(d, q)))
	f := min(r, feedRows)
	feed := f * (d + h + input(max(d, h)))
	if c.AttentionOutputBias {
		attend += r * d
	}
	if c.ResidualScale != 0 { // what is added is there before, and once more times the factor
		attend, feed = attend+2*r*d, feed+2*f*d
	}
	if checkpoint.RopeFactor(c) != 1 {
		common += r * int64(c.HeadDim)
	}
	if c.EmbeddingScale != 0 {
		common += r * d
	}
	if c.MLPBias {
		feed += f * (2*h + d)
	}
	attend += r * adapterWidth(p, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
	if w := adapterWidth(p, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"); w > 0 {
		feed += f * (w + 2*h + d) // gate and up are two products
	}
	n := min(r, logitRows)
	output := 2*r*d + n*(int64(c.Vocab)+adapterWidth(p, "lm_head"))
	if c.LogitsScale != 0 {
		output += r * d
	}
	// The host's copy of the logits comes on top.
	return 4 * (common + max(attend, feed, output) + n*int64(c.Vocab))
}

// input is the width of the copy of rows that a product makes, lines longer.
func input(width int64) int64 { return width + width/8 + 64 }

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

// adapterWidth is what the adapters of one layer's matrices allocate of a step's
// arena, in numbers a row: products with A, those times the factor, and what DoRA
// rescales. Layers may differ; it is the most.
func adapterWidth(c *checkpoint.Checkpoint, parts ...string) (most int64) {
	widths := map[string]int64{}
	for _, a := range c.Adapters {
		for _, m := range a.Modules {
			layer, part := "", m.Name
			if i, rest, ok := checkpoint.LayerName(m.Name); ok {
				layer, part = fmt.Sprint(i), rest
			}
			if !slices.Contains(parts, part) {
				continue
			}
			widths[layer] += 2 * int64(m.Rank)
			if m.Magnitude.Data != nil {
				widths[layer] += 2 * int64(m.Out)
			}
			most = max(most, widths[layer])
		}
	}
	return most
}
