package llama

import (
	"context"
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// loader packs a checkpoint's tensors into a network.
type loader struct {
	b         backend.Backend
	trainable bool
	positions int              // of a context, which longrope's frequencies depend on
	weights   []backend.Weight // to free
	buffers   []backend.Buffer
	checkpoint.Meter
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
func (l *loader) load(ctx context.Context, c *checkpoint.Checkpoint, net *transformer, cx *tensor.Context) error {
	var vectors []nn.Named
	for _, p := range nn.Params(net) {
		if !p.Param.Matrix() {
			vectors = append(vectors, p)
			continue
		}
		t, err := find(c, p)
		if err != nil {
			return err
		}
		if l.trainable {
			if err := l.floatMatrix(ctx, p.Param, t); err != nil {
				return fmt.Errorf("%s: %w", c.Path, err)
			}
			continue
		}
		w, err := l.b.Pack(ctx, backend.WeightSource{
			Name: t.Name, Type: t.Type, Rows: t.Rows(), Cols: t.Cols(), ReadRows: t.Read, Progress: l.Add,
		})
		if err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
		l.weights = append(l.weights, w)
		p.Param.BindWeight(w)
	}
	return l.vectors(ctx, c, net, vectors, cx)
}

// vectors puts norms, biases and the RoPE frequencies into one buffer, as F32.
func (l *loader) vectors(ctx context.Context, c *checkpoint.Checkpoint, net *transformer, list []nn.Named, cx *tensor.Context) error {
	freqs := checkpoint.Frequencies(c.Config, l.positions)
	total := len(freqs)
	for _, p := range list {
		total += p.Param.Shape.Dim[0]
	}
	buf, err := l.b.Alloc(4 * int64(total))
	if err != nil {
		return err
	}
	l.buffers = append(l.buffers, buf)
	values := freqs // of all
	net.RoPE.Freqs.BindValue(backend.Contiguous(buf, backend.F32, 0, net.RoPE.Freqs.Shape))
	for _, p := range list {
		p.Param.BindValue(backend.Contiguous(buf, backend.F32, len(values), p.Param.Shape))
		x, err := vector(c, p)
		if err != nil {
			return err
		}
		values = append(values, x...)
		l.Add(4 * int64(len(x)))
	}
	return write(ctx, cx, buf, values)
}

// write copies numbers to the front of a buffer, in a step of its own.
func write(ctx context.Context, cx *tensor.Context, buf backend.Buffer, values []float32) error {
	all := tensor.NewParam(len(values))
	all.BindValue(backend.Contiguous(buf, backend.F32, 0, all.Shape))
	return cx.Step(ctx, nil, backend.KV{}, func() error {
		cx.Write(all.Value(), values)
		return nil
	})
}

// vector decodes a parameter of one axis.
func vector(c *checkpoint.Checkpoint, p nn.Named) ([]float32, error) {
	t, err := find(c, p)
	if err != nil {
		return nil, err
	}
	return t.Decode()
}

// find returns the tensor of a parameter of the network.
func find(c *checkpoint.Checkpoint, p nn.Named) (*checkpoint.Tensor, error) {
	return c.Find(checkpoint.Parameter{Name: p.Name, Shape: p.Param.Shape})
}
