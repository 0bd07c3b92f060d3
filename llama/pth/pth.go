package pth

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
)

const maxRank = 8 // dimensions of a tensor

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

// File is an open checkpoint, one shard of a model.
type File struct {
	tensors []*Tensor
	byName  map[string]*Tensor
	file    *vfs.File
}

// Open opens a consolidated.NN.pth file. Errors are of type *Error, or those
// of the file system.
func Open(path string) (*File, error) {
	fsys, name := vfs.Split(path)
	return open(fsys, name, path)
}

// OpenFS is Open in a file system, with a slash-separated name.
func OpenFS(fsys fs.FS, name string) (*File, error) { return open(fsys, name, name) }

// New reads a file of size bytes from r, which the caller keeps open. The name
// is for error messages.
func New(r io.ReaderAt, size int64, name string) (*File, error) {
	return read(vfs.New(r, size, name))
}

func open(fsys fs.FS, name, shown string) (*File, error) {
	f, err := vfs.Open(fsys, name)
	if err != nil {
		return nil, err
	}
	f.Name = shown
	out, err := read(f)
	if err != nil {
		f.Close()
	}
	return out, err
}

// Tensors lists the tensors in the order of the pickle.
func (f *File) Tensors() []*Tensor { return f.tensors }

// Tensor returns the tensor with that name, nil if there is none.
func (f *File) Tensor(name string) *Tensor { return f.byName[name] }

// Close closes the file. Tensors must not be read after it.
func (f *File) Close() error { return f.file.Close() }

// read lists the archive, runs the pickle and checks its tensors.
func read(f *vfs.File) (*File, error) {
	entries, err := readArchive(f)
	if err != nil {
		return nil, err
	}
	if e, ok := entries["byteorder"]; ok {
		order, err := readEntry(f, e, 16)
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(order) != "little" {
			return nil, &Error{f.Name, "", fmt.Sprintf("byte order %q, expected \"little\"", order), nil}
		}
	}
	code, err := readEntry(f, entries["data.pkl"], maxPickle)
	if err != nil {
		return nil, err
	}
	v, err := run(code)
	if err != nil {
		return nil, &Error{f.Name, "", "data.pkl", err}
	}
	top, ok := v.(*dict)
	if !ok {
		return nil, &Error{f.Name, "", "data.pkl holds " + typeName(v) + ", expected a dict of tensors", nil}
	}
	out := &File{byName: map[string]*Tensor{}, file: f}
	for _, p := range top.pairs {
		view, ok := p.value.(*view)
		if !ok {
			continue // a number or a name beside the tensors
		}
		name, ok := p.key.(string)
		if !ok {
			return nil, &Error{f.Name, "", "a tensor under " + typeName(p.key) + ", expected a string", nil}
		}
		if out.byName[name] != nil {
			return nil, &Error{f.Name, name, "is there twice", nil}
		}
		t, err := newTensor(f, name, view, entries)
		if err != nil {
			return nil, &Error{f.Name, name, "cannot be read", err}
		}
		out.tensors = append(out.tensors, t)
		out.byName[name] = t
	}
	if len(out.tensors) == 0 {
		return nil, &Error{f.Name, "", "no tensors in the dict of data.pkl; those of nested dicts are not read", nil}
	}
	return out, nil
}

// newTensor checks a view against its storage and the storage against its
// archive entry.
func newTensor(f *vfs.File, name string, v *view, entries map[string]entry) (*Tensor, error) {
	s := v.storage
	e, ok := entries["data/"+s.key]
	if !ok {
		return nil, fmt.Errorf("storage data/%s is not in the archive", vfs.Clip(s.key))
	}
	if e.size != s.numel*s.kind.size {
		return nil, fmt.Errorf("storage data/%s has %d bytes, expected %d for %d of %s", vfs.Clip(s.key), e.size, s.numel*s.kind.size, s.numel, s.kind.name)
	}
	// last is the furthest element, counted without overflow: every term is
	// compared with what the storage has left.
	elems, last := int64(1), v.offset
	fits := v.offset >= 0 && v.offset <= s.numel
	for i, d := range v.shape {
		if d < 0 || v.strides[i] < 0 {
			return nil, fmt.Errorf("shape %v, strides %v: negative", v.shape, v.strides)
		}
		if d > math.MaxInt || d > 0 && elems > math.MaxInt64/d {
			return nil, fmt.Errorf("shape %v is too large", v.shape)
		}
		elems *= d
	}
	for i, d := range v.shape {
		if !fits || elems == 0 || d == 1 {
			continue
		}
		if step := v.strides[i]; step > (s.numel-last)/(d-1) {
			fits = false
		} else {
			last += (d - 1) * step
		}
	}
	if !fits || elems > s.numel || elems > 0 && last >= s.numel {
		return nil, fmt.Errorf("shape %v, strides %v, offset %d reach outside storage data/%s of %d elements, or repeat them", v.shape, v.strides, v.offset, vfs.Clip(s.key), s.numel)
	}
	t := &Tensor{
		Name: name, Type: s.kind.t, TypeName: strings.TrimSuffix(s.kind.name, "Storage"),
		Shape: make([]int, len(v.shape)), Bytes: elems * s.kind.size,
		file: f, view: v, start: e.start + v.offset*s.kind.size,
	}
	for i, d := range v.shape {
		t.Shape[i] = int(d)
	}
	if t.Type != backend.Invalid {
		t.TypeName = t.Type.String()
	}
	t.setRuns()
	return t, nil
}
