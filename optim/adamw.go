package optim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"sync"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// ErrNotFinite is wrapped by the error of a Step whose gradients have a norm that is NaN,
// infinite, or above 1.8e19, where its square is too large for float32.
var ErrNotFinite = errors.New("not a finite number")

// ErrClosed is returned by what needs an AdamW that has been closed.
var ErrClosed = errors.New("optim: closed")

// AdamWConfig are the settings of AdamW. The zero value is what Llama models are
// trained with, without clipping.
type AdamWConfig struct {
	Beta1 float64 // how much of the mean of the gradient is kept; 0 means 0.9
	Beta2 float64 // and of its square; 0 means 0.95
	Eps   float64 // 0 means 1e-8
	// WeightDecay is the fraction of a weight, times the learning rate, that a step
	// takes off; 0 means 0.1. It is for the matrices of the layers and of the output
	// (lm_head), also of adapters. Vectors (norms, biases) and the embedding, tied or
	// not, have none.
	WeightDecay float64
	NoDecay     bool // WeightDecay is 0
	// ClipNorm is the largest norm of all gradients together: above, all are scaled by
	// ClipNorm/(norm + 1e-6) (https://arxiv.org/abs/1211.5063, algorithm 1). 0 is no limit.
	ClipNorm float64
	// Groups are parameters with other settings; the first that matches holds.
	Groups []Group
}

// Group is settings of the parameters whose name matches.
type Group struct {
	// Match is a pattern of whole names, as in path.Match: * is any characters, dots
	// too, ? is one, [ab] is one of some. "model.layers.*.mlp.*" for one.
	Match string
	// LRScale multiplies the learning rate; 0 means 1. A parameter is frozen by having
	// no memory for a gradient, not here.
	LRScale     float64
	WeightDecay float64 // 0 leaves what AdamWConfig says
	NoDecay     bool    // WeightDecay is 0
}

// Validate lists every violation.
func (c AdamWConfig) Validate() error {
	var errs []error
	bad := func(wrong bool, format string, a ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("optim: AdamW: "+format, a...))
		}
	}
	fraction := func(what string, x float64) {
		bad(!(x >= 0 && x < 1) || float32(x) == 1, "%s %v: want 0 to below 1", what, x)
	}
	positive := func(what string, x float64) {
		bad(!(x >= 0) || math.IsInf(x, 0), "%s %v: want 0 or more", what, x)
	}
	decay := func(what string, x float64, none bool) {
		positive(what, x)
		bad(none && x != 0, "%s %v beside NoDecay", what, x)
	}
	fraction("Beta1", c.Beta1)
	fraction("Beta2", c.Beta2)
	positive("Eps", c.Eps)
	bad(c.Eps > 0 && float32(c.Eps) == 0, "Eps %v: float32 has none so small", c.Eps)
	decay("WeightDecay", c.WeightDecay, c.NoDecay)
	positive("ClipNorm", c.ClipNorm)
	for _, g := range c.Groups {
		_, err := path.Match(g.Match, "")
		bad(err != nil || g.Match == "", "group %q: not a pattern", g.Match)
		positive("group "+g.Match+": LRScale", g.LRScale)
		decay("group "+g.Match+": WeightDecay", g.WeightDecay, g.NoDecay)
	}
	return errors.Join(errs...)
}

// defaults fills in what zeros mean.
func (c AdamWConfig) defaults() AdamWConfig {
	set := func(x *float64, to float64) {
		if *x == 0 {
			*x = to
		}
	}
	set(&c.Beta1, 0.9)
	set(&c.Beta2, 0.95)
	set(&c.Eps, 1e-8)
	if !c.NoDecay {
		set(&c.WeightDecay, 0.1)
	}
	return c
}

// Setting is what holds for one parameter.
type Setting struct {
	Name        string
	LRScale     float64
	WeightDecay float64
	Frozen      bool // no memory for a gradient: AdamW leaves it as it is
}

