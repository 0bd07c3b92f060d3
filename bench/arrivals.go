package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/llama"
)

// arrival is a request of a simulated server.
type arrival struct {
	At     float64 `json:"at"`     // seconds after the start
	Prompt int     `json:"prompt"` // tokens
	N      int     `json:"n"`      // tokens to generate
}

// simulation is the request to a peer: it answers with tokens a second and the 99th
// percentile of the time between two tokens of a request.
type simulation struct {
	What     string    `json:"what"`
	Streams  int       `json:"streams"` // requests that are served at once
	Arrivals []arrival `json:"arrivals"`
}

// Lengths of prompts and of answers are spread evenly on a logarithmic scale.
const (
	leastPrompt, mostPrompt = 16, 512
	leastAnswer, mostAnswer = 8, 128
)

// newArrivals are the same in every run: a Poisson process of so many requests.
func newArrivals(n int, every time.Duration) []arrival {
	rng := rand.New(rand.NewPCG(3, 4))
	length := func(least, most float64) int { return int(least * math.Pow(most/least, rng.Float64())) }
	list, at := make([]arrival, n), 0.0
	for i := range list {
		list[i] = arrival{at, length(leastPrompt, mostPrompt), length(leastAnswer, mostAnswer)}
		at += rng.ExpFloat64() * every.Seconds()
	}
	return list
}

// arrivals is the mode: requests of mixed lengths that arrive at random.
func (h *harness) arrivals(ctx context.Context) error {
	s := simulation{"arrivals", cmp.Or(h.atOnce, defaultStreams), newArrivals(h.requests, h.every)}
	return h.each(func(path string) error { return h.arrivalsOf(ctx, path, s) })
}

func (h *harness) arrivalsOf(ctx context.Context, path string, s simulation) error {
	const room = mostPrompt + mostAnswer
	m, err := llama.Open(ctx, path, llama.Options{Backend: h.b, Context: room})
	if err != nil {
		return err
	}
	defer m.Close()
	p, err := h.llamaCpp(ctx, path, s.Streams*room, s.Streams)
	if err != nil {
		return err
	}
	defer p.close()
	var delays [2][]float64 // ours, the peer's
	c := comparison{pairs: h.pairs, beside: h.beside(nil), ours: func(ctx context.Context, turn int) (float64, error) {
		rate, delay, err := serve(ctx, m, s, turn)
		delays[0] = append(delays[0], delay)
		return rate, err
	}}
	if p != nil {
		c.peer = func(context.Context, int) (float64, error) {
			a, err := p.ask(s)
			delays[1] = append(delays[1], a.Delay)
			return a.Rate, err
		}
	}
	o, err := c.compare(ctx)
	if err != nil {
		return err
	}
	r := result{Kind: s.What, What: fmt.Sprintf("%d, %d at once", len(s.Arrivals), s.Streams), On: fileName(path), Peer: p.label(), Unit: rateOf}
	r.fill(o, "")
	if err := h.add(r); err != nil {
		return err
	}
	fmt.Fprintf(h.w, "%s: 99 of 100 tokens come within %.0f ms of the one before", fileName(path), 1e3*newSpread(delays[0]).Median)
	if p != nil {
		fmt.Fprintf(h.w, "; of %s %.0f ms", p.label(), 1e3*newSpread(delays[1]).Median)
	}
	fmt.Fprintln(h.w)
	return nil
}

// serve answers all requests, each from when it arrives and one of the sessions is free.
// Prompts differ from turn to turn, so that none is found computed.
func serve(ctx context.Context, m *llama.Model, s simulation, turn int) (rate, delay float64, err error) {
	free := make(chan *llama.Session, s.Streams)
	for range s.Streams {
		one, err := m.NewSession(llama.SessionOptions{})
		if err != nil {
			return 0, 0, err
		}
		defer one.Close()
		free <- one
	}
	var mu sync.Mutex
	var delays []float64
	total := 0
	start := time.Now()
	err = parallel.Ranges(ctx, len(s.Arrivals), len(s.Arrivals), 1, func(_, i, _ int) error {
		a := s.Arrivals[i]
		select {
		case <-time.After(time.Until(start.Add(time.Duration(a.At * float64(time.Second))))):
		case <-ctx.Done():
			return ctx.Err()
		}
		one := <-free
		defer func() { free <- one }()
		ids := randomIDs(a.Prompt, m.Config().Vocab)
		ids[0] = int32((turn*len(s.Arrivals) + i) % m.Config().Vocab)
		var last time.Time
		var own []float64
		err := generate(ctx, one, ids, a.N, func(t time.Time) {
			if !last.IsZero() {
				own = append(own, t.Sub(last).Seconds())
			}
			last = t
		})
		mu.Lock()
		defer mu.Unlock()
		total, delays = total+a.N, append(delays, own...)
		return err
	})
	return float64(total) / time.Since(start).Seconds(), percentile99(delays), err
}

// percentile99 is the number that 99 of 100 do not exceed, 0 of none.
func percentile99(xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	slices.Sort(xs)
	return xs[min(len(xs)-1, len(xs)*99/100)]
}
