package llama

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/pth"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// checkpoint is an opened set of model files of any format, its tensors under
// Hugging Face names and in Hugging Face row order.
type checkpoint struct {
	format   format
	path     string
	config   Config
	tensors  map[string]*fileTensor // by Hugging Face name
	files    []TensorInfo           // everything in the files, as named there
	tok      *tokenizer.Tokenizer   // nil where the files have none
	eos      []int32                // beside the tokenizer's own
	sampling *sample.Params         // from generation_config.json, or nil
	chat     string                 // the chat template, or empty
	arch     string                 // as the files name it
	problems []string
	closers  []io.Closer
	adapters []*opened

	// For Convert: the folder or the file behind the checkpoint, the types that
	// vectors had before they were made F32, and the settings behind RoPE factors.
	dir         fs.FS
	small       map[string][]byte // files of dir that were read before, or nil
	gguf        *gguf.File
	vectorTypes map[string]backend.DType // by Hugging Face name
	ropeHint    RopeScaling
}

// fileTensor is a tensor of a checkpoint.
type fileTensor struct {
	file  string // for messages
	name  string // in the file
	dtype backend.DType
	shape []int // [n] or [rows, cols]
	// read fills dst with rows [row, row+n) in the type's encoding; a vector has
	// rows of one element. Safe for concurrent use.
	read func(dst []byte, row, n int) error
}

func (t *fileTensor) rows() int { return t.shape[0] }

func (t *fileTensor) cols() int {
	if len(t.shape) == 1 {
		return 1
	}
	return t.shape[1]
}

// rowBytes is the size of a row; the file's reader has checked that it exists.
func (t *fileTensor) rowBytes() int {
	n, err := t.dtype.RowBytes(int64(t.cols()))
	if err != nil {
		return 0
	}
	return int(n)
}

// plainRows reads rows that lie in the order wanted.
func plainRows(r io.ReaderAt, rowBytes int) func([]byte, int, int) error {
	return func(dst []byte, row, n int) error {
		return readFull(r, dst[:n*rowBytes], int64(row)*int64(rowBytes))
	}
}

// permutedRows reads row order(i) for row i.
func permutedRows(read func([]byte, int, int) error, rowBytes int, order func(int) int) func([]byte, int, int) error {
	return func(dst []byte, row, n int) error {
		for i := range n {
			if err := read(dst[i*rowBytes:(i+1)*rowBytes], order(row+i), 1); err != nil {
				return err
			}
		}
		return nil
	}
}

// readFull is ReadAt for readers that may report io.EOF with the last byte.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// add enters a tensor under its Hugging Face name. Rows of rotated heads are
// put in Hugging Face order where the format interleaves them.
func (c *checkpoint) add(hf string, t *fileTensor) {
	if heads := rotatedHeads(hf, c.config); heads > 0 && c.format != formatHF && t.rows() == heads*c.config.HeadDim {
		hd := c.config.HeadDim
		t.read = permutedRows(t.read, t.rowBytes(), func(row int) int { return interleaved(row, hd) })
	}
	c.tensors[hf] = t
}

// stop lists the tokens that end a generation, in ascending order.
func (c *checkpoint) stop() []int32 {
	ids := slices.Clone(c.eos)
	if c.tok != nil {
		ids = append(ids, c.tok.EOG()...)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// checkTokenizer compares the sizes of the vocabularies. Fewer tokens than rows
// of the embedding are common, more make some texts impossible.
func (c *checkpoint) checkTokenizer() {
	if c.tok != nil && c.tok.VocabSize() > c.config.Vocab {
		c.problem("the tokenizer has %d tokens, the model only %d: text that needs the others is refused", c.tok.VocabSize(), c.config.Vocab)
	}
}

func (c *checkpoint) close() error {
	var first error
	for _, cl := range c.closers {
		if err := cl.Close(); err != nil && first == nil {
			first = err
		}
	}
	c.closers = nil
	return first
}

// forget drops what only Convert needs beyond the tensors.
func (c *checkpoint) forget() {
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

// saveable makes a checkpoint what Save will write, or says why that cannot be: better
// than after days of training.
func (c *checkpoint) saveable() error {
	// The settings behind factors of rotation give frequencies that differ in the last
	// bits: those of the saved model.
	if s, ok := c.config.llama3Scaling(c.ropeHint); ok {
		c.config.RopeScaling = s
	}
	v := &converter{c: c, o: ConvertOptions{To: string(formatHF)}}
	if _, err := v.hfConfigJSON(backend.F32); err != nil {
		return err
	}
	if c.tok != nil && c.format != formatHF {
		if _, err := c.tok.JSON(); err != nil && !errors.Is(err, tokenizer.ErrInexact) {
			c.problem("the trained model is saved without its tokenizer: %v", err)
		}
	}
	return nil
}

// source is what Save needs of the files beside the tensors. Those of a folder that are
// copied are read at once: the folder may be gone when the model is saved.
func (c *checkpoint) source() (*checkpoint, error) {
	s := &checkpoint{format: c.format, path: c.path, config: c.config, tok: c.tok, eos: c.eos, sampling: c.sampling,
		chat: c.chat, vectorTypes: c.vectorTypes, ropeHint: c.ropeHint}
	if c.format != formatHF {
		return s, nil
	}
	s.small = map[string][]byte{}
	for _, name := range hfFiles {
		b, err := vfs.ReadFile(c.dir, name, maxTokenizer)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, &FileError{File: path.Join(c.path, name), Reason: "cannot be read", Err: err}
		}
		s.small[name] = b
	}
	return s, nil
}

// maxTokenizer bounds the files that are kept for Save.
const maxTokenizer = 256 << 20

func (c *checkpoint) problem(format string, a ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, a...))
}

