package main

import (
	"context"
	"errors"
	"slices"
	"testing"
)

type fake struct {
	rates []float64
	order *[]string
	name  string
}

func (f *fake) measure(context.Context, request) (float64, error) {
	*f.order = append(*f.order, f.name)
	if len(f.rates) == 0 {
		return 0, errors.New("no more")
	}
	r := f.rates[0]
	f.rates = f.rates[1:]
	return r, nil
}

// TestCompare follows pairs by hand: the order of the sides, the pair that is
// repeated because the probes around it differ, ratios of pairs and not of
// medians.
func TestCompare(t *testing.T) {
	var order []string
	ours, peer := &fake{[]float64{10, 99, 30, 20}, &order, "a"}, &fake{[]float64{10, 1, 10, 40}, &order, "b"}
	reads := []float64{100, 100, 100, 80, 100, 90, 100, 100}
	read := func(context.Context) (float64, error) {
		r := reads[0]
		reads = reads[1:]
		return r * 1e9, nil
	}
	got, err := compare(t.Context(), ours, peer, read, request{"decode", 1, 0}, 3, 1e9)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "b", "a", "a", "b", "b", "a"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if *got.Ratio != (spread{0.5, 0.75, 1, 2, 3}) || got.Herd != 20 || got.Peer != 10 || got.Repeated != 1 || got.Share.Median != 0.2 {
		t.Errorf("got %+v, ratio %+v, share %+v", got, got.Ratio, got.Share)
	}
	if _, err := compare(t.Context(), ours, nil, func(context.Context) (float64, error) { return 1, nil }, request{}, 1, 1); err == nil {
		t.Error("the error of a side is lost")
	}
}
