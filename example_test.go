package herd_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
)

// smallModel has random weights: its text means nothing.
const smallModel = "internal/golden/testdata/models/tied-rope8/model.gguf"

func open() (*llama.Model, *llama.Session) {
	model, err := llama.Open(context.Background(), smallModel, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	return model, session
}

// A prompt is continued token by token; without options the most likely token
// is taken each time.
func Example() {
	model, session := open()
	defer model.Close()
	for token, err := range session.Generate(context.Background(), "The file sees the king", llama.GenerateOptions{}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(token.Text)
		if token.Finish != llama.NotFinished {
			fmt.Printf(" (%v)\n", token.Finish)
		}
	}
	// Output: ! argument argument argumentRdefault (stop)
}

// Tokens are drawn as the options say; the same seed draws the same ones.
func Example_sampling() {
	model, session := open()
	defer model.Close()
	options := llama.GenerateOptions{
		MaxTokens: 20,
		Sampling:  sample.Params{Temperature: 0.8, TopK: 40, TopP: 0.95, Seed: 7},
	}
	var texts [2]string
	for i := range texts {
		for token, err := range session.Generate(context.Background(), "Once upon a time", options) {
			if err != nil {
				log.Fatal(err)
			}
			texts[i] += token.Text
		}
	}
	fmt.Println(texts[0] == texts[1])
	// Output: true
}

// A session computes only the part of a prompt that it does not hold yet.
func Example_reuse() {
	model, session := open()
	defer model.Close()
	ctx := context.Background()
	ids, err := model.Encode("The file sees the king")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := session.Logits(ctx, ids[:len(ids)-1]); err != nil {
		log.Fatal(err)
	}
	before := session.Usage().PrefillTokens
	if _, err := session.Logits(ctx, ids); err != nil {
		log.Fatal(err)
	}
	fmt.Println("computed:", session.Usage().PrefillTokens-before)
	// Output: computed: 1
}

// Cancelling the context ends a generation; the session stays usable.
func Example_cancel() {
	model, session := open()
	defer model.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, err := range session.Generate(ctx, "Once upon a time", llama.GenerateOptions{IgnoreEOS: true}) {
		if err != nil {
			fmt.Println(errors.Is(err, context.Canceled))
			break
		}
		cancel()
	}
	_, err := session.Logits(context.Background(), []int32{1, 2, 3})
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}
