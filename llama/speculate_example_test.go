package llama_test

import (
	"context"
	"fmt"
	"log"

	"github.com/herd-ml/herd/llama"
)

// Guesses change how many steps a text takes, and nothing of the text.
func ExampleSpeculation() {
	model, session := openSmall()
	defer model.Close()
	prompt := []int32{512, 7, 196, 304, 7, 196, 304}
	for _, guess := range []llama.Speculation{{}, {Model: model}} {
		var ids []int32
		options := llama.GenerateOptions{MaxTokens: 8, IgnoreEOS: true, Speculation: guess}
		for token, err := range session.GenerateIDs(context.Background(), prompt, options) {
			if err != nil {
				log.Fatal(err)
			}
			ids = append(ids, token.ID)
		}
		fmt.Println(ids)
	}
	fmt.Println("guesses:", session.Usage().DraftedTokens > 0)
	// Output:
	// [200 556 48 278 454 705 465 273]
	// [200 556 48 278 454 705 465 273]
	// guesses: true
}

// always guesses one token.
type always int32

func (a always) Draft(_ context.Context, dst, ids []int32, n int) ([]int32, error) {
	for range n {
		dst = append(dst, int32(a))
	}
	return dst, nil
}

// A drafter of one's own: here one that knows that line breaks come in rows.
func ExampleDrafter() {
	model, session := openSmall()
	defer model.Close()
	options := llama.GenerateOptions{MaxTokens: 30, IgnoreEOS: true, Speculation: llama.Speculation{Drafter: always(198)}}
	n := 0
	for _, err := range session.GenerateIDs(context.Background(), []int32{512, 7, 196}, options) {
		if err != nil {
			log.Fatal(err)
		}
		n++
	}
	fmt.Println(n, session.Usage().DraftedTokens > 0)
	// Output: 30 true
}
