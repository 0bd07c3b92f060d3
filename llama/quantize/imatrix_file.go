package quantize

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/gguf"
)

// A FileError says what is wrong with a file of this package's formats. Errors of GGUF
// files (*gguf.Error) come unwrapped.
type FileError struct {
	File   string // path as given
	Entry  string // the matrix that it is about, or empty
	Reason string
	Err    error // cause, or nil
}

func (e *FileError) Error() string {
	parts := []string{e.File}
	if e.Entry != "" {
		parts = append(parts, fmt.Sprintf("%.80q", e.Entry))
	}
	if e.Reason != "" {
		parts = append(parts, e.Reason)
	}
	if e.Err != nil && e.Err.Error() != "" { // see vfs.Damage
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// OpenImatrix reads an importance matrix of either of llama.cpp's formats: the GGUF file,
// or the older one, whose names often end in .dat. It refuses numbers that are no mean
// squares.
func OpenImatrix(path string) (*Imatrix, error) {
	fsys, name := vfs.Split(path)
	f, err := vfs.Open(fsys, name)
	if err != nil {
		return nil, &FileError{File: path, Reason: "cannot be opened", Err: vfs.Pathless(err)}
	}
	defer f.Close()
	return ReadImatrix(f, f.Size, path)
}

// ReadImatrix is OpenImatrix of a file of size bytes. The name is for error messages.
func ReadImatrix(r io.ReaderAt, size int64, name string) (*Imatrix, error) {
	head := make([]byte, 4)
	if _, err := vfs.ReadFull(r, head, 0); err != nil {
		return nil, &FileError{File: name, Reason: "is no importance matrix", Err: vfs.Damage(err)}
	}
	read := readDat
	if string(head) == "GGUF" {
		read = readGGUF
	}
	m, err := read(r, size, name)
	if err != nil {
		return nil, err
	}
	if len(m.Entries) == 0 {
		return nil, &FileError{File: name, Reason: "is an importance matrix of nothing"}
	}
	for _, entry := range m.names() {
		if err := m.Entries[entry].check(); err != nil {
			return nil, &FileError{File: name, Entry: entry, Err: err}
		}
	}
	return m, nil
}

// maxImatrix bounds the bytes that a file may have: those of the largest models have some
// tens of megabytes.
const maxImatrix = 1 << 30

// The keys and the ends of the names of tensors in GGUF files.
const (
	typeKey      = "general.type"
	imatrixType  = "imatrix"
	datasetsKey  = "imatrix.datasets"
	chunksKey    = "imatrix.chunk_count"
	chunkSizeKey = "imatrix.chunk_size"
	sumsSuffix   = ".in_sum2"
	countsSuffix = ".counts"
)

func readGGUF(r io.ReaderAt, size int64, name string) (*Imatrix, error) {
	f, err := gguf.New(r, size, name)
	if err != nil {
		return nil, err
	}
	if kind, err := f.String(typeKey); err != nil || kind != imatrixType {
		return nil, &FileError{File: name, Reason: "is no importance matrix, but another GGUF file"}
	}
	m := &Imatrix{Entries: map[string]Entry{}}
	if m.Datasets, err = f.Strings(datasetsKey); err != nil && !errors.Is(err, gguf.ErrNoKey) {
		return nil, err
	}
	for key, n := range map[string]*int{chunksKey: &m.Chunks, chunkSizeKey: &m.ChunkSize} {
		v, err := f.Uint(key)
		if err != nil {
			return nil, err
		}
		*n = int(min(v, math.MaxInt32))
	}
	for _, t := range f.Tensors() {
		entry, ok := strings.CutSuffix(t.Name, sumsSuffix)
		if !ok {
			continue
		}
		fail := func(reason string) error { return &FileError{File: name, Entry: entry, Reason: reason} }
		counts := f.Tensor(entry + countsSuffix)
		switch {
		case counts == nil:
			return nil, fail("has no tensor of counts")
		case t.Type != backend.F32 || counts.Type != backend.F32:
			return nil, fail("is not of F32")
		case counts.Bytes != 4:
			return nil, fail("is of several experts, which no model here has")
		case t.Bytes > maxImatrix:
			return nil, fail("is too large")
		}
		sums, err := floats(t, t.Bytes)
		if err != nil {
			return nil, err
		}
		count, err := floats(counts, counts.Bytes)
		if err != nil {
			return nil, err
		}
		m.Entries[entry] = Entry{Sums: sums, Count: float64(count[0])}
	}
	return m, nil
}

// floats reads n bytes of F32.
func floats(r io.ReaderAt, n int64) ([]float32, error) {
	raw, err := vfs.ReadString(r, 0, n) // takes memory as it reads
	if err != nil {
		return nil, err
	}
	x := make([]float32, n/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32([]byte(raw[4*i : 4*i+4])))
	}
	return x, nil
}

// datReader reads the older format: counts and lengths are int32, numbers float32.
//
//	entries, and for each: length and bytes of the name, calls, numbers, their sums
//	chunks, length and bytes of the dataset's name (in later files)
//
// The sums are means multiplied with the calls.
type datReader struct {
	b   []byte // what is left
	err error
}

// take is the next n bytes.
func (d *datReader) take(n int) []byte {
	if d.err == nil && (n < 0 || n > len(d.b)) {
		d.err = vfs.Damage(io.ErrUnexpectedEOF)
	}
	if d.err != nil {
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// count is the next int32, at least 0.
func (d *datReader) count() int {
	b := d.take(4)
	if b == nil {
		return 0
	}
	n := int32(binary.LittleEndian.Uint32(b))
	if n < 0 {
		d.err = vfs.Damage(fmt.Errorf("a count or a length is %d", n))
	}
	return int(max(n, 0))
}

func readDat(r io.ReaderAt, size int64, name string) (*Imatrix, error) {
	fail := func(entry string, err error) error {
		return &FileError{File: name, Entry: entry, Reason: "is no importance matrix, or cut short", Err: err}
	}
	if size > maxImatrix {
		return nil, fail("", vfs.Damage(fmt.Errorf("it has %d bytes", size)))
	}
	raw, err := vfs.ReadString(r, 0, size)
	if err != nil {
		return nil, fail("", err)
	}
	d := &datReader{b: []byte(raw)}
	m := &Imatrix{Entries: map[string]Entry{}}
	for n := d.count(); n > 0 && d.err == nil; n-- {
		entry := string(d.take(d.count()))
		calls, columns := d.count(), d.count()
		if columns > len(d.b)/4 {
			d.err = vfs.Damage(io.ErrUnexpectedEOF)
		}
		if d.err != nil {
			return nil, fail(entry, d.err)
		}
		e := Entry{Sums: make([]float32, columns), Count: float64(max(calls, 1))} // of none they are means
		for i := range e.Sums {
			e.Sums[i] = math.Float32frombits(binary.LittleEndian.Uint32(d.take(4)))
		}
		if _, ok := m.Entries[entry]; ok {
			return nil, fail(entry, vfs.Damage(errors.New("it is there twice")))
		}
		m.Entries[entry] = e
	}
	if len(d.b) > 0 && d.err == nil {
		m.Chunks = d.count()
		if set := d.take(d.count()); len(set) > 0 {
			m.Datasets = []string{string(set)}
		}
	}
	if len(d.b) > 0 && d.err == nil {
		d.err = vfs.Damage(fmt.Errorf("%d bytes come after its end", len(d.b)))
	}
	if d.err != nil {
		return nil, fail("", d.err)
	}
	return m, nil
}

// WriteGGUF writes the matrix in the GGUF form.
func (m *Imatrix) WriteGGUF(path string) error {
	w := &gguf.Writer{}
	for _, kv := range []struct {
		key   string
		value any
	}{{typeKey, imatrixType}, {datasetsKey, append([]string{}, m.Datasets...)}, {chunksKey, uint32(m.Chunks)}, {chunkSizeKey, uint32(m.ChunkSize)}} {
		if err := w.Set(kv.key, kv.value); err != nil {
			return err
		}
	}
	for _, name := range m.names() {
		e := m.Entries[name]
		if err := w.Add(name+sumsSuffix, backend.F32, []int{1, len(e.Sums)}, bytes.NewReader(encoded(e.Sums))); err != nil {
			return err
		}
		if err := w.Add(name+countsSuffix, backend.F32, []int{1, 1}, bytes.NewReader(encoded([]float32{float32(e.Count)}))); err != nil {
			return err
		}
	}
	return w.WriteFile(path)
}

func encoded(x []float32) []byte {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// WriteDat writes the matrix in the older form, of which the last dataset is told.
func (m *Imatrix) WriteDat(path string) error {
	le := binary.LittleEndian
	text := func(b []byte, s string) []byte { return append(le.AppendUint32(b, uint32(len(s))), s...) }
	b := le.AppendUint32(nil, uint32(len(m.Entries)))
	for _, name := range m.names() {
		e := m.Entries[name]
		calls := math.Ceil(e.Count / float64(max(m.ChunkSize, 1)))
		b = le.AppendUint32(text(b, name), uint32(min(calls, math.MaxInt32)))
		b = le.AppendUint32(b, uint32(len(e.Sums)))
		for _, s := range e.Sums {
			b = le.AppendUint32(b, math.Float32bits(float32(float64(s)/e.Count*calls)))
		}
	}
	set := ""
	if n := len(m.Datasets); n > 0 {
		set = m.Datasets[n-1]
	}
	b = text(le.AppendUint32(b, uint32(m.Chunks)), set)
	if err := vfs.WriteBytes(path, b); err != nil {
		return &FileError{File: path, Reason: "cannot be written", Err: err}
	}
	return nil
}

// Add adds the sums of another text to those that are there.
func (m *Imatrix) Add(o *Imatrix) error {
	if m.Entries == nil {
		m.Entries = map[string]Entry{}
	}
	for name, e := range o.Entries {
		if have, ok := m.Entries[name]; ok && len(have.Sums) != len(e.Sums) {
			return fmt.Errorf("%s has %d columns in one importance matrix and %d in another", name, len(have.Sums), len(e.Sums))
		}
	}
	if m.ChunkSize == 0 {
		m.ChunkSize = o.ChunkSize
	}
	for name, e := range o.Entries {
		sum := Entry{Sums: make([]float32, len(e.Sums)), Count: e.Count}
		copy(sum.Sums, e.Sums)
		if have, ok := m.Entries[name]; ok {
			sum.Count += have.Count
			for i, s := range have.Sums {
				sum.Sums[i] += s
			}
		}
		m.Entries[name] = sum
	}
	m.Chunks += o.Chunks
	m.Datasets = append(m.Datasets, o.Datasets...)
	return nil
}
