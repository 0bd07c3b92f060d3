package main

// What the modes of measuring share: probes, peers, results, fresh processes.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
)

// A harness is one run of measurements.
type harness struct {
	*settings
	w     io.Writer
	b     *cpu.Backend
	probe *cpu.Probe // nil on the generic kernel, which has none
	file  *report
	run   *run // the last of the file's
}

// measuring wraps a mode that adds results.
func measuring(do func(*harness, context.Context) error) func(context.Context, *settings, io.Writer) error {
	return func(ctx context.Context, s *settings, w io.Writer) error {
		h := &harness{settings: s, w: w, file: &report{}}
		if s.out != "" {
			var err error
			if h.file, err = readReport(s.out); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err // not after an hour of measuring
			}
		}
		var err error
		if h.b, err = cpu.New(cpu.Options{Workers: s.threads, Variant: s.kernel}); err != nil {
			return err
		}
		defer h.b.Close()
		h.probe, err = h.b.NewProbe(int64(s.probe) << 20)
		switch {
		case err == nil:
			defer h.probe.Close()
		case errors.Is(err, backend.ErrUnsupported):
			fmt.Fprintln(w, "no probe on this kernel: pairs are not checked, and shares are not known")
		default:
			return err
		}
		d := h.b.Describe()
		h.file.Runs = append(h.file.Runs, run{
			CPU: d.CPU, Kernel: d.Variant, Workers: d.Workers, Go: runtime.Version(),
			OS: runtime.GOOS + "/" + runtime.GOARCH, Time: time.Now().UTC().Truncate(time.Second),
		})
		h.run = &h.file.Runs[len(h.file.Runs)-1]
		fmt.Fprintf(w, "%s\n\n%s\n", h.run.title(), header)
		return do(h, ctx)
	}
}

// add prints a result and saves all, so that a run that is stopped keeps what it
// has.
func (h *harness) add(r result) error {
	fmt.Fprintln(h.w, r.row())
	h.run.Results = append(h.run.Results, r)
	if h.out == "" {
		return nil
	}
	return h.file.write(h.out)
}

// beside is the probe of a comparison. peak chooses among the peaks; nil is none.
func (h *harness) beside(peak func(cpu.Limits) float64) probe {
	if h.probe == nil {
		return nil
	}
	return func(ctx context.Context) (ceiling, error) {
		l, err := h.probe.Limits(ctx)
		c := ceiling{read: l.ReadBytes}
		if peak != nil {
			c.peak = peak(l)
		}
		return c, err
	}
}

// peak returns what the processor's units do at most in a product with weights of
// type t, and its name.
func (h *harness) peak(t backend.DType) (peak func(cpu.Limits) float64, name string) {
	switch h.b.Rounding(t) {
	case backend.RoundNone:
		return func(l cpu.Limits) float64 { return l.F32 }, "float32"
	case backend.RoundToBF16:
		return func(l cpu.Limits) float64 { return l.BF16 }, "bf16"
	}
	return func(l cpu.Limits) float64 { return l.Int8 }, "int8"
}

// peer starts a peer's script. A peer that is not there is nil, and the run says so.
func (h *harness) peer(ctx context.Context, name, script string, args ...string) (*peer, error) {
	if h.python == "" {
		fmt.Fprintf(h.w, "%s is skipped: -python names no interpreter that has it\n", name)
		return nil, nil
	}
	p, err := startPeer(ctx, h.python, script, args...)
	if missing := (*missingError)(nil); errors.As(err, &missing) {
		fmt.Fprintf(h.w, "%s is skipped: %v\n", name, err)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// llamaCpp starts llama.cpp and has it open a file, for so many sequences (0 is its default)
// with room positions in all. It is nil where it is not installed.
func (h *harness) llamaCpp(ctx context.Context, path string, room, sequences int) (*peer, error) {
	p, err := h.peer(ctx, "llama.cpp", "llamacpp.py")
	if p == nil || err != nil {
		return nil, err
	}
	if _, err := p.ask(loading{"open", path, h.run.Workers, room, nil, sequences}); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// itself runs the harness in a fresh process and reads the JSON that it prints.
func (h *harness) itself(ctx context.Context, word, path string, answer any) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, "-threads", strconv.Itoa(h.run.Workers), "-kernel", h.kernel, word, path)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", word, err)
	}
	return json.Unmarshal(out, answer)
}

// once wraps what runs in such a process.
func once(do func(ctx context.Context, b *cpu.Backend, path string) (any, error)) func(context.Context, *settings, io.Writer) error {
	return func(ctx context.Context, s *settings, w io.Writer) error {
		if len(s.args) != 1 {
			return fmt.Errorf("%s takes one file", s.mode)
		}
		b, err := cpu.New(cpu.Options{Workers: s.threads, Variant: s.kernel})
		if err != nil {
			return err
		}
		defer b.Close()
		answer, err := do(ctx, b, s.args[0])
		if err != nil {
			return err
		}
		return json.NewEncoder(w).Encode(answer)
	}
}

// models returns the arguments, of which there must be some.
func (h *harness) models() ([]string, error) {
	if len(h.args) == 0 {
		return nil, fmt.Errorf("%s: give models; see -help", h.mode)
	}
	return h.args, nil
}

// each calls f for each of the models, until one fails.
func (h *harness) each(f func(path string) error) error {
	models, err := h.models()
	if err != nil {
		return err
	}
	for _, path := range models {
		if err := f(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// fileName is how results name a file.
func fileName(path string) string { return filepath.Base(path) }
