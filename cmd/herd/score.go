package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// idLogprob is a token with its log-probability.
type idLogprob struct {
	ID      int32  `json:"id"`
	Logprob number `json:"logprob"`
}

func alternatives(top []llama.Alt) []idLogprob {
	out := make([]idLogprob, len(top))
	for i, a := range top {
		out[i] = idLogprob{a.ID, number(a.Logprob)}
	}
	return out
}

// position is what score says about one token and what may follow it.
type position struct {
	Pos     int         `json:"pos"`
	ID      int32       `json:"id"`
	Logprob number      `json:"logprob"` // NaN, hence null, at 0
	Next    []idLogprob `json:"next"`
}

// scoreFlags are those of score beyond the common ones.
type scoreFlags struct {
	*common
	model, ids, text string
	lora             []string
	top              int
}

func newScore(c *common) *cobra.Command {
	s := &scoreFlags{common: c}
	cmd := &cobra.Command{
		Use:   "score -m MODEL (--ids LIST | --text TEXT)",
		Short: "Print log-probabilities of a text's tokens",
		Long: `Score prints for each token of a text its log-probability (natural) given those
before it, and the tokens most likely to follow. Nothing is added to the text,
and the text of special tokens stays ordinary text.`,
		Args: noArgs,
		RunE: s.run,
	}
	f := cmd.Flags()
	addModel(f, &s.model)
	addLora(f, &s.lora)
	f.StringVar(&s.ids, "ids", "", "the text as token ids, `1,2,3`")
	f.StringVar(&s.text, "text", "", "`TEXT` to score")
	f.IntVar(&s.top, "top", 5, "the `K` tokens most likely to follow")
	return cmd
}

func (s *scoreFlags) run(cmd *cobra.Command, _ []string) error {
	hasIDs, hasText := cmd.Flags().Changed("ids"), cmd.Flags().Changed("text")
	if hasIDs == hasText {
		return usagef("give --ids or --text")
	}
	if err := checkRange("--top", s.top, 0); err != nil {
		return err
	}
	ids, err := parseIDs(s.ids)
	if err != nil {
		return err
	}
	adapters, err := parseLora(s.lora)
	if err != nil {
		return err
	}
	m, err := s.open(cmd, s.model, llama.Options{Adapters: adapters})
	if err != nil {
		return err
	}
	defer m.close()
	if hasText {
		if m.Tokenizer() == nil {
			return fmt.Errorf("the model's files hold no tokenizer: give --ids")
		}
		if ids, err = m.Tokenizer().Encode(s.text, tokenizer.EncodeOptions{}); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return usagef("there is nothing to score: the text is empty")
	}
	return s.score(cmd, m, ids)
}

func (s *scoreFlags) score(cmd *cobra.Command, m *model, ids []int32) error {
	session, err := m.NewSession(llama.SessionOptions{Context: len(ids)})
	if err != nil {
		return err
	}
	defer session.Close()
	out := bufio.NewWriter(cmd.OutOrStdout())
	if !s.json {
		fmt.Fprintf(out, "%7s %8s %10s  %s\n", "pos", "id", "logprob", "token")
	}
	ctx, stop := context.WithCancelCause(cmd.Context())
	defer stop(nil)
	if s.top == 0 { // no logits are wanted
		return s.logprobs(ctx, out, session, m, ids)
	}
	logprob := math.NaN()
	err = session.Score(ctx, ids, func(i int, logits []float32) {
		p := position{i, ids[i], number(logprob), alternatives(sample.TopLogprobs(nil, logits, s.top))}
		if i+1 < len(ids) {
			logprob = sample.Logprob(logits, ids[i+1])
		}
		if err := s.print(out, m.Tokenizer(), p); err != nil {
			stop(err)
		}
	})
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return err
	}
	return out.Flush()
}

// logprobs prints positions without what may follow.
func (s *scoreFlags) logprobs(ctx context.Context, out *bufio.Writer, session *llama.Session, m *model, ids []int32) error {
	list, err := session.Logprobs(ctx, ids, 1)
	if err != nil {
		return err
	}
	for i, id := range ids {
		logprob := math.NaN()
		if i > 0 {
			logprob = float64(list[i-1])
		}
		if err := s.print(out, m.Tokenizer(), position{i, id, number(logprob), alternatives(nil)}); err != nil {
			return err
		}
	}
	return out.Flush()
}

// print writes one position.
func (s *scoreFlags) print(w io.Writer, tok *tokenizer.Tokenizer, p position) error {
	if s.json {
		return printJSON(w, p)
	}
	show := func(id int32) string {
		if tok == nil {
			return ""
		}
		return piece(tok.TokenBytes(id))
	}
	own := "-"
	if p.Pos > 0 {
		own = fmt.Sprintf("%.4f", float64(p.Logprob))
	}
	_, err := fmt.Fprintf(w, "%7d %8d %10s  %s\n", p.Pos, p.ID, own, show(p.ID))
	for i, n := range p.Next {
		label := ""
		if i == 0 {
			label = "next"
		}
		_, err = fmt.Fprintf(w, "%7s %8d %10.4f    %s\n", label, n.ID, float64(n.Logprob), show(n.ID))
	}
	return err
}
