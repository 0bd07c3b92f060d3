package pth

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
)

const (
	alignment = 64         // of a storage's data in the file, bytes; torch's own
	root      = "archive/" // torch.save's name for a file that has none
)

// Source is a tensor to be written.
type Source struct {
	Name  string
	Type  backend.DType // F32, F16, BF16, I8 or I32
	Shape []int         // row-major; empty for a scalar
	Data  io.ReaderAt   // the elements, row-major, little-endian; a *Tensor for one
}

// numel returns the elements of s and their type, or why it cannot be written.
func (s *Source) numel() (int64, *kind, error) {
	bad := func(reason string) (int64, *kind, error) { return 0, nil, &Error{"pth", s.Name, reason, nil} }
	var k *kind
	for _, have := range kinds {
		if have.t == s.Type && s.Type != backend.Invalid {
			k = have
		}
	}
	switch {
	case k == nil:
		return bad(fmt.Sprintf("type %v cannot be stored", s.Type))
	case len(s.Shape) > maxRank:
		return bad(fmt.Sprintf("more than %d dimensions", maxRank))
	case !utf8.ValidString(s.Name) || len(s.Name) > math.MaxInt32:
		return bad("not a tensor name")
	}
	n, extent := int64(1), int64(1) // extent counts empty dimensions as one, as the strides do
	for _, d := range s.Shape {
		if d < 0 || extent > math.MaxInt64/k.size/int64(max(1, d)) {
			return bad(fmt.Sprintf("shape %v", s.Shape))
		}
		n *= int64(d)
		extent *= int64(max(1, d))
	}
	return n, k, nil
}

// Write writes a checkpoint that torch.load reads, with weights_only too: a
// dict of tensors in the order given, each with a storage of its own. The data
// are streamed through a small buffer.
func Write(w io.Writer, tensors []Source) error {
	code, err := encodePickle(tensors)
	if err != nil {
		return err
	}
	a := newArchive(w)
	small := func(name, text string) error {
		return a.add(name, int64(len(text)), func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		})
	}
	if err := small("data.pkl", code); err != nil {
		return err
	}
	if err := small("byteorder", "little"); err != nil {
		return err
	}
	id := fnv.New128a() // names the content, so that equal input gives equal files
	io.WriteString(id, code)
	buf := make([]byte, 1<<18)
	for i := range tensors {
		s := &tensors[i]
		n, k, _ := s.numel() // checked by encodePickle
		err := a.add("data/"+strconv.Itoa(i), n*k.size, func(w io.Writer) error {
			return copyData(w, s, n*k.size, buf, id)
		})
		if err != nil {
			return err
		}
	}
	if err := small("version", "3\n"); err != nil {
		return err
	}
	if err := small(".data/serialization_id", fmt.Sprintf("%x", id.Sum(nil))); err != nil {
		return err
	}
	return a.zip.Close()
}

// copyData streams a tensor's n bytes into w and id.
func copyData(w io.Writer, s *Source, n int64, buf []byte, id hash.Hash) error {
	if err := vfs.Copy(io.MultiWriter(w, id), s.Data, n, buf); err != nil {
		return &Error{"pth", s.Name, fmt.Sprintf("copying %d bytes", n), err}
	}
	return nil
}

// WriteFile is Write to a path, which holds its old content until the new one
// is complete.
func WriteFile(path string, tensors []Source) error {
	return vfs.WriteAtomic(path, func(w io.Writer) error { return Write(w, tensors) })
}

// archive writes stored zip entries whose data start at multiples of alignment.
type archive struct {
	out  counter
	zip  *zip.Writer
	last int64 // bytes of the entry before, -1 for none
}

func newArchive(w io.Writer) *archive {
	a := &archive{out: counter{w: w}, last: -1}
	a.zip = zip.NewWriter(&a.out)
	return a
}

// counter counts what passes.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// add writes an entry of size bytes. The data start behind: what is out, the
// descriptor of the entry before (which package zip writes late), the local
// header of 30 bytes, the name, and an extra field that fills up to the
// alignment. The layout is that of APPNOTE.TXT, 4.3.7 and 4.3.9.
func (a *archive) add(name string, size int64, data func(io.Writer) error) error {
	if err := a.zip.Flush(); err != nil {
		return err
	}
	at := a.out.n
	switch {
	case a.last >= math.MaxUint32:
		at += 24
	case a.last >= 0:
		at += 16
	}
	at += 30 + int64(len(root)+len(name)) + 4
	pad := (alignment - at%alignment) % alignment
	extra := append(make([]byte, 0, 4+pad), 'F', 'B', byte(pad), 0) // torch's id for its padding
	extra = append(extra, make([]byte, pad)...)
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: root + name, Method: zip.Store, Extra: extra})
	if err != nil {
		return err
	}
	a.last = size
	return data(w)
}

// encodePickle writes the dict {name: _rebuild_tensor_v2((storage), 0, shape,
// strides, False, OrderedDict())} in protocol 2.
func encodePickle(tensors []Source) (string, error) {
	b := []byte{opProto, 2, opEmptyDict, opMark}
	seen := map[string]bool{}
	for i := range tensors {
		s := &tensors[i]
		n, k, err := s.numel()
		if err != nil {
			return "", err
		}
		if seen[s.Name] {
			return "", &Error{"pth", s.Name, "there twice", nil}
		}
		seen[s.Name] = true
		strides := make([]int64, len(s.Shape))
		for i, step := len(s.Shape)-1, int64(1); i >= 0; i-- {
			strides[i] = step
			step *= int64(max(1, s.Shape[i]))
		}
		b = appendString(b, s.Name)
		b = appendGlobal(b, rebuildTensor)
		b = append(b, opMark, opMark)
		b = appendString(b, "storage")
		b = appendGlobal(b, global("torch "+k.name))
		b = appendString(b, strconv.Itoa(i))
		b = appendString(b, "cpu")
		b = append(appendInt(b, n), opTuple, opBinPersID)
		b = appendInt(b, 0)
		b = appendInts(b, s.Shape)
		b = appendInts(b, strides)
		b = append(b, opNewFalse)
		b = appendGlobal(b, orderedDict)
		b = append(b, opEmptyTuple, opReduce, opTuple, opReduce)
	}
	b = append(b, opSetItems, opStop)
	if len(b) > maxPickle {
		return "", &Error{"pth", "", fmt.Sprintf("%d tensors need a pickle of %d bytes: too many", len(tensors), len(b)), nil}
	}
	return string(b), nil
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(append(b, opBinUnicode), uint32(len(s)))
	return append(b, s...)
}

// appendGlobal writes "module name" as two lines.
func appendGlobal(b []byte, g global) []byte {
	b = append(b, opGlobal)
	for _, c := range []byte(g) {
		if c == ' ' {
			c = '\n'
		}
		b = append(b, c)
	}
	return append(b, '\n')
}

func appendInt(b []byte, n int64) []byte {
	if n <= math.MaxInt32 {
		return binary.LittleEndian.AppendUint32(append(b, opBinInt), uint32(n))
	}
	return binary.LittleEndian.AppendUint64(append(b, opLong1, 8), uint64(n))
}

func appendInts[T int | int64](b []byte, ns []T) []byte {
	b = append(b, opMark)
	for _, n := range ns {
		b = appendInt(b, int64(n))
	}
	return append(b, opTuple)
}
