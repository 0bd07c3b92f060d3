package llama

import (
	"context"
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// Training is a model as those see it who train it: its parameters, its forward pass on a
// context of their own, and what has to follow a change of the numbers. Package train is
// written on it; a program that trains with train.Trainer does not need it.
//
// What touches the model's memory does so between Use and done.
type Training struct{ m *Model }

// Training returns the handle of those who train the model, or only run its forward pass
// themselves. Any model has one; Trainable says what can change.
func (m *Model) Training() (*Training, error) {
	if m.life.Err() != nil {
		return nil, ErrClosed
	}
	return &Training{m}, nil
}

// Use keeps the model open until done is called, which must happen: Model.Close cancels
// the context that Use returns, with ErrClosed as the cause, and waits for done. Of a
// closed model it returns ErrClosed.
func (t *Training) Use(ctx context.Context) (call context.Context, done func(), err error) {
	if err := t.m.begin(); err != nil {
		return nil, nil, err
	}
	call, cancel, err := t.m.enter(ctx)
	if err != nil {
		t.m.steps.Done()
		return nil, nil, err
	}
	return call, func() { cancel(nil); t.m.steps.Done() }, nil
}

// Params lists all parameters under their Hugging Face names, those of adapters too.
func (t *Training) Params() []nn.Named { return t.m.params() }

func (m *Model) params() []nn.Named {
	m.adapting.Lock()
	defer m.adapting.Unlock()
	return nn.Params(m.net)
}

// Trainable lists the parameters that training changes: those of the adapter that was
// added, or all of a model opened with Options.Trainable. Others have none. Their numbers
// (Param.Numbers) may be changed between the model's steps: who changes them calls
// Changed.
func (t *Training) Trainable() []nn.Named {
	adapter := t.m.training.Load()
	if adapter == nil {
		if t.m.opts.Trainable {
			return t.Params()
		}
		return nil
	}
	var list []nn.Named
	for _, mod := range adapter.modules {
		for _, p := range nn.Params(mod.lora) {
			list = append(list, nn.Named{Name: mod.name + "." + p.Name, Param: p.Param})
		}
	}
	return list
}

// Adapted reports whether the model has an adapter that is trained, and its number in
// backend.Segment.Adapters: rows without it are those of the model it began as.
func (t *Training) Adapted() (set int, ok bool) {
	return len(t.m.opts.Adapters), t.m.training.Load() != nil
}

// Changed is called after the numbers of parameters were changed, by an optimizer for
// one. Sessions forget what they held.
func (t *Training) Changed() { t.m.version.Add(1) }

// Refresh computes what follows from the numbers of adapters (the norms of DoRA). It is
// due after they were changed, before the next step.
func (t *Training) Refresh(ctx context.Context) error {
	if err := t.m.begin(); err != nil {
		return err
	}
	defer t.m.steps.Done()
	t.m.adapting.Lock()
	defer t.m.adapting.Unlock()
	return nn.Refresh(ctx, t.m.b, t.m.net)
}

// Backend is what the model runs on.
func (t *Training) Backend() backend.Backend { return t.m.b }

// KV is the geometry of keys and values that a step of Forward has: without pages its
// heads only.
func (t *Training) KV() backend.KV { return t.m.pages.kv }

// NewContext returns a context of the model's backend, for Forward. The caller closes it.
func (t *Training) NewContext(o tensor.Options) (*tensor.Context, error) {
	if t.m.life.Err() != nil {
		return nil, ErrClosed
	}
	return tensor.NewContext(t.m.b, o)
}

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
	// Noise is the seed of the random numbers of an adapter's dropout; 0 drops nothing, as
	// in evaluation. Passes of different numbers need different seeds.
	Noise uint64
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

// Forward runs the network from the ids to the last norm, within a step of c whose layout
// says where each id stands. It returns the hidden states [len(Logits), D] of the rows
// that the layout wants logits of; Output is the matrix that turns them into logits.
// Sessions run the same code. With a tape on c the pass can be trained through. Every
// adapter set that a segment names must exist: the sets of Options.Adapters are numbered
// in their order, and the set that is trained comes last.
func (t *Training) Forward(c *tensor.Context, ids []int32, o ForwardOptions) (*tensor.Tensor, error) {
	if err := t.checkAdapters(c.Layout()); err != nil {
		return nil, err
	}
	rows := c.Layout().Rows()
	if err := o.Layers.check(t.m.config.Layers); err != nil {
		return nil, err
	}
	if err := t.m.checkLayout(c.Layout()); err != nil {
		return nil, err
	}
	if o.Layers.From > 0 {
		if want := backend.Dims(rows, t.m.config.Dim); o.Input == nil || o.Input.Shape() != want || len(ids) > 0 || o.Embedded != nil {
			return nil, fmt.Errorf("llama: Forward from layer %d on wants an Input %v, and no ids or embeddings", o.Layers.From, want)
		}
		return t.states(c, o.Input, o), nil
	}
	if len(ids) != rows || o.Input != nil {
		return nil, fmt.Errorf("llama: Forward of %d ids with a layout of %d rows, or of an Input beside them", len(ids), rows)
	}
	if err := o.check(rows, t.m.config.Dim); err != nil {
		return nil, err
	}
	if o.Embedded != nil && len(t.m.net.Embed.Adapters) > 0 {
		return nil, fmt.Errorf("llama: embedded rows beside an adapter of the embedding are %w", ErrUnsupported)
	}
	from := 0
	for _, r := range o.EmbeddedRows { // ids between are looked at
		if err := t.m.checkIDs(ids[from:r]); err != nil {
			return nil, err
		}
		from = int(r) + 1
	}
	if err := t.m.checkIDs(ids[from:]); err != nil {
		return nil, err
	}
	return t.states(c, t.m.net.embed(c, ids, o.Embedded, o.EmbeddedRows), o), nil
}

// states is what Forward returns of the residual stream.
func (t *Training) states(c *tensor.Context, x *tensor.Tensor, o ForwardOptions) *tensor.Tensor {
	defer c.SetNoise(c.SetNoise(o.Noise))
	x = t.m.net.hidden(c, x, o.Layers, o.Checkpoint)
	if _, to := o.Layers.of(t.m.config.Layers); to == t.m.config.Layers {
		x = t.m.net.scaled(c, x)
	}
	return x
}

// checkAdapters refuses a layout that names an adapter set which is not there.
func (t *Training) checkAdapters(l *backend.Layout) error {
	sets := len(t.m.opts.Adapters)
	if t.m.training.Load() != nil {
		sets++
	}
	for i, s := range l.Segments {
		for _, set := range s.Adapters {
			if set < 0 || set >= sets {
				return fmt.Errorf("llama: segment %d of the layout wants adapter %d, the model has %d", i, set, sets)
			}
		}
	}
	return nil
}

// Output is the matrix [V, D] that makes logits of hidden states: the embedding's,
// where they are tied.
func (t *Training) Output() *tensor.Param { return t.m.net.Output.Weight }

// Save writes what training changes to a folder, which must not exist yet or be empty: the
// adapter in PEFT's layout, or the model as Model.Save does, in float32.
func (t *Training) Save(ctx context.Context, dir string) error {
	adapter := t.m.training.Load()
	if adapter == nil {
		return t.m.Save(ctx, dir, SaveOptions{Type: backend.F32})
	}
	return t.m.saveAdapter(ctx, adapter, dir)
}
