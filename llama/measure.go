package llama

import (
	"context"
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// measure returns the bytes that a prefill step of so many rows from an empty session,
// whose results are all wanted, takes of its arena, and those of the snapshots that it
// multiplies with. The step itself runs, on a backend that only counts.
func measure(p *checkpoint.Checkpoint, o Options, rows int) (arena, snapshots int64, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = checkpoint.Errorf(p.Path, "", "a step of %d rows cannot be measured: %v", rows, fault)
		}
	}()
	ctx, b, kv := context.Background(), backend.Measure(o.backend()), kvGeometry(p, o)
	cx, err := tensor.NewContext(b, tensor.Options{Precision: o.Precision})
	if err != nil {
		return 0, 0, err
	}
	defer cx.Close()
	net, kinds, err := shapes(p, o, b)
	if err != nil {
		return 0, 0, err
	}
	for _, n := range nn.Linears(net) {
		bytes, err := cx.SnapshotBytes(n.Linear.Weight)
		if err != nil {
			return 0, 0, err
		}
		snapshots += bytes
	}
	net.Layers = different(net.Layers, kinds)
	page, err := b.Alloc(b.PageBytes(kv))
	if err != nil {
		return 0, 0, err
	}
	l := backend.Documents(rows)
	for range ceilDiv(rows, backend.PageLen) {
		l.Segments[0].Pages = append(l.Segments[0].Pages, page)
	}
	err = cx.Step(ctx, l, kv, func() error {
		if o.Trainable {
			for _, n := range nn.Linears(net) {
				if err := cx.Snapshot(n.Linear.Weight); err != nil {
					return err
				}
			}
		}
		h := net.hidden(cx, net.embed(cx, make([]int32, rows), nil, nil), LayerRange{}, false)
		net.Output.Forward(cx, net.scaled(cx, tensor.SliceRows(cx, h, 0, min(rows, logitRows))))
		return nil
	})
	return cx.Scratch(), snapshots, err
}

// shapes is the network of a checkpoint with its adapters, but without numbers. kinds says
// of each layer which types its matrices have, and adapters of which shapes.
func shapes(c *checkpoint.Checkpoint, o Options, b backend.Backend) (net *transformer, kinds map[int]string, err error) {
	net, kinds = newTransformer(c.Config), map[int]string{}
	buf, err := b.Alloc(0)
	if err != nil {
		return nil, nil, err
	}
	vector := func(p *tensor.Param) { p.BindValue(backend.Contiguous(buf, backend.F32, 0, p.Shape)) }
	vector(net.RoPE.Freqs)
	is := func(name string, what ...any) {
		if i, _, ok := checkpoint.LayerName(name); ok {
			kinds[i] += fmt.Sprintln(what...)
		}
	}
	for _, p := range nn.Params(net) {
		if !p.Param.Matrix() {
			vector(p.Param)
			continue
		}
		t, err := find(c, p)
		if err != nil {
			return nil, nil, err
		}
		if o.Trainable {
			v := backend.Contiguous(buf, backend.F32, 0, p.Param.Shape)
			w, err := b.Float(t.Name, v)
			if err != nil {
				return nil, nil, err
			}
			p.Param.BindMatrix(w, v)
		} else if err := shape(b, p.Param, t.Type); err != nil {
			return nil, nil, err
		}
		is(p.Name, t.Type)
	}
	linears := map[string]*nn.Linear{}
	for _, l := range nn.Linears(net) {
		linears[l.Name] = l.Linear
	}
	for set, a := range c.Adapters {
		for i := range a.Modules {
			m := &a.Modules[i]
			lora := nn.NewLoRA(m.In, m.Out, m.Rank, m.Magnitude.Data != nil)
			lora.Scale, lora.Set = a.Factor(m), set
			types := [2]backend.DType{m.A.Type, m.B.Type}
			if m.Embedding {
				lora.A, types[0] = tensor.NewParam(m.In, m.Rank), backend.F32
				net.Embed.Adapters = append(net.Embed.Adapters, lora)
			} else {
				linears[m.Name].Adapters = append(linears[m.Name].Adapters, lora)
			}
			if m.Bias.Data != nil {
				lora.Bias = tensor.NewParam(m.Out)
				vector(lora.Bias)
			}
			if lora.Magnitude != nil {
				vector(lora.Magnitude)
				vector(lora.InverseNorm)
			}
			for j, p := range [2]*tensor.Param{lora.A, lora.B} {
				if err := shape(b, p, types[j]); err != nil {
					return nil, nil, err
				}
			}
			_, part, _ := checkpoint.LayerName(m.Name)
			is(m.Name, part, set, m.Rank, types, lora.Scale, m.Bias.Data != nil, m.Magnitude.Data != nil)
		}
	}
	return net, kinds, nil
}

// different are the last layers of each kind, in order.
func different(layers []*layer, kinds map[int]string) (some []*layer) {
	last := map[string]int{}
	for i := range layers {
		last[kinds[i]] = i
	}
	for i, l := range layers {
		if last[kinds[i]] == i {
			some = append(some, l)
		}
	}
	return some
}

// shape gives a matrix the shape of a packed weight.
func shape(b backend.Backend, p *tensor.Param, t backend.DType) error {
	w, err := b.Pack(context.Background(), backend.WeightSource{Type: t, Rows: p.Shape.Dim[0], Cols: p.Shape.Dim[1]})
	if err == nil {
		p.BindWeight(w)
	}
	return err
}
