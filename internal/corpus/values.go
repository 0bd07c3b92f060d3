package corpus

import (
	"fmt"
	"io"
)

// openArray reads past the bracket that opens a .json file which is an array; the
// file's values lie one after the other otherwise, as in JSON lines.
func (s *stream) openArray() error {
	c, err := s.skipSpace()
	if err != nil && err != io.EOF {
		return s.wrong(s.at, "the file is broken or cut off", err)
	}
	if s.array = err == nil && c == '['; s.array {
		s.take()
	}
	s.first = s.at.Offset
	return nil
}

// take reads the byte that was looked at.
func (s *stream) take() byte {
	c, _ := s.in.ReadByte()
	s.at.Offset++
	if c == '\n' {
		s.at.Line++
	}
	return c
}

// peek looks at the next byte.
func (s *stream) peek() (byte, error) {
	b, err := s.in.Peek(1)
	if len(b) == 0 {
		if err == io.EOF && s.pack == plain && s.at.Offset != s.file.Size {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	return b[0], nil
}

// skipSpace reads JSON's white space and looks at what follows.
func (s *stream) skipSpace() (byte, error) {
	for {
		c, err := s.peek()
		if err != nil || !jsonSpace(c) {
			return c, err
		}
		s.take()
	}
}

func jsonSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// readValue returns the next value of a .json file, valid until the next call, and
// where it starts, or io.EOF.
func (s *stream) readValue() (value []byte, at Place, err error) {
	if s.ended {
		return nil, s.at, io.EOF
	}
	begun := s.at.Offset > s.first // a value came before
	c, err := s.skipSpace()
	if s.array {
		switch {
		case err == io.EOF:
			return nil, s.at, s.wrong(s.at, "the array has no end", io.ErrUnexpectedEOF)
		case err == nil && c == ']':
			return nil, s.at, s.closeArray()
		case err == nil && begun && c != ',':
			return nil, s.at, s.wrong(s.at, fmt.Sprintf("%q where a comma or the array's end belongs", c), nil)
		case err == nil && begun:
			s.take()
			c, err = s.skipSpace()
		}
	}
	switch {
	case err == io.EOF && !s.array:
		return nil, s.at, io.EOF
	case err != nil:
		return nil, s.at, s.wrong(s.at, "the file is broken or cut off", eof(err))
	case c == ',' || c == ']' || c == '}' || c == ':':
		return nil, s.at, s.wrong(s.at, fmt.Sprintf("%q where a value belongs", c), nil)
	}
	at = s.at
	value, err = s.scanValue()
	return value, at, err
}

// scanValue reads to the end of a value: to the bracket that closes it, or before
// what cannot belong to a number or word. Whether it is JSON is for others to say.
func (s *stream) scanValue() ([]byte, error) {
	start := s.at
	s.buf = s.buf[:0]
	depth, quoted := 0, false
	for {
		c, err := s.peek()
		if err == io.EOF && depth == 0 && !quoted {
			return s.buf, nil
		}
		if err != nil {
			return nil, s.wrong(start, "the value has no end", eof(err))
		}
		if depth == 0 && !quoted && len(s.buf) > 0 && (jsonSpace(c) || c == ',' || c == ']' || c == '}') {
			return s.buf, nil
		}
		if int64(len(s.buf)) >= s.o.MaxBytes {
			return nil, s.wrong(start, s.tooLong(), nil)
		}
		s.buf = append(s.buf, s.take())
		switch {
		case quoted && c == '\\':
			if _, err := s.peek(); err != nil {
				return nil, s.wrong(start, "the value has no end", eof(err))
			}
			s.buf = append(s.buf, s.take())
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if depth == 0 && !quoted && (c == '}' || c == ']' || c == '"') {
			return s.buf, nil
		}
	}
}

// closeArray reads past the array, behind which the file must end.
func (s *stream) closeArray() error {
	at := s.at
	s.take()
	switch c, err := s.skipSpace(); {
	case err == nil:
		return s.wrong(s.at, fmt.Sprintf("%q behind the array", c), nil)
	case err != io.EOF:
		return s.wrong(s.at, "the file is broken or cut off", err)
	}
	s.at, s.ended = at, true // a later call ends again
	return io.EOF
}