// AdamW is the optimizer of https://arxiv.org/abs/1711.05101, algorithm 2. At step t =
// 1, 2, ..., with g the gradient after clipping and all else zero at first,
//
//	m = Beta1 m + (1-Beta1) g
//	v = Beta2 v + (1-Beta2) g^2
//	w = w - lr WeightDecay w - lr (m/(1-Beta1^t)) / (sqrt(v/(1-Beta2^t)) + Eps)
//
// in float32. The numbers of the model do not depend on the number of workers. Calls on an
// AdamW wait for each other.
type AdamW struct {
	// Group adds up the squares of gradients over machines that each have some of the
	// parameters, so that all clip alike. It is nil for one machine, and where each
	// machine has all parameters with their whole gradients.
	Group Reducer

	config   AdamWConfig // zeros filled in
	settings []Setting
	params   []moments // of the parameters that are trained
	memory   backend.Buffer
	step     int
	broken   error      // why the moments cannot be used any more
	mu       sync.Mutex // held by a call
}

// A Reducer replaces numbers by their sums over the machines of a group. All call it the
// same number of times, with as many numbers.
type Reducer interface {
	Reduce(ctx context.Context, x []float64) error
}

// moments are a parameter and the means of its gradient.
type moments struct {
	nn.Named
	Setting
	m, v backend.View
}

// NewAdamW makes the optimizer of the parameters that have memory for a gradient.
// Those need numbers that can change: F32, of a vector or bound by BindMatrix. A group
// that matches no parameter is refused.
func NewAdamW(b backend.Backend, params []nn.Named, config AdamWConfig) (*AdamW, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	o := &AdamW{config: config.defaults()}
	var errs []error
	used, seen, elems := make([]bool, len(config.Groups)), map[string]bool{}, int64(0)
	for _, p := range params {
		if seen[p.Name] {
			errs = append(errs, fmt.Errorf("optim: parameter %s is there twice", p.Name))
		}
		seen[p.Name] = true
		s := o.config.setting(p, used)
		o.settings = append(o.settings, s)
		if s.Frozen {
			continue
		}
		if err := trainable(p); err != nil {
			errs = append(errs, err)
		}
		o.params = append(o.params, moments{Named: p, Setting: s})
		elems += p.Param.Padded()
	}
	for i, g := range config.Groups {
		if !used[i] {
			errs = append(errs, fmt.Errorf("optim: group %q: no parameter has such a name", g.Match))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	memory, err := b.Alloc(2 * 4 * elems)
	if err != nil {
		return nil, fmt.Errorf("optim: moments of %d numbers: %w", elems, err)
	}
	o.memory = memory
	at := int64(0)
	for i := range o.params {
		p := &o.params[i]
		n := p.Param.Padded()
		p.m = backend.Contiguous(memory, backend.F32, int(at), p.Param.Shape)
		p.v = backend.Contiguous(memory, backend.F32, int(at+n), p.Param.Shape)
		at += 2 * n
	}
	return o, nil
}

// trainable says why AdamW cannot change a parameter.
func trainable(p nn.Named) error {
	v := p.Param.Numbers()
	switch {
	case !v.Present():
		return fmt.Errorf("optim: parameter %s has a gradient, but no numbers that can change: %w", p.Name, backend.ErrUnsupported)
	case v.Type != backend.F32:
		return fmt.Errorf("optim: parameter %s is %v, not F32: %w", p.Name, v.Type, backend.ErrUnsupported)
	case !v.IsContiguous() || !p.Param.Grad().IsContiguous():
		return fmt.Errorf("optim: parameter %s or its gradient has gaps: %w", p.Name, backend.ErrUnsupported)
	}
	return nil
}

// setting is what holds for a parameter; used notes the group.
func (c AdamWConfig) setting(p nn.Named, used []bool) Setting {
	s := Setting{Name: p.Name, LRScale: 1, Frozen: !p.Param.Grad().Present()}
	if p.Param.Matrix() && !strings.HasSuffix(p.Name, "embed_tokens.weight") {
		s.WeightDecay = c.WeightDecay
	}
	for i, g := range c.Groups {
		if ok, _ := path.Match(g.Match, p.Name); !ok { // Validate has seen the pattern
			continue
		}
		used[i] = true
		if g.LRScale != 0 {
			s.LRScale = g.LRScale
		}
		if g.WeightDecay != 0 || g.NoDecay {
			s.WeightDecay = g.WeightDecay
		}
		break
	}
	return s
}

// Settings lists what holds for each parameter, in the order given.
func (o *AdamW) Settings() []Setting { return append([]Setting(nil), o.settings...) }

// Config is the settings with defaults filled in.
func (o *AdamW) Config() AdamWConfig { return o.config }

// Steps is the number of steps done, those before a Load included.
func (o *AdamW) Steps() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.step
}

// Bytes is the memory of the moments.
func (o *AdamW) Bytes() int64 {
	n := int64(0)
	for i := range o.params {
		n += 2 * 4 * o.params[i].Param.Padded()
	}
	return n
}

// Close frees the moments.
func (o *AdamW) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.memory.Free()
	o.broken = ErrClosed
}

