package llama

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// trained is the adapter that training changes.
type trained struct {
	config  peft.Config
	modules []trainedModule
}

type trainedModule struct {
	name string // of the layer
	lora *nn.LoRA
}

// AddAdapter puts a new adapter on the layers that config names, to be trained: its
// numbers are float32 and may change, the model's stay as they are, whatever their type
// is. Nothing changes yet, as B is zero (nn.LoRA.Initial). A model has one such adapter,
// added before it is used; it is for models that were not opened with Trainable.
func (m *Model) AddAdapter(ctx context.Context, config peft.Config, seed uint64) error {
	return m.addAdapter(ctx, config, func(name string, l *nn.Linear, lora *nn.LoRA) ([3][]float32, error) {
		a, b, magnitude, err := lora.Initial(ctx, m.b, seed, streamOf(name), l.Weight)
		return [3][]float32{a, b, magnitude}, err
	})
}

// streamOf tells the random numbers of layers apart.
func streamOf(layer string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(layer))
	return h.Sum64()
}

// LoadAdapter is AddAdapter with the numbers of an adapter in PEFT's layout, to go on
// training it.
func (m *Model) LoadAdapter(ctx context.Context, path string) error {
	if m.life.Err() != nil {
		return ErrClosed
	}
	p, err := checkpoint.OpenAdapter(Adapter{Path: path}, m.config)
	if err != nil {
		return err
	}
	defer p.Close()
	if len(p.Whole)+len(p.Rows) > 0 {
		return fmt.Errorf("llama: %s: training an adapter that brings parameters of the model's is %w: merge it first", p.File, ErrUnsupported)
	}
	modules := map[string]*peft.Module{}
	for i := range p.Modules {
		if p.Modules[i].Embedding {
			return fmt.Errorf("llama: %s: training an adapter of the embedding is %w", p.File, ErrUnsupported)
		}
		modules[p.Modules[i].Name] = &p.Modules[i]
	}
	return m.addAdapter(ctx, p.Config, func(name string, _ *nn.Linear, lora *nn.LoRA) (x [3][]float32, err error) {
		mod := modules[name]
		if mod == nil {
			return x, checkpoint.Errorf(p.File, "", "has nothing for layer %s, which its settings name", name)
		}
		for i, s := range []safetensors.Source{mod.A, mod.B, mod.Magnitude} {
			if s.Data == nil {
				continue
			}
			if x[i], err = peft.Read(s); err != nil {
				return x, &FileError{File: p.File, Tensor: s.Name, Reason: "cannot be read", Err: err}
			}
		}
		return x, nil
	})
}

// addAdapter makes an adapter whose numbers a function gives.
func (m *Model) addAdapter(ctx context.Context, config peft.Config, numbers func(string, *nn.Linear, *nn.LoRA) ([3][]float32, error)) (err error) {
	if err := m.begin(); err != nil {
		return err
	}
	defer m.steps.Done()
	if err := ctxerr.Of(ctx); err != nil {
		return err
	}
	m.adapting.Lock() // one at a time; sessions go on until the adapter is complete
	defer m.adapting.Unlock()
	switch {
	case m.opts.Trainable:
		return errors.New("llama: an adapter on a model whose own weights are trained")
	case m.training.Load() != nil:
		return errors.New("llama: the model has an adapter that is trained already")
	}
	if err := config.Validate(); err != nil {
		return err
	}
	if err := trainableConfig(config); err != nil {
		return err
	}
	t, buffers := &trained{config: config}, len(m.loader.buffers)
	defer func() {
		if err != nil {
			m.dropAdapter(buffers)
		}
	}()
	for _, l := range nn.Linears(m.net) {
		target, rank, scale := config.Layer(l.Name)
		if !target {
			continue
		}
		if l.Linear == m.net.Output {
			return fmt.Errorf("llama: training an adapter of %s is %w: the loss multiplies with its matrix alone", l.Name, ErrUnsupported)
		}
		s := l.Linear.Weight.Shape
		if rank > min(s.Dim[0], s.Dim[1]) {
			return fmt.Errorf("llama: rank %d is more than layer %s of %v has", rank, l.Name, s)
		}
		lora := nn.NewLoRA(s.Dim[1], s.Dim[0], rank, config.DoRA)
		lora.Scale, lora.Set = float32(scale), len(m.opts.Adapters)
		lora.Dropout, lora.Stream = float32(config.Dropout), streamOf(l.Name)
		x, err := numbers(l.Name, l.Linear, lora)
		if err != nil {
			return err
		}
		if err := m.bindAdapter(lora, l.Name, x); err != nil {
			return err
		}
		t.modules = append(t.modules, trainedModule{l.Name, lora})
	}
	if len(t.modules) == 0 {
		return fmt.Errorf("llama: the adapter's targets %q %s name no layer of the model", config.Targets, config.TargetPattern)
	}
	byName := map[string]*nn.LoRA{}
	for _, mod := range t.modules {
		byName[mod.name] = mod.lora
	}
	return m.step(ctx, func(ctx context.Context) error { // between the steps of sessions
		for _, l := range nn.Linears(m.net) {
			if lora := byName[l.Name]; lora != nil {
				l.Linear.Adapters = append(l.Linear.Adapters, lora)
			}
		}
		err := nn.Refresh(ctx, m.b, m.net)
		if err != nil {
			for _, l := range nn.Linears(m.net) {
				if byName[l.Name] != nil {
					l.Linear.Adapters = l.Linear.Adapters[:len(l.Linear.Adapters)-1]
				}
			}
			return err
		}
		m.training.Store(t)
		m.version.Add(1)
		return nil
	})
}

