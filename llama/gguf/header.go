package gguf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/herd-ml/herd/internal/vfs"
)

// Limits on what a header may hold, beyond those of the format. Real headers
// stay several times below; with these a hostile file cannot make us take more
// than about 200 MB, however long it is.
const (
	maxHeader  = 64 << 20 // bytes
	maxKeys    = 1 << 16
	maxTensors = 1 << 17
	maxDepth   = 8       // arrays in arrays
	maxAlign   = 1 << 16 // bytes

	maxKeyLen  = 65535 // of the format: bytes in a key
	maxNameLen = 64    // of the format: bytes in a tensor's name
	maxDims    = 4     // of the format

	minKeyBytes    = 8 + 1 + 4 + 1     // length, one letter, kind, u8
	minTensorBytes = 8 + 1 + 4 + 4 + 8 // length, one letter, no dims, type, offset

	magic        = "GGUF"
	alignKey     = "general.alignment"
	defaultAlign = 32 // bytes
)

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
			return &Error{File: c.src.Name, Key: alignKey, Reason: err.Error(), Err: vfs.Damage(nil)}
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

// cursor walks the header. It holds the file's first bytes, reads more of them
// as it advances, and never more than twice what was asked for.
type cursor struct {
	src         *vfs.File
	buf         []byte // the file from its start, as far as it has been read
	off         int    // next byte; at most len(buf)
	key, tensor string // what is being read, for errors
}

// fail says that the bytes are wrong, refuse that they are right and of no use.
func (c *cursor) fail(cause error, format string, args ...any) error {
	return &Error{File: c.src.Name, Tensor: c.tensor, Key: c.key, Reason: fmt.Sprintf(format, args...), Err: vfs.Damage(cause)}
}

func (c *cursor) refuse(cause error, format string, args ...any) error {
	return &Error{File: c.src.Name, Tensor: c.tensor, Key: c.key, Reason: fmt.Sprintf(format, args...), Err: cause}
}

// left is the number of bytes from the cursor to the end of the file.
func (c *cursor) left() uint64 { return uint64(max(0, c.src.Size-int64(c.off))) }

// take returns the next n bytes. They stay valid when the cursor moves on.
func (c *cursor) take(n uint64) ([]byte, error) {
	if n > c.left() {
		return nil, c.fail(io.ErrUnexpectedEOF, "%d bytes are wanted at offset %d of a file of %d", n, c.off, c.src.Size)
	}
	if n > uint64(maxHeader-c.off) {
		return nil, c.fail(nil, "the header is longer than the %d MiB allowed", maxHeader>>20)
	}
	end := c.off + int(n)
	if have := len(c.buf); end > have {
		want := min(int64(max(end, 2*have, 64<<10)), maxHeader, c.src.Size)
		buf := make([]byte, want)
		copy(buf, c.buf)
		if _, err := vfs.ReadFull(c.src, buf[have:], int64(have)); err != nil {
			return nil, c.refuse(err, "the header cannot be read")
		}
		c.buf = buf
	}
	b := c.buf[c.off:end:end]
	c.off = end
	return b, nil
}

