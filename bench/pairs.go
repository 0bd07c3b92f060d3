package main

import (
	"context"
	"math"
	"slices"
)

// spread is the quartiles and the ends of some numbers.
type spread struct {
	Min    float64 `json:"min"`
	Low    float64 `json:"low"` // a quarter are below
	Median float64 `json:"median"`
	High   float64 `json:"high"`
	Max    float64 `json:"max"`
}

// newSpread interpolates between neighbours. xs is not empty.
func newSpread(xs []float64) spread {
	xs = slices.Sorted(slices.Values(xs))
	at := func(q float64) float64 {
		p := q * float64(len(xs)-1)
		i := int(p)
		j := min(i+1, len(xs)-1)
		return xs[i] + (xs[j]-xs[i])*(p-float64(i))
	}
	return spread{xs[0], at(0.25), at(0.5), at(0.75), xs[len(xs)-1]}
}

// result is one comparison.
type result struct {
	Model    string  `json:"model"`
	What     request `json:"what"`
	Ratio    *spread `json:"ratio"`              // of herd to the peer; null without one
	Herd     float64 `json:"herd"`               // median, tokens/s
	Peer     float64 `json:"peer,omitempty"`     // median, tokens/s
	Read     float64 `json:"read_gb_per_s"`      // median of what the probe reads beside
	Share    *spread `json:"share_of_read"`      // of decoding: weights read by herd, of what the probe reads
	Repeated int     `json:"repeated,omitempty"` // pairs thrown away because the probes beside them differed
}

// side is a program that is measured.
type side interface {
	measure(ctx context.Context, r request) (rate float64, err error)
}

// maxDrift is how much the probes before and after a pair may differ, and
// maxRepeats how many pairs may be repeated for it in all, for one comparison.
const (
	maxDrift   = 0.15
	maxRepeats = 9
)

// compare measures pairs: a probe, one side, the other, a probe; the next pair
// starts with the other side. peer may be nil. bytes are what herd reads of
// weights for a token.
func compare(ctx context.Context, ours, peer side, read func(context.Context) (float64, error), r request, pairs int, bytes int64) (result, error) {
	res := result{What: r}
	var rates [2][]float64
	var ratios, shares, reads []float64
	for i := 0; len(rates[0]) < pairs; i++ {
		before, err := read(ctx)
		if err != nil {
			return res, err
		}
		var rate [2]float64
		for j := range 2 {
			k := (i + j) % 2
			if s := [2]side{ours, peer}[k]; s != nil {
				if rate[k], err = s.measure(ctx, r); err != nil {
					return res, err
				}
			}
		}
		after, err := read(ctx)
		if err != nil {
			return res, err
		}
		if math.Abs(before-after) > maxDrift*max(before, after) && res.Repeated < maxRepeats {
			res.Repeated++
			continue
		}
		rates[0], rates[1] = append(rates[0], rate[0]), append(rates[1], rate[1])
		reads = append(reads, max(before, after)/1e9)
		if peer != nil {
			ratios = append(ratios, rate[0]/rate[1])
		}
		shares = append(shares, rate[0]*float64(bytes)/max(before, after))
	}
	res.Herd, res.Read = newSpread(rates[0]).Median, newSpread(reads).Median
	if peer != nil {
		s := newSpread(ratios)
		res.Ratio, res.Peer = &s, newSpread(rates[1]).Median
	}
	if r.What == "decode" {
		s := newSpread(shares)
		res.Share = &s
	}
	return res, nil
}
