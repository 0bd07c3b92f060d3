package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
)

// generateFlags are those of generate beyond the common ones.
type generateFlags struct {
	*common
	generation
	model, prompt, file, ids string
	promptCache, batch       string
	parallel                 int
	ignoreEOS                bool
	logprobs                 int
}

func newGenerate(c *common) *cobra.Command {
	g := &generateFlags{common: c}
	cmd := &cobra.Command{
		Use:   "generate -m MODEL [-p TEXT | -f FILE | --ids LIST]",
		Short: "Continue a text",
		Long: `Generate continues a text, from -p, a file or stdin, and prints what follows as
it comes. The text of special tokens becomes those tokens, and the model's
first token is added where it has one; ids are taken as they are. Of a file and
of stdin one newline at the end is dropped.

With --batch each line of FILE is {"prompt": ...}, and each line printed is what
--json prints of it, or an "error", with the other fields of its line. Rows are
generated at once and printed in their order. Each has a seed of its own, which
follows from --seed and its place.

Without sampling flags tokens are drawn as the model's generation_config.json
says, else with --temp 0.8 --top-k 40 --top-p 0.95 --min-p 0.05.`,
		Args: noArgs,
		RunE: g.run,
	}
	f := cmd.Flags()
	addModel(f, &g.model)
	f.StringVarP(&g.prompt, "prompt", "p", "", "`TEXT` to continue")
	f.StringVarP(&g.file, "file", "f", "", "`FILE` with the text; - is stdin, as without -p and -f")
	f.StringVar(&g.ids, "ids", "", "the text as token ids, `1,2,3`")
	g.generation.add(f)
	f.BoolVar(&g.ignoreEOS, "ignore-eos", false, "go on past the model's end tokens")
	f.IntVar(&g.logprobs, "logprobs", 0, "with --json, each token's log-probability and the `K` best")
	f.StringVar(&g.promptCache, "prompt-cache", "", "`FILE` that keeps what was computed of the prompt for the next time")
	f.StringVar(&g.batch, "batch", "", "`FILE` of prompts, a line each; - is stdin")
	f.IntVar(&g.parallel, "parallel", defaultParallel, "with --batch, generate for `N` rows at once; -np too")
	f.SortFlags = false
	return cmd
}

// options checks the flags and gives what the model is opened with.
func (g *generateFlags) options(cmd *cobra.Command) (llama.Options, error) {
	f := cmd.Flags()
	given := 0
	for _, name := range []string{"prompt", "file", "ids", "batch"} {
		if f.Changed(name) {
			given++
		}
	}
	switch {
	case given > 1:
		return llama.Options{}, usagef("-p, -f, --ids and --batch exclude each other: give one")
	case f.Changed("logprobs") && !g.json && !f.Changed("batch"):
		return llama.Options{}, usagef("--logprobs needs --json")
	case f.Changed("prompt-cache") && f.Changed("batch"):
		return llama.Options{}, usagef("--prompt-cache keeps one prompt, and --batch has many: leave one out")
	case f.Changed("parallel") && !f.Changed("batch"):
		return llama.Options{}, usagef("--parallel is for --batch")
	}
	if err := checkRange("--parallel", g.parallel, 1); err != nil {
		return llama.Options{}, err
	}
	if err := checkRange("--logprobs", g.logprobs, 0); err != nil {
		return llama.Options{}, err
	}
	return g.generation.options(f)
}

// text is the prompt, where it is not given as ids.
func (g *generateFlags) text(cmd *cobra.Command) (string, error) {
	if cmd.Flags().Changed("prompt") {
		return g.prompt, nil
	}
	file := g.file
	if !cmd.Flags().Changed("file") {
		file = "-"
	}
	s, err := readInput(cmd, file)
	return strings.TrimSuffix(s, "\n"), err
}

// generated is what generate prints with --json.
type generated struct {
	Text         string         `json:"text"`
	Tokens       []int32        `json:"tokens"`
	PromptTokens []int32        `json:"prompt_tokens"`
	Logprobs     []tokenLogprob `json:"logprobs,omitzero"`
	Finish       string         `json:"finish"`
	Seed         uint64         `json:"seed"`
	Guesses      *guesses       `json:"speculation,omitempty"`
	Timings      timings        `json:"timings"`
}

// guesses counts the tokens that were guessed ahead, and those of them that came.
type guesses struct {
	Drafted  int `json:"drafted"`
	Accepted int `json:"accepted"`
}

// timings are of one generation; the first token of the decode comes from the
// prefill, so one less is decoded than generated.
type timings struct {
	Load          number `json:"load_s"`
	Prefill       number `json:"prefill_s"`
	PrefillTokens int    `json:"prefill_tokens"`
	Decode        number `json:"decode_s"`
	DecodeTokens  int    `json:"decode_tokens"`
}

// tokenLogprob is a generated token with its log-probability.
type tokenLogprob struct {
	idLogprob
	Top []idLogprob `json:"top"`
}

