package sample

import (
	"math"
	"math/rand/v2"
	"testing"
)

// benchLogits are as many as Llama 3 has, spread as a model's are.
func benchLogits() []float32 {
	r := rand.New(rand.NewPCG(1, 2))
	logits := make([]float32, 128256)
	for i := range logits {
		logits[i] = float32(r.NormFloat64() * 3)
	}
	return logits
}

func BenchmarkSample(b *testing.B) {
	logits := benchLogits()
	for _, c := range []struct {
		name string
		p    Params
	}{
		{"greedy", Params{}},
		{"greedy-repeat", Params{RepeatPenalty: 1.1}},
		{"default", Params{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05}},
		{"default-repeat", Params{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05, RepeatPenalty: 1.1}},
		{"topp", Params{Temperature: 0.8, TopP: 0.95}},
		{"minp", Params{Temperature: 0.8, MinP: 0.05}},
		{"topk-20000", Params{Temperature: 1, TopK: 20000}},
		{"temperature", Params{Temperature: 0.8}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := New(c.p)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				id, err := s.Sample(logits)
				if err != nil {
					b.Fatal(err)
				}
				s.Accept(id)
			}
		})
	}
}

func BenchmarkTopLogprobs(b *testing.B) {
	logits := benchLogits()
	dst := make([]Alt, 0, 20)
	b.ReportAllocs()
	for b.Loop() {
		dst = TopLogprobs(dst, logits, 20)
	}
}

// BenchmarkExp is the cost of one weight for each of 128256 logits, beside the
// same sum with math.Exp.
func BenchmarkExp(b *testing.B) {
	logits := benchLogits()
	b.Run("expDiff", func(b *testing.B) {
		for b.Loop() {
			sum := 0.0
			for _, l := range logits {
				sum += expDiff(l, 14)
			}
		}
	})
	b.Run("math", func(b *testing.B) {
		for b.Loop() {
			sum := 0.0
			for _, l := range logits {
				sum += math.Exp(float64(l) - 14)
			}
		}
	})
}
