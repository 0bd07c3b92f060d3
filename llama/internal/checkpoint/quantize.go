package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/quantize"
)

// QuantizeOptions are the settings of Quantize.
type QuantizeOptions struct {
	quantize.Rules
	// Imatrix says which columns matter, or is nil.
	Imatrix *quantize.Imatrix
	// AllowRequantize takes a model that is quantised already, whose errors add up.
	AllowRequantize bool
	// Replace lets a file that is there be replaced. One that is read never is.
	Replace bool
	// Workers bounds the goroutines that encode; 0 is one for each processor.
	Workers int
	// Progress is told how it goes.
	Progress func(Progress)
}

// QuantizeReport says what was written.
type QuantizeReport struct {
	Tensors  []QuantizedTensor
	Warnings []string // what the file cannot say
	Resumed  int      // tensors that a run before, which did not finish, had written
}

// QuantizedTensor is a tensor before and after.
type QuantizedTensor struct {
	Name          string
	Shape         []int // rows first
	Before, After backend.DType
	BytesBefore   int64
	Bytes         int64
	quantize.Fidelity
}

// ErrQuantized is wrapped by the error of Quantize of a model that is quantised.
var ErrQuantized = errors.New("the model is quantised already, and doing it again adds to the errors")

// plan is what Quantize wants of a converter.
type plan struct {
	types      map[string]backend.DType // by Hugging Face name
	importance map[string][]float32     // of columns
	keys       []ggufKey
	workers    int // 0 is one for each processor
}

// quantizationVersion is the version of the block types' layouts, general.quantization_version.
const quantizationVersion = 2

// Quantize writes a model as a .gguf file with other types of matrices. It reads some rows
// at a time. A run that ends before leaves OUT.partial, and one with the same settings
// goes on from there.
func Quantize(ctx context.Context, in, out string, o QuantizeOptions) (QuantizeReport, error) {
	if err := o.Validate(); err != nil {
		return QuantizeReport{}, err
	}
	out = filepath.Clean(out)
	co := ConvertOptions{To: string(FormatGGUF), Replace: o.Replace, Progress: o.Progress}
	if err := checkTarget(in, out, co); err != nil {
		return QuantizeReport{}, err
	}
	v, err := openConverter(ctx, in, co)
	if err != nil {
		return QuantizeReport{}, err
	}
	defer v.c.Close()
	if v.plan, err = v.c.planned(o); err != nil {
		return QuantizeReport{}, err
	}
	w, list, err := v.ggufWriter()
	if err != nil {
		return QuantizeReport{}, err
	}
	q := &quantizer{converter: v, w: w, list: list}
	err = q.write(in, out)
	return q.result(), err
}

// planned chooses the types.
func (c *Checkpoint) planned(o QuantizeOptions) (*plan, error) {
	p := &plan{types: map[string]backend.DType{}, importance: map[string][]float32{}, workers: max(o.Workers, 0)}
	m := quantize.Model{Layers: c.Config.Layers, Heads: c.Config.Heads, KVHeads: c.Config.KVHeads, Tied: c.Config.TiedEmbeddings, Importance: o.Imatrix != nil}
	var names []string // Hugging Face's
	var matrices []quantize.Matrix
	for _, param := range Parameters(c.Config) {
		t := c.Tensors[param.Name]
		if !param.Matrix() {
			continue
		}
		if t.Type.Quantized() && !o.AllowRequantize {
			return nil, &FileError{File: t.File, Tensor: t.Name, Reason: fmt.Sprintf("is %v", t.Type), Err: ErrQuantized}
		}
		name, _ := ggufNames.name(param.Name)
		names, matrices = append(names, param.Name), append(matrices, quantize.Matrix{Name: name, Cols: t.Cols()})
	}
	types, err := o.Types(m, matrices)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		p.types[name] = types[i]
	}
	p.keys = []ggufKey{{"general.file_type", o.Mix.FileType()}, {"general.quantization_version", uint32(quantizationVersion)}}
	if o.Imatrix == nil {
		return p, nil
	}
	means, err := o.Imatrix.Importance(matrices, types)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		p.importance[name] = means[i]
	}
	p.keys = append(p.keys, ggufKey{"quantize.imatrix.dataset", strings.Join(o.Imatrix.Datasets, ", ")},
		ggufKey{"quantize.imatrix.entries_count", int32(len(o.Imatrix.Entries))},
		ggufKey{"quantize.imatrix.chunks_count", int32(o.Imatrix.Chunks)})
	return p, nil
}