// Step changes every trained parameter by its gradient at the learning rate lr, and
// returns the norm of all gradients together before clipping, added up in float64. It
// runs steps of its own on c, which must be between steps. Where it returns an error,
// nothing was changed, unless the device failed: then later steps return that error too,
// until a Load. Gradients stay as they are: see ZeroGrad.
func (o *AdamW) Step(ctx context.Context, c *tensor.Context, lr float64) (norm float64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken != nil {
		return 0, o.broken
	}
	if !(lr >= 0) || math.IsInf(lr, 0) {
		return 0, fmt.Errorf("optim: learning rate %v: want 0 or more", lr)
	}
	norm, err = o.norm(ctx, c)
	if err != nil {
		return norm, err
	}
	scale := 1.0
	if o.config.ClipNorm > 0 {
		scale = min(1, o.config.ClipNorm/(norm+1e-6))
	}
	// Once one parameter has changed, all must: ctx stops nothing from here on.
	begun := false
	err = c.Step(context.WithoutCancel(ctx), nil, backend.KV{}, func() error {
		begun = true
		o.step++
		for i := range o.params {
			p := &o.params[i]
			tensor.AdamW(c, p.Param, p.m, p.v, o.args(p, lr, scale))
		}
		return nil
	})
	if err != nil && begun { // not by a context: some numbers may have changed
		o.broken = fmt.Errorf("optim: step %d was cut short: %w", o.step, err)
		return norm, o.broken
	}
	return norm, err
}

// args are the numbers of this step. Correct1 and Correct2 follow from the betas rounded to
// float32, as the operation has them.
func (o *AdamW) args(p *moments, lr, scale float64) backend.AdamWArgs {
	b1, b2 := float32(o.config.Beta1), float32(o.config.Beta2)
	seen := func(beta float32) float32 { return float32(1 - math.Pow(float64(beta), float64(o.step))) }
	return backend.AdamWArgs{
		LR: float32(lr * p.LRScale), Beta1: b1, Beta2: b2, Eps: float32(o.config.Eps),
		Decay: float32(p.WeightDecay), Scale: float32(scale), Correct1: seen(b1), Correct2: seen(b2),
	}
}

// norm is that of all gradients together.
func (o *AdamW) norm(ctx context.Context, c *tensor.Context) (float64, error) {
	sums := make([]float32, len(o.params))
	err := c.Step(ctx, nil, backend.KV{}, func() error {
		for i := range o.params {
			g := o.params[i].Param.Grad()
			if !g.Present() {
				return fmt.Errorf("optim: parameter %s has lost its gradient", o.params[i].Named.Name)
			}
			m := c.Mark()
			c.Read(sums[i:][:1], tensor.SumSquares(c, g))
			c.Release(m)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	total, bad := 0.0, ""
	for i, s := range sums {
		if total += float64(s); bad == "" && (math.IsNaN(total) || math.IsInf(total, 0)) {
			bad = o.params[i].Named.Name
		}
	}
	if o.Group != nil { // also where total is not finite: the others wait
		sum := []float64{total}
		if err := o.Group.Reduce(ctx, sum); err != nil {
			return 0, fmt.Errorf("optim: the norm of the gradients over a group: %w", err)
		}
		if total = sum[0]; bad == "" && (math.IsNaN(total) || math.IsInf(total, 0)) {
			bad = "another machine"
		}
	}
	norm := math.Sqrt(total)
	if bad != "" {
		return norm, fmt.Errorf("optim: the norm of the gradients is %v, because of %s: %w", norm, bad, ErrNotFinite)
	}
	return norm, nil
}

// ZeroGrad makes the gradients zero, for the next step. It runs a step of its own on c.
func (o *AdamW) ZeroGrad(ctx context.Context, c *tensor.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broken == ErrClosed {
		return ErrClosed
	}
	return c.Step(ctx, nil, backend.KV{}, func() error {
		for i := range o.params {
			if g := o.params[i].Param.Grad(); g.Present() {
				tensor.Zero(c, g)
			}
		}
		return nil
	})
}