// dropAdapter frees the buffers of an adapter that could not be added.
func (m *Model) dropAdapter(from int) {
	for _, b := range m.loader.buffers[from:] {
		m.pages.release(b.Size())
		b.Free()
	}
	m.loader.buffers = m.loader.buffers[:from]
}

// trainableConfig refuses what a new adapter would have beside low-rank changes of linear
// layers.
func trainableConfig(c peft.Config) error {
	refuse := func(key string) error {
		return fmt.Errorf("llama: training an adapter with %s is %w", key, ErrUnsupported)
	}
	switch {
	case c.Dropout > 0 && c.DoRA:
		return refuse(fmt.Sprintf("use_dora and lora_dropout of %v", c.Dropout))
	case c.Bias != "":
		return refuse("bias " + c.Bias)
	case c.LoRABias:
		return refuse("lora_bias")
	case len(c.ModulesToSave) > 0:
		return refuse("modules_to_save")
	case len(c.Tokens) > 0:
		return refuse("trainable_token_indices")
	}
	if target, _, _ := c.Layer("model.embed_tokens"); target && (len(c.Targets) > 0 || c.TargetPattern != "" && !strings.EqualFold(c.TargetPattern, "all-linear")) {
		return refuse("target_modules that name the embedding")
	}
	return nil
}

// bindAdapter gives an adapter memory and numbers.
func (m *Model) bindAdapter(l *nn.LoRA, name string, x [3][]float32) error {
	params := []*tensor.Param{l.A, l.B}
	if l.Magnitude != nil {
		params = append(params, l.Magnitude, l.InverseNorm)
	}
	for i, p := range params {
		n := p.Shape.Elems()
		if err := m.pages.reserve(4 * int64(n)); err != nil {
			return err
		}
		buf, err := m.b.Alloc(4 * int64(n))
		if err != nil {
			m.pages.release(4 * int64(n))
			return err
		}
		m.loader.buffers = append(m.loader.buffers, buf)
		v := backend.Contiguous(buf, backend.F32, 0, p.Shape)
		if i < len(x) && x[i] != nil {
			if err := tensor.Upload(m.b, v, x[i]); err != nil {
				return err
			}
		}
		if !p.Matrix() {
			p.BindValue(v)
			continue
		}
		w, err := m.b.Float(name, v)
		if err != nil {
			return err
		}
		p.BindMatrix(w, v)
	}
	return nil
}

// saveAdapter writes the adapter that is trained.
func (m *Model) saveAdapter(ctx context.Context, adapter *trained, dir string) error {
	if err := m.begin(); err != nil {
		return err
	}
	defer m.steps.Done()
	var modules []peft.Module
	for _, t := range adapter.modules {
		mod := peft.Module{Name: t.name, A: m.numbers(ctx, t.lora.A), B: m.numbers(ctx, t.lora.B)}
		if t.lora.Magnitude != nil {
			mod.Magnitude = m.numbers(ctx, t.lora.Magnitude)
		}
		modules = append(modules, mod)
	}
	return vfs.WriteFolder(dir, func(dir string) error { return peft.Write(dir, adapter.config, modules) })
}

// numbers are those of a parameter, to be written until ctx ends.
func (m *Model) numbers(ctx context.Context, p *tensor.Param) safetensors.Source {
	s := safetensors.Source{Type: backend.F32, Data: ctxerr.Reader(ctx, tensor.Reader(m.b, p.Numbers()))}
	s.Shape = append(s.Shape, p.Shape.Dim[:p.Shape.Rank]...)
	return s
}
