package checkpoint

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
)

// checkTarget refuses to write where something would be lost: over a file that is read,
// by whatever name, and, without o.Replace, over any other. Folders are filled where
// they are empty only, which vfs.WriteFolder checks.
func checkTarget(in, out string, o ConvertOptions) error {
	if _, err := os.Lstat(out); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	info, err := os.Stat(out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Errorf(out, "", "is a link to what is not there: name another")
	case err != nil:
		return &FileError{File: out, Reason: "cannot be written", Err: err}
	case o.To != string(FormatGGUF):
		return nil
	case info.IsDir():
		return Errorf(out, "", "is a folder; name a file to write, %s for one", filepath.Join(out, "model.gguf"))
	}
	paths := []string{in}
	for _, a := range o.Adapters {
		paths = append(paths, a.Path)
	}
	if o.Base != "" {
		paths = append(paths, o.Base)
	}
	if err := CheckNotRead(out, paths...); err != nil {
		return err
	}
	if !o.Replace {
		return &FileError{File: out, Err: fs.ErrExist}
	}
	return nil
}

// splitPart matches the name of a part of a split GGUF file.
var splitPart = regexp.MustCompile(`-[0-9]{5}(-of-[0-9]{5}\.gguf)$`)

// CheckNotRead refuses a file to write that is there and among the files of paths that are
// read, by whatever name.
func CheckNotRead(out string, paths ...string) error {
	target, err := os.Stat(out)
	if err != nil {
		return nil // it is not there
	}
	for _, path := range paths {
		for file, info := range filesOf(path) {
			if os.SameFile(info, target) {
				return Errorf(out, "", "is read, as %s: name another file to write", file)
			}
		}
	}
	return nil
}

// filesOf yields the files of a path that is read, in an order that stays: a file, the
// parts beside it, or what a folder holds. What cannot be listed is left out: it is not
// read either.
func filesOf(path string) iter.Seq2[string, fs.FileInfo] {
	return func(yield func(string, fs.FileInfo) bool) {
		files := []string{path}
		if splitPart.MatchString(path) { // the parts are opened beside the first
			entries, _ := os.ReadDir(filepath.Dir(path)) // where nothing can be listed, the file itself is looked at
			for _, e := range entries {
				if splitPart.ReplaceAllString(e.Name(), "$1") == splitPart.ReplaceAllString(filepath.Base(path), "$1") {
					files = append(files, filepath.Join(filepath.Dir(path), e.Name()))
				}
			}
		}
		for _, file := range files {
			if info, err := os.Stat(file); err == nil && !yield(file, info) {
				return
			}
		}
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			return
		}
		filepath.WalkDir(filepath.Clean(path)+string(filepath.Separator), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil
			}
			if info, err := os.Stat(file); err == nil && !yield(file, info) {
				return fs.SkipAll
			}
			return nil
		})
	}
}
