package optim

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/llama/safetensors"
)

// TestSaveLoad: a run that stops and goes on gives the bits of one that does not.
func TestSaveLoad(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		shapes := maps.Clone(small)
		shapes["wide"] = []int{3, blockElems/2 + 1} // more than one block, which no row ends with
		config := AdamWConfig{ClipNorm: 1, WeightDecay: 0.05}
		run := func(m *model, o *AdamW, from, to int) {
			for step := from; step < to; step++ {
				m.fill(uint64(step), 1)
				_, err := o.Step(t.Context(), m.c, 1e-2)
				check(t, err)
			}
		}
		m := newModel(t, b, shapes)
		o := m.optimizer(t, config)
		run(m, o, 0, 3)
		path := filepath.Join(t.TempDir(), "optimizer.safetensors")
		check(t, o.Save(t.Context(), m.c, path, map[string]string{"tokens": "123"}))
		again := m.optimizer(t, config)
		numbers := m.numbers(o)
		s, err := again.Load(t.Context(), m.c, path)
		check(t, err)
		if s.Step != 3 || again.Steps() != 3 || s.Config.WeightDecay != 0.05 || s.Config.Beta1 != 0.9 || !maps.Equal(s.Metadata, map[string]string{"tokens": "123"}) {
			t.Errorf("loaded %+v, %d steps", s, again.Steps())
		}
		if !slices.Equal(m.numbers(again), numbers) {
			t.Fatal("the moments are not those saved")
		}
		run(m, again, 3, 6)

		whole := newModel(t, b, shapes)
		o = whole.optimizer(t, config)
		run(whole, o, 0, 6)
		if !slices.Equal(m.numbers(again), whole.numbers(o)) {
			t.Error("going on gives other numbers than not stopping")
		}
		first, err := os.ReadFile(path)
		check(t, err)
		f, err := safetensors.Open(path)
		check(t, err)
		defer f.Close()
		if x := f.Tensor("exp_avg_sq.model.norm.weight"); x == nil || x.Type != backend.F32 || len(f.Tensors()) != 2*7 {
			t.Errorf("%d tensors, %v", len(f.Tensors()), x)
		}
		// What fails leaves the old file.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := o.Save(ctx, whole.c, path, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Save of a context that has ended: %v", err)
		}
		if now, err := os.ReadFile(path); err != nil || !slices.Equal(now, first) {
			t.Error("Save that failed has changed the file")
		}
		if err := o.Save(t.Context(), whole.c, path, map[string]string{"step": "7"}); err == nil {
			t.Error("metadata may say another step")
		}
	})
}

// TestLoadRefused: a state that does not fit changes nothing, and the error says all.
func TestLoadRefused(t *testing.T) {
	b, dir := ref.New(), t.TempDir()
	save := func(name string, shapes map[string][]int) string {
		m := newModel(t, b, shapes)
		path := filepath.Join(dir, name)
		check(t, m.optimizer(t, AdamWConfig{}).Save(t.Context(), m.c, path, nil))
		return path
	}
	m := newModel(t, b, map[string][]int{"a": {2, 3}, "b": {4}, frozen + "c": {5}})
	o := m.optimizer(t, AdamWConfig{})
	_, err := o.Step(t.Context(), m.c, 0.1)
	check(t, err)
	before := m.numbers(o)
	plain := filepath.Join(dir, "plain")
	check(t, safetensors.WriteFile(plain, nil, map[string]string{"step": "-1", "config": "{"}))
	many := map[string][]int{}
	for i := range 30 {
		many[strings.Repeat("x", i+1)] = []int{1}
	}
	for _, c := range []struct {
		path string
		want []string
	}{
		{save("shapes", map[string][]int{"a": {3, 2}, "b": {4}, "c": {5}}), []string{
			"exp_avg.a is F32 [3 2], want F32 [2 3]", "exp_avg_sq.a is F32 [3 2]", "exp_avg.c is of no trained parameter", "exp_avg_sq.c is"}},
		{save("missing", map[string][]int{"a": {2, 3}}), []string{"no tensor exp_avg.b", "no tensor exp_avg_sq.b"}},
		{save("many", many), []string{"no tensor exp_avg.a", "and 44 more"}},
		{plain, []string{`optimizer "", want adamw`, `step "-1"`, "config: ", "no tensor exp_avg.a"}},
	} {
		_, err := o.Load(t.Context(), m.c, c.path)
		var e *StateError
		if !errors.As(err, &e) || e.File != c.path {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v does not say %s", err, w)
			}
		}
	}
	if _, err := o.Load(t.Context(), m.c, filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if !slices.Equal(m.numbers(o), before) || o.Steps() != 1 {
		t.Error("a state that was refused has changed numbers")
	}
	// Reading that stops halfway leaves moments that are of no use.
	good := save("good", map[string][]int{"a": {2, 3}, "b": {4}})
	if _, err := o.Load(ctxerr.After(t.Context(), 2, io.EOF), m.c, good); !errors.Is(err, context.Canceled) {
		t.Errorf("Load of a context that has ended: %v", err)
	}
	if _, err := o.Step(t.Context(), m.c, 0.1); err == nil || !strings.Contains(err.Error(), good) {
		t.Errorf("a step after half a Load: %v", err)
	}
	if err := o.Save(t.Context(), m.c, good, nil); err == nil {
		t.Error("half a state is saved")
	}
	_, err = o.Load(t.Context(), m.c, good)
	check(t, err)
	if _, err := o.Step(t.Context(), m.c, 0.1); err != nil || o.Steps() != 1 {
		t.Errorf("a step after a Load: %v, %d steps", err, o.Steps())
	}
	o.Close()
	if _, err := o.Load(t.Context(), m.c, good); !errors.Is(err, ErrClosed) {
		t.Errorf("Load after Close: %v", err)
	}
}
