package corpus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
	"github.com/pierrec/lz4/v4"
)

// The parquet library takes memory for what lengths in a file claim. So the
// footer and the headers of pages are walked here first, and what they claim is
// held against what is there.
const (
	maxFooter = 64 << 20  // bytes
	maxNodes  = 1 << 18   // elements of lists in a footer: about 500 bytes each once read
	maxPage   = 256 << 20 // bytes of a page, packed or not
	maxValues = 16 << 20  // values of a page
	maxHeader = 1 << 20   // bytes of a page's header
)

// Types of Thrift's compact protocol.
// https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
const (
	stop = iota
	yes
	no
	i8
	i16
	i32
	i64
	double
	binaries
	list
	set
	mapping
	structure
)

var errThrift = errors.New("its metadata is broken")

// walker walks a Thrift structure in the compact protocol without keeping it.
type walker struct {
	in    *bufio.Reader
	left  int // bytes that lengths may still claim
	nodes int // elements that lists may still claim
	depth int
	visit func(path [2]int, v int64) // numbers in the structure and one level below
}

func (w *walker) byte() (byte, error) {
	if w.left--; w.left < 0 {
		return 0, errThrift
	}
	return w.in.ReadByte()
}

func (w *walker) uvarint() (v uint64, err error) {
	for shift := 0; shift < 64; shift += 7 {
		b, err := w.byte()
		if err != nil {
			return 0, err
		}
		if v |= uint64(b&0x7f) << shift; b < 0x80 {
			return v, nil
		}
	}
	return 0, errThrift
}

func (w *walker) skip(n uint64) error {
	if n > uint64(max(w.left, 0)) {
		return errThrift
	}
	w.left -= int(n)
	_, err := w.in.Discard(int(n))
	return err
}

// fields walks a structure whose own field is numbered outer.
func (w *walker) fields(outer int) error {
	if w.depth++; w.depth > 32 {
		return errThrift
	}
	defer func() { w.depth-- }()
	for id := 0; ; {
		head, err := w.byte()
		if err != nil {
			return err
		}
		kind := int(head & 15)
		if kind == stop {
			return nil
		}
		if delta := int(head >> 4); delta > 0 {
			id += delta
		} else {
			v, err := w.uvarint()
			if err != nil {
				return err
			}
			id = int(int16(v>>1) ^ -int16(v&1))
		}
		if err := w.value(kind, [2]int{outer, id}); err != nil {
			return err
		}
	}
}

// value walks a value of a field.
func (w *walker) value(kind int, path [2]int) error {
	switch kind {
	case yes, no:
		w.number(path, int64(no-kind))
		return nil
	case i8:
		return w.skip(1)
	case i16, i32, i64:
		v, err := w.uvarint()
		w.number(path, int64(v>>1)^-int64(v&1))
		return err
	case double:
		return w.skip(8)
	case binaries:
		n, err := w.uvarint()
		return errors.Join(err, w.skip(n))
	case list, set:
		return w.elements()
	case structure:
		return w.fields(path[1])
	}
	return errThrift // parquet has no maps
}

func (w *walker) number(path [2]int, v int64) {
	if w.visit != nil && w.depth <= 2 {
		w.visit(path, v)
	}
}

