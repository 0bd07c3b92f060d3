package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
)

const (
	maxHeader = 100_000_000 // bytes of a header; the limit of the reference reader
	maxRank   = 8           // dimensions of a tensor
	metaKey   = "__metadata__"
)

// types lists the element types of the format: their width in bits and the
// type they are here, Invalid where no operation takes them.
var types = map[string]struct {
	bits int64
	t    backend.DType
}{
	"F32": {32, backend.F32}, "F16": {16, backend.F16}, "BF16": {16, backend.BF16},
	"I8": {8, backend.I8}, "I32": {32, backend.I32},
	"BOOL": {8, 0}, "U8": {8, 0}, "I16": {16, 0}, "U16": {16, 0}, "U32": {32, 0},
	"I64": {64, 0}, "U64": {64, 0}, "F64": {64, 0}, "C64": {64, 0},
	"F4": {4, 0}, "F6_E2M3": {6, 0}, "F6_E3M2": {6, 0},
	"F8_E4M3": {8, 0}, "F8_E5M2": {8, 0}, "F8_E8M0": {8, 0}, "F8_E4M3FNUZ": {8, 0}, "F8_E5M2FNUZ": {8, 0},
}

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

// Tensor is one tensor of a file. It may be read by several goroutines at once.
type Tensor struct {
	Name     string
	Type     backend.DType // Invalid for a type that no operation takes; see TypeName
	TypeName string        // as in the header: "F32", "I64", "F8_E4M3"
	Shape    []int         // row-major, as torch prints it; empty for a scalar
	Bytes    int64         // size of the data

	file  *vfs.File
	start int64 // of the data in file, bytes
}

// ReadAt reads len(p) of the tensor's bytes from off on: elements in row-major
// order, little-endian. As io.ReaderAt says, fewer come with io.EOF at the
// tensor's end. A tensor of a type that is Invalid here cannot be read.
func (t *Tensor) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case t.Type == backend.Invalid:
		return 0, &Error{t.file.Name, t.Name, "type " + t.TypeName + " is not supported", nil}
	case off < 0:
		return 0, &Error{t.file.Name, t.Name, fmt.Sprintf("read at offset %d", off), nil}
	case off >= t.Bytes:
		return 0, io.EOF
	}
	var end error
	if left := t.Bytes - off; int64(len(p)) > left {
		p, end = p[:left], io.EOF
	}
	n, err := vfs.ReadFull(t.file, p, t.start+off)
	if err == nil {
		return n, end
	}
	return n, &Error{t.file.Name, t.Name, fmt.Sprintf("reading %d bytes at %d", len(p), t.start+off), err}
}

// File is an open file, or an open set of shards.
type File struct {
	tensors  []*Tensor
	byName   map[string]*Tensor
	metadata map[string]string
	warnings []string
	files    []*vfs.File
}

// Open opens a .safetensors file, or the set of files that a
// .safetensors.index.json lists. Errors are of type *Error, or those of the
// file system.
func Open(path string) (*File, error) {
	fsys, name := vfs.Split(path)
	return open(fsys, name, path)
}

// OpenFS is Open in a file system, with a slash-separated name.
func OpenFS(fsys fs.FS, name string) (*File, error) { return open(fsys, name, name) }

// New reads one file of size bytes from r, which the caller keeps open. The
// name is for error messages.
func New(r io.ReaderAt, size int64, name string) (*File, error) {
	return one(vfs.New(r, size, name))
}

func open(fsys fs.FS, name, shown string) (*File, error) {
	if strings.HasSuffix(name, ".index.json") {
		return openIndex(fsys, name, shown)
	}
	f, err := vfs.Open(fsys, name)
	if err != nil {
		return nil, err
	}
	f.Name = shown
	return one(f)
}

// one reads the header of f and closes f if it is bad.
func one(f *vfs.File) (*File, error) {
	out := &File{byName: map[string]*Tensor{}, files: []*vfs.File{f}}
	ts, meta, err := readHeader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	out.tensors, out.metadata = ts, meta
	for _, t := range ts {
		out.byName[t.Name] = t
	}
	return out, nil
}

// Tensors lists the tensors, shard by shard, in the order of their data.
func (f *File) Tensors() []*Tensor { return f.tensors }

// Tensor returns the tensor with that name, nil if there is none.
func (f *File) Tensor(name string) *Tensor { return f.byName[name] }

// Metadata returns the header's string pairs. In a sharded set the first shard
// that has a key gives its value.
func (f *File) Metadata() map[string]string { return f.metadata }

// Warnings says what was passed over: tensors of a shard that the index does
// not list.
func (f *File) Warnings() []string { return f.warnings }

