package corpus

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/herd-ml/herd/internal/vfs"
)

// anyFolders is the part of a pattern that stands for any number of folders.
const anyFolders = "**"

var errAnyFolders = errors.New(`"**" must be a part of its own between slashes, as in data/**/*.jsonl`)

// glob lists what a pattern names: as filepath.Glob, but for parts "**", which stand
// for any number of folders, none too. Hidden ones are left out there.
func glob(pattern string) ([]string, error) {
	if !strings.Contains(pattern, anyFolders) {
		return filepath.Glob(pattern)
	}
	parts := strings.Split(filepath.ToSlash(pattern), "/")
	for _, p := range parts {
		if p != anyFolders && strings.Contains(p, anyFolders) {
			return nil, errAnyFolders
		}
		if _, err := filepath.Match(p, ""); err != nil {
			return nil, err
		}
	}
	first := slices.Index(parts, anyFolders)
	roots, err := filepath.Glob(filepath.FromSlash(strings.Join(parts[:first], "/")))
	switch {
	case first == 0:
		roots, err = []string{"."}, nil
	case first == 1 && parts[0] == "":
		roots, err = []string{string(filepath.Separator)}, nil
	}
	if err != nil {
		return nil, err
	}
	var found []string
	for _, root := range roots {
		below, err := globBelow(root, parts[first:])
		if err != nil {
			return nil, err
		}
		found = append(found, below...)
	}
	return found, nil
}

// globBelow lists the files below root whose path from there fits parts. Where the last
// part is "**", files of unknown kinds are left out, as in a folder.
func globBelow(root string, parts []string) (found []string, err error) {
	all := parts[len(parts)-1] == anyFolders
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return &Error{File: path, Reason: "cannot be read", Err: vfs.Pathless(err)}
		}
		if path == root {
			return nil
		}
		if e.IsDir() {
			if strings.HasPrefix(e.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		k, _ := kindOf(path)
		if fits(parts, strings.Split(filepath.ToSlash(rel), "/")) && !(all && (k == unknown || strings.HasPrefix(e.Name(), "."))) {
			if info, err := os.Stat(path); err != nil || !info.IsDir() { // a link to a folder is not followed
				found = append(found, path)
			}
		}
		return nil
	})
	return found, err
}

// fits reports whether the elements of a path fit the parts of a pattern, in time
// proportional to the product of their numbers.
func fits(parts, path []string) bool {
	at := make([]bool, len(path)+1) // the parts so far fit the first i elements
	at[0] = true
	for _, p := range parts {
		next := make([]bool, len(path)+1)
		for i := range at {
			switch {
			case p == anyFolders:
				next[i] = at[i] || i > 0 && next[i-1]
			case at[i] && i < len(path):
				next[i+1], _ = filepath.Match(p, path[i]) // the pattern has been checked
			}
		}
		at = next
	}
	return at[len(path)]
}
