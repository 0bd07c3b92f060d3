package llama

import (
	"context"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
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
	fsys, name := splitPath(path)
	c, err := openCheckpoint(context.Background(), fsys, name, path)
	if err != nil {
		return Memory{}, err
	}
	defer c.close()
	if err := c.openAdapters(o.Adapters); err != nil {
		return Memory{}, err
	}
	return c.estimate(o)
}

// logitRows is how many rows of logits are in memory at once.
const logitRows = 32

// estimate checks that every tensor is there with the right shape and adds up
// their sizes.
func (c *checkpoint) estimate(o Options) (Memory, error) {
	var m Memory
	for _, p := range expected(c.config) {
		t, err := c.find(p)
		if err != nil {
			return Memory{}, err
		}
		n := int64(t.rows()) * 4 // a vector, kept as F32
		switch {
		case p.Param.Matrix() && o.Trainable:
			n = 4 * int64(t.rows()) * int64(t.cols()) // below 2^62: the configuration is bounded
		case p.Param.Matrix():
			n = int64(ceilDiv(t.rows(), 16)) * 16 * int64(t.rowBytes())
		}
		if m.Weights > math.MaxInt64-n {
			return Memory{}, fileErr(c.path, "", "the sum of the tensors does not fit 63 bits")
		}
		m.Weights += n
	}
	_, adapters := c.adapterBytes()
	if m.Weights > math.MaxInt64-adapters {
		return Memory{}, fileErr(c.path, "", "the sum of the tensors does not fit 63 bits")
	}
	m.Weights += adapters
	var ok bool
	positions := o.context(c.config, 0)
	if err := c.kv(o).Err(); err != nil {
		return Memory{}, fmt.Errorf("llama: %s: %w: %w", c.path, err, ErrUnsupported)
	}
	if m.Session, ok = mul(int64(ceilDiv(positions, backend.PageLen)), c.kv(o).PageBytes()); !ok {
		return Memory{}, fileErr(c.path, "", "a session of %d positions does not fit 63 bits", positions)
	}
	m.Scratch = c.scratch(o.batchRows())
	if m.Session > math.MaxInt64-m.Weights || m.Scratch > math.MaxInt64-m.Weights-m.Session {
		return Memory{}, fileErr(c.path, "", "%v do not fit 63 bits together", m)
	}
	return m, nil
}

// scratch is the arena of a prefill step of r rows: what transformer.hidden and
// one layer allocate, and a block of logits.
func (p *checkpoint) scratch(rows int) int64 {
	c := p.config
	r, d, q, kv := int64(rows), int64(c.Dim), int64(c.Heads*c.HeadDim), int64(c.KVHeads*c.HeadDim)
	h := int64(c.HiddenDim)
	common := r * (1 + d + int64(c.HeadDim)) // ids, residual, rotations
	// Each half of a layer gives its memory back: the norm, products, and beside them
	// a copy of a product's input.
	attend := r * (d + 2*q + 2*kv + input(max(d, q)))
	f := min(r, feedRows)
	feed := f * (d + h + input(max(d, h)))
	if c.AttentionOutputBias {
		attend += r * d
	}
	if c.MLPBias {
		feed += f * (2*h + d)
	}
	attend += r * p.adapterWidth("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
	if w := p.adapterWidth("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"); w > 0 {
		feed += f * (w + 2*h + d) // gate and up are two products
	}
	n := min(r, logitRows)
	output := 2*r*d + n*(int64(c.Vocab)+p.adapterWidth("lm_head"))
	// The host's copy of the logits comes on top.
	return 4 * (common + max(attend, feed, output) + n*int64(c.Vocab))
}

// input is the width of the copy of rows that a product makes, lines longer.
func input(width int64) int64 { return width + width/8 + 64 }

// kv is the geometry of the pages of keys and values.
func (c *checkpoint) kv(o Options) backend.KV {
	t := o.KVType
	if t == backend.Invalid {
		t = backend.F16
		if w := c.tensors["model.layers.0.self_attn.k_proj.weight"]; o.Precision == PrecisionF32 || o.Trainable || w != nil && w.dtype == backend.F32 {
			t = backend.F32
		}
	}
	return backend.KV{Type: t, Layers: c.config.Layers, Heads: c.config.KVHeads, HeadDim: c.config.HeadDim}
}

// bytes is how much of the files loading reads.
func (c *checkpoint) bytes() int64 {
	var n int64
	for _, p := range expected(c.config) {
		t := c.tensors[p.Name]
		if p.Param.Matrix() {
			n += int64(t.rows()) * int64(t.rowBytes())
		} else {
			n += 4 * int64(t.rows())
		}
	}
	adapters, _ := c.adapterBytes()
	return n + adapters
}
