package llama

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/llama/tokenizer"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// Init says how the weights of a new model are drawn. The zero value works.
type Init struct {
	// Seed makes the same weights again.
	Seed uint64
	// Std is the standard deviation of matrices; 0 is 0.02. Those that write to the
	// residual stream (o_proj, down_proj) have Std / sqrt(2 Layers), so that its
	// variance does not grow with depth (https://arxiv.org/abs/1909.08053, section 3).
	Std float64
}

// New makes a model of the given shape with random weights, to be trained:
// Options.Trainable is implied. tok is its vocabulary and may be nil.
func New(ctx context.Context, config Config, tok *tokenizer.Tokenizer, init Init, o Options) (*Model, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if init.Std < 0 || math.IsNaN(init.Std) || math.IsInf(init.Std, 0) {
		return nil, fmt.Errorf("llama: Init.Std is %v, want a positive number or 0", init.Std)
	}
	if init.Std == 0 {
		init.Std = 0.02
	}
	o.Trainable = true
	return open(ctx, o, func() (*checkpoint.Checkpoint, error) {
		c := &checkpoint.Checkpoint{Path: "new model", Config: config, Tensors: map[string]*checkpoint.Tensor{}, Tokenizer: tok}
		for _, p := range checkpoint.Parameters(config) {
			ft := &checkpoint.Tensor{File: c.Path, Name: p.Name, Type: backend.F32, Shape: p.Shape.Dim[:p.Shape.Rank]}
			switch _, part, _ := checkpoint.LayerName(p.Name); {
			case p.Matrix():
				std := init.Std
				if part == "self_attn.o_proj.weight" || part == "mlp.down_proj.weight" {
					std /= math.Sqrt(float64(2 * config.Layers))
				}
				ft.Read = normalRows(p.Name, init.Seed, std, ft.Cols())
			case isBias(p.Name):
				ft.Read = func(dst []byte, _, n int) error { clear(dst[:4*n]); return nil }
			default:
				ft.Read = func(dst []byte, _, n int) error { return ones(dst, n) }
			}
			c.Tensors[p.Name] = ft
		}
		c.CheckTokenizer()
		return c, nil
	})
}

func isBias(name string) bool { return len(name) > 5 && name[len(name)-5:] == ".bias" }

// normalRows draws rows of a matrix, each from a generator of its own.
func normalRows(name string, seed uint64, std float64, cols int) func([]byte, int, int) error {
	h := fnv.New64a()
	h.Write([]byte(name))
	stream := h.Sum64() ^ seed*0x9e3779b97f4a7c15
	return func(dst []byte, row, n int) error {
		for r := row; r < row+n; r++ {
			rng := rand.New(rand.NewPCG(stream, uint64(r)))
			for range cols {
				binary.LittleEndian.PutUint32(dst, math.Float32bits(float32(std*rng.NormFloat64())))
				dst = dst[4:]
			}
		}
		return nil
	}
}

// floatMatrix reads a matrix into mutable F32 memory.
func (l *loader) floatMatrix(ctx context.Context, p *tensor.Param, t *checkpoint.Tensor) error {
	buf, err := l.b.Alloc(4 * int64(t.Rows()) * int64(t.Cols()))
	if err != nil {
		return err
	}
	l.buffers = append(l.buffers, buf)
	v := backend.Contiguous(buf, backend.F32, 0, backend.Dims(t.Rows(), t.Cols()))
	w, err := l.b.Float(t.Name, v)
	if err != nil {
		return err
	}
	if err := t.DecodeTo(ctx, l.b, buf, l.Add); err != nil {
		return err
	}
	p.BindMatrix(w, v)
	return nil
}

// Params lists the parameters under their Hugging Face names. Those of a model opened
// with Options.Trainable are numbers that may be changed (Param.Numbers), between the
// model's steps: who changes them calls Changed.
func (m *Model) Params() []nn.Named {
	m.adapting.Lock()
	defer m.adapting.Unlock()
	return nn.Params(m.net)
}

// Changed is called after the numbers of parameters were changed, by an optimizer for
// one. Sessions forget what they held.
func (m *Model) Changed() { m.version.Add(1) }

// NewContext returns a context of the model's backend, for Forward. The caller closes
// it before the model.
func (m *Model) NewContext(o tensor.Options) (*tensor.Context, error) {
	if m.life.Err() != nil {
		return nil, ErrClosed
	}
	return tensor.NewContext(m.b, o)
}

// Backend is what the model runs on.
func (m *Model) Backend() backend.Backend { return m.b }

// KV is the geometry of keys and values that a step of Forward begins with: without
// pages its heads only.
func (m *Model) KV() backend.KV { return m.pages.kv }

