package checkpoint

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
)

// A GGUF file of an adapter has factors of matrices under the matrix's name, rows of q and k
// in the order of that format, and of the embedding both factors as tables of rows; it
// counts alpha/rank times (https://github.com/ggml-org/llama.cpp, src/llama-adapter.cpp).
const (
	adapterTypeKey  = "adapter.type"
	adapterAlphaKey = "adapter.lora.alpha"
	factorA         = ".lora_a"
	factorB         = ".lora_b"
)

// maxAdapter bounds an adapter in GGUF, which is read at once.
const maxAdapter = 8 << 30

// openGGUFAdapter reads an adapter for a model of a shape.
func openGGUFAdapter(o Adapter, c Config) (*peft.Adapter, error) {
	fsys, name := o.FS, o.Path
	if fsys == nil {
		fsys, name = splitPath(o.Path)
	}
	f, err := gguf.OpenFS(fsys, name)
	if err != nil {
		return nil, located(err, func(file string) string { return path.Join(path.Dir(o.Path), file) })
	}
	defer f.Close()
	text := func(key string) string { s, _ := f.String(key); return s }
	arch := text("general.architecture")
	switch {
	case text("general.type") != "adapter":
		return nil, Errorf(o.Path, "", "is a model, not an adapter: general.type is %q", text("general.type"))
	case text(adapterTypeKey) != "lora":
		return nil, &FileError{File: o.Path, Err: fmt.Errorf("%s %q is %w; only lora is", adapterTypeKey, text(adapterTypeKey), backend.ErrUnsupported)}
	case architectures[arch] == "":
		return nil, &FileError{File: o.Path, Err: unsupported("architecture", arch)}
	}
	if _, ok := f.Lookup("adapter.alora.invocation_tokens"); ok {
		return nil, &FileError{File: o.Path, Err: fmt.Errorf("adapter.alora.invocation_tokens is %w: it needs adapters that begin within a text", backend.ErrUnsupported)}
	}
	alpha, err := f.Float(adapterAlphaKey)
	if err != nil {
		alpha = 0 // then it counts once
	}
	g := ggufAdapter{file: o.Path, c: c, plainRows: arch == familyQwen2, names: map[string]string{}, modules: map[string]*peft.Module{}}
	for name := range maps.Keys(Linears(c)) {
		g.enter(name)
	}
	g.enter(embedding)
	total := int64(0)
	for _, t := range f.Tensors() {
		if total += t.Bytes; total > maxAdapter {
			return nil, Errorf(o.Path, "", "has more than %d bytes", int64(maxAdapter))
		}
		if err := g.read(t); err != nil {
			return nil, err
		}
	}
	return g.adapter(alpha)
}

// ggufAdapter collects the modules of a file.
type ggufAdapter struct {
	file      string
	c         Config
	plainRows bool
	names     map[string]string // of layers, by that of their matrix in GGUF
	modules   map[string]*peft.Module
}

func (g *ggufAdapter) enter(layer string) {
	if name, ok := ggufNames.name(layer + ".weight"); ok {
		g.names[name] = layer
	}
}

// read enters one factor.
func (g *ggufAdapter) read(t *gguf.Tensor) error {
	matrix, isA := strings.CutSuffix(t.Name, factorA)
	if !isA {
		var isB bool
		if matrix, isB = strings.CutSuffix(t.Name, factorB); !isB {
			return &FileError{File: g.file, Tensor: t.Name, Err: fmt.Errorf("%w: it is no factor of a matrix (%s or %s)", backend.ErrUnsupported, factorA, factorB)}
		}
	}
	layer, ok := g.names[matrix]
	switch {
	case !ok:
		return Errorf(g.file, t.Name, "is for a matrix %s, which the model does not have", matrix)
	case len(t.Shape) != 2 || !t.Type.Float() || t.Bytes == 0:
		return Errorf(g.file, t.Name, "is %v of %v, want a matrix of F32, F16 or BF16", t.Type, t.Shape)
	}
	raw := make([]byte, t.Bytes)
	if _, err := vfs.ReadFull(t, raw, 0); err != nil {
		return &FileError{File: g.file, Tensor: t.Name, Reason: "cannot be read", Err: err}
	}
	m := g.modules[layer]
	if m == nil {
		m = &peft.Module{Name: layer, Embedding: layer == embedding}
		g.modules[layer] = m
	}
	shape, size := slices.Clone(t.Shape), t.Type.BlockBytes()
	switch heads := rotatedHeads(layer, g.c); {
	case isA && m.Embedding: // a row for each token
		raw, shape[0], shape[1] = turned(raw, shape[0], shape[1], size), shape[1], shape[0]
	case !isA && heads > 0 && !g.plainRows && shape[0] == heads*g.c.HeadDim:
		raw = reordered(raw, shape[1]*size, func(row int) int { return interleaved(row, g.c.HeadDim) })
	}
	s := safetensors.Source{Name: t.Name, Type: t.Type, Shape: shape, Data: bytes.NewReader(raw)}
	if isA {
		m.A = s
	} else {
		m.B = s
	}
	return nil
}

// adapter is what was read, as PEFT says it.
func (g *ggufAdapter) adapter(alpha float64) (*peft.Adapter, error) {
	if len(g.modules) == 0 {
		return nil, Errorf(g.file, "", "holds no adapter")
	}
	var modules []peft.Module
	var c peft.Config
	for _, name := range slices.Sorted(maps.Keys(g.modules)) {
		m := g.modules[name]
		if m.A.Data == nil || m.B.Data == nil {
			return nil, Errorf(g.file, "", "has one of the two factors of %s only", name)
		}
		rank := m.A.Shape[0]
		if c.Rank == 0 {
			if c.Rank, c.Alpha = rank, alpha; alpha == 0 {
				c.Alpha = float64(rank)
			}
		}
		if rank != c.Rank {
			c.Ranks = append(c.Ranks, peft.Override{Pattern: name, Value: float64(rank)})
			if alpha == 0 {
				c.Alphas = append(c.Alphas, peft.Override{Pattern: name, Value: float64(rank)})
			}
		}
		c.Targets = append(c.Targets, name)
		modules = append(modules, *m)
	}
	a, err := peft.New(g.file, c, modules)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// turned is a matrix of elements of some bytes with its axes exchanged.
func turned(raw []byte, rows, cols, size int) []byte {
	out := make([]byte, 0, len(raw))
	for k := range cols {
		for i := range rows {
			out = append(out, raw[(i*cols+k)*size:][:size]...)
		}
	}
	return out
}

// reordered is a matrix with row order(i) as row i.
func reordered(raw []byte, rowBytes int, order func(int) int) []byte {
	out := make([]byte, 0, len(raw))
	for i := range len(raw) / rowBytes {
		out = append(out, raw[order(i)*rowBytes:][:rowBytes]...)
	}
	return out
}

// floats are the numbers of a tensor times a factor, as bytes of a type.
func floats(s safetensors.Source, factor float32, t backend.DType) ([]byte, error) {
	values, err := peft.Read(s)
	if err != nil {
		return nil, err
	}
	for i := range values {
		values[i] *= factor
	}
	raw := make([]byte, len(values)*t.BlockBytes())
	block.Encode(t, raw, values)
	return raw, nil
}