// Close closes the files. Tensors must not be read after it.
func (f *File) Close() error {
	var errs []error
	for _, file := range f.files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// readHeader parses and checks the header of f. The tensors come in the order
// of their data.
func readHeader(f *vfs.File) ([]*Tensor, map[string]string, error) {
	bad := func(reason string, err error) ([]*Tensor, map[string]string, error) {
		return nil, nil, &Error{f.Name, "", reason, vfs.Damage(err)}
	}
	if kind := f.Kind(); kind != "" {
		return nil, nil, &Error{f.Name, "", "this is not a safetensors file: it is " + kind, nil}
	}
	if f.Size < 8 {
		return bad(fmt.Sprintf("%d bytes are too few for a safetensors file", f.Size), nil)
	}
	var b [8]byte
	if _, err := vfs.ReadFull(f, b[:], 0); err != nil {
		return bad("reading the header length", err)
	}
	u := binary.LittleEndian.Uint64(b[:])
	switch {
	case u > maxHeader:
		return bad(fmt.Sprintf("header of %d bytes is above the limit of %d; is this a safetensors file?", u, maxHeader), nil)
	case int64(u) > f.Size-8:
		return bad(fmt.Sprintf("header of %d bytes in a file of %d", u, f.Size), io.ErrUnexpectedEOF)
	}
	n := int64(u)
	text, err := vfs.ReadString(f, 8, n) // names are slices of it, so it is kept
	if err != nil {
		return bad("reading the header", err)
	}
	h := header{scanner: scanner{s: text}, file: f, data: 8 + n}
	if err := h.parse(); err != nil {
		if e, ok := err.(*Error); ok {
			e.Err = vfs.Damage(e.Err)
			return nil, nil, e
		}
		return bad("header", err)
	}
	if err := h.checkPlaces(); err != nil {
		return nil, nil, err
	}
	return h.tensors, h.metadata, nil
}

// header is the state of parsing one.
type header struct {
	scanner
	file     *vfs.File
	data     int64 // where the tensors' bytes start in file
	tensors  []*Tensor
	metadata map[string]string
}

func (h *header) parse() error {
	if !strings.HasPrefix(h.s, "{") {
		return h.fail("expected an object")
	}
	if !utf8.ValidString(h.s) {
		return h.fail("not UTF-8")
	}
	err := h.object(func(key string) error {
		if key == metaKey {
			h.metadata = map[string]string{}
			return h.object(func(key string) (err error) {
				h.metadata[key], err = h.str()
				return err
			})
		}
		t, err := h.tensor(key)
		if err != nil {
			return &Error{h.file.Name, key, "header", err}
		}
		h.tensors = append(h.tensors, t)
		return nil
	})
	if err != nil {
		return err
	}
	return h.end()
}

// tensor reads {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}.
// Other members are refused: they could change what the bytes mean.
func (h *header) tensor(name string) (*Tensor, error) {
	t := &Tensor{Name: name, file: h.file, Shape: []int{}}
	elems, fields := int64(1), 0
	var ends []int64
	err := h.object(func(key string) (err error) {
		fields++
		switch key {
		case "dtype":
			t.TypeName, err = h.str()
			return err
		case "shape":
			return h.array(func() error {
				d, err := h.size()
				if err != nil {
					return err
				}
				if len(t.Shape) == maxRank {
					return h.fail("shape of more than %d dimensions", maxRank)
				}
				if d > math.MaxInt || d > 0 && elems > math.MaxInt64/64/d {
					return h.fail("shape is too large")
				}
				elems *= d
				t.Shape = append(t.Shape, int(d))
				return nil
			})
		case "data_offsets":
			return h.array(func() error {
				at, err := h.size()
				if ends = append(ends, at); err == nil && len(ends) > 2 {
					err = h.fail("more than two data_offsets")
				}
				return err
			})
		}
		return h.fail("unknown field %q", vfs.Clip(key))
	})
	if err != nil {
		return nil, err
	}
	if fields != 3 || len(ends) != 2 {
		return nil, h.fail("needs dtype, shape and two data_offsets")
	}
	typ, ok := types[t.TypeName]
	if !ok {
		return nil, h.fail("unknown dtype %q", vfs.Clip(t.TypeName))
	}
	t.Type = typ.t
	t.Bytes = elems * typ.bits / 8
	if elems*typ.bits%8 != 0 || ends[0] > ends[1] || ends[1]-ends[0] != t.Bytes {
		return nil, h.fail("%s of shape %v does not fill the data_offsets %d to %d", t.TypeName, t.Shape, ends[0], ends[1])
	}
	if ends[1] > h.file.Size-h.data {
		return nil, h.fail("ends at byte %d of %d bytes of data", ends[1], h.file.Size-h.data)
	}
	t.start = h.data + ends[0]
	return t, nil
}

// checkPlaces sorts the tensors by place and refuses overlaps, gaps and a rest.
func (h *header) checkPlaces() error {
	ts := h.tensors
	sort.SliceStable(ts, func(i, j int) bool {
		if ts[i].start != ts[j].start {
			return ts[i].start < ts[j].start
		}
		return ts[i].Bytes < ts[j].Bytes // empty ones before what starts there too
	})
	at := h.data
	for _, t := range ts {
		if t.start != at {
			word := "a gap before it"
			if t.start < at {
				word = "an overlap with the one before"
			}
			return &Error{h.file.Name, t.Name, fmt.Sprintf("data starts at byte %d, expected %d: %s", t.start-h.data, at-h.data, word), vfs.Damage(nil)}
		}
		at += t.Bytes
	}
	if at != h.file.Size {
		return &Error{h.file.Name, "", fmt.Sprintf("the tensors end at byte %d, the file at %d", at, h.file.Size), vfs.Damage(nil)}
	}
	return nil
}
