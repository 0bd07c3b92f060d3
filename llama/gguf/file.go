package gguf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
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

// parse reads the header of one file.
func parse(src *vfs.File) (*File, error) {
	c := &cursor{src: src}
	version, nTensors, nKeys, err := c.preamble()
	if err != nil {
		return nil, err
	}
	f := &File{files: []*vfs.File{src}, version: version, meta: map[string]Value{}, byName: map[string]*Tensor{}}
	if err := f.readMeta(c, nKeys); err != nil {
		return nil, err
	}
	if err := f.readTensors(c, nTensors); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) readMeta(c *cursor, n uint64) error {
	type span struct {
		kind       Kind
		start, end int
	}
	spans := make([]span, 0, n)
	for i := range n {
		c.key = fmt.Sprintf("number %d", i)
		key, err := c.name(maxKeyLen)
		if err != nil {
			return err
		}
		c.key = key
		if _, twice := f.meta[key]; twice {
			return c.fail(nil, "the key occurs twice")
		}
		kind, err := c.u32()
		if err != nil {
			return err
		}
		start := c.off
		if err := c.skip(Kind(kind), 0); err != nil {
			return err
		}
		f.keys = append(f.keys, key)
		f.meta[key] = Value{}
		spans = append(spans, span{Kind(kind), start, c.off})
	}
	// Only now, so that values do not keep the buffers c has outgrown.
	for i, s := range spans {
		f.meta[f.keys[i]] = Value{s.kind, c.buf[s.start:s.end:s.end]}
	}
	c.key = ""
	return nil
}

// readTensors reads the tensor list and checks that the data lies in the file,
// aligned and without overlap.
func (f *File) readTensors(c *cursor, n uint64) error {
	align := int64(defaultAlign)
	if v, ok := f.meta[alignKey]; ok {
		var err error
		if align, err = checkAlign(v); err != nil {
			return &Error{File: c.src.Name, Key: alignKey, Reason: err.Error()}
		}
	}
	for i := range n {
		t, err := c.tensorInfo(i)
		if err != nil {
			return err
		}
		if f.byName[t.Name] != nil {
			return c.fail(nil, "the name occurs twice")
		}
		if t.off%align != 0 {
			return c.fail(nil, "its offset %d is not a multiple of the alignment %d", t.off, align)
		}
		f.tensors = append(f.tensors, t)
		f.byName[t.Name] = t
	}
	data := alignUp(int64(c.off), align)
	for _, t := range f.tensors {
		if room := c.src.Size - data; t.off > room || t.Bytes > room-t.off {
			c.tensor = t.Name
			return c.fail(io.ErrUnexpectedEOF, "its %d bytes at offset %d do not lie in the %d bytes of data: the file is truncated or damaged", t.Bytes, t.off, max(0, room))
		}
		t.off += data
	}
	byOffset := slices.Clone(f.tensors)
	slices.SortFunc(byOffset, func(a, b *Tensor) int { return cmp.Compare(a.off, b.off) })
	for i, t := range byOffset[min(1, len(byOffset)):] {
		if prev := byOffset[i]; prev.off+prev.Bytes > t.off {
			c.tensor = t.Name
			return c.fail(nil, "its data overlaps that of tensor %.80q", prev.Name)
		}
	}
	return nil
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

// Keys returns the metadata keys in the file's order, of the first part if the
// file is split.
func (f *File) Keys() []string { return slices.Clone(f.keys) }

// Lookup returns the value of a key and whether there is one.
func (f *File) Lookup(key string) (Value, bool) {
	v, ok := f.meta[key]
	return v, ok
}

// Tensors returns the tensors in the file's order, those of a split set part
// after part.
func (f *File) Tensors() []*Tensor { return slices.Clone(f.tensors) }

// Tensor returns the tensor with the given name, or nil.
func (f *File) Tensor(name string) *Tensor { return f.byName[name] }

// Uint returns an integer of any kind that is not negative.
func (f *File) Uint(key string) (uint64, error) {
	return get(f, key, "an integer from 0", func(x any) (n uint64, ok bool) {
		switch x := x.(type) {
		case uint8:
			return uint64(x), true
		case uint16:
			return uint64(x), true
		case uint32:
			return uint64(x), true
		case uint64:
			return x, true
		case int8:
			return uint64(x), x >= 0
		case int16:
			return uint64(x), x >= 0
		case int32:
			return uint64(x), x >= 0
		case int64:
			return uint64(x), x >= 0
		}
		return 0, false
	})
}

// Float returns an f32 or f64.
func (f *File) Float(key string) (float64, error) {
	return get(f, key, "f32 or f64", func(x any) (float64, bool) {
		switch x := x.(type) {
		case float32:
			return float64(x), true
		case float64:
			return x, true
		}
		return 0, false
	})
}

// String returns a string. Its bytes are those of the file, valid UTF-8 or not.
func (f *File) String(key string) (string, error) { return getAs[string](f, key, "str") }

// Bool returns a bool.
func (f *File) Bool(key string) (bool, error) { return getAs[bool](f, key, "bool") }

// Strings returns an array of strings. It decodes them anew at each call.
func (f *File) Strings(key string) ([]string, error) { return getAs[[]string](f, key, "arr[str]") }

// StringList returns an array of strings that are decoded one at a time.
func (f *File) StringList(key string) (StringList, error) {
	v, ok := f.meta[key]
	if !ok || v.kind != Array || v.Elem() != String {
		_, err := f.Strings(key) // which says what is wrong
		return StringList{}, err
	}
	return StringList{n: v.Len(), raw: v.raw[arrayHead:]}, nil
}

// Floats returns an array of f32, or one of f64 rounded to float32.
func (f *File) Floats(key string) ([]float32, error) {
	return get(f, key, "arr[f32] or arr[f64]", func(x any) ([]float32, bool) {
		switch x := x.(type) {
		case []float32:
			return x, true
		case []float64:
			out := make([]float32, len(x))
			for i, v := range x {
				out[i] = float32(v)
			}
			return out, true
		}
		return nil, false
	})
}

// Ints returns an array of integers of any kind. A u64 above 2^63-1 is an
// error.
func (f *File) Ints(key string) ([]int64, error) {
	return get(f, key, "an array of integers", func(x any) ([]int64, bool) {
		switch x := x.(type) {
		case []uint8:
			return widen(x), true
		case []int8:
			return widen(x), true
		case []uint16:
			return widen(x), true
		case []int16:
			return widen(x), true
		case []uint32:
			return widen(x), true
		case []int32:
			return widen(x), true
		case []int64:
			return x, true
		case []uint64:
			return widen(x), len(x) == 0 || slices.Max(x) <= math.MaxInt64
		}
		return nil, false
	})
}

func widen[T uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64](x []T) []int64 {
	out := make([]int64, len(x))
	for i, v := range x {
		out[i] = int64(v)
	}
	return out
}

// getAs gets a value of exactly one Go type.
func getAs[T any](f *File, key, want string) (T, error) {
	return get(f, key, want, func(x any) (T, bool) { y, ok := x.(T); return y, ok })
}

func get[T any](f *File, key, want string, as func(any) (T, bool)) (T, error) {
	var none T
	v, ok := f.meta[key]
	if !ok {
		return none, &Error{File: f.files[0].Name, Key: key, Reason: "wanted " + want, Err: ErrNoKey}
	}
	x, ok := as(v.Any())
	if !ok {
		got := v.kindName()
		if v.kind != Array {
			got += " " + v.String()
		}
		return none, &Error{File: f.files[0].Name, Key: key, Reason: fmt.Sprintf("wanted %s, got %s", want, got)}
	}
	return x, nil
}
