package llama

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
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
	rng := rand.New(rand.NewPCG(1, 2))
	for held := 0; held < len(ids); held += backend.PageLen {
		p, err := s.m.pages.get()
		if err == nil {
			s.pages, s.bufs = append(s.pages, p), append(s.bufs, p.buf)
			err = fillPage(p.buf.Bytes(), s.m.pages.kv, rng)
		}
		if err == nil {
			err = cause(call, call.Err())
		}
		if err != nil {
			s.truncate(0)
			return err
		}
	}
	s.ids = append([]int32(nil), ids...)
	return nil
}

// fillPage writes random numbers to a page.
func fillPage(mem []byte, kv backend.KV, rng *rand.Rand) error {
	if mem == nil {
		return fmt.Errorf("llama: random keys and values where the host cannot write are %w", ErrUnsupported)
	}
	mem = mem[:kv.PageBytes()]
	if kv.Type == backend.Q8_0 { // codes of each block, then its scales
		one := make([]byte, 2)
		block.Encode(backend.F16, one, []float32{1.0 / 128})
		codes := backend.PageLen * kv.HeadDim
		for len(mem) > 0 {
			for i := range codes {
				mem[i] = byte(max(int8(rng.Uint32()), -127))
			}
			mem = mem[codes:]
			for i := range 2 * codes / backend.Q8_0.BlockElems() {
				mem[i] = one[i%2]
			}
			mem = mem[2*codes/backend.Q8_0.BlockElems():]
		}
		return nil
	}
	size := kv.Type.BlockBytes()
	var numbers [256][4]byte
	for i := range numbers {
		block.Encode(kv.Type, numbers[i][:size], []float32{float32(int8(i)) / 128})
	}
	for i, r := 0, uint64(0); len(mem) >= size; i, mem, r = i+1, mem[size:], r>>8 {
		if i%8 == 0 {
			r = rng.Uint64()
		}
		copy(mem[:size], numbers[byte(r)][:size])
	}
	return nil
}
