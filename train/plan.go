package train

import (
	"fmt"

	"github.com/herd-ml/herd/llama"
)

// Plan is what a run takes, in bytes, before its first step.
type Plan struct {
	Weights     int64 // of the model
	Gradients   int64 // float32, of what is trained
	Moments     int64 // of AdamW, two for each
	Activations int64 // of a micro-batch, an estimate
	Trained     int64 // numbers that change
	Parameters  int64 // of the model
}

// Total is all of it.
func (p Plan) Total() int64 { return p.Weights + p.Gradients + p.Moments + p.Activations }

// String gives the parts in MB.
func (p Plan) String() string {
	mb := func(n int64) float64 { return float64(n) / 1e6 }
	return fmt.Sprintf("%.0f MB: weights %.0f, gradients %.0f, moments %.0f, activations about %.0f; %.3g M of %.3g M parameters are trained",
		mb(p.Total()), mb(p.Weights), mb(p.Gradients), mb(p.Moments), mb(p.Activations), float64(p.Trained)/1e6, float64(p.Parameters)/1e6)
}

// plan is that of a trainer whose micro-batches have so many rows.
func (t *Trainer) plan(rows int) Plan {
	p := Plan{Weights: t.model.Memory().Weights, Moments: t.adam.Bytes(), Parameters: t.model.Config().Params()}
	for _, n := range t.params {
		p.Trained += int64(n.Param.Shape.Elems())
		p.Gradients += 4 * n.Param.Padded()
	}
	if _, ok := t.m.Adapted(); ok {
		p.Weights += 4 * p.Trained
	}
	p.Activations = activations(t.model.Config(), rows, t.o.Checkpoint)
	return p
}

// activations returns the bytes that a tape keeps of a step of r rows. A layer keeps its
// input, q, k, v and the result of attention, the residual stream between its halves, gate
// and up; with checkpoint only its input. The gradients of one layer, and some logits of
// the loss, are in memory too.
func activations(c llama.Config, r int, checkpoint bool) int64 {
	d, q, kv, f := int64(c.Dim), int64(c.Heads*c.HeadDim), int64(c.KVHeads*c.HeadDim), int64(c.HiddenDim)
	layer := 2*d + 2*q + 2*kv + 2*f
	kept := int64(c.Layers) * layer
	if checkpoint {
		kept = int64(c.Layers)*d + layer
	}
	return 4*int64(r)*(kept+4*d+4*f+3*q) + min(160<<20, 8*int64(r)*int64(c.Vocab))
}

// flops are the floating-point operations of training on one position that sees ctx
// keys on average: two for every weight of a product forward, four backward, and the
// same for the two products of attention (https://arxiv.org/abs/2204.02311, appendix B,
// but causal). What is computed twice counts once, and what a frozen weight spares too.
func flops(c llama.Config, ctx float64) float64 {
	d, q, kv, f := float64(c.Dim), float64(c.Heads*c.HeadDim), float64(c.KVHeads*c.HeadDim), float64(c.HiddenDim)
	weights := float64(c.Layers)*(2*d*q+2*d*kv+3*d*f) + float64(c.Vocab)*d
	return 6*weights + 12*float64(c.Layers)*q*ctx
}