func (c *cursor) u32() (uint32, error) {
	b, err := c.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (c *cursor) u64() (uint64, error) {
	b, err := c.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// name reads a string that names a key or a tensor.
func (c *cursor) name(limit int) (string, error) {
	n, err := c.u64()
	if err != nil {
		return "", err
	}
	if n > uint64(limit) {
		return "", c.fail(nil, "its name has %d bytes, at most %d are allowed", n, limit)
	}
	b, err := c.take(n)
	if err != nil {
		return "", err
	}
	if err := checkName(string(b), limit); err != nil {
		return "", c.fail(nil, "%v", err)
	}
	return string(b), nil
}

// checkName applies the rules for keys and tensor names.
func checkName(s string, limit int) error {
	switch {
	case s == "":
		return fmt.Errorf("its name is empty")
	case len(s) > limit:
		return fmt.Errorf("its name has %d bytes, at most %d are allowed", len(s), limit)
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("its name %.80q has a NUL byte", s)
	}
	return nil
}

// skip checks a value of kind k and moves behind it. depth counts the arrays
// around it.
func (c *cursor) skip(k Kind, depth int) error {
	switch {
	case k >= numKinds:
		return c.fail(nil, "value type %d is unknown", uint32(k))
	case k == String:
		n, err := c.u64()
		if err == nil {
			_, err = c.take(n)
		}
		return err
	case k == Array:
		return c.skipArray(depth + 1)
	}
	return c.skipScalars(k, 1)
}

func (c *cursor) skipArray(depth int) error {
	if depth > maxDepth {
		return c.fail(nil, "arrays are nested more than %d deep", maxDepth)
	}
	elem, err := c.u32()
	if err != nil {
		return err
	}
	n, err := c.u64()
	if err != nil {
		return err
	}
	k := Kind(elem)
	if k >= numKinds {
		return c.fail(nil, "array element type %d is unknown", elem)
	}
	if n > c.left()/uint64(kinds[k].size) { // so n x size cannot wrap
		return c.fail(io.ErrUnexpectedEOF, "an array of %d %v cannot fit the %d bytes left in the file", n, k, c.left())
	}
	if k != String && k != Array {
		return c.skipScalars(k, n)
	}
	for range n {
		if err := c.skip(k, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *cursor) skipScalars(k Kind, n uint64) error {
	b, err := c.take(n * uint64(kinds[k].size))
	if err != nil || k != Bool {
		return err
	}
	for _, x := range b {
		if x > 1 {
			return c.fail(nil, "a bool is %d, wanted 0 or 1", x)
		}
	}
	return nil
}

// preamble reads magic, version and the two counts.
func (c *cursor) preamble() (version uint32, tensors, keys uint64, err error) {
	if c.src.Size == 0 {
		return 0, 0, 0, c.fail(io.ErrUnexpectedEOF, "the file is empty")
	}
	b, err := c.take(4)
	if err != nil {
		return 0, 0, 0, err
	}
	if string(b) != magic {
		if kind := c.src.Kind(); kind != "" {
			return 0, 0, 0, c.refuse(nil, "this is not a GGUF file: it is %s", kind)
		}
		return 0, 0, 0, c.fail(nil, "this is not a GGUF file: it begins with %q, wanted %q", b, magic)
	}
	if version, err = c.u32(); err != nil {
		return 0, 0, 0, err
	}
	switch {
	case version == 2 || version == 3:
	case version == 1:
		return 0, 0, 0, c.refuse(nil, "GGUF version 1 is not supported, wanted 2 or 3: convert the model again")
	case version != 0 && version&0xffff == 0:
		return 0, 0, 0, c.refuse(nil, "the file is byte-swapped (big-endian), which is not supported")
	default:
		return 0, 0, 0, c.refuse(nil, "GGUF version %d is unknown, wanted 2 or 3", version)
	}
	if tensors, err = c.u64(); err != nil {
		return 0, 0, 0, err
	}
	if keys, err = c.u64(); err != nil {
		return 0, 0, 0, err
	}
	if limit := min(maxTensors, c.left()/minTensorBytes); tensors > limit {
		return 0, 0, 0, c.fail(nil, "the header announces %d tensors, a file of %d bytes has at most %d", tensors, c.src.Size, limit)
	}
	if limit := min(maxKeys, c.left()/minKeyBytes); keys > limit {
		return 0, 0, 0, c.fail(nil, "the header announces %d keys, a file of %d bytes has at most %d", keys, c.src.Size, limit)
	}
	return version, tensors, keys, nil
}

// tensorInfo reads one entry of the tensor list. The offset of the result is
// that of the file, relative to the data.
func (c *cursor) tensorInfo(index uint64) (*Tensor, error) {
	c.tensor = fmt.Sprintf("number %d", index)
	name, err := c.name(maxNameLen)
	if err != nil {
		return nil, err
	}
	c.tensor = name
	nDims, err := c.u32()
	if err != nil {
		return nil, err
	}
	if nDims > maxDims {
		return nil, c.fail(nil, "it has %d dimensions, at most %d are allowed", nDims, maxDims)
	}
	shape := make([]int, nDims)
	for i := range shape {
		d, err := c.u64()
		if err != nil {
			return nil, err
		}
		if d < 1 || d > math.MaxInt {
			return nil, c.fail(nil, "dimension %d is %d, wanted 1 to %d", i, d, math.MaxInt)
		}
		shape[len(shape)-1-i] = int(d)
	}
	id, err := c.u32()
	if err != nil {
		return nil, err
	}
	dtype, err := dtypeOf(id)
	switch {
	case err != nil && id < uint32(len(tensorTypes)): // the file is whole
		return nil, c.refuse(nil, "%v", err)
	case err != nil:
		return nil, c.fail(nil, "%v", err)
	}
	size, err := sizeOf(dtype, shape)
	if err != nil {
		return nil, c.fail(nil, "%v", err)
	}
	off, err := c.u64()
	if err != nil {
		return nil, err
	}
	if off > uint64(c.src.Size) {
		return nil, c.fail(io.ErrUnexpectedEOF, "its data begins at offset %d, past the end of a file of %d bytes", off, c.src.Size)
	}
	return &Tensor{Name: name, Type: dtype, Shape: shape, Bytes: size, src: c.src, off: int64(off)}, nil
}

// checkAlign returns the alignment that a general.alignment value asks for.
func checkAlign(v Value) (int64, error) {
	a, ok := v.Any().(uint32)
	if !ok {
		return 0, fmt.Errorf("wanted u32, got %s", v.kindName())
	}
	if a < 8 || a > maxAlign || a&(a-1) != 0 {
		return 0, fmt.Errorf("the alignment is %d, wanted a power of two from 8 to %d", a, maxAlign)
	}
	return int64(a), nil
}

// alignUp rounds n up to a multiple of a, a power of two. n must be at most
// math.MaxInt64 - a.
func alignUp(n, a int64) int64 { return (n + a - 1) &^ (a - 1) }
