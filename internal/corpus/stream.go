package corpus

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/herd-ml/herd/internal/vfs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	readBytes = 64 << 10
	// maxWindow bounds what a zstd file may ask for; the format's own command
	// line takes 128 MiB without being asked.
	maxWindow = 128 << 20
)

// stream is a file of text or of JSON lines.
type stream struct {
	path string
	file *vfs.File
	pack packing
	o    Options
	kind kind

	in     *bufio.Reader
	unpack func() error // frees the decompressor
	at     Place
	buf    []byte // of the document

	array bool  // the values of a .json file are elements of an array
	first int64 // where they start
	ended bool  // all of the array was read: more than at says
}

func openStream(path string, f *vfs.File, k kind, p packing, o Options) (*stream, error) {
	s := &stream{path: path, file: f, pack: p, o: o, kind: k, in: bufio.NewReaderSize(nil, readBytes)}
	return s, s.rewind(0)
}

// rewind starts at an offset; in a compressed file only 0 is one.
func (s *stream) rewind(offset int64) error {
	if err := s.release(); err != nil {
		return err
	}
	raw := io.NewSectionReader(s.file, offset, s.file.Size-offset)
	s.at, s.ended = Place{Offset: offset}, false
	if s.pack == plain {
		s.in.Reset(raw)
	} else {
		r, free, err := s.pack.unpack(raw)
		if err != nil {
			return s.wrong(s.at, "cannot be unpacked", err)
		}
		s.in.Reset(r)
		s.unpack = free
	}
	if offset > 0 {
		return nil
	}
	if mark, _ := s.in.Peek(2); string(mark) == "\xff\xfe" || string(mark) == "\xfe\xff" {
		return s.wrong(s.at, "the file is UTF-16: save it as UTF-8", nil)
	}
	if mark, err := s.in.Peek(3); err == nil && string(mark) == "\uFEFF" {
		s.in.Discard(3)
		s.at.Offset = 3
	}
	if s.kind == values {
		return s.openArray()
	}
	return nil
}

// unpack reads what was packed; free gives back the memory.
func (p packing) unpack(raw io.Reader) (r io.Reader, free func() error, err error) {
	if p == gzipped {
		z, err := gzip.NewReader(bufio.NewReaderSize(raw, readBytes))
		if err != nil {
			return nil, nil, fmt.Errorf("not gzip: %w", eof(err))
		}
		return z, z.Close, nil
	}
	z, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, nil, fmt.Errorf("not zstd: %w", eof(err))
	}
	return z, func() error { z.Close(); return nil }, nil
}

func (s *stream) release() error {
	if s.unpack == nil {
		return nil
	}
	free := s.unpack
	s.unpack = nil
	return free()
}

func (s *stream) close() error { return errors.Join(s.release(), s.file.Close()) }

func (s *stream) place() Place { return s.at }

func (s *stream) seek(p Place) error {
	switch {
	case s.pack == plain && p.Offset > s.file.Size:
		return s.wrong(p, fmt.Sprintf("a place %d bytes into a file of %d", p.Offset, s.file.Size), nil)
	case s.pack == plain:
		if err := s.rewind(p.Offset); err != nil {
			return err
		}
	case p.Offset < s.at.Offset || p.Offset == 0 || s.ended:
		if err := s.rewind(0); err != nil {
			return err
		}
	}
	if s.at.Offset < p.Offset {
		n, err := io.CopyN(io.Discard, s.in, p.Offset-s.at.Offset)
		s.at.Offset += n
		if err != nil {
			return s.wrong(s.at, fmt.Sprintf("a place %d bytes into what ends earlier", p.Offset), eof(err))
		}
	}
	s.at.Line = p.Line
	return nil
}

func (s *stream) wrong(at Place, reason string, err error) error {
	return &Error{File: s.path, Line: at.Line + 1, Reason: reason, Err: err}
}

// eof turns the end of the file into what it is inside of something.
func eof(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (s *stream) next() ([]byte, error) {
	switch s.kind {
	case lines:
		return s.nextRow()
	case values:
		value, at, err := s.readValue()
		if err != nil {
			return nil, err
		}
		return s.row(value, at)
	}
	for {
		at := s.at
		doc, err := s.readTo([]byte(s.o.Separator))
		if err != nil {
			return nil, err
		}
		if s.o.Separator != "" {
			doc = bytes.Trim(doc, "\r\n")
		}
		if len(bytes.TrimSpace(doc)) > 0 {
			return doc, nil
		}
		if s.o.Separator == "" {
			return nil, s.wrong(at, "the file holds no text", nil)
		}
	}
}

// nextRow returns the text of the next line that is not blank.
func (s *stream) nextRow() ([]byte, error) {
	for {
		at := s.at
		line, err := s.readTo([]byte("\n"))
		if err != nil {
			return nil, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return s.row(line, at)
		}
	}
}

// row returns the text of a row of JSON.
func (s *stream) row(row []byte, at Place) ([]byte, error) {
	if !s.o.ReplaceInvalid && !utf8.Valid(row) { // the decoder replaces silently
		return nil, s.wrong(at, fmt.Sprintf("byte %d of the row is not UTF-8", invalidAt(string(row))), nil)
	}
	doc, err := rowText(row, s.o.Field)
	if err != nil {
		return nil, s.wrong(at, "the row cannot be used", err)
	}
	return []byte(doc), nil
}

// readTo returns what stands before the next separator, or before the end of the
// file, where the separator is empty or does not follow. At the end it returns
// io.EOF.
func (s *stream) readTo(separator []byte) ([]byte, error) {
	start := s.at
	s.buf = s.buf[:0]
	last := byte('\n')
	if len(separator) > 0 {
		last = separator[len(separator)-1]
	}
	for {
		part, err := s.in.ReadSlice(last)
		if int64(len(s.buf))+int64(len(part)) > s.o.MaxBytes+int64(len(separator)) {
			return nil, s.wrong(start, s.tooLong(), nil)
		}
		s.buf = append(s.buf, part...)
		s.at.Offset += int64(len(part))
		s.at.Line += int64(bytes.Count(part, []byte("\n")))
		switch {
		case err == nil && len(separator) > 0 && bytes.HasSuffix(s.buf, separator):
			return s.limited(start, s.buf[:len(s.buf)-len(separator)])
		case err == nil || err == bufio.ErrBufferFull:
		case err != io.EOF:
			return nil, s.wrong(s.at, "the file is broken or cut off", err)
		case s.pack == plain && s.at.Offset != s.file.Size:
			return nil, s.wrong(s.at, fmt.Sprintf("the file ends after %d of %d bytes", s.at.Offset, s.file.Size), io.ErrUnexpectedEOF)
		case len(s.buf) == 0:
			return nil, io.EOF
		default:
			return s.limited(start, s.buf)
		}
	}
}

func (s *stream) limited(start Place, doc []byte) ([]byte, error) {
	if int64(len(doc)) > s.o.MaxBytes {
		return nil, s.wrong(start, s.tooLong(), nil)
	}
	return doc, nil
}

func (s *stream) tooLong() string {
	what := "the document"
	if s.kind != text {
		what = "the row"
	}
	reason := fmt.Sprintf("%s has more than the %d bytes allowed", what, s.o.MaxBytes)
	if s.kind == text && s.o.Separator == "" {
		reason += "; a separator would cut the file into documents"
	}
	return reason
}
