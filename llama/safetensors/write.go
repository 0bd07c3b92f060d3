package safetensors

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"unicode/utf8"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/vfs"
)

// Source is a tensor to be written.
type Source struct {
	Name  string
	Type  backend.DType // F32, F16, BF16, I8 or I32
	Shape []int         // row-major; empty for a scalar
	Data  io.ReaderAt   // the elements, row-major, little-endian; a *Tensor for one
}

// size returns the bytes of s, or why it cannot be written.
func (s *Source) size() (int64, error) {
	bad := func(reason string) (int64, error) { return 0, &Error{"safetensors", s.Name, reason, nil} }
	switch {
	case types[s.Type.String()].t != s.Type || s.Type == backend.Invalid:
		return bad(fmt.Sprintf("type %v cannot be stored", s.Type))
	case s.Name == metaKey || !utf8.ValidString(s.Name):
		return bad("not a tensor name")
	case len(s.Shape) > maxRank:
		return bad(fmt.Sprintf("more than %d dimensions", maxRank))
	}
	n := int64(s.Type.BlockBytes())
	for _, d := range s.Shape {
		if d < 0 || d > 0 && n > math.MaxInt64/64/int64(d) {
			return bad(fmt.Sprintf("shape %v", s.Shape))
		}
		n *= int64(d)
	}
	return n, nil
}

// Write writes a file. Tensors stand in the order given, wider types first so
// that each is aligned; the data are streamed through a small buffer. For
// transformers, metadata should hold "format": "pt".
func Write(w io.Writer, tensors []Source, metadata map[string]string) error {
	ts := append([]Source(nil), tensors...)
	sort.SliceStable(ts, func(i, j int) bool { return ts[i].Type.BlockBytes() > ts[j].Type.BlockBytes() })
	head, err := encodeHeader(ts, metadata)
	if err != nil {
		return err
	}
	b := bufio.NewWriterSize(w, 1<<16)
	b.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(head)))) // a bufio.Writer keeps its error for Flush
	b.Write(head)
	buf := make([]byte, 1<<18)
	for i := range ts {
		n, _ := ts[i].size() // checked by encodeHeader
		if err := vfs.Copy(onlyWriter{b}, ts[i].Data, n, buf); err != nil {
			return &Error{"safetensors", ts[i].Name, fmt.Sprintf("copying %d bytes", n), err}
		}
	}
	return b.Flush()
}

// onlyWriter hides ReadFrom, so that CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// encodeHeader returns the JSON header, padded with spaces so that the data
// start at a multiple of 8.
func encodeHeader(ts []Source, metadata map[string]string) ([]byte, error) {
	var head bytes.Buffer
	sep := byte('{')
	member := func(key string, value any) error {
		k, _ := json.Marshal(key)
		v, err := json.Marshal(value)
		head.WriteByte(sep)
		head.Write(k)
		head.WriteByte(':')
		head.Write(v)
		sep = ','
		return err
	}
	if len(metadata) > 0 {
		if err := member(metaKey, metadata); err != nil {
			return nil, err
		}
	}
	seen, at := map[string]bool{}, int64(0)
	for i := range ts {
		s := &ts[i]
		n, err := s.size()
		if err != nil {
			return nil, err
		}
		if seen[s.Name] || at > math.MaxInt64-n {
			return nil, &Error{"safetensors", s.Name, "there twice, or the file too large", nil}
		}
		seen[s.Name] = true
		entry := struct {
			DType   string   `json:"dtype"`
			Shape   []int    `json:"shape"`
			Offsets [2]int64 `json:"data_offsets"`
		}{s.Type.String(), append([]int{}, s.Shape...), [2]int64{at, at + n}}
		if err := member(s.Name, entry); err != nil {
			return nil, err
		}
		at += n
	}
	if sep == '{' {
		head.WriteByte('{')
	}
	head.WriteByte('}')
	for head.Len()%8 != 0 {
		head.WriteByte(' ')
	}
	if head.Len() > maxHeader || len(ts) > maxKeys-1 {
		return nil, &Error{"safetensors", "", fmt.Sprintf("%d tensors need a header of %d bytes: too many", len(ts), head.Len()), nil}
	}
	return head.Bytes(), nil
}

// WriteFile is Write to a path, which holds its old content until the new one
// is complete.
func WriteFile(path string, tensors []Source, metadata map[string]string) error {
	return vfs.WriteAtomic(path, func(w io.Writer) error { return Write(w, tensors, metadata) })
}

// DefaultShardSize is the data bytes of a shard that transformers writes.
const DefaultShardSize = 5_000_000_000

// WriteDir writes tensors into dir as Hugging Face folders have them:
// model.safetensors, or, above limit bytes of data (0 means DefaultShardSize),
// model-00001-of-0000N.safetensors in the order given and, last,
// model.safetensors.index.json. A tensor larger than limit is a shard of its
// own. It returns the names of the files. A folder that holds the other of the
// two forms is refused, for a reader could take that one.
func WriteDir(dir string, tensors []Source, metadata map[string]string, limit int64) ([]string, error) {
	const single, index = "model.safetensors", "model.safetensors.index.json"
	if limit <= 0 {
		limit = DefaultShardSize
	}
	shards, total, err := split(tensors, limit)
	if err != nil {
		return nil, err
	}
	other := index
	if len(shards) > 1 {
		other = single
	}
	if _, err := os.Stat(filepath.Join(dir, other)); !errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{dir, "", "already holds " + other, err}
	}
	if len(shards) == 1 {
		return []string{single}, WriteFile(filepath.Join(dir, single), tensors, metadata)
	}
	var names []string
	shardOf := map[string]string{}
	for i, part := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		if err := WriteFile(filepath.Join(dir, name), part, metadata); err != nil {
			return nil, err
		}
		names = append(names, name)
		for _, s := range part {
			shardOf[s.Name] = name
		}
	}
	text, err := json.MarshalIndent(map[string]any{
		"metadata": map[string]int64{"total_size": total}, "weight_map": shardOf}, "", "  ")
	if err != nil {
		return nil, err
	}
	err = vfs.WriteAtomic(filepath.Join(dir, index), func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	return append(names, index), err
}

// split cuts tensors, in order, into runs of at most limit bytes, at least one.
func split(tensors []Source, limit int64) (shards [][]Source, total int64, err error) {
	seen, start, size := map[string]bool{}, 0, int64(0)
	for i := range tensors {
		n, err := tensors[i].size()
		if err != nil {
			return nil, 0, err
		}
		if seen[tensors[i].Name] {
			return nil, 0, &Error{"safetensors", tensors[i].Name, "there twice", nil}
		}
		seen[tensors[i].Name] = true
		if i > start && size > limit-n {
			shards = append(shards, tensors[start:i])
			start, size = i, 0
		}
		if total > math.MaxInt64-n {
			return nil, 0, &Error{"safetensors", tensors[i].Name, "the file would be too large", nil}
		}
		size, total = size+n, total+n
	}
	if shards = append(shards, tensors[start:]); len(shards) > maxShards {
		return nil, 0, &Error{"safetensors", "", fmt.Sprintf("%d shards of %d bytes, the limit is %d shards", len(shards), limit, maxShards), nil}
	}
	return shards, total, nil
}
