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
	return m.checkpoint().Save(ctx, dir, o.Type)
}

// checkpoint is the model as one whose tensors are read from memory.
func (m *Model) checkpoint() *checkpoint.Checkpoint {
	c := *m.source
	c.Tensors = map[string]*checkpoint.Tensor{}
	for _, p := range nn.Params(m.net) {
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
