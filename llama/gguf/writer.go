package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
)

// Writer collects metadata and tensors and writes them as one GGUF file of
// version 3. The zero Writer is empty and ready. Data is streamed: no tensor
// is held in memory.
type Writer struct {
	keys    []string
	meta    map[string]Value
	tensors []source
	names   map[string]bool
}

// source is a tensor to write.
type source struct {
	name  string
	id    uint32 // of the type, as in the file
	shape []int  // rows first
	bytes int64
	data  io.Reader
}

// Set gives a key a value: a [Value] or what [ValueOf] takes. Keys are written
// in the order in which they were first set; setting one again replaces its
// value. The key general.alignment, a uint32, sets the alignment of the data,
// 32 if it is not set.
func (w *Writer) Set(key string, value any) error {
	fail := func(err error) error { return &Error{Key: key, Reason: "cannot be written", Err: err} }
	if err := checkName(key, maxKeyLen); err != nil {
		return fail(err)
	}
	v, err := ValueOf(value)
	if err != nil {
		return fail(err)
	}
	// What was read keeps to the limits; what was made here is checked alike.
	c := cursor{src: vfs.New(bytes.NewReader(v.raw), int64(len(v.raw)), ""), buf: v.raw, key: key}
	if err := c.skip(v.kind, 0); err != nil {
		return err
	}
	if key == alignKey {
		if _, err := checkAlign(v); err != nil {
			return fail(err)
		}
	}
	if _, ok := w.meta[key]; !ok {
		if len(w.keys) == maxKeys {
			return fail(fmt.Errorf("a file has at most %d keys", maxKeys))
		}
		w.keys = append(w.keys, key)
	}
	if w.meta == nil {
		w.meta = map[string]Value{}
	}
	w.meta[key] = v
	return nil
}

// Add appends a tensor. The shape is row-major, rows first, as in [Tensor]. The
// data, little-endian and in the type's blocks, is read when the file is
// written, and must have exactly the length that type and shape give; where it
// is an io.WriterTo, that is used. [Tensor.Reader] copies from another file.
func (w *Writer) Add(name string, t backend.DType, shape []int, data io.Reader) error {
	fail := func(err error) error { return &Error{Tensor: name, Reason: "cannot be written", Err: err} }
	if err := checkName(name, maxNameLen); err != nil {
		return fail(err)
	}
	id, ok := idOf(t)
	if !ok {
		return fail(fmt.Errorf("type %v has no number in the format", t))
	}
	size, err := sizeOf(t, shape)
	if err != nil {
		return fail(err)
	}
	switch {
	case w.names[name]:
		return fail(errors.New("the name occurs twice"))
	case data == nil:
		return fail(errors.New("it has no data"))
	case len(w.tensors) == maxTensors:
		return fail(fmt.Errorf("a file has at most %d tensors", maxTensors))
	}
	if w.names == nil {
		w.names = map[string]bool{}
	}
	w.names[name] = true
	w.tensors = append(w.tensors, source{name, id, slices.Clone(shape), size, data})
	return nil
}

// WriteFile writes the file so that path holds either what it held before or
// the whole new content. The data of the tensors is consumed: a Writer writes
// once.
func (w *Writer) WriteFile(path string) error {
	err := vfs.WriteAtomic(path, func(out io.Writer) error {
		_, err := w.WriteTo(out)
		return err
	})
	var e *Error
	if errors.As(err, &e) {
		e.File = path
		return err
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) && pe.Path == path {
		err = pe.Err // without the path, which Error gives
	}
	if err != nil {
		return &Error{File: path, Reason: "the file cannot be written", Err: err}
	}
	return nil
}

// WriteTo is WriteFile for any io.Writer. It returns the bytes written.
func (w *Writer) WriteTo(out io.Writer) (int64, error) { return w.WriteRest(out, 0, nil) }

// WriteRest is WriteTo of what comes after the first n tensors, all of the file where n is
// 0: out has the rest already. done, unless it is nil, is called
// once a tensor and the padding after it are written, with its number; an error of it ends
// the writing.
func (w *Writer) WriteRest(out io.Writer, n int, done func(tensor int) error) (int64, error) {
	total := int64(0)
	if n == 0 {
		head, err := w.Header()
		if err != nil {
			return 0, err
		}
		written, err := out.Write(head)
		if total = int64(written); err != nil {
			return total, err
		}
	}
	for i, t := range w.tensors[n:] {
		written, err := t.writeTo(out)
		total += written
		if err != nil {
			return total, err
		}
		pad, err := out.Write(make([]byte, alignUp(t.bytes, w.align())-t.bytes))
		total += int64(pad)
		if err == nil && done != nil {
			err = done(n + i)
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// Len is the number of tensors.
func (w *Writer) Len() int { return len(w.tensors) }

func (w *Writer) align() int64 {
	if v, ok := w.meta[alignKey]; ok {
		a, _ := checkAlign(v) // Set has checked it
		return a
	}
	return defaultAlign
}

// Header is all of the file that comes before the data, with the padding up to it.
func (w *Writer) Header() ([]byte, error) {
	le, align := binary.LittleEndian, w.align()
	b := le.AppendUint32([]byte(magic), 3)
	b = le.AppendUint64(b, uint64(len(w.tensors)))
	b = le.AppendUint64(b, uint64(len(w.keys)))
	for _, key := range w.keys {
		b = appendString(b, key)
		b = le.AppendUint32(b, uint32(w.meta[key].kind))
		b = append(b, w.meta[key].raw...)
	}
	off := int64(0)
	for _, t := range w.tensors {
		b = appendString(b, t.name)
		b = le.AppendUint32(b, uint32(len(t.shape)))
		for _, d := range slices.Backward(t.shape) {
			b = le.AppendUint64(b, uint64(d))
		}
		b = le.AppendUint32(b, t.id)
		b = le.AppendUint64(b, uint64(off))
		if t.bytes > math.MaxInt64-maxHeader-2*maxAlign-off {
			return nil, &Error{Tensor: t.name, Reason: "the file would be longer than 63 bits can say"}
		}
		off += alignUp(t.bytes, align)
	}
	if len(b) > maxHeader {
		return nil, &Error{Reason: fmt.Sprintf("the header would have %d bytes, at most %d are allowed", len(b), maxHeader)}
	}
	return append(b, make([]byte, alignUp(int64(len(b)), align)-int64(len(b)))...), nil
}

// writeTo copies the data and checks its length.
func (t *source) writeTo(out io.Writer) (int64, error) {
	c := &counter{out: out, left: t.bytes}
	n, err := io.Copy(c, t.data)
	if err == nil && c.left != 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return t.bytes - c.left, &Error{Tensor: t.name, Reason: fmt.Sprintf("writing its %d bytes stopped after %d", t.bytes, n), Err: err}
	}
	return n, nil
}

var errTooLong = errors.New("the data is longer than type and shape say")

// counter passes at most left bytes on and refuses more.
type counter struct {
	out  io.Writer
	left int64
}

func (c *counter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		return 0, errTooLong
	}
	n, err := c.out.Write(p)
	c.left -= int64(n)
	return n, err
}
