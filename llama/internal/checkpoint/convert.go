package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/quantize"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// ConvertOptions are the settings of Convert.
type ConvertOptions struct {
	// To is "gguf", "safetensors" or "meta".
	To string
	// Type is what matrices and, outside GGUF, vectors are stored as: F32, F16 or
	// BF16. Zero keeps the file's type; quantised matrices become F32.
	Type backend.DType
	// Adapters are merged into the matrices, in this order.
	Adapters []Adapter
	// Replace lets a .gguf file that is there be replaced. One that is read never is.
	Replace bool
	// Base is the model that an adapter is of, which is what Convert is given: it is
	// written as a GGUF file or as PEFT's folder, to be used with that model's kind.
	Base string
	// Progress is told how it goes.
	Progress func(Progress)
}

// Validate lists every violation.
func (o ConvertOptions) Validate() error {
	var errs []error
	switch Format(o.To) {
	case FormatGGUF, FormatHF, FormatMeta:
	default:
		errs = append(errs, fmt.Errorf("llama: convert to %q: want gguf, safetensors or meta", o.To))
	}
	if o.Type != backend.Invalid && !o.Type.Float() {
		errs = append(errs, fmt.Errorf("llama: convert to type %v: want F32, F16 or BF16", o.Type))
	}
	return errors.Join(append(errs, ValidateAdapters(o.Adapters)...)...)
}

// ConvertReport says what was written.
type ConvertReport struct {
	Tensors  []TensorInfo
	Warnings []string     // what the target cannot say
	Merged   []MergeError // of each matrix that adapters were merged into
}

// Convert writes a model in another format: a .gguf file, a Hugging Face folder
// or a Meta folder. Float tensors keep every value
// and their type, unless Type says otherwise; in GGUF, where vectors are F32,
// their type travels in metadata and comes back. Quantised tensors are decoded
// exactly. Matrices that have adapters are merged in float64. A file or folder appears
// only when it is complete. Where there is one already the error is fs.ErrExist, unless
// the folder is empty or Replace allows to replace the file.
func Convert(ctx context.Context, in, out string, o ConvertOptions) (ConvertReport, error) {
	if err := o.Validate(); err != nil {
		return ConvertReport{}, err
	}
	out = filepath.Clean(out) // a slash after a folder that is not there yet would be in the way
	if err := checkTarget(in, out, o); err != nil {
		return ConvertReport{}, err
	}
	if adapterAt(in) {
		return convertAdapter(ctx, in, out, o)
	}
	v, err := openConverter(ctx, in, o)
	if err != nil {
		return ConvertReport{}, err
	}
	defer v.c.Close()
	if o.To == string(FormatGGUF) {
		err = v.writeGGUF(out)
	} else {
		err = vfs.WriteFolder(out, func(dir string) error {
			if o.To == string(FormatMeta) {
				return v.writeMeta(dir)
			}
			return v.writeHF(dir)
		})
	}
	return v.report, err
}

// converter writes one checkpoint.
type converter struct {
	ctx      context.Context
	c        *Checkpoint
	o        ConvertOptions
	plan     *plan // of Quantize, or nil
	block    convertBlock
	progress Meter
	report   ConvertReport
}

// openConverter opens a model that has all its tensors. The caller closes it.
func openConverter(ctx context.Context, in string, o ConvertOptions) (*converter, error) {
	c, err := Open(ctx, in)
	if err != nil {
		return nil, err
	}
	v := &converter{ctx: ctx, c: c, o: o}
	if err := v.prepare(); err != nil {
		c.Close()
		return nil, err
	}
	return v, nil
}

// prepare opens the adapters and looks for every tensor.
func (v *converter) prepare() error {
	known := len(v.c.Problems)
	if err := v.c.OpenAdapters(v.o.Adapters); err != nil {
		return err
	}
	if err := v.c.prepareMerge(); err != nil {
		return err
	}
	for _, p := range Parameters(v.c.Config) {
		if _, err := v.c.Find(p); err != nil {
			return err
		}
	}
	v.report.Warnings = append(v.report.Warnings, v.c.Problems[known:]...)
	v.progress.Total = v.c.Bytes()
	v.progress.Told = v.o.Progress
	return nil
}