// quantizer writes one file.
type quantizer struct {
	*converter
	w       *gguf.Writer
	list    []output // the last tensors of w
	resumed int
}

// write writes the file piece by piece, each a tensor.
func (q *quantizer) write(in, out string) error {
	key, err := q.key(in, out)
	if err != nil {
		return err
	}
	fail := func(err error) error { return &FileError{File: out, Reason: "cannot be written", Err: err} }
	p, err := vfs.OpenPartial(out, key)
	if err != nil {
		return fail(err)
	}
	before := q.w.Len() - len(q.list) // tensors that are not in the list
	n, err := q.resume(p, before)
	if err == nil {
		_, err = q.w.WriteRest(p, n, func(i int) error {
			if i < before {
				return p.Commit(nil)
			}
			return p.Commit(q.list[i-before].data.measured)
		})
	}
	switch {
	case err == nil:
		if err := p.Finish(); err != nil {
			return fail(errors.Join(err, p.Remove()))
		}
		return nil
	case ctxerr.Of(q.ctx) != nil:
		return errors.Join(err, p.Close()) // to go on later
	}
	if ge := (*gguf.Error)(nil); errors.As(err, &ge) {
		var fe *FileError
		if errors.As(ge.Err, &fe) { // of what is read
			err = fe
		} else {
			ge.File = out
		}
	}
	return errors.Join(err, p.Remove())
}

// resume takes what a run before has written, and returns how many tensors that are.
func (q *quantizer) resume(p *vfs.Partial, before int) (n int, err error) {
	n = len(p.Pieces)
	for i := before; i < n; i++ {
		t := q.list[i-before]
		if err := jsontext.Unmarshal(p.Pieces[i].Note, t.data.measured); err != nil {
			return 0, err
		}
		q.progress.Add(int64(t.data.t.Rows()) * int64(t.data.t.RowBytes()))
		q.resumed++
	}
	return n, nil
}

// key is the digest of all that the file is made of, its content aside: the files that are
// read are told apart by size and time. out may lie in the folder that is read.
func (q *quantizer) key(in, out string) (string, error) {
	head, err := q.w.Header()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "herd quantize 2\n%d\n", len(head))
	h.Write(head)
	for file, info := range filesOf(in) {
		if info.IsDir() || filepath.Base(filepath.Dir(file)) == filepath.Base(out)+vfs.PartialSuffix {
			continue
		}
		fmt.Fprintf(h, "%q %d %d\n", file, info.Size(), info.ModTime().UnixNano())
	}
	for _, t := range q.list {
		fmt.Fprintf(h, "%q %d\n", t.name, len(t.data.importance))
		binary.Write(h, binary.LittleEndian, t.data.importance)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// result is the report of the tensors written.
func (q *quantizer) result() QuantizeReport {
	r := QuantizeReport{Warnings: q.report.Warnings, Resumed: q.resumed}
	for i, t := range q.list {
		r.Tensors = append(r.Tensors, QuantizedTensor{
			Name: t.name, Shape: slices.Clone(t.shape), Before: t.data.t.Type, After: t.dtype,
			BytesBefore: int64(t.data.t.Rows()) * int64(t.data.t.RowBytes()), Bytes: q.report.Tensors[i].Bytes,
			Fidelity: t.data.measured.Fidelity(),
		})
	}
	return r
}
