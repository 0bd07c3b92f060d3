package main

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// scripted is a side that gives rates in turn.
func scripted(order *[]string, name string, rates ...float64) side {
	return func(context.Context, int) (float64, error) {
		*order = append(*order, name)
		if len(rates) == 0 {
			return 0, errors.New("no more")
		}
		r := rates[0]
		rates = rates[1:]
		return r, nil
	}
}

// given is a probe that gives ceilings in turn, two a pair.
func given(c ...ceiling) probe {
	return func(context.Context) (ceiling, error) {
		v := c[0]
		c = c[1:]
		return v, nil
	}
}

// TestCompare follows pairs by hand: the order of the sides, the pair that is
// repeated because the probes around it differ, ratios of pairs and not of
// medians.
func TestCompare(t *testing.T) {
	var order []string
	read := func(gb float64) ceiling { return ceiling{read: gb * 1e9} }
	c := comparison{
		ours: scripted(&order, "a", 10, 99, 30, 20), peer: scripted(&order, "b", 10, 1, 10, 40),
		beside: given(read(100), read(100), read(100), read(80), read(100), read(90), read(100), read(100)),
		pairs:  3, bytes: 1e9,
	}
	o, err := c.compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "b", "a", "a", "b", "b", "a"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	var r result
	r.fill(o, ofRead)
	if *r.Ratio != (spread{0.5, 0.75, 1, 2, 3}) || r.Herd != 20 || r.Other != 10 || r.Pairs != 3 || r.Repeated != 1 {
		t.Errorf("got %+v, ratio %+v", r, r.Ratio)
	}
	if s := r.Share; s.Median != 0.2 || s.Limit != 100e9 || s.Of != ofRead {
		t.Errorf("share %+v", s)
	}
	if _, err := (comparison{ours: scripted(&order, ""), pairs: 1}).compare(t.Context()); err == nil {
		t.Error("the error of a side is lost")
	}
}

// TestComparePeak: the share is of the peak where operations are given, a peak
// that drifts repeats the pair too, and repeating ends.
func TestComparePeak(t *testing.T) {
	var order []string
	beside := []ceiling{{1, 4e12}, {1, 2e12}} // the first pair's
	for range maxRepeats + 1 {
		beside = append(beside, ceiling{1, 2e12}, ceiling{2, 2e12}) // and bandwidth that never holds still
	}
	rates := slices.Repeat([]float64{0.5}, maxRepeats+1)
	c := comparison{ours: scripted(&order, "a", rates...), beside: given(beside...), pairs: 1, ops: 1e12}
	o, err := c.compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var r result
	r.fill(o, "float32 peak")
	if r.Repeated != maxRepeats || r.Share.Median != 0.25 || r.Share.Limit != 2e12 || r.Ratio != nil || r.Other != 0 {
		t.Errorf("got %+v, share %+v", r, r.Share)
	}
}

// TestCompareBlind: without a probe nothing is repeated and no share is known.
func TestCompareBlind(t *testing.T) {
	var order []string
	o, err := comparison{ours: scripted(&order, "a", 6), peer: scripted(&order, "b", 3), pairs: 1, bytes: 1}.compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var r result
	r.fill(o, ofRead)
	if r.Share != nil || r.Ratio.Median != 2 || r.Repeated != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		xs   []float64
		want spread
	}{
		{[]float64{7}, spread{7, 7, 7, 7, 7}},
		{[]float64{4, 1}, spread{1, 1.75, 2.5, 3.25, 4}},
		{[]float64{9, 1, 5, 3, 7, 2, 8, 4, 6}, spread{1, 3, 5, 7, 9}},
	} {
		if got := newSpread(c.xs); got != c.want {
			t.Errorf("%v: %v, want %v", c.xs, got, c.want)
		}
	}
}
