package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/quantize"
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
	base string
}

func newPerplexity(c *common) *cobra.Command {
	p := &perplexityFlags{common: c}
	cmd := &cobra.Command{
		Use:   "perplexity -m MODEL -f FILE",
		Short: "Measure how well a model predicts a text",
		Long: `Perplexity cuts a text into chunks of CTX tokens, each its own context with the
first token replaced by BOS where the model adds one, and scores the second
half of each, as llama.cpp does. A rest shorter than a chunk is left out. The
text of special tokens stays ordinary text.

--kl-base compares two models in two runs with the same text and settings. Where
its FILE is not there, the first run writes what the model thinks of the text to
it, four bytes for each token of the vocabulary at each position. Where it is,
the second run compares another model's distributions, a quantised one's for
instance, with those: Kullback-Leibler divergence, how often both think the same
token most likely, perplexity in relation to the base's.`,
		Args: noArgs,
		RunE: p.run,
	}
	f := cmd.Flags()
	p.text.add(f)
	f.StringVar(&p.base, "kl-base", "", "compare with the distributions in `FILE`, or write them where it is not there")
	return cmd
}

func (p *perplexityFlags) run(cmd *cobra.Command, _ []string) error {
	compare := false
	if p.base != "" {
		_, err := os.Stat(p.base)
		if compare = err == nil; !compare {
			if err := writable(p.base); err != nil {
				return err
			}
		}
	}
	m, ids, err := p.text.open(cmd, p.common)
	if err != nil {
		return err
	}
	defer m.close()
	bar := p.bar(cmd, "scoring", false)
	o := llama.PerplexityOptions{
		Context: p.text.context, Chunks: max(p.text.chunks, 0),
		Progress: func(done, total int, _ llama.Perplexity) { bar.set(int64(done), int64(total)) },
	}
	var r llama.Perplexity
	var d quantize.Divergence
	switch {
	case compare:
		d, err = m.Divergence(cmd.Context(), ids, p.base, o)
		r = llama.Perplexity{PPL: d.PPL, NLL: d.NLL, Tokens: d.Tokens, Chunks: d.Chunks}
	case p.base != "":
		r, err = m.SaveBase(cmd.Context(), ids, p.base, o)
	default:
		r, err = m.Perplexity(cmd.Context(), ids, o)
	}
	bar.stop()
	if err != nil {
		return err
	}
	if p.base != "" && !compare {
		p.note(cmd, "%s is written: the same command with another model compares it", p.base)
	}
	if p.json {
		out := perplexityJSON{PPL: number(r.PPL), NLL: number(r.NLL), Tokens: r.Tokens, Chunks: r.Chunks}
		if compare {
			out.KL = divergenceJSON(d)
		}
		return printJSON(cmd.OutOrStdout(), out)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "perplexity %.4f (%.5f nats a token), %d tokens in %d chunks of %d\n",
		r.PPL, r.NLL, r.Tokens, r.Chunks, p.text.context)
	if err == nil && compare {
		err = printDivergence(cmd.OutOrStdout(), d)
	}
	return err
}

// perplexityJSON is what perplexity prints with --json.
type perplexityJSON struct {
	PPL    number  `json:"ppl"`
	NLL    number  `json:"nll"`
	Tokens int     `json:"tokens"`
	Chunks int     `json:"chunks"`
	KL     *klJSON `json:"kl,omitempty"`
}

// klJSON is what a comparison adds.
type klJSON struct {
	Mean         number            `json:"mean"`
	Error        number            `json:"error"`
	Percentiles  map[string]number `json:"percentiles"`
	SameTop      number            `json:"same_top"`
	SameTopError number            `json:"same_top_error"`
	BasePPL      number            `json:"base_ppl"`
	Ratio        number            `json:"ppl_ratio"`
	RatioError   number            `json:"ppl_ratio_error"`
	DeltaP       number            `json:"delta_p"`
	DeltaPRMS    number            `json:"delta_p_rms"`
}

func divergenceJSON(d quantize.Divergence) *klJSON {
	k := &klJSON{number(d.KL), number(d.KLError), map[string]number{}, number(d.SameTop), number(d.SameTopError),
		number(d.BasePPL), number(d.PPLRatio), number(d.PPLRatioError), number(d.DeltaP), number(d.DeltaPRMS)}
	for _, p := range d.Percentiles {
		k.Percentiles[fmt.Sprint(p.Percent)] = number(p.Value)
	}
	return k
}

// printDivergence prints a comparison, in lines.
func printDivergence(w io.Writer, d quantize.Divergence) error {
	fmt.Fprintf(w, "perplexity of the base %.4f, ratio %.5f ± %.5f\n", d.BasePPL, d.PPLRatio, d.PPLRatioError)
	fmt.Fprintf(w, "KL divergence %.6f ± %.6f nats\n", d.KL, d.KLError)
	for _, p := range d.Percentiles {
		fmt.Fprintf(w, "  %5.4g %% are at most %.6f\n", p.Percent, p.Value)
	}
	_, err := fmt.Fprintf(w, "same most likely token %.3f ± %.3f %%; probability of the text's token %+.3f %% on average, %.3f %% RMS\n",
		100*d.SameTop, 100*d.SameTopError, 100*d.DeltaP, 100*d.DeltaPRMS)
	return err
}
