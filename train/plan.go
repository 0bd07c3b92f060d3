package train

import (
	"context"
	"fmt"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/tensor"
)

// Plan is what a run takes, in bytes, before its first step.
type Plan struct {
	Weights     int64 // of the model
	Gradients   int64 // float32, of what is trained
	Moments     int64 // of AdamW, two for each
	Activations int64 // of a micro-batch
	Sampling    int64 // of a session, where the run writes texts
	Trained     int64 // numbers that change
	Parameters  int64 // of the model
}

// Total is all of it.
func (p Plan) Total() int64 { return p.Weights + p.Gradients + p.Moments + p.Activations + p.Sampling }

// String gives the parts in MB.
func (p Plan) String() string {
	mb := func(n int64) float64 { return float64(n) / 1e6 }
	sampling := ""
	if p.Sampling > 0 {
		sampling = fmt.Sprintf(", sampling %.0f", mb(p.Sampling))
	}
	return fmt.Sprintf("%.0f MB: weights %.0f, gradients %.0f, moments %.0f, activations %.0f%s; %.3g M of %.3g M parameters are trained",
		mb(p.Total()), mb(p.Weights), mb(p.Gradients), mb(p.Moments), mb(p.Activations), sampling, float64(p.Trained)/1e6, float64(p.Parameters)/1e6)
}

// plan is the memory of a trainer whose micro-batches have so many sequences of seqLen
// tokens.
func (t *Trainer) plan(ctx context.Context, rows, seqLen int) (Plan, error) {
	p := Plan{Weights: t.model.Memory().Weights, Moments: t.adam.Bytes(), Parameters: t.model.Config().Params()}
	for _, n := range t.params {
		p.Trained += int64(n.Param.Shape.Elems())
		p.Gradients += 4 * n.Param.Padded()
	}
	if _, ok := t.m.Adapted(); ok {
		p.Weights += 4 * p.Trained
	}
	var err error
	p.Activations, err = t.activations(ctx, rows, seqLen)
	return p, err
}

// activations is what a pass with gradients takes of its arena, in bytes. The pass itself
// runs, on a backend that only counts.
func (t *Trainer) activations(ctx context.Context, rows, seqLen int) (bytes int64, err error) {
	c, err := tensor.NewContext(backend.Measure(t.m.Backend()), tensor.Options{Precision: t.o.Precision})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	b := Batch{IDs: make([]int32, rows*seqLen), Targets: make([]int32, rows*seqLen), Docs: slices.Repeat([]int{seqLen}, rows)}
	err = t.runOn(ctx, c, t.pass(&b, 1, true, func(_, _ float64) {}))
	return c.Scratch(), err
}

// flops are the floating-point operations of training on one position that sees ctx
// keys on average: two for every weight of a product forward, four backward, and the
// same for the two products of attention (https://arxiv.org/abs/2204.02311, appendix B,
// but causal). What is computed twice counts once. The gradients of frozen weights, which
// are not computed, count as well.
func flops(c llama.Config, ctx float64) float64 {
	d, q, kv, f := float64(c.Dim), float64(c.Heads*c.HeadDim), float64(c.KVHeads*c.HeadDim), float64(c.HiddenDim)
	weights := float64(c.Layers)*(2*d*q+2*d*kv+3*d*f) + float64(c.Vocab)*d
	return 6*weights + 12*float64(c.Layers)*q*ctx
}
