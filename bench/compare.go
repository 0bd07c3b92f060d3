package main

// Two sides in turns, pair by pair, with a look at the machine before and after.

import (
	"context"
	"math"
	"slices"
	"time"
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

// A side measures once and returns a rate, the more the better. turn counts the
// pairs, those that are repeated too.
type side func(ctx context.Context, turn int) (rate float64, err error)

// A ceiling is what the machine gives at a time.
type ceiling struct {
	read float64 // bytes a second
	peak float64 // operations a second; 0: not asked for
}

// A probe measures what the machine gives.
type probe func(ctx context.Context) (ceiling, error)

// maxDrift is how much the probes before and after a pair may differ, and
// maxRepeats how many pairs may be repeated for it in all, for one comparison.
const (
	maxDrift   = 0.15
	maxRepeats = 9
)

// pause lets the threads of the side before stop waiting for more work.
const pause = 10 * time.Millisecond

// A comparison says what is measured beside what.
type comparison struct {
	ours, peer side  // peer may be nil
	beside     probe // may be nil
	pairs      int
	bytes, ops float64 // of memory, of arithmetic, for one unit of our rate; at most one is not 0
}

// outcome is what the pairs gave.
type outcome struct {
	rates    [2][]float64 // ours, the peer's
	ratios   []float64
	shares   []float64 // of what the machine gave; empty where that is not known
	ceilings []float64 // bytes or operations a second, as the comparison asks
	repeated int       // pairs thrown away because the probes beside them differed
}

// compare measures pairs: a probe, one side, the other, a probe; the next pair
// starts with the other side.
func (c comparison) compare(ctx context.Context) (o outcome, err error) {
	probe := c.beside
	if probe == nil {
		probe = func(context.Context) (ceiling, error) { return ceiling{}, nil }
	}
	for turn := 0; len(o.rates[0]) < c.pairs; turn++ {
		before, err := probe(ctx)
		if err != nil {
			return o, err
		}
		var rate [2]float64
		for j := range 2 {
			k := (turn + j) % 2
			if s := [2]side{c.ours, c.peer}[k]; s != nil {
				time.Sleep(pause)
				if rate[k], err = s(ctx, turn); err != nil {
					return o, err
				}
			}
		}
		time.Sleep(pause)
		after, err := probe(ctx)
		if err != nil {
			return o, err
		}
		if before.differs(after) && o.repeated < maxRepeats {
			o.repeated++
			continue
		}
		o.take(c, rate, ceiling{max(before.read, after.read), max(before.peak, after.peak)})
	}
	return o, nil
}

// differs tells whether the machine changed too much to compare.
func (c ceiling) differs(d ceiling) bool {
	far := func(a, b float64) bool { return math.Abs(a-b) > maxDrift*max(a, b) }
	return far(c.read, d.read) || far(c.peak, d.peak)
}

func (o *outcome) take(c comparison, rate [2]float64, beside ceiling) {
	o.rates[0] = append(o.rates[0], rate[0])
	if c.peer != nil {
		o.rates[1] = append(o.rates[1], rate[1])
		o.ratios = append(o.ratios, rate[0]/rate[1])
	}
	need, has := c.bytes, beside.read
	if c.ops > 0 {
		need, has = c.ops, beside.peak
	}
	if need > 0 && has > 0 {
		o.ceilings = append(o.ceilings, has)
		o.shares = append(o.shares, rate[0]*need/has)
	}
}

// fill writes an outcome into a result; of names the ceiling.
func (r *result) fill(o outcome, of string) {
	r.Pairs, r.Repeated, r.Herd = len(o.rates[0]), o.repeated, newSpread(o.rates[0]).Median
	if len(o.ratios) > 0 {
		s := newSpread(o.ratios)
		r.Ratio, r.Other = &s, newSpread(o.rates[1]).Median
	}
	if len(o.shares) > 0 {
		r.Share = &share{newSpread(o.shares), newSpread(o.ceilings).Median, of}
	}
}