func (g *generateFlags) run(cmd *cobra.Command, _ []string) error {
	o, err := g.options(cmd)
	if err != nil {
		return err
	}
	if g.model == "" {
		return errNoModel
	}
	if cmd.Flags().Changed("batch") {
		return g.runBatch(cmd, o)
	}
	var prompt string
	var ids []int32
	if cmd.Flags().Changed("ids") {
		ids, err = parseIDs(g.ids)
	} else {
		prompt, err = g.text(cmd)
	}
	if err != nil {
		return err
	}
	m, err := g.generation.open(cmd, g.common, g.model, o)
	if err != nil {
		return err
	}
	defer m.close()
	if ids == nil {
		if ids, err = m.Encode(prompt); err != nil {
			return err
		}
	}
	if len(ids) == 0 {
		return usagef("the prompt has no tokens: give a text or ids")
	}
	return g.generate(cmd, m, ids)
}

// generate continues ids and prints what comes.
func (g *generateFlags) generate(cmd *cobra.Command, m *model, ids []int32) error {
	params, err := g.params(cmd.Flags(), m.Model)
	if err != nil {
		return err
	}
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := g.loadPrompt(cmd, s); err != nil {
		return err
	}
	loaded := s.Len()
	var w io.Writer = cmd.OutOrStdout()
	if g.json {
		w = io.Discard
	}
	r := g.newGenerated(cmd, ids, params.Seed)
	failed := r.collect(g.tokens(cmd.Context(), s, ids, g.tokenOptions(cmd, m, params)), w)
	if failed != nil && r.Finish == "" {
		return failed
	}
	u := s.Usage()
	g.measure(&r, m, llama.Usage{}, u)
	guessed := ""
	if r.Guesses != nil {
		guessed = fmt.Sprintf("; %d of %d guesses right", u.AcceptedTokens, u.DraftedTokens)
	}
	if g.json {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		_, err = fmt.Fprintln(w)
	}
	g.printSeed(cmd, r.Seed)
	g.note(cmd, "loaded in %.2f s; prompt %s; generated %s%s; ended by %s", float64(r.Timings.Load),
		speed(len(ids), u.PrefillTokens, u.PrefillTime), speed(len(r.Tokens), u.DecodeTokens, u.DecodeTime), guessed, r.Finish)
	if failed == nil {
		failed = g.savePrompt(cmd, s, ids, loaded)
	}
	return errors.Join(failed, err)
}

// newGenerated is the result of a generation before it.
func (g *generateFlags) newGenerated(cmd *cobra.Command, prompt []int32, seed uint64) generated {
	r := generated{Tokens: []int32{}, PromptTokens: prompt, Seed: seed}
	if cmd.Flags().Changed("logprobs") {
		r.Logprobs = []tokenLogprob{}
	}
	return r
}

// tokenOptions are those of a generation with the flags given.
func (g *generateFlags) tokenOptions(cmd *cobra.Command, m *model, params sample.Params) llama.GenerateOptions {
	o := g.generateOptions(m, params)
	o.IgnoreEOS, o.Logprobs, o.TopLogprobs = g.ignoreEOS, cmd.Flags().Changed("logprobs"), g.logprobs
	return o
}

// measure fills in what a session did between two looks at its counters.
func (g *generateFlags) measure(r *generated, m *model, before, after llama.Usage) {
	r.Timings = timings{
		Load:    number(m.LoadTime().Seconds()),
		Prefill: number((after.PrefillTime - before.PrefillTime).Seconds()), PrefillTokens: after.PrefillTokens - before.PrefillTokens,
		Decode: number((after.DecodeTime - before.DecodeTime).Seconds()), DecodeTokens: after.DecodeTokens - before.DecodeTokens,
	}
	if g.guesses() {
		r.Guesses = &guesses{after.DraftedTokens - before.DraftedTokens, after.AcceptedTokens - before.AcceptedTokens}
	}
}

// collect runs a generation, writing its text to w as it comes. After Ctrl-C
// both Finish and the error are set.
func (r *generated) collect(tokens iter.Seq2[llama.Token, error], w io.Writer) error {
	var text strings.Builder
	defer func() { r.Text = text.String() }()
	for t, err := range tokens {
		if errors.Is(err, context.Canceled) {
			r.Finish = "cancelled"
		}
		if err != nil {
			return err
		}
		r.Tokens = append(r.Tokens, t.ID)
		if r.Logprobs != nil {
			r.Logprobs = append(r.Logprobs, tokenLogprob{idLogprob{t.ID, number(t.Logprob)}, alternatives(t.Top)})
		}
		text.WriteString(t.Text)
		r.Finish = t.Finish.String()
		if _, err := io.WriteString(w, t.Text); err != nil {
			r.Finish = ""
			return err
		}
	}
	if len(r.Tokens) == 0 {
		r.Finish = llama.FinishLength.String()
	}
	return nil
}

// speed shows a number of tokens and how fast those computed were.
func speed(n, computed int, d time.Duration) string {
	if computed == 0 || d <= 0 {
		return fmt.Sprintf("%d tokens", n)
	}
	return fmt.Sprintf("%d tokens (%.1f/s)", n, float64(computed)/d.Seconds())
}
