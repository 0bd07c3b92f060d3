package gguf

// Split sets: models in several files, name-00001-of-0000N.gguf.

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
)

// split is what the split.* keys say: which part of how many this file is, and
// how many tensors all parts have together.
type split struct {
	no, count, tensors uint64 // no counts from 0
}

// split reads the split.* keys. Without them the file is part 0 of 1.
func (f *File) split() (s split, err error) {
	if _, ok := f.meta["split.count"]; !ok {
		return split{0, 1, uint64(len(f.tensors))}, nil
	}
	if s.count, err = f.Uint("split.count"); err != nil {
		return s, err
	}
	if s.no, err = f.Uint("split.no"); err != nil {
		return s, err
	}
	if s.tensors, err = f.Uint("split.tensors.count"); err != nil {
		return s, err
	}
	if s.no >= s.count {
		return s, &Error{File: f.files[0].Name, Key: "split.no", Reason: fmt.Sprintf("is %d, wanted less than split.count, %d", s.no, s.count)}
	}
	return s, nil
}

// partName builds the name of part no, from 1, of a split set.
func partName(stem string, no, count uint64) string {
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", stem, no, count)
}

// parsePartName is the inverse of partName.
func parsePartName(name string) (stem string, no, count uint64, ok bool) {
	cut := len(name) - len("-00001-of-00002.gguf")
	if cut < 0 {
		return "", 0, 0, false
	}
	tail := name[cut:]
	no, err1 := strconv.ParseUint(tail[1:6], 10, 32)
	count, err2 := strconv.ParseUint(tail[10:15], 10, 32)
	ok = err1 == nil && err2 == nil && name == partName(name[:cut], no, count)
	return name[:cut], no, count, ok
}

// openRest adds the other parts of the split set that f begins, if it does.
func (f *File) openRest(fsys fs.FS, name string, shown func(string) string) error {
	fail := func(format string, args ...any) error {
		return &Error{File: shown(name), Reason: fmt.Sprintf(format, args...)}
	}
	set, err := f.split()
	if err != nil {
		return err
	}
	stem, no, count, named := parsePartName(name)
	switch {
	case named && no != 1:
		return fail("this is part %d of %d: open the first, %s", no, count, shown(partName(stem, 1, count)))
	case set.no != 0:
		return fail("this is part %d of %d: open the first", set.no+1, set.count)
	case named && count != set.count:
		return fail("its name says that the set has %d parts, its metadata %d", count, set.count)
	case !named && set.count > 1:
		return fail("this is the first of %d parts, but its name does not end in %s", set.count, partName("", 1, set.count))
	}
	for no := uint64(2); no <= set.count; no++ {
		part, err := openPart(fsys, partName(stem, no, set.count), shown)
		if err != nil {
			var e *Error
			if errors.Is(err, fs.ErrNotExist) && errors.As(err, &e) {
				e.Reason = fmt.Sprintf("part %d of %d is missing", no, set.count)
			}
			return err
		}
		f.files = append(f.files, part.files...)
		if err := f.addPart(part, split{no - 1, set.count, set.tensors}); err != nil {
			return err
		}
	}
	if n := uint64(len(f.tensors)); n != set.tensors {
		return &Error{File: shown(name), Key: "split.tensors.count", Reason: fmt.Sprintf("is %d, but the %d parts hold %d tensors", set.tensors, set.count, n)}
	}
	return nil
}

// addPart takes over the tensors of a part that must be the one wanted.
func (f *File) addPart(part *File, want split) error {
	name := part.files[0].Name
	got, err := part.split()
	if err != nil {
		return err
	}
	if got != want {
		return &Error{File: name, Reason: fmt.Sprintf("this is part %d of %d of a set with %d tensors, wanted part %d of %d with %d",
			got.no+1, got.count, got.tensors, want.no+1, want.count, want.tensors)}
	}
	const arch = "general.architecture"
	if v, ok := part.meta[arch]; ok && !bytes.Equal(v.raw, f.meta[arch].raw) {
		return &Error{File: name, Key: arch, Reason: fmt.Sprintf("is %v, but %v in the first part", v, f.meta[arch])}
	}
	for _, t := range part.tensors {
		if f.byName[t.Name] != nil {
			return &Error{File: name, Tensor: t.Name, Reason: "the name occurs in an earlier part too"}
		}
		f.tensors = append(f.tensors, t)
		f.byName[t.Name] = t
	}
	return nil
}
