package sample

import (
	"math"
	"testing"
)

func TestLogprob(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, tt := range []struct {
		logits []float32
		id     int32
		want   float64
	}{
		// exp(logits) is 1, 2, 5, with the sum 8.
		{logs(1, 2, 5), 0, math.Log(1. / 8)},
		{logs(1, 2, 5), 2, math.Log(5. / 8)},
		// A shift changes nothing, however large: 1/2 each.
		{[]float32{1e30, 1e30}, 1, -math.Ln2},
		{[]float32{-1e30, -1e30}, 1, -math.Ln2},
		// Far below the rest: log(exp(-1000) / (1 + exp(-1000))).
		{[]float32{0, -1000}, 1, -1000},
		{[]float32{0, -1000}, 0, 0},
		// Banned and undefined logits have no share.
		{[]float32{1, negInf, nan, 1}, 0, -math.Ln2},
		{[]float32{1, negInf}, 1, math.Inf(-1)},
		{[]float32{1, nan}, 1, math.Inf(-1)},
		{[]float32{inf, 3, inf}, 2, -math.Ln2},
		{[]float32{inf, 3, inf}, 1, math.Inf(-1)},
		{[]float32{1}, 1, math.Inf(-1)},
		{[]float32{1}, -1, math.Inf(-1)},
		{nil, 0, math.Inf(-1)},
	} {
		// float32 logits carry 6e-8 of log 5.
		if got := Logprob(tt.logits, tt.id); got != tt.want && !(math.Abs(got-tt.want) < 2e-7) {
			t.Errorf("Logprob(%v, %d) = %v, want %v", tt.logits, tt.id, got, tt.want)
		}
	}
}

// 128256 float64 terms, against math.Exp.
func TestLogprobOfManyLogits(t *testing.T) {
	logits := benchLogits()
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l))
	}
	for _, id := range []int32{0, 77, 128255} {
		got, want := Logprob(logits, id), float64(logits[id])-math.Log(sum)
		if math.Abs(got-want) > 1e-11 {
			t.Errorf("Logprob(%d) = %v, want %v", id, got, want)
		}
	}
}

func TestTopLogprobs(t *testing.T) {
	logits := append(logs(1, 5, 2), negInf, float32(math.NaN()))
	for k, want := range map[int][]int32{-1: nil, 0: nil, 1: {1}, 3: {1, 2, 0}, 5: {1, 2, 0}} {
		got := TopLogprobs(nil, logits, k)
		if len(got) != len(want) {
			t.Fatalf("k %d: %v, want ids %v", k, got, want)
		}
		for i, a := range got {
			if a.ID != want[i] || a.Logprob != float32(Logprob(logits, a.ID)) {
				t.Errorf("k %d, place %d: %v, want id %d with %v", k, i, a, want[i], Logprob(logits, want[i]))
			}
		}
	}
	if got := TopLogprobs(nil, []float32{negInf}, 3); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	long, dst := benchLogits()[:1000], make([]Alt, 0, 32)
	if n := testing.AllocsPerRun(20, func() { dst = TopLogprobs(dst, long, 32) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
