package tensor_test

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/tensor"
)

// goldenLoss is a case of cross_entropy.json, whose input are logits, or of
// fused_linear_cross_entropy.json, whose are hidden states and a matrix.
type goldenLoss struct {
	Name   string
	Params struct {
		Ignore int32   `json:"ignore_index"`
		ZLoss  float32 `json:"z_coefficient"`
	}
	Inputs struct {
		Logits, Hidden, Weight [][]float32
		Targets                []int32
		Weights                []float32
		TokenWeights           []float32 `json:"token_weights"`
	}
	Expected struct {
		NLL       []float64 `json:"token_nll"`
		LSE       []float64 `json:"token_logsumexp"`
		Loss      []float64 `json:"token_loss"`
		Sum       float64
		Count     int
		WeightSum float64  `json:"weight_sum"`
		Mean      *float64 // null where nothing has a target
	}
	Grads struct{ Logits, Hidden, Weight [][]float64 } `json:"grads_of_mean"`
}

// inputs are the input of the fused loss, its matrix and the weights. Logits are the
// product with an identity matrix.
func (g *goldenLoss) inputs(t *testing.T, b backend.Backend) (x [][]float32, w *tensor.Param, weights []float32) {
	weights = g.Inputs.Weights
	if weights == nil {
		weights = g.Inputs.TokenWeights
	}
	if x = g.Inputs.Logits; x != nil {
		n := len(x[0])
		return x, pack(t, b, eye(n), n, n), weights
	}
	m := g.Inputs.Weight
	return g.Inputs.Hidden, weight(b, slices.Concat(m...), len(m), len(m[0])), weights
}

// rowResults are what a way to compute a loss says of the rows and of them all.
type rowResults struct{ loss, logp, lse *tensor.Tensor }

// losses are the ways to compute sum_r factor_r (-logp_r + z lse_r^2); a factor is the
// row's weight times scale.
var losses = map[string]func(c *tensor.Context, x *tensor.Tensor, w *tensor.Param, y tensor.Targets) rowResults{
	"CrossEntropy": func(c *tensor.Context, x *tensor.Tensor, w *tensor.Param, y tensor.Targets) rowResults {
		loss, logp, lse := tensor.CrossEntropy(c, x, w, y)
		return rowResults{loss, logp, lse}
	},
	"LogProb": func(c *tensor.Context, x *tensor.Tensor, w *tensor.Param, y tensor.Targets) rowResults {
		ids, factors := make([]int32, len(y.IDs)), make([]float32, len(y.IDs))
		for i, id := range y.IDs {
			if id < 0 {
				continue
			}
			ids[i], factors[i] = id, y.Scale
			if y.Weights != nil {
				factors[i] *= y.Weights[i]
			}
		}
		logp, lse := tensor.LogProb(c, x, ids, w)
		rows := tensor.Add(c, tensor.Scale(c, logp, -1), tensor.Scale(c, tensor.Mul(c, lse, lse), y.ZLoss))
		return rowResults{tensor.Sum(c, tensor.Mul(c, rows, write(c, factors, len(factors))), 0), logp, lse}
	},
}

// TestGoldenLosses: values and gradients of every case.
func TestGoldenLosses(t *testing.T) {
	for _, path := range golden.Glob(t, "losses/*cross_entropy.json") {
		var raw struct {
			Cases json.RawMessage
		}
		golden.JSON(t, path, &raw)
		d := json.NewDecoder(bytes.NewReader(raw.Cases))
		d.DisallowUnknownFields() // a setting that nothing here uses
		var cases []goldenLoss
		if err := d.Decode(&cases); err != nil || len(cases) == 0 {
			t.Fatalf("%s: %d cases, %v", path, len(cases), err)
		}
		t.Run(golden.Name(path), func(t *testing.T) {
			each(t, func(t *testing.T, b backend.Backend) {
				for _, g := range cases {
					for name, loss := range losses {
						t.Run(g.Name+"/"+name, func(t *testing.T) { g.check(t, b, loss) })
					}
				}
			})
		})
	}
}

func (g *goldenLoss) check(t *testing.T, b backend.Backend, loss func(*tensor.Context, *tensor.Tensor, *tensor.Param, tensor.Targets) rowResults) {
	x, w, weights := g.inputs(t, b)
	e := g.Expected
	y := tensor.Targets{IDs: slices.Clone(g.Inputs.Targets), Weights: weights, ZLoss: g.Params.ZLoss, Scale: 1}
	kept := 0
	for i, id := range y.IDs {
		if id == g.Params.Ignore {
			y.IDs[i] = -1
		} else {
			kept++
		}
	}
	if kept != e.Count || (e.Mean == nil) != (kept == 0) {
		t.Fatalf("%d rows have a target, want %d", kept, e.Count)
	}
	largest := 0.0
	for _, z := range e.LSE {
		largest = max(largest, math.Abs(z))
	}
	near := func(what string, got float32, want float64) {
		t.Helper()
		if d := math.Abs(float64(got) - want); !(d <= golden.Loss(largest)*max(1, math.Abs(want))) {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	grads := func(what string, got []float32, want [][]float64) {
		t.Helper()
		flat := slices.Concat(want...)
		if len(got) != len(flat) || len(flat) == 0 {
			t.Fatalf("the gradient of %s has %d numbers, want %d", what, len(got), len(flat))
		}
		for i := range flat {
			near("the gradient of "+what, got[i], flat[i])
		}
	}
	c := newContext(t, b, tensor.Options{Precision: backend.PrecisionF32})
	place := func() *tensor.Tensor { return write(c, slices.Concat(x...), len(x), len(x[0])) }
	step(t, c, nil, backend.KV{}, func() { near("the sum", read(c, loss(c, place(), w, y).loss)[0], e.Sum) })
	if e.WeightSum > 0 {
		y.Scale = float32(1 / e.WeightSum)
	}
	step(t, c, nil, backend.KV{}, func() {
		tape := tensor.NewTape()
		c.Record(tape)
		x := place()
		tape.Watch(x)
		r := loss(c, x, w, y)
		if e.Mean != nil {
			near("the mean", read(c, r.loss)[0], *e.Mean)
		}
		logp, lse := read(c, r.logp), read(c, r.lse)
		for i, id := range y.IDs {
			if id >= 0 {
				near("the log-probability", -logp[i], e.NLL[i])
				near("the log-sum-exp", lse[i], e.LSE[i])
			}
			if id >= 0 && e.Loss != nil {
				near("the loss of a row", -logp[i]+g.Params.ZLoss*lse[i]*lse[i], e.Loss[i])
			}
		}
		tape.Backward(tensor.Seed{Y: r.loss})
		if want := g.Grads.Logits; want != nil {
			grads("logits", read(c, tape.Grad(x)), want)
		} else {
			grads("hidden", read(c, tape.Grad(x)), g.Grads.Hidden)
		}
	})
	if g.Inputs.Hidden != nil {
		grads("weight", gradOf(b, w), g.Grads.Weight)
	}
}
