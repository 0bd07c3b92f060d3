package llama

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/vfs"
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
	return open(ctx, o, func() (*checkpoint, error) {
		c := &checkpoint{path: "new model", config: config, tensors: map[string]*fileTensor{}, tok: tok}
		for _, p := range expected(config) {
			ft := &fileTensor{file: c.path, name: p.Name, dtype: backend.F32, shape: p.Param.Shape.Dim[:p.Param.Shape.Rank]}
			switch _, part, _ := layerName(p.Name); {
			case p.Param.Matrix():
				std := init.Std
				if part == "self_attn.o_proj.weight" || part == "mlp.down_proj.weight" {
					std /= math.Sqrt(float64(2 * config.Layers))
				}
				ft.read = normalRows(p.Name, init.Seed, std, ft.cols())
			case isBias(p.Name):
				ft.read = func(dst []byte, _, n int) error { clear(dst[:4*n]); return nil }
			default:
				ft.read = func(dst []byte, _, n int) error { return ones(dst, n) }
			}
			c.tensors[p.Name] = ft
		}
		c.checkTokenizer()
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
func (l *loader) floatMatrix(ctx context.Context, p *tensor.Param, t *fileTensor) error {
	buf, err := l.b.Alloc(4 * int64(t.rows()) * int64(t.cols()))
	if err != nil {
		return err
	}
	l.buffers = append(l.buffers, buf)
	mem := buf.Bytes()
	if mem == nil {
		return fmt.Errorf("llama: trainable weights where the host cannot write are %w", ErrUnsupported)
	}
	v := backend.Contiguous(buf, backend.F32, 0, backend.Dims(t.rows(), t.cols()))
	w, err := l.b.Float(t.name, v)
	if err != nil {
		return err
	}
	if err := t.decodeTo(ctx, mem, l.add); err != nil {
		return err
	}
	p.BindMatrix(w, v)
	return nil
}

// decodeTo writes the numbers of a tensor as little-endian F32, in parallel.
func (t *fileTensor) decodeTo(ctx context.Context, mem []byte, progress func(int64)) error {
	const some = 1 << 18 // bytes read at once
	step := max(1, some/max(t.rowBytes(), 1))
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for i := range errs {
		wg.Go(func() {
			raw, values := make([]byte, step*t.rowBytes()), make([]float32, step*t.cols())
			for errs[i] == nil {
				row := (int(next.Add(1)) - 1) * step
				if row >= t.rows() {
					return
				}
				if errs[i] = ctx.Err(); errs[i] != nil {
					return
				}
				n := min(step, t.rows()-row)
				raw := raw[:n*t.rowBytes()]
				if err := t.read(raw, row, n); err != nil {
					errs[i] = &FileError{File: t.file, Tensor: t.name, Reason: "cannot be read", Err: err}
					return
				}
				block.Decode(t.dtype, values[:n*t.cols()], raw)
				out := mem[4*row*t.cols():]
				for j, x := range values[:n*t.cols()] {
					binary.LittleEndian.PutUint32(out[4*j:], math.Float32bits(x))
				}
				progress(int64(len(raw)))
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Params lists the parameters under their Hugging Face names. Those of a model opened
// with Options.Trainable are numbers that may be changed (Param.Numbers), between the
// model's steps: who changes them calls Changed.
func (m *Model) Params() []nn.Named { return nn.Params(m.net) }

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
}

// Forward is the network up to the last norm: of ids, which lie as the step's layout
// says, it returns the rows that the layout wants logits of [len(Logits), D]. It is
// what sessions run; with a tape on the context it is what is trained. Output is the
// matrix that makes logits of it. Package train puts both together.
func (m *Model) Forward(c *tensor.Context, ids []int32, o ForwardOptions) (*tensor.Tensor, error) {
	if err := m.checkIDs(ids); err != nil {
		return nil, err
	}
	if len(ids) != c.Layout().Rows() {
		return nil, fmt.Errorf("llama: Forward of %d ids with a layout of %d rows", len(ids), c.Layout().Rows())
	}
	return m.net.hidden(c, ids, o.Checkpoint), nil
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
	if m.source == nil {
		return fmt.Errorf("llama: saving a model that was opened without Trainable is %w: see Convert", ErrUnsupported)
	}
	if err := m.begin(); err != nil {
		return err
	}
	defer m.steps.Done()
	v := &converter{ctx: ctx, c: m.snapshot(), o: ConvertOptions{To: string(formatHF), Type: o.Type}}
	if err := v.o.Validate(); err != nil {
		return err
	}
	return vfs.WriteFolder(dir, v.writeHF)
}

// snapshot is the model as a checkpoint whose tensors are read from memory.
func (m *Model) snapshot() *checkpoint {
	c := *m.source
	c.tensors = map[string]*fileTensor{}
	for _, p := range m.Params() {
		t := &fileTensor{file: c.path, name: p.Name, dtype: backend.F32, shape: p.Param.Shape.Dim[:p.Param.Shape.Rank]}
		if p.Param.Matrix() {
			w := p.Param.Weight()
			t.dtype = w.Type()
			t.read = func(dst []byte, row, n int) error { w.Unpack(dst, row, n); return nil }
		} else {
			v := p.Param.Value().View()
			t.read = func(dst []byte, row, n int) error {
				copy(dst[:4*n], v.Buf.Bytes()[4*(v.Off+row):])
				return nil
			}
		}
		c.tensors[p.Name] = t
	}
	return &c
}
