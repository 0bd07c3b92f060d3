package peft

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/safetensors"
)

// Names of the two files, and the parts of tensor names.
const (
	configFile = "adapter_config.json"
	modelFile  = "adapter_model.safetensors"

	prefix    = "base_model.model."
	partA     = ".lora_A.weight"
	partB     = ".lora_B.weight"
	partBias  = ".lora_B.bias"
	magnitude = ".lora_magnitude_vector"

	embeddingA = ".lora_embedding_A"
	embeddingB = ".lora_embedding_B"
)

// maxModules is far above the 883 linear layers of the largest Llama.
const maxModules = 1 << 14

// Error says what is wrong with a file. Tensor is empty when it is not about
// one tensor; Err is the cause, if there is one.
type Error struct {
	File, Tensor, Reason string
	Err                  error
}

// Error names the file, the tensor and the reason.
func (e *Error) Error() string { return vfs.Fault(*e).Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Module is the adapter of one linear layer [Out, In], or of an embedding of In tokens,
// whose table [In, Out] changes by the transpose of B A.
type Module struct {
	Name          string // of the layer: "model.layers.0.self_attn.q_proj"
	Embedding     bool
	Rank, In, Out int
	Scale         float64 // of B A: alpha/r, or alpha/sqrt(r) of rsLoRA
	// A [Rank, In] and B [Out, Rank], of F32, F16 or BF16. DoRA has Magnitude [Out] too,
	// and lora_bias has Bias [Out], which is added to B A x; elsewhere their Data is nil.
	A, B, Magnitude, Bias safetensors.Source
}

// Whole is a parameter that takes the place of the model's: of modules_to_save, a bias, or
// a matrix of a vocabulary that was resized.
type Whole struct {
	Name string // of the parameter: "lm_head.weight"
	safetensors.Source
}

// Rows take the place of rows of one of the model's matrices, for
// trainable_token_indices.
type Rows struct {
	Name   string  // of the matrix: "model.embed_tokens.weight"
	IDs    []int32 // of the rows
	Values safetensors.Source
}

// Adapter is an open adapter.
type Adapter struct {
	File    string // of the tensors, for messages
	Config  Config
	Modules []Module // by name, ascending
	Whole   []Whole  // by name, ascending
	Rows    []Rows   // by name, ascending

	file *safetensors.File
}

// Open opens a folder that PEFT wrote, or the adapter_model.safetensors in it.
// Errors are *Error, *safetensors.Error or those of the file system.
func Open(name string) (*Adapter, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, &Error{File: name, Reason: "cannot be opened", Err: errors.Unwrap(err)}
	}
	if info.IsDir() {
		return open(vfs.Dir(name), modelFile, func(file string) string { return filepath.Join(name, file) })
	}
	fsys, base := vfs.Split(name)
	return open(fsys, base, func(file string) string { return filepath.Join(filepath.Dir(name), file) })
}

// OpenFS is Open in a file system, with a slash-separated name; "." is the
// whole file system as a folder.
func OpenFS(fsys fs.FS, name string) (*Adapter, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, &Error{File: name, Reason: "cannot be opened", Err: err}
	}
	dir, base := name, modelFile
	if !info.IsDir() {
		dir, base = path.Split(name)
	}
	if dir = path.Clean(dir); dir != "." {
		if fsys, err = fs.Sub(fsys, dir); err != nil {
			return nil, &Error{File: name, Reason: "cannot be opened", Err: err}
		}
	}
	return open(fsys, base, func(file string) string { return path.Join(dir, file) })
}

