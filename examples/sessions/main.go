// Sessions runs 50 generations at once on one model. The weights are loaded
// once; each session adds only its keys and values.
//
//	go run ./examples/sessions
//	go run ./examples/sessions -m MODEL -s 8 -n 50
//
// Today the sessions take turns step by step. A scheduler that computes them
// together comes later, without a change of this program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/herd-ml/herd/llama"
)

func main() {
	path := flag.String("m", "internal/golden/testdata/models/tied-rope8/model.gguf", "model")
	sessions := flag.Int("s", 50, "sessions")
	n := flag.Int("n", 16, "most tokens of each")
	flag.Parse()

	ctx := context.Background()
	model, err := llama.Open(ctx, *path, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	prompts := make([]string, *sessions)
	for i := range prompts {
		prompts[i] = fmt.Sprintf("The %d sheep went", i+1)
	}
	start := time.Now()
	answers, err := generateAll(ctx, model, prompts, *n)
	for i, a := range answers {
		fmt.Printf("%s|%s\n", prompts[i], a.text)
	}
	total := 0
	for _, a := range answers {
		total += a.tokens
	}
	fmt.Printf("%d tokens in %v\n", total, time.Since(start).Round(time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
}

type answer struct {
	text   string
	tokens int
}

// generateAll answers all prompts at once, each in a session of its own.
func generateAll(ctx context.Context, model *llama.Model, prompts []string, n int) ([]answer, error) {
	answers := make([]answer, len(prompts))
	errs := make([]error, len(prompts))
	var wait sync.WaitGroup
	for i, prompt := range prompts {
		wait.Go(func() { answers[i], errs[i] = generate(ctx, model, prompt, n) })
	}
	wait.Wait()
	return answers, errors.Join(errs...)
}

func generate(ctx context.Context, model *llama.Model, prompt string, n int) (answer, error) {
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		return answer{}, err
	}
	defer session.Close()
	var a answer
	for token, err := range session.Generate(ctx, prompt, llama.GenerateOptions{MaxTokens: n}) {
		if err != nil {
			return a, err
		}
		a.text += token.Text
		a.tokens++
	}
	return a, nil
}
