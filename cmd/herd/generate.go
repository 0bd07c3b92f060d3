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
)

// generateFlags are those of generate beyond the common ones.
type generateFlags struct {
	*common
	model, prompt, file, ids string
	predict, context         int
	sampling                 samplingFlags
	stop                     []string
	ignoreEOS                bool
	logprobs                 int
	kvType                   string
	ubatch                   int
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
	f.IntVarP(&g.predict, "predict", "n", -1, "at most `N` tokens; -1 goes on until the model stops or the context is full")
	f.IntVarP(&g.context, "ctx-size", "c", 0, "`CTX` positions at most (default the model's, at most 4096)")
	g.sampling.add(f)
	f.StringArrayVar(&g.stop, "stop", nil, "end before this `TEXT`; repeatable")
	f.BoolVar(&g.ignoreEOS, "ignore-eos", false, "go on past the model's end tokens")
	f.IntVar(&g.logprobs, "logprobs", 0, "with --json, each token's log-probability and the `K` best")
	f.StringVar(&g.kvType, "kv-type", "", "`TYPE` of cached keys and values: f32, f16; bf16, q8_0 (not built yet) (default f16, and f32 with precision f32 or F32 weights)")
	f.IntVar(&g.ubatch, "ubatch", 0, "`N` prompt tokens a step (default 512)")
	laterFlags(f, laterSampling...)
	laterFlags(f, "context-shift?", "keep", "lora", "draft", "lookup?", "batch")
	f.SortFlags = false
	return cmd
}

// options checks the flags and gives what the model is opened with.
func (g *generateFlags) options(cmd *cobra.Command) (llama.Options, error) {
	f := cmd.Flags()
	given := 0
	for _, name := range []string{"prompt", "file", "ids"} {
		if f.Changed(name) {
			given++
		}
	}
	kv, err := parseKVType(g.kvType)
	switch {
	case err != nil:
	case given > 1:
		err = usagef("-p, -f and --ids exclude each other: give one")
	case f.Changed("logprobs") && !g.json:
		err = usagef("--logprobs needs --json")
	}
	for _, check := range []error{
		err, g.sampling.check(f), checkRange("--logprobs", g.logprobs, 0), checkRange("-n", g.predict, -1),
		checkRange("-c", g.context, 0), checkRange("--ubatch", g.ubatch, 0),
	} {
		if check != nil {
			return llama.Options{}, check
		}
	}
	for _, s := range g.stop {
		if s == "" {
			return llama.Options{}, usagef("--stop is empty")
		}
	}
	return llama.Options{KVType: kv, Context: g.context, BatchRows: g.ubatch}, nil
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
	Timings      timings        `json:"timings"`
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
	m, err := g.open(cmd, g.model, o)
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
	params, err := g.sampling.apply(cmd.Flags(), m.DefaultSampling())
	if err != nil {
		return err
	}
	for id := range params.LogitBias {
		if n := m.Config().Vocab; int(id) >= n {
			return fmt.Errorf("--logit-bias: id %d is outside the vocabulary of %d tokens", id, n)
		}
	}
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	var w io.Writer = cmd.OutOrStdout()
	if g.json {
		w = io.Discard
	}
	r := generated{Tokens: []int32{}, PromptTokens: ids, Seed: params.Seed}
	logprobs := cmd.Flags().Changed("logprobs")
	if logprobs {
		r.Logprobs = []tokenLogprob{}
	}
	failed := r.collect(g.tokens(cmd.Context(), s, ids, llama.GenerateOptions{
		MaxTokens: max(g.predict, 0), Sampling: params, Stop: g.stop, IgnoreEOS: g.ignoreEOS,
		Logprobs: logprobs, TopLogprobs: g.logprobs,
	}), w)
	if failed != nil && r.Finish == "" {
		return failed
	}
	u := s.Usage()
	r.Timings = timings{
		Load:    number(m.LoadTime().Seconds()),
		Prefill: number(u.PrefillTime.Seconds()), PrefillTokens: u.PrefillTokens,
		Decode: number(u.DecodeTime.Seconds()), DecodeTokens: u.DecodeTokens,
	}
	if g.json {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		_, err = fmt.Fprintln(w)
	}
	if g.sampling.drawn() {
		fmt.Fprintf(cmd.ErrOrStderr(), "seed %d\n", r.Seed)
	}
	g.note(cmd, "loaded in %.2f s; prompt %s; generated %s; ended by %s", float64(r.Timings.Load),
		speed(len(ids), u.PrefillTokens, u.PrefillTime), speed(len(r.Tokens), u.DecodeTokens, u.DecodeTime), r.Finish)
	return errors.Join(failed, err)
}

// tokens is the generation; -n 0 only computes the prompt.
func (g *generateFlags) tokens(ctx context.Context, s *llama.Session, ids []int32, o llama.GenerateOptions) iter.Seq2[llama.Token, error] {
	if g.predict != 0 {
		return s.GenerateIDs(ctx, ids, o)
	}
	return func(yield func(llama.Token, error) bool) {
		if _, err := s.Logits(ctx, ids); err != nil {
			yield(llama.Token{}, err)
		}
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
