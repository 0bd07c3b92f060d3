package main

import (
	"context"
	"fmt"
	"iter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// generation are the flags of every command that generates.
type generation struct {
	predict, context int
	sampling         samplingFlags
	stop             []string
	kvType           string
	ubatch           int
	lora             []string
	shift            bool
	keep             int
	draft            string
	lookup           bool
}

func (g *generation) add(f *pflag.FlagSet) {
	f.IntVarP(&g.predict, "predict", "n", -1, "at most `N` tokens; -1 goes on until the model stops or the context is full")
	f.IntVarP(&g.context, "ctx-size", "c", 0, "`CTX` positions at most (default the model's, at most 4096)")
	addLora(f, &g.lora)
	g.sampling.add(f)
	f.StringArrayVar(&g.stop, "stop", nil, "end before this `TEXT`; repeatable")
	f.BoolVar(&g.shift, "context-shift", false, "when the context is full, forget the older half and go on")
	f.IntVar(&g.keep, "keep", 0, "`N` tokens of the prompt that --context-shift keeps; -1 is all")
	f.StringVar(&g.draft, "draft", "", "a smaller `MODEL` of the same vocabulary that guesses tokens ahead, for speed")
	f.BoolVar(&g.lookup, "lookup", false, "guess that text repeats earlier text, for speed")
	f.StringVar(&g.kvType, "kv-type", "", "`TYPE` of cached keys and values: f32, f16, bf16 or q8_0 (default f16, and f32 with precision f32 or F32 weights)")
	f.IntVar(&g.ubatch, "ubatch", 0, "`N` prompt tokens a step (default 512)")
}

// options checks the flags and gives what the model is opened with.
func (g *generation) options(f *pflag.FlagSet) (llama.Options, error) {
	kv, err := parseKVType(g.kvType)
	for _, check := range []error{
		err, g.sampling.check(f), checkRange("-n", g.predict, -1), checkRange("-c", g.context, 0),
		checkRange("--ubatch", g.ubatch, 0), checkRange("--keep", g.keep, -1),
	} {
		if check != nil {
			return llama.Options{}, check
		}
	}
	if f.Changed("draft") && g.draft == "" {
		return llama.Options{}, usagef("--draft is empty, want a model")
	}
	for _, s := range g.stop {
		if s == "" {
			return llama.Options{}, usagef("--stop is empty")
		}
	}
	adapters, err := parseLora(g.lora)
	return llama.Options{KVType: kv, Context: g.context, BatchRows: g.ubatch, Adapters: adapters}, err
}

// open loads the model at a path, and the one that guesses for it.
func (g *generation) open(cmd *cobra.Command, c *common, path string, o llama.Options) (*model, error) {
	m, err := c.open(cmd, path, o)
	if err != nil || g.draft == "" {
		return m, err
	}
	own := llama.Options{Context: o.Context, BatchRows: o.BatchRows}
	m.draft, err = c.loadOn(cmd, m.backend, own, func(o llama.Options) (*llama.Model, error) { return llama.Open(cmd.Context(), g.draft, o) })
	if err != nil {
		m.close()
		return nil, fmt.Errorf("--draft: %w", err)
	}
	return m, nil
}

// guesses reports whether tokens are guessed ahead.
func (g *generation) guesses() bool { return g.draft != "" || g.lookup }

// params are the model's sampling settings with the flags over them.
func (g *generation) params(f *pflag.FlagSet, m *llama.Model) (sample.Params, error) {
	params, err := g.sampling.apply(f, m.DefaultSampling())
	if tok := m.Tokenizer(); tok != nil && params.DRYMultiplier > 0 {
		params.DRYBreakers = sample.DRYBreakers(g.sampling.breakers(), tok.VocabSize(), func(id int32) string { return string(tok.TokenBytes(id)) },
			func(text string) []int32 {
				ids, _ := tok.Encode(text, tokenizer.EncodeOptions{}) // a text without tokens breaks nothing
				return ids
			})
	}
	for id := range params.LogitBias {
		if n := m.Config().Vocab; int(id) >= n {
			return params, fmt.Errorf("--logit-bias: id %d is outside the vocabulary of %d tokens", id, n)
		}
	}
	return params, err
}

// printSeed tells the seed where it is a random one.
func (g *generation) printSeed(cmd *cobra.Command, seed uint64) {
	if g.sampling.drawn() {
		fmt.Fprintf(cmd.ErrOrStderr(), "seed %d\n", seed)
	}
}

func (g *generation) generateOptions(m *model, p sample.Params) llama.GenerateOptions {
	return llama.GenerateOptions{MaxTokens: max(g.predict, 0), Sampling: p, Stop: g.stop, ContextShift: g.shift, Keep: g.keep,
		Speculation: llama.Speculation{Lookup: g.lookup, Model: m.draft}}
}

// tokens is the generation; -n 0 only computes the prompt.
func (g *generation) tokens(ctx context.Context, s *llama.Session, ids []int32, o llama.GenerateOptions) iter.Seq2[llama.Token, error] {
	if g.predict != 0 {
		return s.GenerateIDs(ctx, ids, o)
	}
	return func(yield func(llama.Token, error) bool) {
		if _, err := s.Logits(ctx, ids); err != nil {
			yield(llama.Token{}, err)
		}
	}
}
