package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// A model is given a passage, and again its first lookupBegun tokens: lookupTokens more are a
// copy, for the most part.
const (
	lookupPassage = 256
	lookupBegun   = 32
	lookupTokens  = 256
	lookupBytes   = 16 << 10 // of the text, which have more tokens than a passage
)

// lookup is the mode: on each file, generating with guesses that text repeats earlier text
// beside one token a step.
func (h *harness) lookup(ctx context.Context) error {
	models, err := h.models()
	if err != nil {
		return err
	}
	text, err := h.corpus(ctx)
	if err != nil {
		return err
	}
	for _, m := range models {
		if err := h.lookupOf(ctx, m, text[:min(len(text), lookupBytes)]); err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	return nil
}

func (h *harness) lookupOf(ctx context.Context, path, text string) error {
	m, err := llama.Open(ctx, path, llama.Options{Backend: h.b, Context: lookupPassage + lookupBegun + lookupTokens})
	if err != nil {
		return err
	}
	defer m.Close()
	if m.Tokenizer() == nil {
		return fmt.Errorf("the file has no tokenizer")
	}
	ids, err := m.Tokenizer().Encode(text, tokenizer.EncodeOptions{AddBOS: true})
	if err != nil {
		return err
	}
	ids = ids[:min(len(ids), lookupPassage)]
	c := &copying{prompt: slices.Concat(ids, ids[:min(len(ids), lookupBegun)])}
	if c.s, err = m.NewSession(llama.SessionOptions{}); err != nil {
		return err
	}
	defer c.s.Close()
	if _, err := c.generate(ctx, llama.Speculation{}); err != nil { // warms up
		return err
	}
	before := c.s.Usage()
	if _, err := c.generate(ctx, llama.Speculation{Lookup: true}); err != nil {
		return err
	}
	u := c.s.Usage()
	right, all, tokens := u.AcceptedTokens-before.AcceptedTokens, u.DraftedTokens-before.DraftedTokens, u.DecodeTokens-before.DecodeTokens
	fmt.Fprintf(h.w, "%s: %d of %d guesses are right, %.2f tokens a step\n", fileName(path), right, all, float64(tokens)/float64(tokens-right))
	o, err := comparison{
		ours: func(ctx context.Context, _ int) (float64, error) {
			return c.generate(ctx, llama.Speculation{Lookup: true})
		},
		peer:   func(ctx context.Context, _ int) (float64, error) { return c.generate(ctx, llama.Speculation{}) },
		beside: h.beside(nil), pairs: h.pairs,
	}.compare(ctx)
	if err != nil {
		return err
	}
	r := result{Kind: "lookup", What: fmt.Sprintf("%d copying", lookupTokens), On: fileName(path), Peer: "one token a step", Unit: rateOf}
	r.fill(o, "")
	return h.add(r)
}

// copying is a session that generates from one prompt.
type copying struct {
	s      *llama.Session
	prompt []int32
	tokens []int32 // the first time
}

// generate returns tokens a second, from the first token on. The tokens are the same each
// time.
func (c *copying) generate(ctx context.Context, guess llama.Speculation) (float64, error) {
	var ids []int32
	var start time.Time
	o := llama.GenerateOptions{MaxTokens: lookupTokens + 1, IgnoreEOS: true, Speculation: guess}
	for t, err := range c.s.GenerateIDs(ctx, c.prompt, o) {
		if err != nil {
			return 0, err
		}
		if len(ids) == 0 {
			start = time.Now()
		}
		ids = append(ids, t.ID)
	}
	rate := float64(len(ids)-1) / time.Since(start).Seconds()
	if c.tokens == nil {
		c.tokens = ids
	}
	if !slices.Equal(ids, c.tokens) {
		return 0, fmt.Errorf("guesses changed what is generated")
	}
	return rate, nil
}
