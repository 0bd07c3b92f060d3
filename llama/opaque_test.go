package llama_test

import (
	"context"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

// TestOpaqueMemory: on a device whose memory moves at every step, all of a model gives
// the same bits as on the ordinary oracle, so nothing above a backend looks at memory.
func TestOpaqueMemory(t *testing.T) {
	dirs := golden.Glob(t, "models/*")
	if testing.Short() {
		dirs = dirs[:1]
	}
	for _, dir := range dirs {
		for path := range formats(dir) {
			t.Run(golden.Name(path), func(t *testing.T) {
				same(t, func(b backend.Backend) []float32 { return allOf(t, path, llama.Options{Backend: b}) })
			})
		}
	}
	kinds := map[string]bool{} // LoRA, DoRA, ... each of the first model that has it
	for _, c := range adapterCases(t) {
		if kinds[c.kind] {
			continue
		}
		kinds[c.kind] = true
		t.Run(golden.Name(c.path), func(t *testing.T) {
			same(t, func(b backend.Backend) []float32 {
				return allOf(t, c.base, llama.Options{Backend: b, Adapters: []llama.Adapter{{Path: c.path}}})
			})
		})
	}
}

// same compares what is computed on both kinds of memory.
func same(t *testing.T, compute func(b backend.Backend) []float32) {
	t.Helper()
	want, got := compute(ref.New()), compute(ref.NewOpaque())
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("%d numbers, %d in memory that moves, or they differ", len(want), len(got))
	}
}

// allOf are the results of generating, scoring, a fork that goes on by itself and keys
// and values that were filled in.
func allOf(t *testing.T, path string, o llama.Options) (all []float32) {
	t.Helper()
	ctx, m := context.Background(), open(t, path, o)
	defer m.Close()
	ids, s := randomIDs(m.Config(), 70), session(t, m)
	for _, id := range collect(t, s, ids[:66], llama.GenerateOptions{MaxTokens: 3, IgnoreEOS: true}) {
		all = append(all, float32(id))
	}
	all = append(all, scoreAll(t, session(t, m), ids[:9])...)
	fork, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	defer fork.Close()
	logits := func(s *llama.Session, ids []int32) {
		x, err := s.Logits(ctx, ids)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, x...)
	}
	logits(fork, ids)
	if err := fork.FillRandom(ctx, ids[:69]); err != nil {
		t.Fatal(err)
	}
	logits(fork, ids)
	logits(s, ids[:67])
	return all
}
