package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

// settings are the flags and the words after them.
type settings struct {
	force                               bool
	python, kernel, out, vocab, text    string
	loraModel                           string
	pairs, threads, decode, size, probe int
	length, atOnce, prompt, requests    int
	prefill, depth                      numbers
	repeat, every                       time.Duration
	mode                                string
	args                                []string
}

// A mode is a word of the command line.
type mode struct {
	word, args, does string
	run              func(ctx context.Context, s *settings, w io.Writer) error
}

// modes lists the words. Those without a description are what the harness calls
// itself with, for measurements that need a process of their own.
func modes() []mode {
	return []mode{
		{"tokens", "MODEL.gguf...", "prefill and decode beside llama.cpp", measuring((*harness).tokens)},
		{"lookup", "MODEL.gguf...", "generating copies with guesses from the text so far, beside one token a step", measuring((*harness).lookup)},
		{"streams", "MODEL.gguf...", "decode in several streams beside llama.cpp", measuring((*harness).streams)},
		{"shared", "MODEL.gguf...", "first token of the last of streams that share a prompt", measuring((*harness).shared)},
		{"arrivals", "MODEL.gguf...", "requests that arrive at random, beside llama.cpp", measuring((*harness).arrivals)},
		{"gemm", "[bf16|f32]...", "matrix products beside PyTorch", measuring((*harness).gemm)},
		{"tokenize", "", "one thread beside tiktoken and tokenizers; needs -vocab", measuring((*harness).tokenize)},
		{"load", "MODEL.gguf...", "from opening the file to the 32nd token, beside llama.cpp", measuring((*harness).load)},
		{"memory", "MODEL...", "what is resident after decoding at 2048 positions", measuring((*harness).memory)},
		{"train", "[15m-bf16|...|lora]...", "steps of training beside PyTorch, torch.compile and PEFT", measuring((*harness).train)},
		{"trainmemory", "[15m-bf16|...|lora]...", "what is resident at most in three steps, beside PyTorch", measuring((*harness).trainMemory)},
		{"table", "RESULTS.json...", "print results as a table", printTable},
		{"plot", "RESULTS.json... OUT.png", "draw the ratios", drawPlot},
		{"load-once", "MODEL", "", once(loadOnce)},
		{"memory-once", "MODEL", "", once(memoryOnce)},
		{"trainmemory-once", "REQUEST", "", once(trainMemoryOnce)},
	}
}

// numbers is a flag: a list with commas.
type numbers []int

func (n *numbers) String() string {
	var s []string
	for _, v := range *n {
		s = append(s, strconv.Itoa(v))
	}
	return strings.Join(s, ",")
}

func (n *numbers) Set(s string) error {
	*n = nil
	for f := range strings.SplitSeq(s, ",") {
		v, err := strconv.Atoi(strings.TrimSpace(f))
		if err != nil || v < 0 {
			return fmt.Errorf("%q is no list of numbers such as 128,8192", s)
		}
		*n = append(*n, v)
	}
	return nil
}

// parse reads a command line. Flags may stand before and after the mode.
func parse(args []string, w io.Writer) (*settings, mode, error) {
	s := &settings{prefill: numbers{512}, depth: numbers{128}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(w)
	f.StringVar(&s.python, "python", "", "`INTERPRETER` that has the peers; without it they are skipped")
	f.StringVar(&s.kernel, "kernel", "", "force kernel `VARIANT` of herd")
	f.StringVar(&s.out, "json", "", "add the results to `FILE`")
	f.BoolVar(&s.force, "force", false, "plot: replace a picture that is there")
	f.IntVar(&s.pairs, "pairs", 9, "measure `N` pairs")
	f.IntVar(&s.threads, "threads", 0, "`N` threads of both sides (default: physical cores)")
	f.IntVar(&s.probe, "probe", 512, "the probe of memory reads `N` MiB")
	f.Var(&s.prefill, "prefill", "tokens: prefill `N,N...` tokens, 0: not")
	f.IntVar(&s.decode, "decode", 32, "tokens, streams: decode `N` tokens; tokens: 0: not")
	f.Var(&s.depth, "depth", "tokens, streams: decode after `N,N...` tokens")
	f.IntVar(&s.atOnce, "streams", 0, "streams, arrivals, shared: `N` at once (default 16, shared 64)")
	f.IntVar(&s.prompt, "prompt", 1024, "shared: `N` tokens that the prompts have in common")
	f.IntVar(&s.requests, "requests", 200, "arrivals: `N` requests")
	f.DurationVar(&s.every, "every", 50*time.Millisecond, "arrivals: one every `D` on average")
	f.IntVar(&s.size, "size", 2048, "gemm: `N` rows and columns")
	f.DurationVar(&s.repeat, "repeat", 300*time.Millisecond, "gemm: repeat a product for `D` in a measurement")
	f.StringVar(&s.vocab, "vocab", "", "tokenize: `FILE` with the vocabulary, Llama 3's tokenizer.model")
	f.StringVar(&s.text, "text", "", "tokenize, lookup: `FILE` of text (default: the comments in Go's own source)")
	f.IntVar(&s.length, "length", 1024, "train: rows of `N` tokens, at most what the model has positions for")
	f.StringVar(&s.loraModel, "lora-model", "", "train: `FILE` in GGUF of the model that an adapter is trained on")
	f.Usage = func() {
		fmt.Fprintln(w, "usage: go run ./bench [flags] MODE ...")
		for _, m := range modes() {
			if m.does != "" {
				fmt.Fprintf(w, "  %-35s %s\n", strings.TrimSpace(m.word+" "+m.args), m.does)
			}
		}
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, mode{}, err
	}
	all := modes()
	i := slices.IndexFunc(all, func(m mode) bool { return m.word == f.Arg(0) })
	if i < 0 {
		return nil, mode{}, fmt.Errorf("mode %q is none of those that -help lists", f.Arg(0))
	}
	for rest := f.Args()[1:]; len(rest) > 0; rest = f.Args()[1:] {
		if err := f.Parse(rest); err != nil {
			return nil, mode{}, err
		}
		if f.NArg() == 0 {
			break
		}
		s.args = append(s.args, f.Arg(0))
	}
	s.mode = all[i].word
	return s, all[i], s.check()
}

// check lists every setting that is out of range.
func (s *settings) check() error {
	var errs []error
	for _, f := range []struct {
		name        string
		value, from int
	}{{"pairs", s.pairs, 1}, {"threads", s.threads, 0}, {"decode", s.decode, 0}, {"size", s.size, 1}, {"length", s.length, 2}, {"probe", s.probe, 1},
		{"streams", s.atOnce, 0}, {"prompt", s.prompt, 1}, {"requests", s.requests, 1}} {
		if f.value < f.from {
			errs = append(errs, fmt.Errorf("-%s is %d, want %d or more", f.name, f.value, f.from))
		}
	}
	if s.every < 0 {
		errs = append(errs, fmt.Errorf("-every is %v, want 0 or more", s.every))
	}
	if s.repeat <= 0 {
		errs = append(errs, fmt.Errorf("-repeat is %v, want more than 0", s.repeat))
	}
	return errors.Join(errs...)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command runs one command line.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, m, err := parse(args, stderr)
	if err != nil {
		return err
	}
	return m.run(ctx, s, stdout)
}