// ForwardOptions are the settings of Forward. The zero value works.
type ForwardOptions struct {
	// Checkpoint makes a tape keep nothing of a layer but its input, and compute the
	// layer again in backward.
	Checkpoint bool
	// Embedded [len(EmbeddedRows), D] stands in the place of the embeddings of rows
	// EmbeddedRows of the step, in ascending order: what an encoder has made of a picture
	// or of sound. The ids of these rows are not looked at. A tape gives it a gradient.
	Embedded     *tensor.Tensor
	EmbeddedRows []int32
	// Layers are those that run, where several machines have some each. Of a range that
	// ends before the last layer the result is the residual stream of all rows [R, D],
	// the Input of the machine with the next.
	Layers LayerRange
	// Input [R, D] is what the first of the layers reads, where that is not the model's
	// first: there are no ids then. It must not be used again.
	Input *tensor.Tensor
}

// check says why the options do not fit a step of so many rows of width dim.
func (o *ForwardOptions) check(rows, dim int) error {
	if o.Embedded == nil {
		if len(o.EmbeddedRows) > 0 {
			return fmt.Errorf("llama: %d embedded rows without embeddings", len(o.EmbeddedRows))
		}
		return nil
	}
	if want := backend.Dims(len(o.EmbeddedRows), dim); o.Embedded.Shape() != want {
		return fmt.Errorf("llama: embedded rows are %v, want %v", o.Embedded.Shape(), want)
	}
	last := int32(-1)
	for _, r := range o.EmbeddedRows {
		if r <= last || int(r) >= rows {
			return fmt.Errorf("llama: embedded row %d after row %d, of %d rows: want ascending rows of the step", r, last, rows)
		}
		last = r
	}
	return nil
}

// Forward is the network up to the last norm: of ids, which lie as the step's layout
// says, it returns the rows that the layout wants logits of [len(Logits), D]. It is
// what sessions run; with a tape on the context it is what is trained. Output is the
// matrix that makes logits of it. Package train puts both together.
func (m *Model) Forward(c *tensor.Context, ids []int32, o ForwardOptions) (*tensor.Tensor, error) {
	rows := c.Layout().Rows()
	if err := o.Layers.check(m.config.Layers); err != nil {
		return nil, err
	}
	if o.Layers.From > 0 {
		if want := backend.Dims(rows, m.config.Dim); o.Input == nil || o.Input.Shape() != want || len(ids) > 0 || o.Embedded != nil {
			return nil, fmt.Errorf("llama: Forward from layer %d on wants an Input %v, and no ids or embeddings", o.Layers.From, want)
		}
		return m.net.hidden(c, o.Input, o.Layers, o.Checkpoint), nil
	}
	if len(ids) != rows || o.Input != nil {
		return nil, fmt.Errorf("llama: Forward of %d ids with a layout of %d rows, or of an Input beside them", len(ids), rows)
	}
	if err := o.check(rows, m.config.Dim); err != nil {
		return nil, err
	}
	from := 0
	for _, r := range o.EmbeddedRows { // ids between are looked at
		if err := m.checkIDs(ids[from:r]); err != nil {
			return nil, err
		}
		from = int(r) + 1
	}
	if err := m.checkIDs(ids[from:]); err != nil {
		return nil, err
	}
	return m.net.hidden(c, m.net.embed(c, ids, o.Embedded, o.EmbeddedRows), o.Layers, o.Checkpoint), nil
}

// Output is the matrix [V, D] that makes logits of hidden states: the embedding's,
// where they are tied.
func (m *Model) Output() *tensor.Param { return m.net.Output.Weight }

// SaveOptions are the settings of Save.
type SaveOptions struct {
	// Type is what is stored: F32, F16 or BF16; zero is what the model holds, and F32
	// for quantised weights.
	Type backend.DType
}

// Save writes a model that was opened with Trainable as a Hugging Face folder, which must
// not exist yet, or be empty. It appears when it is complete.
func (m *Model) Save(ctx context.Context, dir string, o SaveOptions) error {
	if err := m.begin(); err != nil {
		return err
	}
	defer m.steps.Done()
	if m.source == nil {
		return fmt.Errorf("llama: saving a model that was opened without Trainable is %w: see Convert", ErrUnsupported)
	}
	return m.snapshot().Save(ctx, dir, o.Type)
}

// snapshot is the model as a checkpoint whose tensors are read from memory.
func (m *Model) snapshot() *checkpoint.Checkpoint {
	c := *m.source
	c.Tensors = map[string]*checkpoint.Tensor{}
	for _, p := range m.Params() {
		t := &checkpoint.Tensor{File: c.Path, Name: p.Name, Type: backend.F32, Shape: p.Param.Shape.Dim[:p.Param.Shape.Rank]}
		if p.Param.Matrix() {
			w := p.Param.Weight()
			t.Type = w.Type()
			t.Read = func(dst []byte, row, n int) error { w.Unpack(dst, row, n); return nil }
		} else {
			values := tensor.Reader(m.b, p.Param.Value().View())
			t.Read = func(dst []byte, row, n int) error {
				_, err := values.ReadAt(dst[:4*n], 4*int64(row))
				return err
			}
		}
		c.Tensors[p.Name] = t
	}
	return &c
}
