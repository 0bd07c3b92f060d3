package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/internal/vfs"
)

// cancelReader is a file or stdin whose Read returns when the context ends,
// though the system's read may go on waiting. It serves one goroutine.
type cancelReader struct {
	ctx  context.Context
	r    io.Reader
	buf  []byte // belongs to the read under way
	rest []byte // of buf, not yet handed out
	err  error  // of the last read
}

// Read implements io.Reader.
func (c *cancelReader) Read(p []byte) (int, error) {
	if len(c.rest) == 0 && c.err == nil {
		if c.buf == nil {
			c.buf = make([]byte, 64<<10)
		}
		type result struct {
			n   int
			err error
		}
		done := make(chan result, 1)
		go func() {
			n, err := c.r.Read(c.buf)
			done <- result{n, err}
		}()
		select {
		case r := <-done:
			c.rest, c.err = c.buf[:r.n], r.err
		case <-c.ctx.Done():
			c.err = c.ctx.Err() // buf is not touched again
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	if n == 0 {
		return 0, c.err
	}
	return n, nil
}

// maxInput is how many bytes of text are read at most.
const maxInput = 1 << 30

// readInput reads the text of a file, or stdin for "-". Byte order marks go, and lines
// end in \n, wherever it was written.
func readInput(cmd *cobra.Command, path string) (string, error) {
	if in := cmd.InOrStdin(); path == "-" && isTerminal(in) {
		fmt.Fprintln(cmd.ErrOrStderr(), "reading from the keyboard; Ctrl-D on an empty line ends the text")
	}
	text, err := readFile(cmd, path, maxInput)
	return string(vfs.Lines(text)), err
}

// readFile reads a file of at most so many bytes, or stdin for "-".
func readFile(cmd *cobra.Command, path string, limit int64) ([]byte, error) {
	in, done, err := openInput(cmd, path)
	if err != nil {
		return nil, err
	}
	defer done()
	b, err := io.ReadAll(io.LimitReader(&cancelReader{ctx: cmd.Context(), r: in}, limit+1))
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: longer than %s: give a shorter one", path, size(limit))
	}
	return b, unreadable(path, err)
}

// openInput opens a file, or stdin for "-", to be read until done is called.
func openInput(cmd *cobra.Command, path string) (in io.Reader, done func(), err error) {
	switch path {
	case "-":
		return cmd.InOrStdin(), func() {}, nil
	case "":
		return nil, nil, errors.New("the name of a file is empty: give one")
	}
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, nil, unreadable(path, err)
	}
	return f, func() { f.Close() }, nil
}

// unreadable says of which file an error of the system is.
func unreadable(path string, err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return fmt.Errorf("%s: cannot be read: %w", path, e.Err)
	}
	return err
}

// lineReader reads lines of text, whatever byte order mark it begins with.
type lineReader struct {
	r     *bufio.Reader
	most  int // bytes of a line; 0 is any number
	begun bool
}

// errLongLine is the error of a line that is longer than a lineReader takes. The next call
// goes on behind it.
var errLongLine = errors.New("a line is too long")

// line returns a line with its end; io.EOF may come beside the last one.
func (l *lineReader) line() (string, error) {
	line, err := l.read()
	if !l.begun && strings.HasPrefix(line, "\xff\xfe") || strings.HasPrefix(line, "\xfe\xff") && !l.begun {
		var rest []byte // UTF-16, whose lines end otherwise: it is read whole
		rest, err = io.ReadAll(l.r)
		l.r = bufio.NewReader(bytes.NewReader(vfs.Text(append([]byte(line), rest...))))
		if line = ""; err == nil {
			line, err = l.read()
		}
	}
	if !l.begun {
		line = string(vfs.Text([]byte(line)))
	}
	l.begun = true
	return line, err
}

// read returns the bytes up to the end of a line.
func (l *lineReader) read() (string, error) {
	var line []byte
	long := false
	for {
		part, err := l.r.ReadSlice('\n')
		if long = long || l.most > 0 && len(line)+len(part) > l.most; long {
			line = nil
		} else {
			line = append(line, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
		case long && (err == nil || err == io.EOF):
			return "", errLongLine
		default:
			return string(line), err
		}
	}
}

// parseIDs reads token ids: a JSON array, or numbers between commas or white
// space.
func parseIDs(s string) ([]int32, error) {
	ids := []int32{}
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(", []\t\r\n", r) }) {
		id, err := strconv.ParseInt(f, 10, 32)
		if err != nil || id < 0 {
			return nil, usagef("%q is not a token id, want numbers between commas", f)
		}
		ids = append(ids, int32(id))
	}
	return ids, nil
}

// number is a figure that JSON shows as null where it is not finite.
type number float64

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) {
	if x := float64(n); !math.IsNaN(x) && !math.IsInf(x, 0) {
		return json.Marshal(x + 0) // -0 becomes 0
	}
	return []byte("null"), nil
}

// printJSON prints a value on one line of w.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// piece shows a token's bytes, quoted.
func piece(b []byte) string { return strconv.Quote(string(b)) }

// shapeText shows a tensor's shape.
func shapeText(shape []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(shape), " ", " x "), "[]")
}

// size shows a number of bytes.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
