package checkpoint

import (
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// What an adapter brings whole takes the place of the model's own before anything else is
// made of that: matrices of modules_to_save, biases, a vocabulary with more tokens, rows of
// single tokens. So it holds for all rows of a step, whatever adapters these have, as in
// PEFT, where a model has one such set at a time.

// replace puts the whole parameters of an adapter in the place of the checkpoint's.
func (c *Checkpoint) replace(a *OpenedAdapter) error {
	shapes := map[string]backend.Shape{}
	for _, p := range Parameters(c.Config) {
		shapes[p.Name] = p.Shape
	}
	shapes[lmHead+".weight"] = shapes[embedding+".weight"]
	given := map[string]*Tensor{}
	for _, w := range a.Whole {
		want, ok := shapes[w.Name]
		t := &Tensor{File: a.File, Name: w.Source.Name, Type: w.Type, Shape: w.Shape}
		t.Read = PlainRows(w.Data, t.RowBytes())
		vocab := w.Name == embedding+".weight" || w.Name == lmHead+".weight"
		switch {
		case !ok:
			return Errorf(a.File, t.Name, "takes the place of %s, which the model does not have", w.Name)
		case len(t.Shape) != want.Rank || t.Cols() != cols(want) || t.Rows() != want.Dim[0] && !vocab:
			return Errorf(a.File, t.Name, "has shape %v, want %v", t.Shape, want)
		case t.Rows() > maxVocab:
			return Errorf(a.File, t.Name, "has %d rows, want at most %d", t.Rows(), maxVocab)
		}
		if err := c.claim(a, w.Name); err != nil {
			return err
		}
		given[w.Name] = t
	}
	if err := c.replaceVocabulary(a, given); err != nil {
		return err
	}
	for name, t := range given {
		c.Tensors[name] = t
	}
	for _, r := range a.Rows {
		if err := c.replaceRows(a, r); err != nil {
			return err
		}
	}
	return nil
}

func cols(s backend.Shape) int {
	if s.Rank < 2 {
		return 1
	}
	return s.Dim[1]
}

// claim refuses a second adapter that replaces the same.
func (c *Checkpoint) claim(a *OpenedAdapter, name string) error {
	if other, ok := c.replaced[name]; ok {
		return Errorf(a.File, "", "replaces %s, and so does %s: only one adapter may", name, other)
	}
	if c.replaced == nil {
		c.replaced = map[string]string{}
	}
	c.replaced[name] = a.File
	return nil
}

// replaceVocabulary settles how the two matrices of the vocabulary hang together when an
// adapter brings one or both of them.
func (c *Checkpoint) replaceVocabulary(a *OpenedAdapter, given map[string]*Tensor) error {
	const e, o = embedding + ".weight", lmHead + ".weight"
	newE, newO := given[e], given[o]
	if newE == nil && newO == nil {
		return nil
	}
	tied := c.Config.TiedEmbeddings
	var rows int
	if newE != nil {
		rows = newE.Rows()
	} else {
		rows = newO.Rows()
	}
	resized := rows != c.Config.Vocab
	switch {
	case newE != nil && newO != nil && newE.Rows() != newO.Rows():
		return Errorf(a.File, newO.Name, "has %d rows, and %s %d", newO.Rows(), newE.Name, newE.Rows())
	case resized && !tied && (newE == nil || newO == nil):
		return Errorf(a.File, "", "has one matrix of a vocabulary of %d tokens, the model both of one of %d", rows, c.Config.Vocab)
	}
	c.Config.Vocab = rows
	if !tied {
		return nil
	}
	if newO == nil && !resized { // PEFT also saves what it has not changed
		if same, err := sameTensors(newE, c.Tensors[e]); err != nil || same {
			return err
		}
	}
	switch {
	case newE != nil && newO != nil:
		same, err := sameTensors(newE, newO)
		if err != nil {
			return err
		}
		if same {
			delete(given, o)
			return nil
		}
	case resized && newO != nil: // it serves as both
		given[e] = newO
		delete(given, o)
		return nil
	case resized:
		return nil
	}
	c.unTie(fmt.Sprintf("%s brings one of the two matrices of the vocabulary", a.File))
	return nil
}

// unTie gives the output layer the embedding's matrix as its own.
func (c *Checkpoint) unTie(why string) {
	c.Config.TiedEmbeddings = false
	c.Tensors[lmHead+".weight"] = c.Tensors[embedding+".weight"]
	c.problem("the output layer is no longer tied to the embedding: %s", why)
}

// resize takes the tokenizer of an adapter's folder for a vocabulary that has become
// larger.
func (c *Checkpoint) resize(o Adapter, old int) error {
	c.gguf = nil // its vocabulary is not the model's any more
	dir, err := adapterFolder(o)
	if err != nil {
		return err
	}
	tok, err := tokenizer.OpenFS(dir, ".")
	if err != nil {
		c.problem("the adapter makes the vocabulary one of %d tokens instead of %d, and its folder has no tokenizer: %v", c.Config.Vocab, old, err)
		return nil
	}
	c.Tokenizer = tok
	c.problem("the tokenizer is that of the adapter, whose vocabulary has %d tokens instead of %d", c.Config.Vocab, old)
	c.CheckTokenizer()
	if c.Format == FormatHF { // what Convert copies
		base, err := readSmall(c.dir, c.Path)
		if err != nil {
			return err
		}
		if c.small, err = readSmall(dir, o.Path); err != nil {
			return err
		}
		for name, b := range base {
			if name == "generation_config.json" || c.small[name] == nil {
				c.small[name] = b
			}
		}
	}
	if _, err := fs.Stat(dir, "tokenizer_config.json"); err != nil {
		return nil
	}
	return c.hfChatTemplates(dir)
}

// adapterFolder is the folder of an adapter.
func adapterFolder(o Adapter) (fs.FS, error) {
	fsys, name := o.FS, o.Path
	if fsys == nil {
		fsys, name = splitPath(o.Path)
	}
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, &FileError{File: o.Path, Reason: "cannot be opened", Err: err}
	}
	if !info.IsDir() {
		name = path.Dir(name)
	}
	return fs.Sub(fsys, name)
}

