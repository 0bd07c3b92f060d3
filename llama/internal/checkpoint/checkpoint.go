package checkpoint

import (
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// A Checkpoint is an opened set of model files of any format, its tensors under
// Hugging Face names and in Hugging Face row order.
type Checkpoint struct {
	Format        Format
	Path          string // for messages
	Config        Config
	Tensors       map[string]*Tensor   // by Hugging Face name
	Files         []TensorInfo         // everything in the files, as named there
	Tokenizer     *tokenizer.Tokenizer // nil where the files have none
	Sampling      *sample.Params       // from generation_config.json, or nil
	ChatTemplates map[string]string    // Jinja sources by name; the only one is chat.DefaultTemplate
	Architecture  string               // as the files name it
	Problems      []string             // found in the files; none stops loading
	Adapters      []*OpenedAdapter

	replaced map[string]string // parameters that adapters replaced, and by which file

	plainRows bool    // rows of rotated heads are in Hugging Face order, whatever the format
	eos       []int32 // beside the tokenizer's own
	closers   []io.Closer

	// For Convert: the folder or the file behind the checkpoint, the types that
	// vectors had before they were made F32, and the settings behind RoPE factors.
	dir              fs.FS
	small            map[string][]byte // files of dir that were read before, or nil
	templatesInFiles bool              // chat templates of a folder have files of their own
	gguf             *gguf.File
	vectorTypes      map[string]backend.DType // by Hugging Face name
	ropeHint         RopeScaling
}

// Find returns the tensor of a parameter, checked against the shape wanted.
func (c *Checkpoint) Find(p Parameter) (*Tensor, error) {
	t := c.Tensors[p.Name]
	if t == nil {
		return nil, Errorf(c.Path, c.fileName(p.Name), "is missing")
	}
	want := p.Shape
	if len(t.Shape) != want.Rank || t.Rows() != want.Dim[0] || want.Rank == 2 && t.Cols() != want.Dim[1] {
		return nil, Errorf(t.File, t.Name, "has shape %v, want %v", t.Shape, want)
	}
	if t.Type == backend.Invalid {
		return nil, &FileError{File: t.File, Tensor: t.Name, Err: fmt.Errorf("type %s is %w: store it as F32, F16 or BF16", t.TypeName, backend.ErrUnsupported)}
	}
	if !t.Type.Float() && !(p.Matrix() && t.Type.Quantized()) {
		return nil, &FileError{File: t.File, Tensor: t.Name, Err: fmt.Errorf("type %v here is %w", t.Type, backend.ErrUnsupported)}
	}
	return t, nil
}

// fileName is the name that the format has for a Hugging Face name.
func (c *Checkpoint) fileName(hf string) string {
	table := map[Format]*nameTable{FormatGGUF: &ggufNames, FormatMeta: &metaNames}[c.Format]
	if table == nil {
		return hf
	}
	if n, ok := table.name(hf); ok {
		return n
	}
	return hf
}

// Bytes is how much of the files loading reads, adapters too. Every parameter
// must be there: see Find.
func (c *Checkpoint) Bytes() int64 {
	var n int64
	for _, p := range Parameters(c.Config) {
		t := c.Tensors[p.Name]
		if p.Matrix() {
			n += int64(t.Rows()) * int64(t.RowBytes())
		} else {
			n += 4 * int64(t.Rows())
		}
	}
	for _, a := range c.Adapters {
		n += a.bytes()
	}
	return n
}

// add enters a tensor under its Hugging Face name. Rows of rotated heads are
// put in Hugging Face order where the format interleaves them.
func (c *Checkpoint) add(hf string, t *Tensor) {
	if heads := rotatedHeads(hf, c.Config); heads > 0 && c.Format != FormatHF && !c.plainRows && t.Rows() == heads*c.Config.HeadDim {
		hd := c.Config.HeadDim
		t.Read = permutedRows(t.Read, t.RowBytes(), func(row int) int { return interleaved(row, hd) })
	}
	c.Tensors[hf] = t
}

// StopTokens lists the tokens that end a generation, in ascending order.
func (c *Checkpoint) StopTokens() []int32 {
	ids := slices.Clone(c.eos)
	if c.Tokenizer != nil {
		ids = append(ids, c.Tokenizer.EOG()...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// CheckTokenizer compares the sizes of the vocabularies. Fewer tokens than rows
// of the embedding are common, more make some texts impossible.
func (c *Checkpoint) CheckTokenizer() {
	if c.Tokenizer != nil && c.Tokenizer.VocabSize() > c.Config.Vocab {
		c.problem("the tokenizer has %d tokens, the model only %d: text that needs the others is refused", c.Tokenizer.VocabSize(), c.Config.Vocab)
	}
}

// Close closes the files.
func (c *Checkpoint) Close() error {
	var first error
	for _, cl := range c.closers {
		if err := cl.Close(); err != nil && first == nil {
			first = err
		}
	}
	c.closers = nil
	return first
}

// problem notes an oddity of the files.
func (c *Checkpoint) problem(format string, a ...any) {
	c.Problems = append(c.Problems, fmt.Sprintf(format, a...))
}

// DropMetadata drops what only Convert needs beyond the tensors.
func (c *Checkpoint) DropMetadata() {
	if c.gguf == nil {
		return
	}
	for i, cl := range c.closers {
		if cl == io.Closer(c.gguf) {
			c.closers[i] = c.gguf.WithoutMetadata()
		}
	}
	c.gguf = nil
}
