package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
)

// shapes are the models that bench makes in memory.
var shapes = map[string]func() llama.Config{
	"135m": llama.Config135M, "1b": llama.Config1B, "3b": llama.Config3B, "8b": llama.Config8B,
}

// benchFlags are those of bench beyond the common ones.
type benchFlags struct {
	*common
	model, shape, dtype          string
	pp, tg, depth, streams, reps int
}

func newBench(c *common) *cobra.Command {
	b := &benchFlags{common: c}
	cmd := &cobra.Command{
		Use:   "bench (-m MODEL | --shape SIZE)",
		Short: "Measure speed",
		Long: `Bench measures prefill and generation in tokens per second, of a model or of
random weights of a known shape, which need no file. Token ids are random.`,
		Args: noArgs,
		RunE: b.run,
	}
	f := cmd.Flags()
	addModel(f, &b.model)
	f.StringVar(&b.shape, "shape", "", "random weights of `SIZE` 135m, 1b, 3b or 8b")
	f.StringVar(&b.dtype, "type", "q4_k", "`TYPE` of random weights")
	f.IntVar(&b.pp, "pp", 512, "prefill `N` tokens")
	f.IntVar(&b.tg, "tg", 64, "generate `N` tokens")
	f.IntVar(&b.depth, "depth", 0, "after `N` tokens")
	f.IntVar(&b.streams, "streams", 16, "generate with `N` sessions at once too; 0 leaves it out")
	f.IntVar(&b.reps, "reps", 5, "`N` times")
	return cmd
}

// rate is tokens per second over the repetitions.
type rate struct {
	Median number `json:"median"`
	Min    number `json:"min"`
	Max    number `json:"max"`
}

func newRate(samples []float64) rate {
	slices.Sort(samples)
	n := len(samples)
	return rate{number((samples[(n-1)/2] + samples[n/2]) / 2), number(samples[0]), number(samples[n-1])}
}

// row is a line of the table for people.
func (r rate) row(name string) string {
	return fmt.Sprintf("%-16s %10.2f %10.2f %10.2f\n", name, float64(r.Median), float64(r.Min), float64(r.Max))
}

// benched is what bench prints with --json.
type benched struct {
	Model       string  `json:"model"`
	Type        string  `json:"type"`
	Kernel      string  `json:"kernel"`
	Threads     int     `json:"threads"`
	WeightBytes int64   `json:"weight_bytes"`
	PP          rate    `json:"pp_tokens_per_s"`
	TG          rate    `json:"tg_tokens_per_s"`
	Streams     *rate   `json:"streams_tokens_per_s"` // of all together; null without
	ReadGB      *number `json:"read_gb_per_s"`        // null on the generic kernel, as is the next
	Roofline    *number `json:"roofline_share"`
}

func (b *benchFlags) run(cmd *cobra.Command, _ []string) error {
	for _, err := range []error{
		checkRange("--pp", b.pp, 1), checkRange("--tg", b.tg, 1), checkRange("--depth", b.depth, 0),
		checkRange("--streams", b.streams, 0), checkRange("--reps", b.reps, 1),
	} {
		if err != nil {
			return err
		}
	}
	m, r, err := b.open(cmd)
	if err != nil {
		return err
	}
	defer m.close()
	d := m.Describe()
	r.Kernel, r.Threads, r.WeightBytes = d.Variant, d.Workers, m.Memory().Weights
	if err := b.measure(cmd, m, &r); err != nil {
		return err
	}
	if err := r.roofline(cmd.Context(), m.backend); err != nil {
		return err
	}
	if b.json {
		return printJSON(cmd.OutOrStdout(), r)
	}
	streams := ""
	if r.Streams != nil {
		streams = r.Streams.row(fmt.Sprintf("%d streams", b.streams))
	}
	share := ""
	if r.Roofline != nil {
		share = fmt.Sprintf("\ngenerating reads %.0f %% of the %.1f GB/s that memory gives\n", 100*float64(*r.Roofline), float64(*r.ReadGB))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), `model    %s, %s, %s
kernel   %s, %d threads

tokens/s             median        min        max
%s%s%s%s`, printable(r.Model), r.Type, size(r.WeightBytes), r.Kernel, r.Threads,
		r.PP.row(fmt.Sprintf("prefill %d", b.pp)), r.TG.row(fmt.Sprintf("generate %d", b.tg)), streams, share)
	return err
}

// probeBytes is several times the last cache of most machines.
const probeBytes = 256 << 20

