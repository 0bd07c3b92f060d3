package optim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/safetensors"
)

// AverageOptions are the settings of Average. The zero value is the uniform mean in
// the types of the last input.
type AverageOptions struct {
	// Weights are how much each input counts: sum_i w_i m_i / sum_i w_i.
	Weights []float64
	// EMA is d of an exponential moving average e = d e + (1-d) m over the inputs in their
	// order, which starts with the first input as e. 0 is the mean by Weights.
	EMA float64
	// Type is what is written: F32, BF16 or F16. Zero keeps the type that the tensor has
	// in the last input.
	Type backend.DType
	// Progress, where set, is told the bytes read of all that there are.
	Progress func(done, total int64)
}

// Validate lists every violation for a number of inputs.
func (o AverageOptions) Validate(inputs int) error {
	var errs []error
	bad := func(wrong bool, format string, a ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf("optim: average: "+format, a...))
		}
	}
	bad(inputs < 1, "no inputs")
	bad(o.Weights != nil && len(o.Weights) != inputs, "%d weights for %d inputs", len(o.Weights), inputs)
	sum := 0.0
	for i, w := range o.Weights {
		bad(!(w >= 0) || math.IsInf(w, 0), "weight %d is %v: want 0 or more", i+1, w)
		sum += w
	}
	bad(o.Weights != nil && !(sum > 0 && !math.IsInf(sum, 0)), "the sum of the weights is %v", sum)
	bad(!(o.EMA >= 0 && o.EMA < 1), "EMA %v: want 0 to below 1", o.EMA)
	bad(o.EMA != 0 && o.Weights != nil, "weights beside an EMA")
	bad(o.Type != backend.Invalid && !o.Type.Float(), "type %v: want F32, F16 or BF16", o.Type)
	return errors.Join(errs...)
}

// Average writes the average of checkpoints of one model, as Llama 3 has it at the end of
// its training (https://arxiv.org/abs/2407.21783, sections 3.4.3 and 4.1.5). An input is
// a Hugging Face folder or a safetensors file (or the index of several) with tensors of
// F32, F16 or BF16; all must have the same names and shapes. It adds up in float64, a
// block of a tensor at a time, so that memory does not grow with the model.
//
// If out ends in .safetensors it is a file. Otherwise it is a folder, which also gets the
// config and the tokenizer of the last input, if that is a folder. It appears only when it
// is complete. Average replaces nothing: if out exists and is no empty folder, the error
// wraps fs.ErrExist.
func Average(ctx context.Context, out string, inputs []string, o AverageOptions) (err error) {
	if err := o.Validate(len(inputs)); err != nil {
		return err
	}
	single := strings.HasSuffix(out, ".safetensors")
	if _, err := os.Lstat(out); single && !errors.Is(err, fs.ErrNotExist) {
		return cmp.Or(err, error(&fs.PathError{Op: "average", Path: out, Err: fs.ErrExist}))
	}
	a := &averager{ctx: ctx, o: o}
	defer func() { err = errors.Join(err, a.close()) }()
	for _, path := range inputs {
		f, err := openInput(path)
		if err != nil {
			return err
		}
		a.files = append(a.files, f)
	}
	if err := a.compare(inputs); err != nil {
		return err
	}
	last := inputs[len(inputs)-1]
	tensors := a.sources()
	metadata := map[string]string{"format": "pt"}
	if single {
		return safetensors.WriteFile(out, tensors, metadata)
	}
	return vfs.WriteFolder(out, func(dir string) error {
		if _, err := safetensors.WriteDir(dir, tensors, metadata, 0); err != nil {
			return err
		}
		if info, err := os.Stat(last); err != nil || !info.IsDir() {
			return err
		}
		return copyBeside(dir, vfs.Dir(last), o.Type)
	})
}

// openInput opens the tensors of a folder or file.
func openInput(path string) (*safetensors.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return safetensors.Open(path)
	}
	for _, name := range []string{"model.safetensors.index.json", "model.safetensors"} {
		name = filepath.Join(path, name)
		if _, err := os.Stat(name); err == nil {
			return safetensors.Open(name)
		}
	}
	return nil, fmt.Errorf("optim: %s has neither model.safetensors nor model.safetensors.index.json", path)
}

// averager reads averages.
type averager struct {
	ctx         context.Context
	o           AverageOptions
	files       []*safetensors.File
	done, total int64 // bytes

	// Of a block: tensors are averaged one after the other.
	sums    [blockElems]float64
	values  [blockElems]float32
	encoded [4 * blockElems]byte
}

