package llama_test

import (
	"context"
	"fmt"
	"log"
	"sync"

	"github.com/herd-ml/herd/llama"
)

// Two sessions with one prompt: the second takes the whole pages of the first.
func ExampleModel_Stats() {
	model, first := openSmall()
	defer model.Close()
	second, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		log.Fatal(err)
	}
	prompt := make([]int32, 100)
	for _, s := range []*llama.Session{first, second} {
		if _, err := s.Logits(context.Background(), prompt); err != nil {
			log.Fatal(err)
		}
	}
	s := model.Stats()
	fmt.Println(s.Calls, "calls,", s.Steps, "steps of", s.Rows, "rows,", s.PagesUsed, "pages")
	fmt.Printf("%.0f %% of the prompts were there\n", 100*s.HitRate())
	// Output:
	// 0 calls, 2 steps of 136 rows, 3 pages
	// 32 % of the prompts were there
}

// Calls of sessions that run at once are joined: each has the tokens that it has alone.
func ExampleSession_GenerateIDs_together() {
	model, session := openSmall()
	defer model.Close()
	var calls sync.WaitGroup
	texts := make([][]int32, 4)
	for i := range texts {
		s, err := session.Fork()
		if err != nil {
			log.Fatal(err)
		}
		calls.Go(func() {
			for token, err := range s.GenerateIDs(context.Background(), []int32{1, 2, 3}, llama.GenerateOptions{MaxTokens: 8, IgnoreEOS: true}) {
				if err != nil {
					log.Fatal(err)
				}
				texts[i] = append(texts[i], token.ID)
			}
		})
	}
	calls.Wait()
	fmt.Println(fmt.Sprint(texts[1:]) == fmt.Sprint([][]int32{texts[0], texts[0], texts[0]}))
	// Output: true
}