// open opens a file of tensors in a folder that has the settings too.
func open(dir fs.FS, base string, shown func(string) string) (*Adapter, error) {
	switch ext := path.Ext(base); {
	case ext == ".gguf":
		return nil, &Error{File: shown(base), Reason: "is a GGUF file, not PEFT's layout"}
	case ext != ".safetensors":
		return nil, &Error{File: shown(base), Reason: "is no adapter: name a folder that PEFT wrote, or its " + modelFile}
	}
	has := func(name string) bool { _, err := fs.Stat(dir, name); return err == nil }
	switch {
	case !has(configFile):
		return nil, &Error{File: shown(configFile), Reason: "is missing: an adapter needs it beside its tensors"}
	case !has(base) && has("adapter_model.bin"):
		return nil, &Error{File: shown("adapter_model.bin"), Reason: "holds Python objects, which are not read: save the adapter with safetensors"}
	}
	a := &Adapter{File: shown(base)}
	text, err := vfs.ReadFile(dir, configFile, maxConfig)
	if err == nil {
		a.Config, err = ParseConfig(text)
	}
	if err != nil {
		return nil, &Error{File: shown(configFile), Err: err}
	}
	if a.file, err = safetensors.OpenFS(dir, base); err != nil {
		if e := (*safetensors.Error)(nil); errors.As(err, &e) {
			e.File = a.File
		} else {
			err = &Error{File: a.File, Reason: "cannot be opened", Err: err}
		}
		return nil, err
	}
	if err := a.read(); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// New makes an adapter of what is in memory; file is for messages. It uses those fields
// of a Module that Write uses.
func New(file string, c Config, modules []Module) (*Adapter, error) {
	a := &Adapter{File: file, Config: c, Modules: slices.Clone(modules)}
	return a, check(file, &a.Config, a.Modules)
}

// Close closes the file, if there is one. Data of Modules must not be read after it.
func (a *Adapter) Close() error {
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// read sorts the tensors into Modules, Whole and Rows.
func (a *Adapter) read() error {
	byName := map[string]*Module{}
	whole, rows := map[string]bool{}, map[string]bool{}
	for _, t := range a.file.Tensors() {
		twice := &Error{File: a.File, Tensor: t.Name, Reason: "is there twice, under two spellings"}
		name, part, err := split(t.Name)
		if err != nil {
			return &Error{File: a.File, Tensor: t.Name, Err: err}
		}
		if len(byName)+len(whole)+len(rows) > maxModules {
			return &Error{File: a.File, Reason: fmt.Sprintf("has more than %d adapted layers", maxModules)}
		}
		source := safetensors.Source{Name: t.Name, Type: t.Type, Shape: t.Shape, Data: t}
		switch part {
		case partWeight, partOwnBias:
			if err := a.checkWhole(name, part, &source); err != nil {
				return err
			}
			if name += part; whole[name] {
				return twice
			}
			whole[name] = true
			a.Whole = append(a.Whole, Whole{name, source})
			continue
		case partTokens:
			ids := a.Config.tokens(name)
			if name += partWeight; rows[name] {
				return twice
			}
			if rows[name] = true; len(t.Shape) != 2 || t.Shape[0] != len(ids) || len(ids) == 0 || !t.Type.Float() {
				return &Error{File: a.File, Tensor: t.Name, Reason: fmt.Sprintf("has shape %v, want a row of numbers for each of the %d of trainable_token_indices", t.Shape, len(ids))}
			}
			a.Rows = append(a.Rows, Rows{name, ids, source})
			continue
		}
		m := byName[name]
		if m == nil {
			m = &Module{Name: name, Embedding: part == embeddingA || part == embeddingB}
			byName[name] = m
		}
		if m.Embedding != (part == embeddingA || part == embeddingB) {
			return &Error{File: a.File, Tensor: t.Name, Reason: "is beside the adapter of another kind of layer"}
		}
		s := m.part(part)
		if s.Data != nil {
			return twice
		}
		*s = source
	}
	for _, m := range byName {
		a.Modules = append(a.Modules, *m)
	}
	slices.SortFunc(a.Modules, func(a, b Module) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(a.Whole, func(a, b Whole) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(a.Rows, func(a, b Rows) int { return strings.Compare(a.Name, b.Name) })
	if len(a.Modules) == 0 && len(a.Whole)+len(a.Rows) > 0 {
		return nil
	}
	return check(a.File, &a.Config, a.Modules)
}

// checkWhole refuses a whole parameter that the settings do not speak of. PEFT saves the
// matrices of the vocabulary also where they were resized or an adapter is on them.
func (a *Adapter) checkWhole(module, part string, s *safetensors.Source) error {
	saved := a.Config.saves(module) || part == partOwnBias && a.Config.Bias != "" ||
		part == partWeight && (ends(module, "embed_tokens") || ends(module, "lm_head"))
	switch {
	case !saved && part == partOwnBias:
		return &Error{File: a.File, Tensor: s.Name, Reason: "is a bias of the model's, but bias is none and modules_to_save does not name its layer"}
	case !saved:
		return &Error{File: a.File, Tensor: s.Name, Reason: "is a whole parameter that modules_to_save does not name"}
	case !s.Type.Float() || len(s.Shape) < 1 || len(s.Shape) > 2 || slices.Min(s.Shape) < 1:
		return &Error{File: a.File, Tensor: s.Name, Reason: fmt.Sprintf("is %v of %v, want a vector or a matrix of F32, F16 or BF16", s.Type, s.Shape)}
	}
	return nil
}

// The parts of whole parameters, and of rows.
const (
	partWeight  = ".weight"
	partOwnBias = ".bias"
	partTokens  = ".token_adapter.trainable_tokens_delta"
)

// split takes a tensor's name apart.
func split(name string) (module, part string, err error) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return "", "", fmt.Errorf("does not begin with %q, as PEFT's names do", prefix)
	}
	for _, s := range []struct{ suffix, part string }{
		{partA, partA}, {partB, partB}, {partBias, partBias}, {magnitude, magnitude}, {magnitude + ".weight", magnitude},
		{embeddingA, embeddingA}, {embeddingB, embeddingB}, {partTokens, partTokens},
		// What the wrappers of layers are called is no part of their names.
		{".token_adapter.base_layer.weight", partWeight},
		{".base_layer.weight", partWeight}, {".base_layer.bias", partOwnBias}, {".modules_to_save.weight", partWeight}, {".modules_to_save.bias", partOwnBias},
		{partWeight, partWeight}, {partOwnBias, partOwnBias},
	} {
		if module, ok := strings.CutSuffix(rest, s.suffix); ok && module != "" && !strings.Contains(module, ".lora_") {
			return module, s.part, nil
		}
	}
	return "", "", fmt.Errorf("is no part of an adapter (%s, %s or %s of a layer, for some): %w", partA[1:], partB[1:], magnitude[1:], backend.ErrUnsupported)
}

func (m *Module) part(part string) *safetensors.Source {
	switch part {
	case partA, embeddingA:
		return &m.A
	case partB, embeddingB:
		return &m.B
	case partBias:
		return &m.Bias
	}
	return &m.Magnitude
}

// parts are the names of the parts A and B.
func (m *Module) parts() (a, b string) {
	if m.Embedding {
		return embeddingA, embeddingB
	}
	return partA, partB
}

// check compares shapes with each other and with the settings, and fills in
// what follows from them.
func check(file string, c *Config, modules []Module) error {
	bad := func(m *Module, part, format string, a ...any) error {
		name := m.part(part).Name
		if name == "" {
			name = prefix + m.Name + part
		}
		return &Error{File: file, Tensor: name, Reason: fmt.Sprintf(format, a...)}
	}
	match, err := newMatcher(c)
	if err != nil {
		return &Error{File: file, Err: err}
	}
	if len(modules) == 0 {
		return &Error{File: file, Reason: "holds no adapter"}
	}
	for i := range modules {
		m := &modules[i]
		partA, partB := m.parts()
		parts := []string{partA, partB}
		switch {
		case m.Embedding && c.DoRA:
			return bad(m, partA, "is DoRA of an embedding, which is not supported")
		case c.LoRABias && !m.Embedding:
			parts = append(parts, partBias)
		case m.Bias.Data != nil:
			return bad(m, partBias, "is there, but lora_bias is not true")
		}
		if c.DoRA {
			parts = append(parts, magnitude)
		} else if m.Magnitude.Data != nil {
			return bad(m, magnitude, "is there, but use_dora is not true")
		}
		for _, part := range parts {
			switch s := m.part(part); {
			case s.Data == nil:
				return bad(m, part, "is missing")
			case !s.Type.Float():
				return bad(m, part, "has a type that adapters do not have: want F32, F16 or BF16")
			case len(s.Shape) != dims(part) || slices.Min(s.Shape) < 1:
				return bad(m, part, "has shape %v", s.Shape)
			}
		}
		if !match.target(m.Name) && match.err == nil {
			return bad(m, partA, "is of a layer that target_modules does not name")
		}
		if m.Rank, m.Scale = match.rank(m.Name), match.scale(m.Name); match.err != nil {
			return &Error{File: file, Err: match.err}
		}
		m.In, m.Out = m.A.Shape[1], m.B.Shape[0]
		switch {
		case m.A.Shape[0] != m.Rank:
			return bad(m, partA, "has shape %v, but the rank of this layer is %d in %s", m.A.Shape, m.Rank, configFile)
		case m.B.Shape[1] != m.Rank:
			return bad(m, partB, "has shape %v, but the rank of this layer is %d in %s", m.B.Shape, m.Rank, configFile)
		case c.DoRA && m.Magnitude.Shape[0] != m.Out:
			return bad(m, magnitude, "has shape %v, want [%d]", m.Magnitude.Shape, m.Out)
		case m.Bias.Data != nil && m.Bias.Shape[0] != m.Out:
			return bad(m, partBias, "has shape %v, want [%d]", m.Bias.Shape, m.Out)
		case !number(m.Scale):
			return bad(m, partA, "has a factor of %v, which is no float32", m.Scale)
		}
	}
	return nil
}

// dims is how many axes a part has.
func dims(part string) int {
	if part == magnitude || part == partBias {
		return 1
	}
	return 2
}

// Write writes an adapter as PEFT reads it to a folder, which is made where it is
// not there. Of a Module only Name, Embedding, A, B, Bias and Magnitude count. Each of the two
// files holds its old content until the new one is complete.
func Write(dir string, c Config, modules []Module) error {
	text, err := c.JSON()
	if err != nil {
		return &Error{File: filepath.Join(dir, configFile), Err: err}
	}
	modules = slices.Clone(modules)
	var list []safetensors.Source
	for i := range modules {
		m := &modules[i]
		partA, partB := m.parts()
		for _, part := range []string{partA, partB, partBias, magnitude} {
			if s := m.part(part); s.Data != nil {
				s.Name = prefix + m.Name + part
				list = append(list, *s)
			}
		}
	}
	name := filepath.Join(dir, modelFile)
	if err := check(name, &c, modules); err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b safetensors.Source) int { return strings.Compare(a.Name, b.Name) })
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := safetensors.WriteFile(name, list, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return vfs.WriteAtomic(filepath.Join(dir, configFile), func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// Tensor is a tensor of numbers in memory, to be written as F32.
func Tensor(values []float32, shape ...int) safetensors.Source {
	raw := make([]byte, 4*len(values))
	block.Encode(backend.F32, raw, values)
	return safetensors.Source{Type: backend.F32, Shape: shape, Data: bytes.NewReader(raw)}
}

// Read returns the numbers of a tensor.
func Read(s safetensors.Source) ([]float32, error) {
	n := 1
	for _, d := range s.Shape {
		n *= d // the file has as many
	}
	size := s.Type.BlockBytes()
	raw := make([]byte, n*size)
	if _, err := vfs.ReadFull(s.Data, raw, 0); err != nil {
		return nil, err
	}
	values := make([]float32, n)
	block.Decode(s.Type, values, raw)
	return values, nil
}
