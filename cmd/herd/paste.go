package main

// What a terminal says of pasted text: it comes between two marks, so that its line ends
// do not send it.

import (
	"bytes"
	"io"
	"strings"
)

const (
	pasteOn    = "\x1b[?2004h" // asks the terminal for the marks
	pasteOff   = "\x1b[?2004l"
	pasteBegin = "\x1b[200~"
	pasteEnd   = "\x1b[201~"
)

// In the line that is edited, these stand for the line ends and tabs of pasted text.
const (
	lineEnd = '␤'
	tab     = '␉'
)

// pasted is the text of an edited line.
var pasted = strings.NewReplacer(string(lineEnd), "\n", string(tab), "\t")

// pasteReader reads what a terminal sends, with pasted text on one line. The marks go
// through: the line editor passes over keys that it does not know.
type pasteReader struct {
	r      io.Reader
	inside bool
	held   []byte // the last bytes, where they may be the beginning of a mark
	cr     bool   // the last byte within was \r
	out    []byte // to be read
}

// Read implements io.Reader.
func (p *pasteReader) Read(b []byte) (int, error) {
	for len(p.out) == 0 {
		buf := make([]byte, 4096)
		n, err := p.r.Read(buf)
		p.take(buf[:n])
		if err != nil && len(p.out) == 0 {
			return 0, err
		}
	}
	n := copy(b, p.out)
	p.out = p.out[n:]
	return n, nil
}

// take turns what has come into what is read. Outside of pasted text everything goes
// through at once: a key waits for nothing.
func (p *pasteReader) take(in []byte) {
	for _, c := range in {
		mark := pasteBegin
		if p.inside {
			mark = pasteEnd
		}
		p.held = append(p.held, c)
		if !p.inside {
			p.out = append(p.out, c)
		}
		for !bytes.HasPrefix([]byte(mark), p.held) {
			if p.inside {
				p.plain(p.held[0])
			}
			p.held = p.held[1:]
		}
		if len(p.held) == len(mark) {
			if p.inside {
				p.out = append(p.out, pasteEnd...)
			}
			p.inside, p.held, p.cr = !p.inside, p.held[:0], false
		}
	}
}

// plain takes a byte of pasted text.
func (p *pasteReader) plain(c byte) {
	after := p.cr
	p.cr = c == '\r'
	switch {
	case c == '\n' && after: // of \r\n
	case c == '\n' || c == '\r':
		p.out = append(p.out, string(lineEnd)...)
	case c == '\t':
		p.out = append(p.out, string(tab)...)
	case c >= ' ' && c != 0x7f: // other control characters are keys
		p.out = append(p.out, c)
	}
}