func (a *averager) close() error {
	var errs []error
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// compare returns an error where an input has other names or shapes than the last one.
func (a *averager) compare(inputs []string) error {
	last, name := a.files[len(a.files)-1], inputs[len(inputs)-1]
	var differs []string
	say := func(format string, v ...any) { differs = append(differs, fmt.Sprintf(format, v...)) }
	for i, f := range a.files {
		for _, t := range f.Tensors() {
			a.total += t.Bytes
			switch want := last.Tensor(t.Name); {
			case !t.Type.Float():
				say("%s: tensor %s is %s, want F32, F16 or BF16", inputs[i], t.Name, t.TypeName)
			case want == nil:
				say("%s: tensor %s is not in %s", inputs[i], t.Name, name)
			case !slices.Equal(t.Shape, want.Shape):
				say("%s: tensor %s is %v, in %s %v", inputs[i], t.Name, t.Shape, name, want.Shape)
			}
		}
		for _, t := range last.Tensors() {
			if f.Tensor(t.Name) == nil {
				say("%s: no tensor %s", inputs[i], t.Name)
			}
		}
	}
	if len(differs) == 0 {
		return nil
	}
	return &MismatchError{differs}
}

// MismatchError says how the inputs of Average differ.
type MismatchError struct{ Differs []string }

func (e *MismatchError) Error() string {
	return "optim: the inputs cannot be averaged: " + listed(e.Differs)
}

// sources lists the averages, in the order of the last input.
func (a *averager) sources() []safetensors.Source {
	var list []safetensors.Source
	for _, t := range a.files[len(a.files)-1].Tensors() {
		r := &averaged{a: a, out: a.o.Type}
		if r.out == backend.Invalid {
			r.out = t.Type
		}
		for _, f := range a.files {
			r.in = append(r.in, f.Tensor(t.Name))
		}
		list = append(list, safetensors.Source{Name: t.Name, Type: r.out, Shape: t.Shape, Data: r})
	}
	return list
}

// averaged reads the average of a tensor. It serves one goroutine.
type averaged struct {
	a   *averager
	in  []*safetensors.Tensor
	out backend.DType
	blockReader
}

// ReadAt implements io.ReaderAt.
func (r *averaged) ReadAt(p []byte, off int64) (int, error) {
	width := r.out.BlockBytes()
	total := int(r.in[0].Bytes) / r.in[0].Type.BlockBytes()
	return r.read(p, off, width, total, r.fill)
}

// fill averages n numbers from one on.
func (r *averaged) fill(raw []byte, from, n int) error {
	if err := ctxerr.Of(r.a.ctx); err != nil {
		return err
	}
	sums, values := r.a.sums[:n], r.a.values[:n]
	clear(sums)
	o, total := &r.a.o, 0.0
	for i, t := range r.in {
		size := int64(t.Type.BlockBytes())
		part := r.a.encoded[:int64(n)*size]
		if _, err := t.ReadAt(part, int64(from)*size); err != nil && err != io.EOF {
			return err
		}
		block.Decode(t.Type, values, part)
		keep, weight := 1.0, 1.0
		switch {
		case o.EMA != 0 && i > 0:
			keep, weight = o.EMA, 1-o.EMA
		case o.Weights != nil:
			weight = o.Weights[i]
		}
		total = keep*total + weight
		for j, v := range values {
			sums[j] = float64(keep*sums[j]) + float64(weight*float64(v))
		}
		if r.a.done += int64(len(part)); o.Progress != nil {
			o.Progress(r.a.done, r.a.total)
		}
	}
	for j, s := range sums {
		values[j] = float32(s / total)
	}
	block.Encode(r.out, raw, values)
	return nil
}

// copied are the files of a folder that are copied: what the model is and its
// vocabulary.
var copied = []string{
	"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
	"added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
}

// dtypeOf is where config.json says what the tensors are stored as.
var dtypeOf = regexp.MustCompile(`("(?:torch_)?dtype"\s*:\s*)"[^"\\]*"`)

// copyBeside copies the files beside the tensors. config.json tells the new type.
func copyBeside(dir string, from fs.FS, t backend.DType) error {
	const limit = 1 << 30
	torch := map[backend.DType]string{backend.F32: "float32", backend.F16: "float16", backend.BF16: "bfloat16"}[t]
	for _, name := range copied {
		b, err := vfs.ReadFile(from, name, limit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if name == "config.json" && torch != "" {
			b = dtypeOf.ReplaceAll(b, []byte(`${1}"`+torch+`"`))
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}