// openCheckpoint opens a .gguf file, a Hugging Face folder or a Meta folder.
func openCheckpoint(ctx context.Context, fsys fs.FS, name, shown string) (*checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, &FileError{File: shown, Reason: "cannot be opened", Err: err}
	}
	if !info.IsDir() {
		return openFile(fsys, name, shown)
	}
	dir, err := fs.Sub(fsys, name)
	if err != nil {
		return nil, &FileError{File: shown, Reason: "cannot be opened", Err: err}
	}
	has := func(n string) bool { _, err := fs.Stat(dir, n); return err == nil }
	inFolder := func(file string) string { return path.Join(shown, file) }
	switch {
	case has("config.json"):
		c, err := openHF(dir, shown)
		return c, located(err, inFolder)
	case has("params.json"):
		c, err := openMeta(dir, shown)
		return c, located(err, inFolder)
	}
	found, err := fs.Glob(dir, "*.gguf")
	if err == nil && len(found) > 0 {
		sort.Strings(found)
		return nil, fileErr(shown, "", "is a folder; name the model file in it, %s for one", path.Join(shown, found[0]))
	}
	return nil, fileErr(shown, "", "is a folder without config.json (Hugging Face) or params.json (Meta)")
}

// openFile opens a single file, which must be GGUF; it tells the other known
// kinds apart, since naming the folder is what was meant.
func openFile(fsys fs.FS, name, shown string) (*checkpoint, error) {
	base := path.Base(name)
	switch {
	case strings.HasSuffix(base, ".safetensors"), strings.HasSuffix(base, ".safetensors.index.json"), base == "config.json":
		return nil, fileErr(shown, "", "is part of a Hugging Face model: name its folder")
	case strings.HasSuffix(base, ".pth"), base == "params.json":
		return nil, fileErr(shown, "", "is part of a Meta model: name its folder")
	}
	c, err := openGGUF(fsys, name, shown)
	return c, located(err, func(file string) string { return strings.TrimSuffix(shown, name) + file })
}

// located makes an error of one file format name the file by the path that the
// caller knows; in its package the file has a name in a folder.
func located(err error, place func(file string) string) error {
	var (
		g *gguf.Error
		s *safetensors.Error
		p *pth.Error
	)
	switch {
	case errors.As(err, &g):
		g.File = place(g.File)
	case errors.As(err, &s):
		s.File = place(s.File)
	case errors.As(err, &p):
		p.File = place(p.File)
	}
	return err
}

// TensorInfo describes a tensor of a model's files.
type TensorInfo struct {
	Name  string        `json:"name"`  // in the file
	Type  backend.DType `json:"-"`     // of the file
	Shape []int         `json:"shape"` // row-major, rows first
	Bytes int64         `json:"bytes"`
}

// splitPath turns a path into a file system and a name in it. A folder becomes
// its own file system, so that names such as "." and ".." work.
func splitPath(p string) (fs.FS, string) {
	fsys, name := vfs.Split(p)
	if name == "." || name == ".." || name == "/" || strings.ContainsAny(name, `\`) {
		return vfs.Dir(p), "."
	}
	return fsys, name
}