// roofline measures what memory gives, the best of three reads, and the share of
// it that generating takes: a token reads all weights once.
func (r *benched) roofline(ctx context.Context, b *cpu.Backend) error {
	probe, err := b.NewProbe(probeBytes)
	if errors.Is(err, backend.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	defer probe.Close()
	best := 0.0
	for range 3 {
		read, err := probe.Read(ctx)
		if err != nil {
			return err
		}
		best = max(best, read)
	}
	gb, share := number(best/1e9), number(float64(r.TG.Median)*float64(r.WeightBytes)/best)
	r.ReadGB, r.Roofline = &gb, &share
	return nil
}

// open loads or makes the model and names it.
func (b *benchFlags) open(cmd *cobra.Command) (*model, benched, error) {
	o := llama.Options{Context: b.depth + max(b.pp, b.tg+1)}
	if b.shape == "" {
		if cmd.Flags().Changed("type") {
			return nil, benched{}, usagef("--type is for --shape: a model has its own")
		}
		if b.model == "" {
			return nil, benched{}, fmt.Errorf("no model: give -m MODEL, or --shape 135m for random weights")
		}
		info, err := llama.ReadInfo(cmd.Context(), b.model, llama.Options{})
		if err != nil {
			return nil, benched{}, err
		}
		m, err := b.common.open(cmd, b.model, o)
		return m, benched{Model: b.model, Type: mainType(info.Tensors)}, err
	}
	if b.model != "" {
		return nil, benched{}, usagef("-m and --shape exclude each other: give one")
	}
	config, ok := shapes[strings.ToLower(b.shape)]
	if !ok {
		return nil, benched{}, usagef("--shape is %q, want one of %s", b.shape, strings.Join(slices.Sorted(maps.Keys(shapes)), ", "))
	}
	t, err := backend.ParseDType(b.dtype)
	if err != nil {
		return nil, benched{}, usagef("--type is %q, which is no data type; q4_k is one", b.dtype)
	}
	m, err := b.load(cmd, o, func(o llama.Options) (*llama.Model, error) {
		return llama.NewRandom(cmd.Context(), config(), t, o)
	})
	return m, benched{Model: strings.ToLower(b.shape), Type: t.String()}, err
}

// mainType is the type that most bytes have.
func mainType(tensors []llama.TensorInfo) string {
	bytes := map[string]int64{}
	for _, t := range tensors {
		bytes[t.Type.String()] += t.Bytes
	}
	names := slices.Sorted(maps.Keys(bytes))
	if len(names) == 0 {
		return ""
	}
	return slices.MaxFunc(names, func(a, b string) int { return cmp.Compare(bytes[a], bytes[b]) })
}

// measure runs everything once to warm up, then reps times.
func (b *benchFlags) measure(cmd *cobra.Command, m *model, r *benched) error {
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	ids := make([]int32, b.depth+b.pp)
	for i := range ids {
		ids[i] = int32(rng.IntN(m.Config().Vocab))
	}
	bar := b.bar(cmd, "measuring", false)
	defer bar.stop()
	var pp, tg, streams []float64
	for i := range b.reps + 1 {
		// Another text each time: the model still has the pages of the one before.
		ids[b.depth] = (ids[b.depth] + 1) % int32(m.Config().Vocab)
		prefill, generate, err := b.once(cmd.Context(), s, ids)
		if err != nil {
			return err
		}
		together, err := b.together(cmd.Context(), m, ids)
		if err != nil {
			return err
		}
		bar.set(int64(i+1), int64(b.reps+1))
		if i > 0 {
			pp, tg, streams = append(pp, prefill), append(tg, generate), append(streams, together)
		}
	}
	r.PP, r.TG = newRate(pp), newRate(tg)
	if b.streams > 0 {
		rate := newRate(streams)
		r.Streams = &rate
	}
	return nil
}

// together returns tokens per second of all streams, which generate at once, each after
// depth tokens. The clock runs from when all have their first token.
func (b *benchFlags) together(ctx context.Context, m *model, ids []int32) (float64, error) {
	if b.streams == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	begun, first, all := make(chan struct{}), sync.WaitGroup{}, sync.WaitGroup{}
	first.Add(b.streams)
	for i := range b.streams {
		prompt := slices.Clone(ids[:b.depth+1])
		prompt[b.depth] = (prompt[b.depth] + int32(i)) % int32(m.Config().Vocab)
		all.Go(func() {
			if err := b.stream(ctx, m, prompt, func() { first.Done(); <-begun }); err != nil {
				cancel(err)
			}
		})
	}
	first.Wait()
	start := time.Now()
	close(begun)
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return float64(b.streams*b.tg) / time.Since(start).Seconds(), nil
}

// stream generates tg tokens after the first one of a session of its own. It calls wait
// once it has that one, or will have none.
func (b *benchFlags) stream(ctx context.Context, m *model, prompt []int32, wait func()) error {
	wait = sync.OnceFunc(wait)
	defer wait()
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	if b.depth > 0 {
		if err := s.FillRandom(ctx, prompt[:b.depth]); err != nil {
			return err
		}
	}
	for _, err := range s.GenerateIDs(ctx, prompt, llama.GenerateOptions{MaxTokens: b.tg + 1, IgnoreEOS: true}) {
		if err != nil {
			return err
		}
		wait()
	}
	return nil
}

// once returns tokens per second of a prefill and of a generation, each after
// depth tokens.
func (b *benchFlags) once(ctx context.Context, s *llama.Session, ids []int32) (prefill, generate float64, err error) {
	if b.depth > 0 {
		if _, err := s.Logits(ctx, ids[:b.depth]); err != nil {
			return 0, 0, err
		}
	}
	if err := s.Truncate(b.depth); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if _, err := s.Logits(ctx, ids[:b.depth+b.pp]); err != nil {
		return 0, 0, err
	}
	prefill = float64(b.pp) / time.Since(start).Seconds()
	// The first token comes from the prompt's logits, so tg more are decoded.
	before := s.Usage()
	for _, err := range s.GenerateIDs(ctx, ids[:b.depth+1], llama.GenerateOptions{MaxTokens: b.tg + 1, IgnoreEOS: true}) {
		if err != nil {
			return 0, 0, err
		}
	}
	after := s.Usage()
	return prefill, float64(after.DecodeTokens-before.DecodeTokens) / (after.DecodeTime - before.DecodeTime).Seconds(), nil
}
