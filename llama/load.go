package llama

import (
	"context"
	"fmt"
	"sync"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// expected lists the parameters that a configuration needs. Callers may give
// an invalid configuration of bounded sizes only.
func expected(c Config) []nn.Named { return nn.Params(newTransformer(c)) }

// find returns the tensor of a parameter, checked against the shape wanted.
func (c *checkpoint) find(p nn.Named) (*fileTensor, error) {
	t := c.tensors[p.Name]
	if t == nil {
		return nil, fileErr(c.path, c.fileName(p.Name), "is missing")
	}
	want := p.Param.Shape
	if len(t.shape) != want.Rank || t.rows() != want.Dim[0] || want.Rank == 2 && t.cols() != want.Dim[1] {
		return nil, fileErr(t.file, t.name, "has shape %v, want %v", t.shape, want)
	}
	if !t.dtype.Float() && !(p.Param.Matrix() && t.dtype.Quantized()) {
		return nil, &FileError{File: t.file, Tensor: t.name, Err: fmt.Errorf("type %v here is %w", t.dtype, ErrUnsupported)}
	}
	return t, nil
}

// fileName is the name that the format has for a Hugging Face name.
func (c *checkpoint) fileName(hf string) string {
	table := map[format]*nameTable{formatGGUF: &ggufNames, formatMeta: &metaNames}[c.format]
	if table == nil {
		return hf
	}
	if n, ok := table.name(hf); ok {
		return n
	}
	return hf
}

// loader packs a checkpoint's tensors into a network.
type loader struct {
	b         backend.Backend
	trainable bool
	weights   []backend.Weight // to free
	buffers   []backend.Buffer
	mu        sync.Mutex
	done      int64
	total     int64
	progress  func(Progress)
}

// add counts bytes read; packing calls it from several goroutines.
func (l *loader) add(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done += n
	if l.progress != nil {
		l.progress(Progress{Done: l.done, Total: l.total})
	}
}

func (l *loader) free() {
	for _, w := range l.weights {
		w.Free()
	}
	for _, b := range l.buffers {
		b.Free()
	}
	l.weights, l.buffers = nil, nil
}

// load reads every parameter of net. The sizes have been checked before.
func (l *loader) load(ctx context.Context, c *checkpoint, net *transformer, cx *tensor.Context) error {
	var vectors []nn.Named
	for _, p := range nn.Params(net) {
		if !p.Param.Matrix() {
			vectors = append(vectors, p)
			continue
		}
		t, err := c.find(p)
		if err != nil {
			return err
		}
		if l.trainable {
			if err := l.floatMatrix(ctx, p.Param, t); err != nil {
				return fmt.Errorf("%s: %w", c.path, err)
			}
			continue
		}
		w, err := l.b.Pack(ctx, backend.WeightSource{
			Name: t.name, Type: t.dtype, Rows: t.rows(), Cols: t.cols(), ReadRows: t.read, Progress: l.add,
		})
		if err != nil {
			return fmt.Errorf("%s: %w", c.path, err)
		}
		l.weights = append(l.weights, w)
		p.Param.BindWeight(w)
	}
	return l.vectors(ctx, c, net, vectors, cx)
}

// vectors puts norms, biases and the RoPE frequencies into one buffer, as F32.
func (l *loader) vectors(ctx context.Context, c *checkpoint, net *transformer, list []nn.Named, cx *tensor.Context) error {
	freqs := c.config.frequencies()
	total := len(freqs)
	for _, p := range list {
		total += p.Param.Shape.Dim[0]
	}
	buf, err := l.b.Alloc(4 * int64(total))
	if err != nil {
		return err
	}
	l.buffers = append(l.buffers, buf)
	off := 0
	bind := func(p *tensor.Param, values []float32) {
		p.BindValue(backend.Contiguous(buf, backend.F32, off, p.Shape))
		cx.Write(p.Value(), values)
		off += len(values)
	}
	return cx.Step(ctx, nil, backend.KV{}, func() error {
		bind(net.RoPE.Freqs, freqs)
		for _, p := range list {
			values, err := c.vector(p)
			if err != nil {
				return err
			}
			bind(p.Param, values)
			l.add(4 * int64(len(values)))
		}
		return nil
	})
}

// vector decodes a parameter of one axis.
func (c *checkpoint) vector(p nn.Named) ([]float32, error) {
	t, err := c.find(p)
	if err != nil {
		return nil, err
	}
	return t.decode()
}

// decode reads a whole tensor as F32.
func (t *fileTensor) decode() ([]float32, error) {
	raw := make([]byte, t.rows()*t.rowBytes())
	if err := t.read(raw, 0, t.rows()); err != nil {
		return nil, &FileError{File: t.file, Tensor: t.name, Reason: "cannot be read", Err: err}
	}
	values := make([]float32, t.rows()*t.cols())
	block.Decode(t.dtype, values, raw)
	return values, nil
}
