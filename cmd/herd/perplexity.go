package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// perplexityFlags are those of perplexity beyond the common ones.
type perplexityFlags struct {
	*common
	model, file     string
	lora            []string
	context, chunks int
}

func newPerplexity(c *common) *cobra.Command {
	p := &perplexityFlags{common: c}
	cmd := &cobra.Command{
		Use:   "perplexity -m MODEL -f FILE",
		Short: "Measure how well a model predicts a text",
		Long: `Perplexity cuts a text into chunks of CTX tokens, each its own context with the
first token replaced by BOS where the model adds one, and scores the second
half of each, as llama.cpp does. A rest shorter than a chunk is left out. The
text of special tokens stays ordinary text.`,
		Args: noArgs,
		RunE: p.run,
	}
	f := cmd.Flags()
	addModel(f, &p.model)
	addLora(f, &p.lora)
	f.StringVarP(&p.file, "file", "f", "", "`FILE` with the text; - is stdin")
	f.IntVarP(&p.context, "ctx-size", "c", 512, "`CTX` tokens a chunk")
	f.IntVar(&p.chunks, "chunks", -1, "score the first `N` chunks only; -1 is all")
	laterFlags(f, "kl-base")
	return cmd
}

func (p *perplexityFlags) run(cmd *cobra.Command, _ []string) error {
	if p.file == "" {
		return usagef("give -f FILE, the text to score (- is stdin)")
	}
	for _, err := range []error{checkRange("-c", p.context, 4), checkRange("--chunks", p.chunks, -1)} {
		if err != nil {
			return err
		}
	}
	if p.model == "" {
		return errNoModel
	}
	adapters, err := parseLora(p.lora)
	if err != nil {
		return err
	}
	text, err := readInput(cmd, p.file)
	if err != nil {
		return err
	}
	m, err := p.open(cmd, p.model, llama.Options{Context: p.context, Adapters: adapters})
	if err != nil {
		return err
	}
	defer m.close()
	if m.Tokenizer() == nil {
		return fmt.Errorf("%s: the model's files hold no tokenizer, which perplexity needs", p.model)
	}
	ids, err := m.Tokenizer().Encode(text, tokenizer.EncodeOptions{})
	if err != nil {
		return err
	}
	if len(ids) < p.context {
		return fmt.Errorf("the text has %d tokens, less than one chunk of %d: give a smaller -c or a longer text", len(ids), p.context)
	}
	bar := p.bar(cmd, "scoring", false)
	r, err := m.Perplexity(cmd.Context(), ids, llama.PerplexityOptions{
		Context: p.context, Chunks: max(p.chunks, 0),
		Progress: func(done, total int, _ llama.Perplexity) { bar.set(int64(done), int64(total)) },
	})
	bar.stop()
	if err != nil {
		return err
	}
	if p.json {
		return printJSON(cmd.OutOrStdout(), struct {
			PPL    number `json:"ppl"`
			NLL    number `json:"nll"`
			Tokens int    `json:"tokens"`
			Chunks int    `json:"chunks"`
		}{number(r.PPL), number(r.NLL), r.Tokens, r.Chunks})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "perplexity %.4f (%.5f nats a token), %d tokens in %d chunks of %d\n",
		r.PPL, r.NLL, r.Tokens, r.Chunks, p.context)
	return err
}
