package main

import (
	"fmt"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

// TestFifty wants of 50 sessions at once what each gives alone.
func TestFifty(t *testing.T) {
	model, err := llama.Open(t.Context(), golden.Glob(t, "models/*/model.gguf")[0], llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer model.Close()
	prompts := make([]string, 50)
	for i := range prompts {
		prompts[i] = fmt.Sprintf("Sheep %d of %d", i, i*i)
	}
	together, err := generateAll(t.Context(), model, prompts, 12)
	if err != nil {
		t.Fatal(err)
	}
	for i, prompt := range prompts {
		alone, err := generate(t.Context(), model, prompt, 12)
		if err != nil {
			t.Fatal(err)
		}
		if alone.tokens == 0 || together[i] != alone {
			t.Errorf("%q: %+v together, %+v alone", prompt, together[i], alone)
		}
	}
}
