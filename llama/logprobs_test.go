package llama_test

import (
	"context"
	"fmt"
	"log"
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/sample"
)

// TestLogprobs: log-probabilities without logits are those of the logits, whatever the
// rows of a step are, and with an adapter of the output layer too.
func TestLogprobs(t *testing.T) {
	for _, path := range golden.Glob(t, "models/*/hf/config.json") {
		dir := path[:len(path)-len("/config.json")]
		t.Run(golden.Name(path), func(t *testing.T) {
			for _, rows := range []int{0, 1, 5} {
				m := open(t, dir, llama.Options{BatchRows: rows})
				ids := make([]int32, 23)
				for i := range ids {
					ids[i] = int32(i * 31 % m.Config().Vocab)
				}
				s := session(t, m)
				var want []float64
				if err := s.Score(t.Context(), ids, func(pos int, logits []float32) {
					if pos+1 < len(ids) {
						want = append(want, sample.Logprob(logits, ids[pos+1]))
					}
				}); err != nil {
					t.Fatal(err)
				}
				for _, from := range []int{1, 7, len(ids)} {
					got, err := s.Logprobs(t.Context(), ids, from)
					if err != nil || len(got) != len(ids)-from {
						t.Fatalf("from %d: %d, %v", from, len(got), err)
					}
					for i, l := range got {
						if w := want[from-1+i]; !(math.Abs(float64(l)-w) <= 1e-6*(1+math.Abs(w))) { // float32 in the place of float64
							t.Errorf("rows %d, from %d: %v, want %v", rows, from, l, w)
						}
					}
				}
				if _, err := s.Logprobs(t.Context(), ids, 0); err == nil {
					t.Error("from 0 is taken")
				}
				logits, err := s.Logits(t.Context(), ids) // the session is what it was
				if err != nil || len(logits) != m.Config().Vocab {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestLogprobsAdapted: an adapter of the output layer counts.
func TestLogprobsAdapted(t *testing.T) {
	shape := llama.Config{Layers: 1, Dim: 32, Heads: 2, KVHeads: 2, HeadDim: 16, HiddenDim: 48, Vocab: 60, Context: 64, NormEps: 1e-5, RopeTheta: 10000}
	base, err := llama.New(t.Context(), shape, nil, llama.Init{Std: 0.2}, llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	dir := t.TempDir()
	if err := base.Save(t.Context(), dir+"/base", llama.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := peft.Write(dir+"/lora", peft.Config{Rank: 1, Alpha: 1, Targets: []string{"lm_head"}}, []peft.Module{
		{Name: "lm_head", A: peft.Tensor(slices.Repeat([]float32{0.5}, 32), 1, 32), B: peft.Tensor([]float32(slices.Repeat([]float32{1, -1}, 30)), 60, 1)}}); err != nil {
		t.Fatal(err)
	}
	m := open(t, dir+"/base", llama.Options{Adapters: []llama.Adapter{{Path: dir + "/lora"}}})
	s, ids := session(t, m), []int32{1, 2, 3, 4}
	got, err := s.Logprobs(t.Context(), ids, 3)
	if err != nil {
		t.Fatal(err)
	}
	logits, err := s.Logits(t.Context(), ids[:3])
	if err != nil {
		t.Fatal(err)
	}
	if want := sample.Logprob(logits, 4); !(math.Abs(float64(got[0])-want) <= 1e-5) {
		t.Errorf("%v, want %v", got[0], want)
	}
}

// The log-probabilities of the last two of four tokens.
func ExampleSession_Logprobs() {
	model, err := llama.Open(context.Background(), smallModel, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	s, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	logprobs, err := s.Logprobs(context.Background(), []int32{512, 196, 304, 7}, 2)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(logprobs), logprobs[0] < 0)
	// Output: 2 true
}
