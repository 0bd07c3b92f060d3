package sample_test

import (
	"fmt"
	"math"

	"github.com/herd-ml/herd/llama/sample"
)

func Example() {
	s, err := sample.New(sample.Params{Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05, Seed: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, id := range []int32{3, 1} { // the prompt
		s.Accept(id)
	}
	id, err := s.Sample([]float32{0, 9, 1, 2}) // id 1 holds 99.9 %
	if err != nil {
		fmt.Println(err)
		return
	}
	s.Accept(id)
	fmt.Println(id)
	// Output: 1
}

// banEven is a step of one's own.
type banEven struct{}

func (banEven) Apply(c *sample.Candidates) {
	for i, id := range c.IDs {
		if id%2 == 0 {
			c.Logits[i] = float32(math.Inf(-1))
		}
	}
}

func ExampleStep() {
	s, _ := sample.New(sample.Params{}, banEven{})
	fmt.Println(s.Sample([]float32{5, 1, 4, 2}))
	// Output: 3 <nil>
}

func ExampleMask() {
	digits := sample.Mask(func(id int32) bool { return id < 2 })
	s, _ := sample.New(sample.Params{}, digits)
	fmt.Println(s.Sample([]float32{5, 6, 7, 8}))
	// Output: 1 <nil>
}

func ExampleBitset() {
	allowed := sample.NewBitset(4)
	s, _ := sample.New(sample.Params{}, allowed)
	allowed.Add(2) // between tokens, as a grammar would
	fmt.Println(s.Sample([]float32{5, 6, 7, 8}))
	// Output: 2 <nil>
}

func ExampleParams_Validate() {
	fmt.Println(sample.Params{Temperature: -1, TopP: 2}.Validate())
	// Output:
	// sample: Temperature is -1, want a finite number >= 0
	// sample: TopP is 2, want a number in [0, 1]
}

func ExampleSampler_Clone() {
	s, _ := sample.New(sample.Params{Temperature: 1, Seed: 7})
	fork := s.Clone()
	logits := make([]float32, 1000)
	a, _ := s.Sample(logits)
	b, _ := fork.Sample(logits)
	fmt.Println(a == b)
	// Output: true
}

func ExampleLogprob() {
	fmt.Printf("%.4f\n", sample.Logprob([]float32{0, 0, 0, 0}, 2)) // log 1/4
	// Output: -1.3863
}

func ExampleTopLogprobs() {
	for _, a := range sample.TopLogprobs(nil, []float32{0, 2, 1}, 2) {
		fmt.Printf("%d %.3f\n", a.ID, a.Logprob)
	}
	// Output:
	// 1 -0.408
	// 2 -1.408
}

func ExampleParseOrder() {
	order, err := sample.ParseOrder("top_k;temperature")
	fmt.Println(order, err)
	// Output: [top_k temperature] <nil>
}

func ExampleDefaultOrder() {
	fmt.Println(sample.DefaultOrder())
	// Output: [penalties dry top_n_sigma top_k typ_p top_p min_p xtc temperature]
}

// The tokens at which DRY stops counting repetition, of a small vocabulary.
func ExampleDRYBreakers() {
	vocab := []string{"a", "b:", "\n", "\n\n", "c"}
	breakers := sample.DRYBreakers(sample.DRYBreakerTexts(), len(vocab), func(id int32) string { return vocab[id] }, nil)
	_, err := sample.New(sample.Params{Temperature: 1, DRYMultiplier: 0.8, DRYBreakers: breakers})
	fmt.Println(breakers, err)
	// Output: [[1] [2] [3]] <nil>
}