func (w *walker) elements() error {
	head, err := w.byte()
	if err != nil {
		return err
	}
	n := uint64(head >> 4)
	if n == 15 {
		if n, err = w.uvarint(); err != nil {
			return err
		}
	}
	if n > uint64(w.nodes) {
		return fmt.Errorf("%w: a list of %d elements", errThrift, n)
	}
	w.nodes -= int(n)
	kind := int(head & 15)
	if w.depth++; w.depth > 32 {
		return errThrift
	}
	defer func() { w.depth-- }()
	for range n {
		if kind == yes || kind == no { // a byte each, in lists
			err = w.skip(1)
		} else {
			err = w.value(kind, [2]int{-1, -1})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkFooter holds a file's metadata against its size.
func checkFooter(f *vfs.File) error {
	const around = 4 + 4 // length and mark
	var tail [around]byte
	if f.Size < 4+around {
		return errors.New("too short")
	}
	if _, err := f.ReadAt(tail[:], f.Size-around); err != nil {
		return eof(err)
	}
	switch string(tail[4:]) {
	case "PAR1":
	case "PARE":
		return errors.New("it is encrypted")
	default:
		return fmt.Errorf("it ends in %q, want %q: cut off, or another kind of file", tail[4:], "PAR1")
	}
	n := int64(binary.LittleEndian.Uint32(tail[:4]))
	if n > f.Size-around-4 || n > maxFooter {
		return fmt.Errorf("%w: %d bytes of it in a file of %d", errThrift, n, f.Size)
	}
	w := walker{in: bufio.NewReader(io.NewSectionReader(f, f.Size-around-n, n)), left: int(n), nodes: maxNodes}
	return eof(w.fields(0))
}

// A pageHead is what is needed of the header of a page.
type pageHead struct {
	packed, unpacked int64 // bytes
	values           int64
	levels           int64 // bytes before what is packed
	raw              bool  // not packed after all
	length           int64 // of the header
}

func readPageHead(r io.Reader, left int64) (h pageHead, err error) {
	limit := int(min(left, maxHeader))
	w := walker{in: bufio.NewReader(r), left: limit, nodes: maxNodes}
	w.visit = func(path [2]int, v int64) {
		switch path {
		case [2]int{0, 2}:
			h.unpacked = v
		case [2]int{0, 3}:
			h.packed = v
		case [2]int{5, 1}, [2]int{7, 1}, [2]int{8, 1}: // data, dictionary, data v2
			h.values = v
		case [2]int{8, 5}, [2]int{8, 6}:
			if 0 <= v && v <= maxPage {
				h.levels += v
			} else {
				h.values = -1
			}
		case [2]int{8, 7}:
			h.raw = v == 0
		}
	}
	err = eof(w.fields(0))
	h.length = int64(limit - w.left)
	if err == nil && (h.packed < 0 || h.packed > min(left-h.length, maxPage) || h.unpacked < 0 || h.unpacked > maxPage || h.values < 0 || h.values > maxValues) {
		err = fmt.Errorf("a page of %d bytes, %d unpacked, %d values, with %d bytes left", h.packed, h.unpacked, h.values, left)
	}
	return h, err
}

// checkPages holds the headers of a column's pages against what is there.
func checkPages(f *parquet.File, group, column int) error {
	chunks := f.Metadata().RowGroups[group].Columns
	if column >= len(chunks) {
		return errors.New("a group lacks the column")
	}
	m := chunks[column].MetaData
	at := m.DataPageOffset
	if m.DictionaryPageOffset != 0 {
		at = m.DictionaryPageOffset
	}
	size := f.Size()
	if at < 0 || m.TotalCompressedSize < 0 || at > size || m.TotalCompressedSize > size-at || m.DataPageOffset < at {
		return fmt.Errorf("a column of %d bytes at %d in a file of %d", m.TotalCompressedSize, at, size)
	}
	for end := at + m.TotalCompressedSize; at < end; {
		h, err := readPageHead(io.NewSectionReader(f, at, end-at), end-at)
		if err != nil {
			return err
		}
		at += h.length
		if err := checkPacked(io.NewSectionReader(f, at+h.levels, h.packed-h.levels), m.Codec, h); err != nil {
			return err
		}
		at += h.packed
	}
	return nil
}

// checkPacked unpacks a page without keeping it: its header may claim less.
func checkPacked(packed io.Reader, codec format.CompressionCodec, h pageHead) error {
	if h.levels > h.packed {
		return fmt.Errorf("levels of %d bytes in a page of %d", h.levels, h.packed)
	}
	if h.raw {
		return nil
	}
	limit := h.unpacked
	switch codec {
	case format.Uncompressed:
		return nil
	case format.Snappy:
		head := make([]byte, binary.MaxVarintLen32)
		n, err := io.ReadFull(packed, head)
		if err != nil && err != io.ErrUnexpectedEOF {
			return nil // nothing to unpack
		}
		if v, k := binary.Uvarint(head[:n]); k <= 0 || v > uint64(limit) {
			return fmt.Errorf("a page unpacks to more than the %d bytes it claims", limit)
		}
		return nil
	case format.Gzip:
		z, err := gzip.NewReader(bufio.NewReader(packed))
		if err != nil {
			return err
		}
		defer z.Close()
		return bounded(z, limit)
	case format.Zstd:
		z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		defer z.Close()
		return bounded(z, limit)
	case format.Brotli:
		if h.levels == h.packed {
			return nil
		}
		return bounded(brotli.NewReader(packed), limit)
	case format.Lz4Raw:
		return checkLZ4(packed, h)
	}
	return fmt.Errorf("a column packed with %s is not read: snappy, gzip, zstd, brotli, lz4 (LZ4_RAW) and none are", codec)
}

// checkLZ4 unpacks a block of LZ4, whose format has no length: the library goes on with
// more and more memory where it does not unpack.
func checkLZ4(packed io.Reader, h pageHead) error {
	src, err := io.ReadAll(packed)
	if err != nil {
		return err
	}
	const most = 255 // bytes that one byte of LZ4 stands for, at most
	dst := make([]byte, min(h.unpacked, most*int64(len(src))))
	if _, err := lz4.UncompressBlock(src, dst); err != nil {
		return fmt.Errorf("a page does not unpack to the %d bytes it claims: %w", h.unpacked, err)
	}
	return nil
}

func bounded(r io.Reader, limit int64) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, limit+1))
	if err == nil && n > limit {
		err = fmt.Errorf("a page unpacks to more than the %d bytes it claims", limit)
	}
	return err
}
