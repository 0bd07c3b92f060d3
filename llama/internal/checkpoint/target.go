package checkpoint

import (
	"errors"
	"io/fs"
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
	for _, p := range paths {
		if err := notOf(p, out, info); err != nil {
			return err
		}
	}
	if !o.Replace {
		return &FileError{File: out, Err: fs.ErrExist}
	}
	return nil
}

// splitPart matches the name of a part of a split GGUF file.
var splitPart = regexp.MustCompile(`-[0-9]{5}(-of-[0-9]{5}\.gguf)$`)

// notOf refuses a target that is among the files of a path that is read: a file, the
// parts beside it, or what a folder holds.
func notOf(path, out string, target fs.FileInfo) error {
	files := []string{path}
	if splitPart.MatchString(path) { // the parts are opened beside the first
		entries, _ := os.ReadDir(filepath.Dir(path)) // where nothing can be listed, the file itself is looked at
		for _, e := range entries {
			if splitPart.ReplaceAllString(e.Name(), "$1") == splitPart.ReplaceAllString(filepath.Base(path), "$1") {
				files = append(files, filepath.Join(filepath.Dir(path), e.Name()))
			}
		}
	}
	same := func(file string) error {
		if info, err := os.Stat(file); err == nil && os.SameFile(info, target) {
			return Errorf(out, "", "is read, as %s: name another file to write", file)
		}
		return nil
	}
	for _, file := range files {
		if err := same(file); err != nil {
			return err
		}
	}
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return nil
	}
	return filepath.WalkDir(filepath.Clean(path)+string(filepath.Separator), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what cannot be listed is not read either
		}
		return same(file)
	})
}
