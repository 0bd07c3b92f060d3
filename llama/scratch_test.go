package llama

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
)

// TestScratch: a step takes no byte more of the arena than was estimated, where there is
// room for it, and more than three quarters: products in plain Go take less than the
// answer for them. An arena that grows has gaps.
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

// measured scores a prompt of a full step with a model, in an arena that has room for what
// was estimated, and in one that has not.
func measured(t *testing.T, what string, open func() (*Model, error)) {
	t.Helper()
	for _, less := range []int64{0, 1} {
		m, err := open()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer m.Close()
		rows := min(m.opts.batchRows(), m.config.Context)
		arena := m.Memory().Scratch - 4*int64(min(rows, logitRows))*int64(m.config.Vocab)
		if rows < m.opts.batchRows() {
			t.Fatalf("%s: a context of %d rows", what, rows)
		}
		less := arena / 4 * less
		err = m.cx.Step(t.Context(), nil, m.pages.kv, func() error {
			mark := m.cx.Mark()
			m.cx.New(backend.I8, backend.Dims(int(arena-less)))
			m.cx.Release(mark)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Score(t.Context(), make([]int32, rows), func(int, []float32) {}); err != nil {
			t.Fatal(err)
		}
		if used := m.cx.Scratch(); less == 0 && used != arena || less > 0 && (used <= arena-less || used > 3*arena) {
			t.Errorf("%s: a step takes %d bytes of an arena with %d, %d were estimated", what, used, arena-less, arena)
		}
		s.Close()
	}
}