func (v *converter) warn(format string, a ...any) {
	v.report.Warnings = append(v.report.Warnings, fmt.Sprintf(format, a...))
}

// outType is the type a tensor is stored as.
func (v *converter) outType(p Parameter, t *Tensor) backend.DType {
	if !p.Matrix() && v.o.To == string(FormatGGUF) {
		return backend.F32
	}
	switch {
	case v.plan != nil:
		return v.plan.types[p.Name]
	case v.o.Type != backend.Invalid:
		return v.o.Type
	case !t.Type.Float():
		return backend.F32
	case !p.Matrix() && v.c.vectorTypes[p.Name] != backend.Invalid:
		return v.c.vectorTypes[p.Name]
	}
	return t.Type
}

// output is one tensor as it is written.
type output struct {
	name  string
	hf    string
	dtype backend.DType
	shape []int
	data  *converted
}

// outputs lists the tensors under the target's names and in its row order.
func (v *converter) outputs() ([]output, error) {
	names := map[string]*nameTable{string(FormatGGUF): &ggufNames, string(FormatMeta): &metaNames}[v.o.To]
	var list []output
	for _, p := range Parameters(v.c.Config) {
		t, err := v.c.Find(p)
		if err != nil {
			return nil, err
		}
		out := output{name: p.Name, hf: p.Name, dtype: v.outType(p, t), shape: t.Shape}
		out.data = &converted{v: v, t: t, out: out.dtype, merge: v.c.mergeOf(p.Name, t.Shape)}
		if v.plan != nil {
			out.data.measured, out.data.importance = &quantize.Errors{}, v.plan.importance[p.Name]
		}
		if names != nil {
			var ok bool
			if out.name, ok = names.name(p.Name); !ok {
				return nil, &FileError{File: v.c.Path, Tensor: t.Name, Err: fmt.Errorf("%w in the %s format", backend.ErrUnsupported, v.o.To)}
			}
			if rotatedHeads(p.Name, v.c.Config) > 0 {
				hd := v.c.Config.HeadDim
				out.data.order = func(row int) int { return halved(row, hd) }
			}
		}
		size, err := out.dtype.RowBytes(int64(t.Cols()))
		if err != nil {
			return nil, err
		}
		v.report.Tensors = append(v.report.Tensors, TensorInfo{out.name, out.dtype, out.shape, int64(t.Rows()) * size})
		list = append(list, out)
	}
	return list, nil
}

// vocabulary writes the tokenizer by way of an export. What the target cannot
// express is a warning, not a failure.
func (v *converter) vocabulary(what string, export func(*tokenizer.Tokenizer) ([]byte, error), write func([]byte) error) error {
	if v.c.Tokenizer == nil {
		v.warn("no %s is written: the source has no tokenizer", what)
		return nil
	}
	b, err := export(v.c.Tokenizer)
	switch {
	case errors.Is(err, tokenizer.ErrInexact):
		v.warn("%v", err)
	case errors.Is(err, tokenizer.ErrInexpressible):
		v.warn("no %s is written: %v", what, err)
		return nil
	case err != nil:
		return err
	}
	return write(b)
}

// copyFiles copies the source folder's files that exist.
func (v *converter) copyFiles(dir string, names ...string) error {
	for _, name := range names {
		b, err := v.c.small[name], error(nil)
		if v.c.small == nil {
			b, err = fs.ReadFile(v.c.dir, name)
		} else if b == nil {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = vfs.WriteBytes(filepath.Join(dir, name), b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// shortest is x without the digits that float32 storage adds: 1e-05 and not
// 9.999999747378752e-06.
func shortest(x float64) float64 {
	var y float64
	if _, err := fmt.Sscan(fmt.Sprint(float32(x)), &y); err != nil || float32(y) != float32(x) || float64(float32(x)) != x {
		return x
	}
	return y
}
