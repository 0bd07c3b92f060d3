package llama

import (
	"context"
	"testing"

	"github.com/herd-ml/herd/backend"
)

// TestScratch: a step takes what was estimated of the arena, give or take half
// since the first one takes it in chunks with gaps between them, where attention,
// the feed-forward or the logits take the most.
func TestScratch(t *testing.T) {
	small := Config135M()
	small.Layers, small.Vocab = 2, 320
	wide, tall := small, small
	wide.HiddenDim = 4096
	tall.Vocab = 1 << 15
	factors := small
	factors.EmbeddingScale, factors.ResidualScale, factors.AttentionScale, factors.LogitsScale = 12, 0.22, 0.02, 8
	factors.RopeScaling = RopeScaling{Type: "yarn", Factor: 4, OriginalContext: 2048}
	for name, c := range map[string]Config{"attention": small, "feed-forward": wide, "logits": tall, "factors": factors} {
		for _, typ := range []backend.DType{backend.F32, backend.BF16, backend.Q8_0} {
			if testing.Short() && typ != backend.BF16 {
				continue
			}
			m, err := NewRandom(context.Background(), c, typ, Options{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := m.NewSession(SessionOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ids := make([]int32, 600)
			if err := s.Score(context.Background(), ids, func(int, []float32) {}); err != nil {
				t.Fatal(err)
			}
			used, most := m.cx.Scratch(), m.Memory().Scratch
			t.Logf("%s, %v: %d of %d bytes", name, typ, used, most)
			if used > most*3/2 || used < most/2 {
				t.Errorf("%s, %v: a step takes %d bytes, %d were estimated", name, typ, used, most)
			}
			s.Close()
			m.Close()
		}
	}
}
