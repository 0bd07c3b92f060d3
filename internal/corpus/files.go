package corpus

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/herd-ml/herd/internal/vfs"
)

// A File is one that Find found.
type File struct {
	Path string
	Size int64 // bytes on disk

	info fs.FileInfo // of what a link leads to
}

// Time is when the file was last written.
func (f File) Time() time.Time { return f.info.ModTime() }

// Same reports whether two are one file, by whatever paths they were found.
func (f File) Same(g File) bool { return f.Path == g.Path || os.SameFile(f.info, g.info) }

// fileSet is a set of files by their time: one file has one time, so few are compared.
type fileSet map[int64][]File

// add reports whether the file is new to the set.
func (s fileSet) add(f File) bool {
	if s.has(f) {
		return false
	}
	at := f.Time().UnixNano()
	s[at] = append(s[at], f)
	return true
}

func (s fileSet) has(f File) bool { return slices.ContainsFunc(s[f.Time().UnixNano()], f.Same) }

// Without lists the files that are none of others.
func Without(files, others []File) []File {
	set := fileSet{}
	for _, o := range others {
		set.add(o)
	}
	return slices.DeleteFunc(slices.Clone(files), set.has)
}

// kind is how a file holds documents.
type kind int

const (
	unknown kind = iota
	text
	lines  // JSON lines
	values // JSON: an array, or values one after the other
	columns
)

// packing is how a file is compressed as a whole.
type packing int

const (
	plain packing = iota
	gzipped
	zstandard
)

// accepted are the endings for error messages.
const accepted = ".txt, .md, .json, .jsonl, .ndjson or .parquet, each also with .gz or .zst"

// kindOf tells the kind of a file from its name.
func kindOf(path string) (k kind, p packing) {
	name := strings.ToLower(filepath.Base(path))
	switch filepath.Ext(name) {
	case ".gz":
		p, name = gzipped, strings.TrimSuffix(name, ".gz")
	case ".zst":
		p, name = zstandard, strings.TrimSuffix(name, ".zst")
	}
	switch filepath.Ext(name) {
	case ".txt", ".md":
		return text, p
	case ".jsonl", ".ndjson":
		return lines, p
	case ".json":
		return values, p
	case ".parquet":
		return columns, p
	}
	return unknown, p
}

// Find lists the files that patterns name: files, folders (all files in them and
// below that have a known ending; hidden ones are left out) and globs as of
// filepath.Match, in which a part "**" is any number of folders. They are in the
// order of their paths, each file once, however many paths lead to it. It is an error
// where a pattern gives nothing, where a file is empty, and where the ending of
// a file named by itself or by a glob is unknown.
func Find(patterns []string) ([]File, error) {
	var files []File
	var errs []error
	for _, p := range patterns {
		found, err := find(p)
		files, errs = append(files, found...), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	seen := fileSet{}
	return slices.DeleteFunc(files, func(f File) bool { return !seen.add(f) }), nil
}

func find(pattern string) ([]File, error) {
	paths := []string{pattern}
	if _, err := os.Stat(pattern); err != nil && strings.ContainsAny(pattern, "*?[") {
		paths, err = glob(pattern)
		if err != nil {
			return nil, &Error{File: pattern, Reason: "not a pattern of files", Err: err}
		}
		if len(paths) == 0 {
			return nil, &Error{File: pattern, Reason: "no file has such a name"}
		}
	}
	var files []File
	var errs []error
	for _, p := range paths {
		info, err := os.Stat(p)
		switch {
		case err != nil:
			errs = append(errs, &Error{File: p, Reason: "cannot be read", Err: vfs.Pathless(err)})
		case info.IsDir():
			below, err := findBelow(p)
			files, errs = append(files, below...), append(errs, err)
		default:
			f, err := newFile(p, info)
			files, errs = append(files, f), append(errs, err)
		}
	}
	return files, errors.Join(errs...)
}

func newFile(path string, info fs.FileInfo) (File, error) {
	k, _ := kindOf(path)
	switch {
	case !info.Mode().IsRegular():
		return File{}, &Error{File: path, Reason: "not a regular file"}
	case k == unknown:
		return File{}, &Error{File: path, Reason: "unknown kind of file: want " + accepted}
	case info.Size() == 0:
		return File{}, &Error{File: path, Reason: "the file is empty"}
	}
	return File{filepath.Clean(path), info.Size(), info}, nil
}

// findBelow lists the files of known kinds in a folder and below it.
func findBelow(dir string) (files []File, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return &Error{File: path, Reason: "cannot be read", Err: vfs.Pathless(err)}
		}
		if path != dir && strings.HasPrefix(e.Name(), ".") {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if k, _ := kindOf(path); e.IsDir() || k == unknown {
			return nil
		}
		info, err := os.Stat(path) // what a link leads to
		if err != nil {
			return &Error{File: path, Reason: "cannot be read", Err: vfs.Pathless(err)}
		}
		if info.IsDir() {
			return nil
		}
		f, err := newFile(path, info)
		files = append(files, f)
		return err
	})
	if err == nil && len(files) == 0 {
		err = &Error{File: dir, Reason: "the folder holds no file that ends in " + accepted}
	}
	return files, err
}

// Error is what reading a corpus returns.
type Error struct {
	File   string
	Line   int64  // from 1, 0 where it is the file as a whole
	Row    int64  // the same for parquet
	Reason string // what is wrong and what was expected
	Err    error  // the cause, or nil
}

// Error gives file, line or row, reason and cause.
func (e *Error) Error() string {
	at := e.File
	if e.Line > 0 {
		at += fmt.Sprintf(": line %d", e.Line)
	}
	if e.Row > 0 {
		at += fmt.Sprintf(": row %d", e.Row)
	}
	if e.Err != nil {
		return at + ": " + e.Reason + ": " + strings.ReplaceAll(e.Err.Error(), io.ErrUnexpectedEOF.Error(), "it ends too early")
	}
	return at + ": " + e.Reason
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
