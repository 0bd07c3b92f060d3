package optim

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// pair is a group of two machines: each sends what it has and adds what it gets.
type pair struct{ to, from chan float64 }

func newPair() [2]pair {
	a, b := make(chan float64, 1), make(chan float64, 1)
	return [2]pair{{a, b}, {b, a}}
}

func (p pair) Reduce(ctx context.Context, x []float64) error {
	for i, v := range x {
		p.to <- v
		select {
		case other := <-p.from:
			x[i] = v + other
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// TestGroup: two optimizers with part of the parameters each clip and step as one with
// all does, and both refuse gradients that are not finite on one.
func TestGroup(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		shapes := map[string][]int{"a": {5, 7}, "b": {40}, "c": {3, 9}}
		config := AdamWConfig{ClipNorm: 0.5}
		whole := newModel(t, b, shapes)
		want, err := whole.optimizer(t, config).Step(t.Context(), whole.c, 0.01)
		check(t, err)
		run := func(spoil bool) (ms [2]*model, norms [2]float64, errs [2]error) {
			var wg sync.WaitGroup
			for i, p := range newPair() {
				m := newModel(t, b, shapes)
				ms[i] = m
				own := &model{b: b, c: m.c, params: m.params[:1]}
				if i == 1 {
					own.params = m.params[1:]
				}
				o := own.optimizer(t, config)
				o.Group = p
				if spoil && i == 1 {
					v := m.find("b").Grad()
					g := m.floats(v)
					g[3] = float32(math.NaN())
					check(t, tensor.Upload(b, v, g))
				}
				wg.Go(func() { norms[i], errs[i] = o.Step(t.Context(), m.c, 0.01) })
			}
			wg.Wait()
			return ms, norms, errs
		}
		ms, norms, errs := run(false)
		for i := range ms {
			check(t, errs[i])
			if norms[i] != norms[0] || math.Abs(norms[i]-want) > 1e-12*want {
				t.Errorf("machine %d: the norm is %v, want %v", i, norms[i], want)
			}
			for _, p := range ms[i].params {
				mine := (i == 0) == (p.Name == "a")
				if same := slices.Equal(ms[i].bits(p.Param.Numbers()), whole.bits(whole.find(p.Name).Numbers())); same != mine {
					t.Errorf("machine %d: %s is as with one machine: %v, want %v", i, p.Name, same, mine)
				}
			}
		}
		before := newModel(t, b, shapes)
		ms, _, errs = run(true)
		for i := range ms {
			if !errors.Is(errs[i], ErrNotFinite) {
				t.Errorf("machine %d: %v", i, errs[i])
			}
			for _, p := range ms[i].params {
				if !slices.Equal(ms[i].bits(p.Param.Numbers()), before.bits(before.find(p.Name).Numbers())) {
					t.Errorf("machine %d: %s was changed", i, p.Name)
				}
			}
		}
	})
}
