package llama

import (
	"context"
	"fmt"
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// Adapter is a low-rank change of a model's matrices in the layout of Hugging
// Face's PEFT: LoRA, rsLoRA or DoRA. It fits every model of the shape that it was
// trained on, of any format and type, quantised too. Of several on one matrix
// the later change what the earlier made of it, as in PEFT. A session has all of its model's,
// or those that SessionOptions.Adapters names; backend.Segment.Adapters names one by its
// place in Options.Adapters.
//
// What an adapter brings whole (modules_to_save, biases, tokens, a larger vocabulary) takes
// the place of the model's own for all rows, and no two adapters may bring the same. No
// session can do without such an adapter.
//
//	Path  string  // a folder with adapter_config.json and adapter_model.safetensors, or the latter; or a .gguf file
//	FS    fs.FS   // where Path is; nil is the operating system's files
//	Scale float32 // multiplies the factor that the adapter has of its own; 0 means 1
//	Name  string  // what sessions call it; empty means Path
type Adapter = checkpoint.Adapter

// adapt puts a checkpoint's adapters on the layers of a network that has its
// other numbers.
func (l *loader) adapt(ctx context.Context, c *checkpoint.Checkpoint, net *transformer, cx *tensor.Context) error {
	if len(c.Adapters) == 0 {
		return nil
	}
	layers := map[string]*nn.Linear{}
	for _, n := range nn.Linears(net) {
		layers[n.Name] = n.Linear
	}
	for i, a := range c.Adapters {
		if err := l.adapter(ctx, a, i, net, layers, cx); err != nil {
			return err
		}
	}
	return nn.Refresh(ctx, l.b, net)
}

// adapter loads one, adapter set number set.
func (l *loader) adapter(ctx context.Context, a *checkpoint.OpenedAdapter, set int, net *transformer, layers map[string]*nn.Linear, cx *tensor.Context) error {
	var vectors []*nn.LoRA
	var from []*peft.Module
	total := 0
	for i := range a.Modules {
		m := &a.Modules[i]
		if m.Embedding {
			if err := l.embedding(ctx, a, m, set, net.Embed); err != nil {
				return err
			}
			continue
		}
		lora := nn.NewLoRA(m.In, m.Out, m.Rank, a.Config.DoRA)
		lora.Scale, lora.Set = a.Factor(m), set
		readB := checkpoint.PlainRows(m.B.Data, m.B.Type.BlockBytes()*m.Rank)
		if f, _ := math.Frexp(float64(lora.Scale)); f == 0.5 && m.B.Type != backend.F16 {
			readB, lora.Scale = scaledRows(readB, m, lora.Scale), 1
		}
		for _, t := range []struct {
			p    *tensor.Param
			s    safetensors.Source
			read func([]byte, int, int) error
		}{{lora.A, m.A, checkpoint.PlainRows(m.A.Data, m.A.Type.BlockBytes()*m.In)}, {lora.B, m.B, readB}} {
			w, err := l.b.Pack(ctx, backend.WeightSource{
				Name: t.s.Name, Type: t.s.Type, Rows: t.s.Shape[0], Cols: t.s.Shape[1],
				ReadRows: t.read, Progress: l.Add,
			})
			if err != nil {
				return fmt.Errorf("%s: %w", a.File, err)
			}
			l.weights = append(l.weights, w)
			t.p.BindWeight(w)
		}
		if m.Bias.Data != nil {
			if err := l.bias(a, m, lora); err != nil {
				return err
			}
		}
		layers[m.Name].Adapters = append(layers[m.Name].Adapters, lora)
		if lora.Magnitude != nil {
			vectors, from = append(vectors, lora), append(from, m)
			total += 2 * m.Out
		}
	}
	if total == 0 {
		return nil
	}
	buf, err := l.b.Alloc(4 * int64(total))
	if err != nil {
		return err
	}
	l.buffers = append(l.buffers, buf)
	return l.magnitudes(ctx, a, buf, vectors, from, cx)
}

// embedding loads an adapter of the embedding, whose factor A is turned into a table.
func (l *loader) embedding(ctx context.Context, a *checkpoint.OpenedAdapter, m *peft.Module, set int, e *nn.Embedding) error {
	values, err := peft.Read(m.A)
	if err != nil {
		return &FileError{File: a.File, Tensor: m.A.Name, Reason: "cannot be read", Err: err}
	}
	table := make([]float32, len(values)) // [V, r]
	for k := range m.Rank {
		for v := range m.In {
			table[v*m.Rank+k] = values[k*m.In+v]
		}
	}
	rows := peft.Tensor(table, m.In, m.Rank)
	lora := &nn.LoRA{A: tensor.NewParam(m.In, m.Rank), B: tensor.NewParam(m.Out, m.Rank), Scale: a.Factor(m), Set: set}
	for _, t := range []struct {
		p *tensor.Param
		s safetensors.Source
	}{{lora.A, rows}, {lora.B, m.B}} {
		w, err := l.b.Pack(ctx, backend.WeightSource{
			Name: m.Name, Type: t.s.Type, Rows: t.s.Shape[0], Cols: t.s.Shape[1],
			ReadRows: checkpoint.PlainRows(t.s.Data, t.s.Type.BlockBytes()*t.s.Shape[1]), Progress: l.Add,
		})
		if err != nil {
			return fmt.Errorf("%s: %w", a.File, err)
		}
		l.weights = append(l.weights, w)
		t.p.BindWeight(w)
	}
	e.Adapters = append(e.Adapters, lora)
	return nil
}

// bias loads the bias of a factor B, times the adapter's factor.
func (l *loader) bias(a *checkpoint.OpenedAdapter, m *peft.Module, lora *nn.LoRA) error {
	values, err := peft.Read(m.Bias)
	if err != nil {
		return &FileError{File: a.File, Tensor: m.Bias.Name, Reason: "cannot be read", Err: err}
	}
	for i := range values {
		values[i] *= a.Factor(m)
	}
	buf, err := l.b.Alloc(4 * int64(len(values)))
	if err != nil {
		return err
	}
	l.buffers = append(l.buffers, buf)
	lora.Bias = tensor.NewParam(len(values))
	v := backend.Contiguous(buf, backend.F32, 0, lora.Bias.Shape)
	lora.Bias.BindValue(v)
	l.Add(checkpoint.TensorBytes(m.Bias))
	return tensor.Upload(l.b, v, values)
}

// scaledRows reads rows of B times a power of two, which saves an operation a
// product and changes no bit of it.
func scaledRows(read func([]byte, int, int) error, m *peft.Module, scale float32) func([]byte, int, int) error {
	return func(dst []byte, row, n int) error {
		if err := read(dst, row, n); err != nil {
			return err
		}
		values := make([]float32, n*m.Rank)
		dst = dst[:len(values)*m.B.Type.BlockBytes()]
		block.Decode(m.B.Type, values, dst)
		for i := range values {
			values[i] *= scale
		}
		block.Encode(m.B.Type, dst, values)
		return nil
	}
}

// magnitudes gives DoRA's vectors their place in a buffer, and their numbers.
func (l *loader) magnitudes(ctx context.Context, a *checkpoint.OpenedAdapter, buf backend.Buffer, loras []*nn.LoRA, from []*peft.Module, cx *tensor.Context) error {
	var values []float32 // of all: the magnitude, and zeros where InverseNorm will be
	for i, lora := range loras {
		x, err := peft.Read(from[i].Magnitude)
		if err != nil {
			return &FileError{File: a.File, Tensor: from[i].Magnitude.Name, Reason: "cannot be read", Err: err}
		}
		for _, p := range []*tensor.Param{lora.Magnitude, lora.InverseNorm} {
			p.BindValue(backend.Contiguous(buf, backend.F32, len(values), p.Shape))
			values, x = append(values, x...), make([]float32, len(x))
		}
		l.Add(checkpoint.TensorBytes(from[i].Magnitude))
	}
	return write(ctx, cx, buf, values)
}
