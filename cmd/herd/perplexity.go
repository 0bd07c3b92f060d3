package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// textFlags say which text a model runs, and in which chunks.
type textFlags struct {
	model, file     string
	lora            []string
	context, chunks int
}

func (t *textFlags) add(f *pflag.FlagSet) {
	addModel(f, &t.model)
	addLora(f, &t.lora)
	f.StringVarP(&t.file, "file", "f", "", "`FILE` with the text; - is stdin")
	f.IntVarP(&t.context, "ctx-size", "c", 512, "`CTX` tokens a chunk")
	f.IntVar(&t.chunks, "chunks", -1, "the first `N` chunks only; -1 is all")
}

// open loads the model and reads the text.
func (t *textFlags) open(cmd *cobra.Command, c *common) (*model, []int32, error) {
	if t.file == "" {
		return nil, nil, usagef("give -f FILE, the text (- is stdin)")
	}
	for _, err := range []error{checkRange("-c", t.context, 4), checkRange("--chunks", t.chunks, -1)} {
		if err != nil {
			return nil, nil, err
		}
	}
	if t.model == "" {
		return nil, nil, errNoModel
	}
	adapters, err := parseLora(t.lora)
	if err != nil {
		return nil, nil, err
	}
	text, err := readInput(cmd, t.file)
	if err != nil {
		return nil, nil, err
	}
	m, err := c.open(cmd, t.model, llama.Options{Context: t.context, Adapters: adapters})
	if err != nil {
		return nil, nil, err
	}
	ids, err := t.encode(m, text)
	if err != nil {
		m.close()
		return nil, nil, err
	}
	return m, ids, nil
}

// encode makes ids of a text, at least a chunk.
func (t *textFlags) encode(m *model, text string) ([]int32, error) {
	if m.Tokenizer() == nil {
		return nil, fmt.Errorf("%s: the model's files hold no tokenizer, which the text needs", t.model)
	}
	ids, err := m.Tokenizer().Encode(text, tokenizer.EncodeOptions{})
	if err != nil {
		return nil, err
	}
	if len(ids) < t.context {
		return nil, fmt.Errorf("the text has %d tokens, less than one chunk of %d: give a smaller -c or a longer text", len(ids), t.context)
	}
	return ids, nil
}

// perplexityFlags are those of perplexity beyond the common ones.
type perplexityFlags struct {
	*common
	text textFlags
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
	p.text.add(f)
	laterFlags(f, "kl-base")
	return cmd
}

func (p *perplexityFlags) run(cmd *cobra.Command, _ []string) error {
	m, ids, err := p.text.open(cmd, p.common)
	if err != nil {
		return err
	}
	defer m.close()
	bar := p.bar(cmd, "scoring", false)
	r, err := m.Perplexity(cmd.Context(), ids, llama.PerplexityOptions{
		Context: p.text.context, Chunks: max(p.text.chunks, 0),
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
		r.PPL, r.NLL, r.Tokens, r.Chunks, p.text.context)
	return err
}
