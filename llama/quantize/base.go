package quantize

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"github.com/herd-ml/herd/internal/vfs"
)

// A Base says of which text and vocabulary the distributions in a base file are. The file
// holds what a model thinks of a text, for others to be compared with: the
// log-probabilities of every token of the vocabulary at each position that is scored.
type Base struct {
	Vocab int     // tokens
	Size  int     // tokens of a chunk, of which those after the middle are scored
	IDs   []int32 // the text as it was run, whole chunks
}

// Rows is the number of positions scored.
func (b Base) Rows() int { return len(b.IDs) / b.Size * Scored(b.Size) }

// Scored is how many positions of a chunk are scored: positions size/2 to size-2 predict
// their successors, as llama.cpp has it.
func Scored(size int) int { return size - 1 - size/2 }

// baseMagic begins a base file. Then come Vocab, Size and the number of ids, as uint64, the
// ids as int32, and Rows times Vocab float32, all little-endian.
const baseMagic = "herdbase"

const baseHeader = 8 + 3*8

// CheckText says in what respect a text differs from the base's.
func (b Base) CheckText(o Base) error {
	switch {
	case b.Vocab != o.Vocab:
		return fmt.Errorf("it is of a vocabulary of %d tokens, the model has %d", b.Vocab, o.Vocab)
	case b.Size != o.Size:
		return fmt.Errorf("it is of chunks of %d tokens, not %d", b.Size, o.Size)
	case len(b.IDs) != len(o.IDs):
		return fmt.Errorf("it is of a text of %d chunks, not %d", len(b.IDs)/b.Size, len(o.IDs)/o.Size)
	}
	for i, id := range b.IDs {
		if id != o.IDs[i] {
			return fmt.Errorf("it is of another text, or another tokenizer: token %d is %d there and %d here", i, id, o.IDs[i])
		}
	}
	return nil
}

// WriteBase writes a base file. rows calls write for each position in turn, with
// log-probabilities [Vocab]. The file appears when it is complete.
func WriteBase(path string, b Base, rows func(write func(logprobs []float32) error) error) error {
	err := vfs.WriteAtomic(path, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, 1<<20)
		le := binary.LittleEndian
		head := le.AppendUint64(le.AppendUint64(le.AppendUint64([]byte(baseMagic), uint64(b.Vocab)), uint64(b.Size)), uint64(len(b.IDs)))
		for _, id := range b.IDs {
			head = le.AppendUint32(head, uint32(id))
		}
		if _, err := out.Write(head); err != nil {
			return err
		}
		raw := make([]byte, 4*b.Vocab)
		n := 0
		err := rows(func(logprobs []float32) error {
			for i, x := range logprobs[:b.Vocab] {
				le.PutUint32(raw[4*i:], math.Float32bits(x))
			}
			n++
			_, err := out.Write(raw)
			return err
		})
		if err != nil {
			return err
		}
		if n != b.Rows() {
			return fmt.Errorf("%d rows were written, want %d", n, b.Rows())
		}
		return out.Flush()
	})
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) { // of the file, not of the rows
		return &FileError{File: path, Reason: "cannot be written", Err: pe.Err}
	}
	return err
}

// A BaseReader reads a base file, row after row.
type BaseReader struct {
	Base
	path string
	f    *vfs.File
	rows *bufio.Reader
	raw  []byte
	left int
}

// OpenBase opens a base file, whose length must be what its head says.
func OpenBase(path string) (*BaseReader, error) {
	fsys, name := vfs.Split(path)
	f, err := vfs.Open(fsys, name)
	if err != nil {
		return nil, &FileError{File: path, Reason: "cannot be opened", Err: vfs.Pathless(err)}
	}
	r := &BaseReader{path: path, f: f}
	if err := r.head(); err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

func (r *BaseReader) head() error {
	bad := func(format string, a ...any) error {
		return &FileError{File: r.path, Reason: fmt.Sprintf(format, a...), Err: vfs.Damage(nil)}
	}
	head := make([]byte, baseHeader)
	if _, err := vfs.ReadFull(r.f, head, 0); err != nil || string(head[:8]) != baseMagic {
		return bad("holds no distributions to compare with, as 'herd perplexity --kl-base' writes them")
	}
	vocab, size, n := binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint64(head[16:]), binary.LittleEndian.Uint64(head[24:])
	if vocab == 0 || vocab > math.MaxInt32 || size < 4 || size > math.MaxInt32 || n == 0 || n > uint64(r.f.Size-baseHeader)/4 || n%size != 0 {
		return bad("says that it is of %d tokens in chunks of %d, and of a vocabulary of %d", n, size, vocab)
	}
	rows := n / size * uint64(Scored(int(size)))
	if rest := uint64(r.f.Size) - baseHeader - 4*n; rows > rest/(4*vocab) || rest != rows*vocab*4 {
		return bad("has %d bytes, %d after its head, want %d rows of %d numbers: it is cut short or damaged", r.f.Size, rest, rows, vocab)
	}
	raw, err := vfs.ReadString(r.f, baseHeader, 4*int64(n))
	if err != nil {
		return &FileError{File: r.path, Reason: "cannot be read", Err: err}
	}
	r.Vocab, r.Size, r.IDs = int(vocab), int(size), make([]int32, n)
	for i := range r.IDs {
		r.IDs[i] = int32(binary.LittleEndian.Uint32([]byte(raw[4*i : 4*i+4])))
	}
	at := baseHeader + 4*int64(n)
	r.rows = bufio.NewReaderSize(io.NewSectionReader(r.f, at, r.f.Size-at), 1<<20)
	r.raw, r.left = make([]byte, 4*vocab), int(rows)
	return nil
}

// Next reads the log-probabilities [Vocab] of the next position; after the last the error
// is io.EOF.
func (r *BaseReader) Next(logprobs []float32) error {
	if r.left == 0 {
		return io.EOF
	}
	if _, err := io.ReadFull(r.rows, r.raw); err != nil {
		return &FileError{File: r.path, Reason: "cannot be read", Err: err}
	}
	r.left--
	for i := range logprobs[:r.Vocab] {
		x := math.Float32frombits(binary.LittleEndian.Uint32(r.raw[4*i:]))
		if !(x <= 0) {
			return &FileError{File: r.path, Reason: fmt.Sprintf("has %v in row %d, which is no log-probability", x, r.Rows()-r.left-1), Err: vfs.Damage(nil)}
		}
		logprobs[i] = x
	}
	return nil
}

// Close closes the file.
func (r *BaseReader) Close() error { return r.f.Close() }

// LogSoftmax writes the log-probabilities that logits say to dst, computed in float64.
func LogSoftmax(dst, logits []float32) {
	most := float64(slices.Max(logits))
	sum := 0.0
	for _, x := range logits {
		sum += math.Exp(float64(x) - most)
	}
	lse := most + math.Log(sum)
	for i, x := range logits {
		dst[i] = min(float32(float64(x)-lse), 0)
	}
}
