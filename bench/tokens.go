package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
)

const (
	ofRead = "read bandwidth"
	rateOf = "tokens/s"
)

// tokens is the mode: on each file prefill of each length, then decoding after
// each depth.
func (h *harness) tokens(ctx context.Context) error {
	return h.each(func(path string) error { return h.tokensOf(ctx, path) })
}

func (h *harness) tokensOf(ctx context.Context, path string) error {
	room := 16 // to warm up
	for _, n := range h.prefill {
		room = max(room, n)
	}
	for _, d := range h.depth {
		room = max(room, d+h.decode)
	}
	ours, err := openSession(ctx, path, llama.Options{Backend: h.b, Context: room})
	if err != nil {
		return err
	}
	defer ours.close()
	p, err := h.llamaCpp(ctx, path, room+64, 0)
	if err != nil {
		return err
	}
	defer p.close()
	peak, unit := h.peak(ours.cost.main)
	one := func(w work, r result, c comparison, of string) error {
		c.ours, c.peer, c.pairs = ours.side(w), p.side(w), h.pairs
		o, err := c.compare(ctx)
		if err != nil {
			return err
		}
		r.Kind, r.On, r.Peer, r.Unit = w.What, fileName(path), p.label(), rateOf
		r.fill(o, of)
		return h.add(r)
	}
	for _, n := range h.prefill {
		if n == 0 {
			continue
		}
		r := result{What: fmt.Sprint(n)}
		if err := one(work{"prefill", n, 0}, r, comparison{beside: h.beside(peak), ops: ours.cost.prefill(n) / float64(n)}, unit+" peak"); err != nil {
			return err
		}
	}
	for _, d := range h.depth {
		if h.decode == 0 {
			continue
		}
		fill := work{"decode", 1, d} // not between the probes of a pair
		for _, s := range []side{ours.side(fill), p.side(fill)} {
			if s == nil {
				continue
			}
			if _, err := s(ctx, 0); err != nil {
				return err
			}
		}
		r := result{What: fmt.Sprintf("%d after %d", h.decode, d)}
		if err := one(work{"decode", h.decode, d}, r, comparison{beside: h.beside(nil), bytes: ours.cost.decode(h.decode, d)}, ofRead); err != nil {
			return err
		}
	}
	return nil
}

// work is one measurement of tokens, and the request to a peer.
type work struct {
	What  string `json:"what"`  // "prefill" or "decode"
	N     int    `json:"n"`     // tokens
	Depth int    `json:"depth"` // tokens before
}

// session is our side: one that is always fed the same ids, so that what is
// before a measurement is there already.
type session struct {
	m    *llama.Model
	s    *llama.Session
	ids  []int32 // [room]
	cost cost
}

func openSession(ctx context.Context, path string, o llama.Options) (*session, error) {
	m, err := llama.Open(ctx, path, o)
	if err != nil {
		return nil, err
	}
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		m.Close()
		return nil, err
	}
	h := &session{m: m, s: s, ids: randomIDs(o.Context, m.Config().Vocab)}
	if h.cost, err = costOf(ctx, path, m, o.Context); err == nil {
		_, err = h.s.Logits(ctx, h.ids[:16]) // warms up
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *session) close() {
	h.s.Close()
	h.m.Close()
}

// randomIDs are the same in every run.
func randomIDs(n, vocab int) []int32 {
	rng := rand.New(rand.NewPCG(1, 2))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(vocab))
	}
	return ids
}

func (h *session) side(w work) side {
	return func(ctx context.Context, _ int) (float64, error) { return h.measure(ctx, w) }
}

// measure returns tokens a second. Both sides get ids from outside, when they
// decode one a step.
func (h *session) measure(ctx context.Context, w work) (float64, error) {
	if h.s.Len() < w.Depth { // the time of a token hangs on how many there are before it, not on which
		if err := h.s.FillRandom(ctx, h.ids[:w.Depth]); err != nil {
			return 0, err
		}
	}
	if err := h.s.Truncate(w.Depth); err != nil {
		return 0, err
	}
	// Another text than before: the model still has the pages of that one.
	h.ids[w.Depth] = (h.ids[w.Depth] + 1) % int32(h.m.Config().Vocab)
	step := w.N
	if w.What == "decode" {
		step = 1
	}
	start := time.Now()
	for n := w.Depth + step; n <= w.Depth+w.N; n += step {
		if _, err := h.s.Logits(ctx, h.ids[:n]); err != nil {
			return 0, err
		}
	}
	return float64(w.N) / time.Since(start).Seconds(), nil
}

// cost is what a model's tokens take.
type cost struct {
	main    backend.DType // of most weights
	weights float64       // bytes read for a token: all matrices but the embedding
	kv      float64       // bytes of keys and values of a position
	layers  float64       // weights of the layers' matrices
	output  float64       // of the output layer's
	pair    float64       // operations for a query and a key with its value, all layers and heads
}

func costOf(ctx context.Context, path string, m *llama.Model, positions int) (cost, error) {
	info, err := llama.ReadInfo(ctx, path, llama.Options{})
	if err != nil {
		return cost{}, err
	}
	pages := (positions + backend.PageLen - 1) / backend.PageLen
	k := shapeCost(m.Config())
	k.weights = float64(info.BytesPerToken)
	k.kv = float64(m.Memory().Session) / float64(pages*backend.PageLen)
	bytes := map[backend.DType]int64{}
	for _, t := range info.Tensors {
		bytes[t.Type] += t.Bytes
	}
	for _, t := range backend.DTypes() {
		if bytes[t] > bytes[k.main] {
			k.main = t
		}
	}
	return k, nil
}

// shapeCost is what follows from the shape alone.
func shapeCost(c llama.Config) cost {
	q, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	return cost{
		layers: float64(c.Layers) * float64(c.Dim*(2*q+2*kv)+3*c.Dim*c.HiddenDim),
		output: float64(c.Dim) * float64(c.Vocab),
		pair:   float64(c.Layers) * 4 * float64(q),
	}
}

// decode is the bytes that a token reads on average when n are decoded after
// depth others: all weights, and keys and values up to its own.
func (c cost) decode(n, depth int) float64 {
	return c.weights + c.kv*(float64(depth)+float64(n+1)/2)
}

// prefill is the operations, two for a product, of n tokens at the start: the
// layers for each, the output for the last, attention for each pair.
func (c cost) prefill(n int) float64 {
	t := float64(n)
	return 2*c.layers*t + 2*c.output + c.pair*t*(t+1)/2
}

// training is the operations of a step on a row of n tokens, forward and backward.
// With an adapter of so many weights the others have no gradient of their own.
func (c cost) training(n, adapter int) float64 {
	t, products := float64(n), 6.0
	if adapter > 0 {
		products = 4
	}
	return (products*(c.layers+c.output)+6*float64(adapter))*t + 3*c.pair*t*(t+1)/2
}
