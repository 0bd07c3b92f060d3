package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/herd-ml/herd/llama"
)

// herd is our side of a comparison.
type herd struct {
	m   *llama.Model
	s   *llama.Session
	rng *rand.Rand
}

func openHerd(ctx context.Context, path string, o llama.Options) (*herd, error) {
	m, err := llama.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		m.Close()
		return nil, err
	}
	h := &herd{m, s, rand.New(rand.NewPCG(1, 2))}
	_, err = h.measure(ctx, request{"prefill", 16, 0}) // warms up
	return h, err
}

// measure returns tokens a second. Both sides get ids from outside, one a step.
func (h *herd) measure(ctx context.Context, r request) (float64, error) {
	ids := make([]int32, r.Depth+r.N)
	for i := range ids {
		ids[i] = int32(h.rng.IntN(h.m.Config().Vocab))
	}
	if err := h.s.Truncate(0); err != nil {
		return 0, err
	}
	if r.Depth > 0 {
		if _, err := h.s.Logits(ctx, ids[:r.Depth]); err != nil {
			return 0, err
		}
	}
	step := r.N
	if r.What == "decode" {
		step = 1
	}
	start := time.Now()
	for n := r.Depth + step; n <= len(ids); n += step {
		if _, err := h.s.Logits(ctx, ids[:n]); err != nil {
			return 0, err
		}
	}
	return float64(r.N) / time.Since(start).Seconds(), nil
}

func (h *herd) close() {
	h.s.Close()
	h.m.Close()
}
