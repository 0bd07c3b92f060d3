package checkpoint

import (
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
)

// Adapter is a low-rank change of a model's matrices in the layout of Hugging
// Face's PEFT: LoRA, rsLoRA or DoRA. It fits every model of the shape that it was
// trained on, of any format and type, quantised too. Of several on one matrix
// the later change what the earlier made of it, as in PEFT. What it brings whole
// (modules_to_save, biases, tokens) takes the place of the model's own.
type Adapter struct {
	// Path is a folder with adapter_config.json and adapter_model.safetensors, or
	// the latter, or a GGUF file of an adapter.
	Path string
	// FS is where Path is; nil is the operating system's files.
	FS fs.FS
	// Scale multiplies the factor that the adapter has of its own; 0 means 1.
	Scale float32
	// Name is what sessions call it; empty means Path.
	Name string
}

// ValidateAdapters lists every violation.
func ValidateAdapters(list []Adapter) (errs []error) {
	for i, a := range list {
		same := func(b Adapter) bool { return b.Name == a.Name }
		if first := slices.IndexFunc(list, same); a.Name != "" && first < i {
			errs = append(errs, fmt.Errorf("llama: Adapters[%d] and [%d] are both called %q", first, i, a.Name))
		}
		if a.Path == "" {
			errs = append(errs, fmt.Errorf("llama: Adapters[%d] has no Path", i))
		}
		if x := float64(a.Scale); math.IsNaN(x) || math.IsInf(x, 0) {
			errs = append(errs, fmt.Errorf("llama: Adapters[%d].Scale is %v, want a finite number", i, a.Scale))
		}
	}
	return errs
}

// An OpenedAdapter is an adapter whose shapes fit the model.
type OpenedAdapter struct {
	*peft.Adapter
	scale float64 // that the caller wants
}

// Factor is the whole factor of a module's B A.
func (a *OpenedAdapter) Factor(m *peft.Module) float32 { return float32(m.Scale * a.scale) }

// OpenAdapters opens adapters and checks them against the checkpoint's shapes.
// They close with it.
func (c *Checkpoint) OpenAdapters(list []Adapter) error {
	if len(list) == 0 {
		return nil
	}
	for _, o := range list {
		a, err := openAdapter(o, c.Config)
		if err != nil {
			return err
		}
		c.closers = append(c.closers, a)
		c.Adapters = append(c.Adapters, a)
		old := c.Config.Vocab
		if err := c.replace(a); err != nil {
			return err
		}
		if c.Config.Vocab != old {
			if err := c.resize(o, old); err != nil {
				return err
			}
		}
	}
	for _, a := range c.Adapters {
		if err := a.check(c.Config); err != nil {
			return err
		}
	}
	return nil
}

// OpenAdapter opens one adapter for a model of a shape. The caller closes it.
func OpenAdapter(o Adapter, c Config) (*OpenedAdapter, error) {
	a, err := openAdapter(o, c)
	if err != nil {
		return nil, err
	}
	if err := a.check(c); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// openAdapter opens an adapter. Of the model only the order of rows in GGUF is looked at.
func openAdapter(o Adapter, c Config) (*OpenedAdapter, error) {
	open := func() (*peft.Adapter, error) { return peft.Open(o.Path) }
	if o.FS != nil {
		open = func() (*peft.Adapter, error) { return peft.OpenFS(o.FS, o.Path) }
	}
	if path.Ext(o.Path) == ".gguf" {
		open = func() (*peft.Adapter, error) { return openGGUFAdapter(o, c) }
	}
	p, err := open()
	if err != nil {
		return nil, err
	}
	a := &OpenedAdapter{p, float64(o.Scale)}
	if o.Scale == 0 {
		a.scale = 1
	}
	return a, nil
}

// check compares the modules with the model's layers.
func (a *OpenedAdapter) check(c Config) error {
	layers := Linears(c)
	for i := range a.Modules {
		if err := a.checkModule(&a.Modules[i], layers, c); err != nil {
			return err
		}
	}
	return nil
}

func (a *OpenedAdapter) checkModule(m *peft.Module, layers map[string]backend.Shape, c Config) error {
	s, ok := layers[m.Name]
	if m.Embedding && m.Name == embedding { // the table is [in, out]
		s, ok = backend.Dims(c.Dim, c.Vocab), true
	}
	switch out, in := s.Dim[0], s.Dim[1]; {
	case !ok || m.Embedding != (m.Name == embedding):
		return Errorf(a.File, m.A.Name, "is for a layer %s, which the model does not have", m.Name)
	case m.In != in:
		return Errorf(a.File, m.A.Name, "has shape %v, want [%d %d] for the model's layer %v", m.A.Shape, m.Rank, in, s)
	case m.Out != out:
		return Errorf(a.File, m.B.Name, "has shape %v, want [%d %d] for the model's layer %v", m.B.Shape, out, m.Rank, s)
	case math.IsInf(float64(a.Factor(m)), 0):
		return Errorf(a.File, m.A.Name, "has a factor of %v times %v, which is no float32", m.Scale, a.scale)
	}
	return nil
}

// TensorBytes is the size of a tensor in its file.
func TensorBytes(s safetensors.Source) int64 {
	n := int64(s.Type.BlockBytes())
	for _, d := range s.Shape {
		n *= int64(d)
	}
	return n
}

// bytes is what loading reads of the file.
func (a *OpenedAdapter) bytes() (n int64) {
	for _, m := range a.Modules {
		n += TensorBytes(m.A) + TensorBytes(m.B)
		for _, s := range []safetensors.Source{m.Magnitude, m.Bias} {
			if s.Data != nil {
				n += TensorBytes(s)
			}
		}
	}
	return n
}
