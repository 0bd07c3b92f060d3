package vfs

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// at is a reader that gives what a test says.
type at func(p []byte, off int64) (int, error)

func (r at) ReadAt(p []byte, off int64) (int, error) { return r(p, off) }

// TestReadFull: a whole read has no error, whatever the reader says beside it, and a
// short one has always one.
func TestReadFull(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		n         int
		err, want error
	}{
		{4, nil, nil}, {4, io.EOF, nil}, {4, broken, nil},
		{3, nil, io.ErrUnexpectedEOF}, {3, io.EOF, io.ErrUnexpectedEOF}, {3, broken, broken}, {0, io.EOF, io.ErrUnexpectedEOF},
	} {
		n, err := ReadFull(at(func([]byte, int64) (int, error) { return c.n, c.err }), make([]byte, 4), 0)
		if n != c.n || err != c.want {
			t.Errorf("%d, %v of the reader: %d, %v, want %v", c.n, c.err, n, err, c.want)
		}
	}
}

// TestCopy: what is copied is as long as was said.
func TestCopy(t *testing.T) {
	r := strings.NewReader("0123456789")
	for n, want := range map[int64]error{0: nil, 4: nil, 10: nil, 11: io.ErrUnexpectedEOF} {
		var b bytes.Buffer
		if err := Copy(&b, r, n, make([]byte, 3)); err != want || b.String() != "0123456789"[:min(n, 10)] {
			t.Errorf("%d bytes: %q, %v, want %v", n, b.String(), err, want)
		}
	}
	if s, err := ReadString(r, 2, 5); s != "23456" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
	if _, err := ReadString(r, 8, 5); err != io.ErrUnexpectedEOF {
		t.Errorf("%v", err)
	}
}

// TestFault: the text has what is set, and names of any length stay short and whole.
func TestFault(t *testing.T) {
	for _, c := range []struct {
		f    Fault
		want string
	}{
		{Fault{File: "a"}, "a"},
		{Fault{"a", "t", "is bad", io.EOF}, `a: tensor "t": is bad: EOF`},
		{Fault{File: "a", Err: io.EOF}, "a: EOF"},
		{Fault{File: "a", Tensor: strings.Repeat("ä", 101), Reason: "is bad"}, `a: tensor "` + strings.Repeat("ä", 100) + `...": is bad`},
		{Fault{File: "a", Tensor: strings.Repeat("ä", 100)}, `a: tensor "` + strings.Repeat("ä", 100) + `"`},
	} {
		if got := c.f.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
