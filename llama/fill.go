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
		some := ids[len(s.ids):min(len(s.ids)+backend.PageLen, len(ids))]
		if err := s.appendPage(call, some, noise(rng, s.m.pages.kv, len(some))); err != nil {
			s.truncate(0)
			return err
		}
	}
	return nil
}

// noise is random keys and values of n positions. Those of the layers are windows of the
// same numbers.
func noise(rng *rand.Rand, kv backend.KV, n int) func(layer int) (k, v []float32) {
	width := kv.Heads * kv.HeadDim
	x := make([]float32, (n+2*kv.Layers)*width)
	for i := range x {
		x[i] = float32(int8(rng.Uint32())) / 128
	}
	return func(layer int) (k, v []float32) {
		return x[2*layer*width:][:n*width], x[(2*layer+1)*width:][:n*width]
	}
}

// appendPage appends ids, which lie in one page, with keys and values [n, Heads*HeadDim]
// of each layer that a function gives.
func (s *Session) appendPage(ctx context.Context, ids []int32, of func(layer int) (k, v []float32)) error {
	p, err := s.m.pages.get(s.pageList)
	if err != nil {
		return err
	}
	s.pages, s.bufs = append(s.pages, p), append(s.bufs, p.buf)
	n, kv, c := len(ids), s.m.pages.kv, s.m.cx
	layout := &backend.Layout{Pos: make([]int32, n), Segments: []backend.Segment{
		{Rows: n, Pages: s.bufs, Spans: []backend.Span{{Len: len(s.ids) + n}}},
	}}
	err = s.m.step(ctx, func(ctx context.Context) error {
		return c.Step(ctx, layout, kv, func() error {
			for i := range kv.Layers {
				mark := c.Mark()
				k, v := c.New(backend.F32, backend.Dims(n, kv.Heads*kv.HeadDim)), c.New(backend.F32, backend.Dims(n, kv.Heads*kv.HeadDim))
				keys, values := of(i)
				c.Write(k, keys)
				c.Write(v, values)
				tensor.KVAppend(c, k, v, tensor.AttentionOptions{Layer: i})
				c.Release(mark)
			}
			return nil
		})
	})
	if err != nil {
		s.truncate(len(s.ids))
		return err
	}
	s.ids = append(s.ids, ids...)
	return nil
}