// replaceRows puts rows of an adapter in the place of a matrix's.
func (c *Checkpoint) replaceRows(a *OpenedAdapter, r peft.Rows) error {
	base := c.Tensors[r.Name]
	switch {
	case r.Name == lmHead+".weight" && c.Config.TiedEmbeddings:
		return &FileError{File: a.File, Tensor: r.Values.Name, Err: fmt.Errorf("rows of an output layer that is the embedding are %w: name them of the embedding", backend.ErrUnsupported)}
	case base == nil || len(base.Shape) != 2:
		return Errorf(a.File, r.Values.Name, "has rows of %s, which the model does not have", r.Name)
	case r.Values.Shape[1] != base.Cols():
		return Errorf(a.File, r.Values.Name, "has rows of %d numbers, want %d", r.Values.Shape[1], base.Cols())
	}
	for _, id := range r.IDs {
		if int(id) >= base.Rows() {
			return Errorf(a.File, r.Values.Name, "has a row for token %d of a vocabulary of %d", id, base.Rows())
		}
	}
	if err := c.claim(a, "rows of "+r.Name); err != nil {
		return err
	}
	values, err := peft.Read(r.Values)
	if err != nil {
		return &FileError{File: a.File, Tensor: r.Values.Name, Reason: "cannot be read", Err: err}
	}
	c.Tensors[r.Name] = withRows(base, r.IDs, values, r.Values.Type)
	if got := c.Tensors[r.Name].Type; got != base.Type {
		c.problem("%s is %v and not %v: rows of it come from %s", r.Name, got, base.Type, a.File)
	}
	return nil
}

// withRows is a matrix with other numbers in some rows, of type t. It keeps its type where
// that holds them, and is float32 else.
func withRows(base *Tensor, ids []int32, values []float32, t backend.DType) *Tensor {
	out := *base
	if base.Type != t {
		out.Type = backend.F32
	}
	in, size, n := base.RowBytes(), out.RowBytes(), base.Cols()
	place := map[int]int{}
	for i, id := range ids {
		place[int(id)] = i
	}
	out.Read = func(dst []byte, row, rows int) error {
		raw := dst
		if out.Type != base.Type {
			raw = make([]byte, rows*in)
		}
		if err := base.Read(raw, row, rows); err != nil {
			return err
		}
		if out.Type != base.Type {
			decoded := make([]float32, rows*n)
			block.DecodeRows(base.Type, decoded, raw[:rows*in], n)
			block.Encode(out.Type, dst[:rows*size], decoded)
		}
		for i := range rows {
			if at, ok := place[row+i]; ok {
				block.Encode(out.Type, dst[i*size:(i+1)*size], values[at*n:(at+1)*n])
			}
		}
		return nil
	}
	out.Shape = slices.Clone(base.Shape)
	return &out
}
