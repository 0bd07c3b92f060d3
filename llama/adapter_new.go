package llama

import (
	"errors"
	"slices"
	"strings"

	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// adapted is a layer with the adapter that it got.
type adapted struct {
	name   string // of the layer
	linear *nn.Linear
	lora   *nn.LoRA
}

// newAdapters puts adapters without numbers on the layers that settings name,
// for training. Dropout is not built.
func (t *transformer) newAdapters(c peft.Config) ([]adapted, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Dropout > 0 {
		return nil, errors.New("llama: dropout of adapters is not built: lora_dropout must be 0")
	}
	var list []adapted
	for _, l := range nn.Linears(t) {
		target, rank, scale := c.Layer(l.Name)
		if !target {
			continue
		}
		s := l.Linear.Weight.Shape
		lora := nn.NewLoRA(s.Dim[1], s.Dim[0], rank, c.DoRA)
		lora.Scale = float32(scale)
		list = append(list, adapted{l.Name, l.Linear, lora})
	}
	if len(list) == 0 {
		return nil, errors.New("llama: target_modules " + strings.Join(c.Targets, ", ") + c.TargetPattern + " name no layer of the model")
	}
	for _, a := range list {
		a.linear.Adapters = append(a.linear.Adapters, a.lora)
	}
	return list, nil
}

// adapterModules are adapters as peft.Write takes them; read copies the numbers of
// a parameter.
func adapterModules(list []adapted, read func(*tensor.Param) []float32) []peft.Module {
	var modules []peft.Module
	for _, a := range list {
		m := peft.Module{Name: a.name}
		for dst, p := range map[*safetensors.Source]*tensor.Param{&m.A: a.lora.A, &m.B: a.lora.B, &m.Magnitude: a.lora.Magnitude} {
			if p != nil {
				*dst = peft.Tensor(read(p), slices.Clone(p.Shape.Dim[:p.Shape.Rank])...)
			}
		}
		modules = append(modules, m)
	}
	return modules
}
