package gguf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/herd-ml/herd/internal/vfs"
)

// File is an open GGUF file or split set. It does not change after opening and
// serves any number of goroutines.
//
// The getters Uint, Float, String, Bool, Strings, Floats and Ints return the
// value of a key, or an *Error that names the key, what was wanted and what is
// there; it wraps ErrNoKey where the key is absent.
type File struct {
	files   []*vfs.File // one, or the parts of a split set
	version uint32
	keys    []string
	meta    map[string]Value
	tensors []*Tensor // in the file's order, part after part
	byName  map[string]*Tensor
}

// Open opens a GGUF file, or the whole split set whose first part path is.
// Errors are *Error; errors.Is finds the cause, fs.ErrNotExist for example.
func Open(path string) (*File, error) {
	fsys, name := vfs.Split(path)
	dir := filepath.Dir(path)
	return open(fsys, name, func(name string) string { return filepath.Join(dir, name) })
}

// OpenFS is Open for a file system. The parts of a split set lie side by side.
func OpenFS(fsys fs.FS, name string) (*File, error) {
	return open(fsys, name, func(name string) string { return name })
}

// open opens name and the parts that belong to it; shown turns names in fsys
// into those for error messages. The names of parts are made from name and
// nothing in a file, so they cannot lead out of its folder.
func open(fsys fs.FS, name string, shown func(string) string) (*File, error) {
	f, err := openPart(fsys, name, shown)
	if err != nil {
		return nil, err
	}
	if err := f.openRest(fsys, name, shown); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openPart(fsys fs.FS, name string, shown func(string) string) (*File, error) {
	if !fs.ValidPath(name) { // not every file system checks
		return nil, &Error{File: shown(name), Reason: "the path leads out of the file system", Err: fs.ErrInvalid}
	}
	src, err := vfs.Open(fsys, name)
	if err != nil {
		return nil, &Error{File: shown(name), Reason: "the file cannot be opened", Err: vfs.Pathless(err)}
	}
	src.Name = shown(name)
	f, err := parse(src)
	if err != nil {
		src.Close()
		return nil, err
	}
	return f, nil
}

// New reads the header of a GGUF file of size bytes. The name is for error
// messages. The caller keeps r open while the File is used. Errors are *Error.
func New(r io.ReaderAt, size int64, name string) (*File, error) {
	f, err := parse(vfs.New(r, size, name))
	if err != nil {
		return nil, err
	}
	s, err := f.split()
	if err != nil {
		return nil, err
	}
	if s.count > 1 {
		return nil, &Error{File: name, Reason: fmt.Sprintf("this is part %d of a split set of %d, which Open and OpenFS read", s.no+1, s.count)}
	}
	return f, nil
}

// Close closes what Open or OpenFS opened. Tensors cannot be read after it;
// metadata can.
func (f *File) Close() error {
	var errs []error
	for _, p := range f.files {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// WithoutMetadata returns a File of the same tensors that has no keys and does not
// keep their values in memory: with a large vocabulary those are megabytes. Either
// of the two is to be closed.
func (f *File) WithoutMetadata() *File {
	return &File{files: f.files, version: f.version, tensors: f.tensors, byName: f.byName}
}

// Version returns the version of the format, 2 or 3.
func (f *File) Version() uint32 { return f.version }

// Tensors returns the tensors in the file's order, those of a split set part
// after part.
func (f *File) Tensors() []*Tensor { return slices.Clone(f.tensors) }

// Tensor returns the tensor with the given name, or nil.
func (f *File) Tensor(name string) *Tensor { return f.byName[name] }
