package llama

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// FillRandom makes the session hold ids with random keys and values, between -1
// and 1, in the place of those that would take a prefill to compute: for benchmarks
// of what depends on the number of positions and not on what is there.
func (s *Session) FillRandom(ctx context.Context, ids []int32) error {
	call, leave, err := s.claim(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.m.checkIDs(ids); err != nil {
		return err
	}
	if len(ids) > s.limit {
		return fmt.Errorf("%w: %d tokens, the session has %d positions", ErrContextFull, len(ids), s.limit)
	}
	if err := s.m.begin(); err != nil {
		return err
	}
	defer s.m.steps.Done()
	s.truncate(0)
	s.private, s.version = true, s.m.version.Load()
	rng := rand.New(rand.NewPCG(1, 2))
	for len(s.ids) < len(ids) {
		p, err := s.m.pages.get()
		if err == nil {
			s.pages, s.bufs = append(s.pages, p), append(s.bufs, p.buf)
			err = s.fillPage(call, ids[len(s.ids):min(len(s.ids)+backend.PageLen, len(ids))], rng)
		}
		if err != nil {
			s.truncate(0)
			return err
		}
	}
	return nil
}

// fillPage appends random keys and values for ids, which lie in one page, to all layers.
func (s *Session) fillPage(ctx context.Context, ids []int32, rng *rand.Rand) (err error) {
	n, kv, c := len(ids), s.m.pages.kv, s.m.cx
	layout := &backend.Layout{Pos: make([]int32, n), Segments: []backend.Segment{
		{Rows: n, Pages: s.bufs, Spans: []backend.Span{{Len: len(s.ids) + n}}},
	}}
	// The keys and values of a layer are windows of the same numbers.
	noise := make([]float32, (n+2*kv.Layers)*kv.Heads*kv.HeadDim)
	for i := range noise {
		noise[i] = float32(int8(rng.Uint32())) / 128
	}
	err = s.m.step(ctx, func() error {
		return c.Step(ctx, layout, kv, func() error {
			x := c.New(backend.F32, backend.Dims(n+2*kv.Layers, kv.Heads*kv.HeadDim))
			c.Write(x, noise)
			for i := range kv.Layers {
				tensor.KVAppend(c, tensor.SliceRows(c, x, 2*i, n), tensor.SliceRows(c, x, 2*i+1, n), tensor.AttentionOptions{Layer: i})
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	s.ids = append(s.ids, ids...)
	return nil
}
