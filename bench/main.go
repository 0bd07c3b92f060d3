package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
)

// settings are the flags.
type settings struct {
	python, kernel, out   string
	pairs, threads        int
	prefill, decode, from int
	models                []string
}

// report is what -json writes.
type report struct {
	CPU     string   `json:"cpu"`
	Kernel  string   `json:"kernel"`
	Workers int      `json:"workers"`
	Go      string   `json:"go"`
	Results []result `json:"results"`
}

func main() {
	var s settings
	flag.StringVar(&s.python, "python", "", "`INTERPRETER` that has llama_cpp, built for this processor")
	flag.StringVar(&s.kernel, "kernel", "", "force kernel `VARIANT` of herd")
	flag.StringVar(&s.out, "json", "", "write results to `FILE` too")
	flag.IntVar(&s.pairs, "pairs", 9, "measure `N` pairs")
	flag.IntVar(&s.threads, "threads", 0, "`N` threads of both sides (default: physical cores)")
	flag.IntVar(&s.prefill, "prefill", 512, "prefill `N` tokens, 0: not")
	flag.IntVar(&s.decode, "decode", 32, "decode `N` tokens, 0: not")
	flag.IntVar(&s.from, "depth", 128, "decode after `N` tokens")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: go run ./bench [flags] MODEL.gguf...")
		flag.PrintDefaults()
	}
	flag.Parse()
	s.models = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := s.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (s *settings) run(ctx context.Context) error {
	if len(s.models) == 0 || s.pairs < 1 || s.prefill < 0 || s.decode < 0 || s.from < 0 {
		return fmt.Errorf("give models, at least one pair and no negative numbers; see -help")
	}
	b, err := cpu.New(cpu.Options{Workers: s.threads, Variant: s.kernel})
	if err != nil {
		return err
	}
	defer b.Close()
	d := b.Describe()
	r := report{CPU: d.CPU, Kernel: d.Variant, Workers: d.Workers, Go: runtime.Version()}
	if s.python == "" {
		fmt.Println("llama.cpp is skipped: -python names no interpreter that has it")
	}
	fmt.Printf("%s, kernel %s, %d threads\n\n%s\n", r.CPU, r.Kernel, r.Workers, header)
	for _, m := range s.models {
		results, err := s.model(ctx, b, m, r.Workers)
		r.Results = append(r.Results, results...)
		if err != nil {
			return fmt.Errorf("%s: %w", m, err)
		}
	}
	if s.out == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.out, append(text, '\n'), 0o644)
}

const header = `| model | what | herd / llama.cpp, median (quartiles) | share of read bandwidth |
|---|---|---|---|`

// model compares on one file and prints a line for each comparison.
func (s *settings) model(ctx context.Context, b backend.Backend, path string, threads int) (results []result, err error) {
	room := max(s.prefill, s.from+s.decode, 16)
	h, err := openHerd(ctx, path, llama.Options{Backend: b, Context: room})
	if err != nil {
		return nil, err
	}
	defer h.close()
	var other side
	if s.python != "" {
		p, err := startLlamaCpp(ctx, s.python, path, threads, room+64)
		if err != nil {
			return nil, err
		}
		defer p.close()
		other = p
	}
	probe, err := b.(*cpu.Backend).NewProbe(512 << 20)
	if err != nil {
		return nil, err
	}
	defer probe.Close()
	for _, r := range []request{{"prefill", s.prefill, 0}, {"decode", s.decode, s.from}} {
		if r.N == 0 {
			continue
		}
		res, err := compare(ctx, h, other, probe.Read, r, s.pairs, h.m.Memory().Weights)
		if err != nil {
			return results, err
		}
		res.Model = filepath.Base(path)
		results = append(results, res)
		fmt.Println(res.line())
	}
	return results, nil
}

// line is a row of the table.
func (r result) line() string {
	ratio, share := "not installed", ""
	if r.Ratio != nil {
		ratio = fmt.Sprintf("%.2f (%.2f to %.2f)", r.Ratio.Median, r.Ratio.Low, r.Ratio.High)
	}
	if r.Share != nil {
		share = fmt.Sprintf("%.0f %% of %.0f GB/s", 100*r.Share.Median, r.Read)
	}
	what := fmt.Sprintf("%s %d", r.What.What, r.What.N)
	if r.What.Depth > 0 {
		what += fmt.Sprintf(" at %d", r.What.Depth)
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", r.Model, what, ratio, share)
}
