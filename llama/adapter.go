package llama

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// Adapter is a low-rank change of a model's matrices in the layout of Hugging
// Face's PEFT: LoRA, rsLoRA or DoRA. It fits every model of the shape that it was
// trained on, of any format and type, quantised too. Of several on one matrix
// the later change what the earlier made of it, as in PEFT.
type Adapter struct {
	// Path is a folder with adapter_config.json and adapter_model.safetensors, or
	// the latter.
	Path string
	// FS is where Path is; nil is the operating system's files.
	FS fs.FS
	// Scale multiplies the factor that the adapter has of its own; 0 means 1.
	Scale float32
}

// validate lists every violation.
func validateAdapters(list []Adapter) (errs []error) {
	for i, a := range list {
		if a.Path == "" {
			errs = append(errs, fmt.Errorf("llama: Adapters[%d] has no Path", i))
		}
		if x := float64(a.Scale); math.IsNaN(x) || math.IsInf(x, 0) {
			errs = append(errs, fmt.Errorf("llama: Adapters[%d].Scale is %v, want a finite number", i, a.Scale))
		}
	}
	return errs
}

// opened is an adapter whose shapes fit the model.
type opened struct {
	*peft.Adapter
	scale float64 // that the caller wants
}

// factor is the whole factor of a module's B A.
func (a *opened) factor(m *peft.Module) float32 { return float32(m.Scale * a.scale) }

// openAdapters opens adapters and checks them against the checkpoint's shapes.
// They close with it.
func (c *checkpoint) openAdapters(list []Adapter) error {
	if len(list) == 0 {
		return nil
	}
	layers := map[string]backend.Shape{}
	for _, l := range nn.Linears(newTransformer(c.config)) {
		layers[l.Name] = l.Linear.Weight.Shape
	}
	for _, o := range list {
		open := func() (*peft.Adapter, error) { return peft.Open(o.Path) }
		if o.FS != nil {
			open = func() (*peft.Adapter, error) { return peft.OpenFS(o.FS, o.Path) }
		}
		p, err := open()
		if err != nil {
			return err
		}
		c.closers = append(c.closers, p)
		a := &opened{p, float64(o.Scale)}
		if o.Scale == 0 {
			a.scale = 1
		}
		for i := range p.Modules {
			if err := a.check(&p.Modules[i], layers); err != nil {
				return err
			}
		}
		c.adapters = append(c.adapters, a)
	}
	return nil
}

// check compares a module with the model's layers.
func (a *opened) check(m *peft.Module, layers map[string]backend.Shape) error {
	s, ok := layers[m.Name]
	switch out, in := s.Dim[0], s.Dim[1]; {
	case !ok:
		return fileErr(a.File, m.A.Name, "is for a layer %s, which the model does not have", m.Name)
	case m.In != in:
		return fileErr(a.File, m.A.Name, "has shape %v, want [%d %d] for the model's layer %v", m.A.Shape, m.Rank, in, s)
	case m.Out != out:
		return fileErr(a.File, m.B.Name, "has shape %v, want [%d %d] for the model's layer %v", m.B.Shape, out, m.Rank, s)
	case math.IsInf(float64(a.factor(m)), 0):
		return fileErr(a.File, m.A.Name, "has a factor of %v times %v, which is no float32", m.Scale, a.scale)
	}
	return nil
}

// tensorBytes is the size of a tensor in its file.
func tensorBytes(s safetensors.Source) int64 {
	n := int64(s.Type.BlockBytes())
	for _, d := range s.Shape {
		n *= int64(d)
	}
	return n
}

// adapterBytes is what adapters read of their files and take in memory: panels
// of 16 rows as those of other matrices, and two vectors for DoRA.
func (c *checkpoint) adapterBytes() (read, memory int64) {
	panels := func(s safetensors.Source) int64 {
		return tensorBytes(s) / int64(s.Shape[0]) * int64(ceilDiv(s.Shape[0], 16)) * 16
	}
	for _, a := range c.adapters {
		for _, m := range a.Modules {
			read += tensorBytes(m.A) + tensorBytes(m.B)
			memory += panels(m.A) + panels(m.B)
			if m.Magnitude.Data != nil {
				read += tensorBytes(m.Magnitude)
				memory += 8 * int64(m.Out)
			}
		}
	}
	return read, memory
}

// adapterWidth is what the adapters of one layer's matrices allocate of a step's
// arena, in numbers a row: products with A, those times the factor, and what DoRA
// rescales. Layers may differ; it is the most.
func (c *checkpoint) adapterWidth(parts ...string) (most int64) {
	widths := map[string]int64{}
	for _, a := range c.adapters {
		for _, m := range a.Modules {
			layer, part := "", m.Name
			if i, rest, ok := layerName(m.Name); ok {
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

// adapt puts a checkpoint's adapters on the layers of a network that has its
// other numbers.
func (l *loader) adapt(ctx context.Context, c *checkpoint, net *transformer, cx *tensor.Context) error {
	if len(c.adapters) == 0 {
		return nil
	}
	layers := map[string]*nn.Linear{}
	for _, n := range nn.Linears(net) {
		layers[n.Name] = n.Linear
	}
	for _, a := range c.adapters {
		if err := l.adapter(ctx, a, layers, cx); err != nil {
			return err
		}
	}
	return nn.Refresh(ctx, l.b, net)
}

// adapter loads one.
func (l *loader) adapter(ctx context.Context, a *opened, layers map[string]*nn.Linear, cx *tensor.Context) error {
	var vectors []*nn.LoRA
	var from []*peft.Module
	total := 0
	for i := range a.Modules {
		m := &a.Modules[i]
		lora := nn.NewLoRA(m.In, m.Out, m.Rank, a.Config.DoRA)
		lora.Scale = a.factor(m)
		readB := plainRows(m.B.Data, m.B.Type.BlockBytes()*m.Rank)
		if f, _ := math.Frexp(float64(lora.Scale)); f == 0.5 && m.B.Type != backend.F16 {
			readB, lora.Scale = scaledRows(readB, m, lora.Scale), 1
		}
		for _, t := range []struct {
			p    *tensor.Param
			s    safetensors.Source
			read func([]byte, int, int) error
		}{{lora.A, m.A, plainRows(m.A.Data, m.A.Type.BlockBytes()*m.In)}, {lora.B, m.B, readB}} {
			w, err := l.b.Pack(ctx, backend.WeightSource{
				Name: t.s.Name, Type: t.s.Type, Rows: t.s.Shape[0], Cols: t.s.Shape[1],
				ReadRows: t.read, Progress: l.add,
			})
			if err != nil {
				return fmt.Errorf("%s: %w", a.File, err)
			}
			l.weights = append(l.weights, w)
			t.p.BindWeight(w)
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
func (l *loader) magnitudes(ctx context.Context, a *opened, buf backend.Buffer, loras []*nn.LoRA, from []*peft.Module, cx *tensor.Context) error {
	off := 0
	return cx.Step(ctx, nil, backend.KV{}, func() error {
		for i, lora := range loras {
			for _, p := range []*tensor.Param{lora.Magnitude, lora.InverseNorm} {
				p.BindValue(backend.Contiguous(buf, backend.F32, off, p.Shape))
				off += p.Shape.Dim[0]
			}
			values, err := peft.Read(from[i].Magnitude)
			if err != nil {
				return &FileError{File: a.File, Tensor: from[i].Magnitude.Name, Reason: "cannot be read", Err: err}
			}
			cx.Write(lora.Magnitude.Value(), values)
			l.add(tensorBytes(from[i].Magnitude))
		}
		return nil
	})
}
