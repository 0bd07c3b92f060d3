package main

// Many sessions of one model at once.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/llama"
)

const (
	defaultStreams = 16
	defaultShared  = 64
	sharedOwn      = 8 // tokens of each prompt that are its own
	ofFirst        = "the first alone"
)

// streamWork is one measurement of decoding in several streams, and the request to a peer.
type streamWork struct {
	What    string `json:"what"`
	N       int    `json:"n"`     // tokens of each
	Depth   int    `json:"depth"` // tokens before
	Streams int    `json:"streams"`
}

// manySessions is our side: each session has a text of its own.
type manySessions struct {
	m    *llama.Model
	list []*llama.Session
	ids  []int32 // of their texts, for fill and measure
}

func (h *harness) openMany(ctx context.Context, path string, n, room int) (*manySessions, error) {
	m, err := llama.Open(ctx, path, llama.Options{Backend: h.b, Context: room})
	if err != nil {
		return nil, err
	}
	s := &manySessions{m: m}
	for range n {
		one, err := m.NewSession(llama.SessionOptions{})
		if err != nil {
			s.close()
			return nil, err
		}
		s.list = append(s.list, one)
	}
	return s, nil
}

func (s *manySessions) close() {
	for _, one := range s.list {
		one.Close()
	}
	s.m.Close()
}

// fill makes each session hold so many positions of its text, random ones: the time of a
// token hangs on how many there are before it, not on which.
func (s *manySessions) fill(ctx context.Context, depth int) error {
	for i, one := range s.list {
		if err := one.FillRandom(ctx, s.ids[i*depth:][:depth]); err != nil {
			return err
		}
	}
	return nil
}

// measure returns tokens a second of all sessions. Each computes the last position of what
// it holds again, and then feeds back what it generates.
func (s *manySessions) measure(ctx context.Context, w streamWork) (float64, error) {
	for _, one := range s.list {
		if err := one.Truncate(w.Depth); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	err := parallel.Ranges(ctx, len(s.list), len(s.list), 1, func(_, i, _ int) error {
		return generate(ctx, s.list[i], s.ids[i*w.Depth:][:w.Depth], w.N, nil)
	})
	return float64(w.N*w.Streams) / time.Since(start).Seconds(), err
}

// generate goes on for exactly n tokens, and tells when each came.
func generate(ctx context.Context, s *llama.Session, ids []int32, n int, came func(time.Time)) error {
	count := 0
	for _, err := range s.GenerateIDs(ctx, ids, llama.GenerateOptions{MaxTokens: n, IgnoreEOS: true}) {
		if err != nil {
			return err
		}
		count++
		if came != nil {
			came(time.Now())
		}
	}
	if count != n {
		return fmt.Errorf("%d tokens, want %d", count, n)
	}
	return nil
}

// streams is the mode: on each file decoding in several streams, after each depth.
func (h *harness) streams(ctx context.Context) error {
	if h.decode == 0 {
		return fmt.Errorf("%s: -decode is 0, want 1 or more", h.mode)
	}
	return h.each(func(path string) error {
		for _, d := range h.depth {
			if err := h.streamsOf(ctx, path, streamWork{"streams", h.decode, max(d, 1), cmp.Or(h.atOnce, defaultStreams)}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (h *harness) streamsOf(ctx context.Context, path string, w streamWork) error {
	ours, err := h.openMany(ctx, path, w.Streams, w.Depth+w.N)
	if err != nil {
		return err
	}
	defer ours.close()
	ours.ids = randomIDs(w.Streams*(w.Depth+w.N), ours.m.Config().Vocab)
	p, err := h.llamaCpp(ctx, path, w.Streams*(w.Depth+w.N+64), w.Streams)
	if err != nil {
		return err
	}
	defer p.close()
	if p != nil {
		if _, err := p.ask(streamWork{w.What, 1, w.Depth, w.Streams}); err != nil { // fills its cache
			return err
		}
	}
	if err := ours.fill(ctx, w.Depth); err != nil {
		return err
	}
	k, err := costOf(ctx, path, ours.m, w.Depth+w.N)
	if err != nil {
		return err
	}
	peak, unit := h.peak(k.main)
	o, err := comparison{
		ours: func(ctx context.Context, _ int) (float64, error) { return ours.measure(ctx, w) }, peer: p.side(w), pairs: h.pairs,
		beside: h.beside(peak), ops: 2*(k.layers+k.output) + k.pair*(float64(w.Depth)+float64(w.N)/2),
	}.compare(ctx)
	if err != nil {
		return err
	}
	r := result{Kind: w.What, What: fmt.Sprintf("%d, decode %d after %d", w.Streams, w.N, w.Depth), On: fileName(path), Peer: p.label(), Unit: rateOf}
	r.fill(o, unit+" peak")
	return h.add(r)
}

// shared is the mode: streams whose prompts begin with the same tokens, which the model
// has computed before, and how long the last of them waits for its first token; beside it,
// how long the first waited that came alone.
func (h *harness) shared(ctx context.Context) error {
	return h.each(func(path string) error { return h.sharedOf(ctx, path) })
}

func (h *harness) sharedOf(ctx context.Context, path string) error {
	n := cmp.Or(h.atOnce, defaultShared)
	s, err := h.openMany(ctx, path, n, h.prompt+sharedOwn+1)
	if err != nil {
		return err
	}
	defer s.close()
	o, err := comparison{
		ours: func(ctx context.Context, turn int) (float64, error) { return s.last(ctx, h.beginning(s.m, 2*turn)) },
		peer: func(ctx context.Context, turn int) (float64, error) { return s.first(ctx, h.beginning(s.m, 2*turn+1)) }, pairs: h.pairs, beside: h.beside(nil),
	}.compare(ctx)
	if err != nil {
		return err
	}
	r := result{Kind: "shared", What: fmt.Sprintf("prompt of %d, stream %d", h.prompt, n), On: fileName(path), Peer: ofFirst, Unit: "s"}
	r.fill(o, "")
	r.Herd, r.Other = 1/r.Herd, 1/r.Other
	return h.add(r)
}

// beginning is that of the prompts of a measurement, which no other has.
func (h *harness) beginning(m *llama.Model, number int) []int32 {
	ids := randomIDs(h.prompt, m.Config().Vocab)
	for i := range ids {
		ids[i] = (ids[i] + int32(number+1)) % int32(m.Config().Vocab)
	}
	return ids
}

// own is a prompt of stream i.
func own(text []int32, i int) []int32 {
	return slices.Concat(text, slices.Repeat([]int32{int32(i) % (text[0] + 1)}, sharedOwn))
}

// first is one over the seconds to the first token of a stream alone.
func (s *manySessions) first(ctx context.Context, text []int32) (float64, error) {
	start := time.Now()
	err := generate(ctx, s.list[0], own(text, 0), 1, nil)
	return 1 / time.Since(start).Seconds(), err
}

// last is one over the seconds to the first token of the last of all streams, once what
// they have in common is computed.
func (s *manySessions) last(ctx context.Context, text []int32) (float64, error) {
	for _, one := range s.list {
		if err := one.Truncate(0); err != nil {
			return 0, err
		}
	}
	if err := generate(ctx, s.list[0], text, 1, nil); err != nil {
		return 0, err
	}
	start := time.Now()
	err := parallel.Ranges(ctx, len(s.list), len(s.list), 1, func(_, i, _ int) error {
		return generate(ctx, s.list[i], own(text, i), 1, nil)
	})
	return 1 / time.Since(start).Seconds(), err
}
