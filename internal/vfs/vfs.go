// Package vfs opens model files for random access, whether they lie on disk,
// in an embed.FS or in a zip archive. Everything that reads a file reads it
// through here, with ReadAt: a file that shrinks while it is open gives an
// error, where a memory map would give a fault.
package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File is an open file with its size at opening.
type File struct {
	io.ReaderAt
	Name  string // as given, for error messages
	Size  int64  // bytes
	close func() error
}

// Close closes the file. The File must not be read after it.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}

// New wraps a reader that the caller owns; Close leaves it open.
func New(r io.ReaderAt, size int64, name string) *File {
	return &File{ReaderAt: r, Name: name, Size: size}
}

// Open opens a regular file of fsys for random access. Where the file system
// cannot do that (a compressed zip member), the file is read into memory.
func Open(fsys fs.FS, name string) (*File, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !info.Mode().IsRegular() {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if r, ok := f.(io.ReaderAt); ok {
		return &File{ReaderAt: r, Name: name, Size: info.Size(), close: f.Close}, nil
	}
	defer f.Close()
	var buf bytes.Buffer // grows with what is there, not with what Stat says
	n, err := io.Copy(&buf, io.LimitReader(f, info.Size()))
	if err == nil && n != info.Size() {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &File{ReaderAt: bytes.NewReader(buf.Bytes()), Name: name, Size: n}, nil
}

// Temp copies what r gives, at most limit bytes, to a temporary file that Close
// removes. name is for error messages.
func Temp(r io.Reader, limit int64, name string) (*File, error) {
	f, err := os.CreateTemp("", "herd-*.tmp")
	if err != nil {
		return nil, err
	}
	remove := func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }
	n, err := io.Copy(f, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("%s: unpacks to more than the %d bytes allowed", name, limit)
	}
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return &File{ReaderAt: f, Name: name, Size: n, close: remove}, nil
}

// Split turns a path of the operating system into a file system and a name in
// it, so that one code path serves both. A slash at its end makes no difference.
func Split(path string) (fs.FS, string) {
	path = filepath.Clean(path)
	return os.DirFS(filepath.Dir(path)), filepath.Base(path)
}

// ReadFile reads a whole file of fsys and refuses one above limit bytes.
func ReadFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: larger than the %d bytes allowed", name, limit)
	}
	return b, nil
}

// WriteAtomic writes a file through a temporary one in the same folder, so
// that path holds either what it held before or the whole new content.
func WriteAtomic(path string, write func(w io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return unwritten(path, err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// unwritten makes an error about a temporary name one about the path.
func unwritten(path string, err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return &fs.PathError{Op: "write", Path: path, Err: e.Err}
	}
	return err
}

// Pathless takes the path off an error of a file system, for errors that give it in full.
func Pathless(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// notEmpty is the error of what would be written over, a fs.ErrExist.
type notEmpty string

func (path notEmpty) Error() string { return string(path) + ": exists and is not an empty folder" }
func (notEmpty) Unwrap() error      { return fs.ErrExist }

// WriteFolder fills a new folder beside out and moves it there. out must not exist or be
// an empty folder, or a link to one.
func WriteFolder(out string, fill func(dir string) error) (err error) {
	out = filepath.Clean(out)
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return notEmpty(out)
	}
	if target, err := filepath.EvalSymlinks(out); err == nil {
		out = target // a link to an empty folder stays
	}
	dir, err := os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".*.tmp")
	if err != nil {
		return unwritten(out, err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := fill(dir); err != nil {
		return err
	}
	if err := os.Remove(out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(dir, out)
}

// WriteBytes is WriteAtomic of what is there already.
func WriteBytes(path string, b []byte) error {
	return WriteAtomic(path, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// Dir is the folder p as a file system.
func Dir(p string) fs.FS { return os.DirFS(p) }
