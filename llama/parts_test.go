package llama_test

import (
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/gguf"
)

// parts is a GGUF file taken apart, to be changed and written again.
type parts struct {
	keys    []string
	meta    map[string]any
	tensors []part
}

type part struct {
	name  string
	dtype backend.DType
	shape []int
	data  io.Reader
}

func takeApart(t *testing.T, path string) *parts {
	t.Helper()
	f := openGGUF(t, path)
	p := &parts{keys: slices.Clone(f.Keys()), meta: map[string]any{}}
	for _, k := range p.keys {
		v, _ := f.Lookup(k)
		p.meta[k] = v.Any()
	}
	for _, tensor := range f.Tensors() {
		p.tensors = append(p.tensors, part{tensor.Name, tensor.Type, slices.Clone(tensor.Shape), tensor.Reader()})
	}
	return p
}

// set changes a key or adds it; nil removes it.
func (p *parts) set(key string, value any) {
	p.keys = slices.DeleteFunc(p.keys, func(k string) bool { return k == key })
	if value != nil {
		p.keys, p.meta[key] = append(p.keys, key), value
	}
}

// resize cuts or fills the array of a key, where there is one.
func resize[T any](p *parts, key string, n int, fill T) {
	if v, ok := p.meta[key].([]T); ok {
		v = append(slices.Clone(v), slices.Repeat([]T{fill}, max(0, n-len(v)))...)
		p.set(key, v[:n])
	}
}

// add replaces a tensor, or adds one.
func (p *parts) add(name string, dtype backend.DType, data []byte, shape ...int) {
	p.drop(name)
	p.tensors = append(p.tensors, part{name, dtype, shape, bytes.NewReader(data)})
}

// zeros adds a tensor of zeros.
func (p *parts) zeros(name string, dtype backend.DType, shape ...int) {
	n := int64(1)
	for _, d := range shape[:len(shape)-1] {
		n *= int64(d)
	}
	row, _ := dtype.RowBytes(int64(shape[len(shape)-1]))
	p.add(name, dtype, make([]byte, n*row), shape...)
}

func (p *parts) drop(name string) {
	p.tensors = slices.DeleteFunc(p.tensors, func(t part) bool { return t.name == name })
}

func (p *parts) shape(name string) []int {
	for _, t := range p.tensors {
		if t.name == name {
			return t.shape
		}
	}
	return nil
}

func (p *parts) bytes(t *testing.T) []byte {
	t.Helper()
	w := &gguf.Writer{}
	for _, k := range p.keys {
		if err := w.Set(k, p.meta[k]); err != nil {
			t.Fatal(err)
		}
	}
	for _, tensor := range p.tensors {
		if err := w.Add(tensor.name, tensor.dtype, tensor.shape, tensor.data); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (p *parts) write(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bad.gguf")
	write(t, path, string(p.bytes(t)))
	return path
}
