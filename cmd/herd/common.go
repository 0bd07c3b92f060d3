package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
)

// common are the flags that every command has.
type common struct {
	json      bool
	quiet     bool
	threads   int
	kernel    string
	precision string
}

// kernels are the variants that can be named.
var kernels = []string{"generic", "avx2", "avx512", "amx"}

func (c *common) add(f *pflag.FlagSet) {
	f.BoolVar(&c.json, "json", false, "print JSON")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "no progress")
	f.IntVarP(&c.threads, "threads", "t", 0, "`N` workers (default: physical cores)")
	f.StringVar(&c.kernel, "kernel", "", "force kernel `VARIANT`: generic, avx2, avx512 or amx")
	f.StringVar(&c.precision, "precision", "", "`P` is auto (may round activations) or f32 (never does) (default auto, and f32 with --kernel generic)")
}

// check refuses values that no command understands.
func (c *common) check(cmd *cobra.Command) error {
	switch {
	case c.threads < 0:
		return usagef("-t is %d, want 1 or more, or 0 for the default", c.threads)
	case c.kernel != "" && !slices.Contains(kernels, c.kernel):
		return usagef("--kernel is %q, want one of %s", c.kernel, strings.Join(kernels, ", "))
	case c.precision != "" && c.precision != "auto" && c.precision != "f32":
		return usagef("--precision is %q, want auto or f32", c.precision)
	}
	if c.kernel == "" {
		return nil
	}
	if here := variants(); !slices.Contains(here, c.kernel) {
		return fmt.Errorf("--kernel %s does not run here: %s do", c.kernel, strings.Join(here, ", "))
	}
	return nil
}

// newBackend makes what runs a model, as the flags say.
func (c *common) newBackend() (*cpu.Backend, error) {
	b, err := cpu.New(cpu.Options{Workers: c.threads, Variant: c.kernel})
	if err != nil { // the kernel has been checked
		return nil, fmt.Errorf("-t: %s", strings.TrimPrefix(err.Error(), "cpu: "))
	}
	return b, nil
}

// variants are the kernels that run here.
func variants() (names []string) {
	for _, name := range kernels {
		if b, err := cpu.New(cpu.Options{Workers: 1, Variant: name}); err == nil {
			b.Close()
			names = append(names, name)
		}
	}
	return names
}

func (c *common) resolvedPrecision() llama.Precision {
	if c.precision == "f32" || c.precision == "" && c.kernel == "generic" {
		return llama.PrecisionF32
	}
	return llama.PrecisionAuto
}

// addModel adds -m.
func addModel(f *pflag.FlagSet, model *string) {
	f.StringVarP(model, "model", "m", "", "`MODEL`: a .gguf file, a Hugging Face folder or a Meta folder")
}

var errNoModel = errors.New("no model: give -m MODEL, a .gguf file, a Hugging Face folder or a Meta folder (there is no default model yet)")

// model is a loaded model and what runs it.
type model struct {
	*llama.Model
	backend *cpu.Backend
	draft   *llama.Model // that guesses for it, or nil
}

// close frees the memory of all.
func (m *model) close() {
	m.Model.Close()
	if m.draft != nil {
		m.draft.Close()
	}
	m.backend.Close()
}

// load makes a model with a backend as the flags say, showing progress. open
// is llama.Open or the like.
func (c *common) load(cmd *cobra.Command, o llama.Options, open func(llama.Options) (*llama.Model, error)) (*model, error) {
	b, err := c.newBackend()
	if err != nil {
		return nil, err
	}
	m, err := c.loadOn(cmd, b, o, open)
	if err != nil {
		b.Close()
		return nil, err
	}
	if trained := m.Config().Context; o.Context > trained {
		c.note(cmd, "a context of %d is more than the %d positions the model was trained for", o.Context, trained)
	}
	return &model{Model: m, backend: b}, nil
}

// loadOn makes a model on a backend, showing progress and warnings.
func (c *common) loadOn(cmd *cobra.Command, b *cpu.Backend, o llama.Options, open func(llama.Options) (*llama.Model, error)) (*llama.Model, error) {
	bar := c.bar(cmd, "loading", true)
	o.Backend, o.Precision = b, c.resolvedPrecision()
	o.Progress = bar.show
	m, err := open(o)
	bar.stop()
	if err != nil {
		return nil, err
	}
	for _, w := range m.Warnings() {
		c.note(cmd, "%s", w)
	}
	return m, nil
}

// open loads the model at a path.
func (c *common) open(cmd *cobra.Command, path string, o llama.Options) (*model, error) {
	if path == "" {
		return nil, errNoModel
	}
	return c.load(cmd, o, func(o llama.Options) (*llama.Model, error) { return llama.Open(cmd.Context(), path, o) })
}

// note prints a message beside the results.
func (c *common) note(cmd *cobra.Command, format string, a ...any) {
	if !c.quiet {
		fmt.Fprintln(cmd.ErrOrStderr(), oneLine(fmt.Sprintf(format, a...)))
	}
}

// warn prints what a written file cannot say, with -q too: it may differ from the one read.
func warn(cmd *cobra.Command, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), oneLine(w))
	}
}

// errExists is the error of a command whose file to write is there.
func errExists(out string) error {
	return fmt.Errorf("%s: exists: name another file, or replace it with --force", out)
}

// parseKVType reads --kv-type.
func parseKVType(s string) (backend.DType, error) {
	switch strings.ToLower(s) {
	case "":
		return backend.Invalid, nil
	case "f32":
		return backend.F32, nil
	case "f16":
		return backend.F16, nil
	case "bf16":
		return backend.BF16, nil
	case "q8_0":
		return backend.Q8_0, nil
	}
	return backend.Invalid, usagef("--kv-type is %q, want f32, f16, bf16 or q8_0", s)
}

// checkRange refuses a number that is too small, or that no model can have.
func checkRange(flag string, n, least int) error {
	if n < least || n > math.MaxInt32 {
		return usagef("%s is %d, want %d to %d", flag, n, least, math.MaxInt32)
	}
	return nil
}
