package llama

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

// TestScratch: the first step takes no byte more of the arena than was estimated, and at
// least three quarters: what an operation says that it needs is the most that it needs.
func TestScratch(t *testing.T) {
	small := Config135M()
	small.Layers, small.Vocab = 2, 320
	wide, tall, biased := small, small, small
	wide.HiddenDim = 4096
	tall.Vocab = 1 << 15
	factors := small
	factors.EmbeddingScale, factors.ResidualScale, factors.AttentionScale, factors.LogitsScale = 12, 0.22, 0.02, 8
	factors.RopeScaling = RopeScaling{Type: "yarn", Factor: 4, OriginalContext: 2048}
	biased.AttentionBias, biased.AttentionOutputBias, biased.MLPBias = true, true, true
	for name, c := range map[string]Config{"attention": small, "feed-forward": wide, "logits": tall, "biases": biased, "factors": factors} {
		for _, typ := range []backend.DType{backend.F32, backend.BF16, backend.Q8_0} {
			for _, precision := range []Precision{PrecisionAuto, PrecisionF32, PrecisionBF16} {
				if precision != PrecisionAuto && typ != backend.BF16 || testing.Short() && typ != backend.BF16 {
					continue
				}
				what := fmt.Sprint(name, ", ", typ, ", ", precision)
				measured(t, what, func() (*Model, error) {
					return NewRandom(context.Background(), c, typ, Options{Precision: precision, BatchRows: 300})
				})
			}
		}
		measured(t, name+", trainable", func() (*Model, error) {
			return New(context.Background(), c, nil, Init{}, Options{BatchRows: 300})
		})
	}
	if testing.Short() {
		return
	}
	for _, dir := range golden.Glob(t, "models/*/hf") {
		measured(t, dir, func() (*Model, error) { return Open(context.Background(), dir, Options{BatchRows: 100}) })
	}
	for _, dir := range golden.Glob(t, "train/*/lora") {
		dir = filepath.Dir(dir)
		for _, kind := range []string{"lora", "dora"} {
			for _, precision := range []Precision{PrecisionAuto, PrecisionBF16} {
				o := Options{Precision: precision, BatchRows: 60, Adapters: []Adapter{{Path: dir + "/" + kind}}}
				measured(t, dir+", "+kind, func() (*Model, error) { return Open(context.Background(), dir, o) })
			}
		}
	}
}

// measured scores a prompt of a full step with a model.
func measured(t *testing.T, what string, open func() (*Model, error)) {
	t.Helper()
	m, err := open()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer m.Close()
	rows := min(m.opts.batchRows(), m.config.Context)
	if rows < m.opts.batchRows() {
		t.Fatalf("%s: a context of %d rows", what, rows)
	}
	s := newSession(t, m, SessionOptions{})
	defer s.Close()
	if err := s.Score(t.Context(), make([]int32, rows), func(int, []float32) {}); err != nil {
		t.Fatal(err)
	}
	if used, arena := m.cx.Scratch(), m.Memory().Scratch-logitBytes(m.config, rows); used > arena || used < arena*3/4 {
		t.Errorf("%s: a step takes %d bytes of its arena, %d were estimated", what, used, arena)
	}
}
