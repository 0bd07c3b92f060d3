package main

import (
	"bufio"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestPaste: what is pasted is one line, however the terminal cuts it into reads, and
// keys go through as they are.
func TestPaste(t *testing.T) {
	const keys = "a\x1b[A\x1bb\x1b[2~\x03\r"
	for in, want := range map[string]string{
		keys: keys,
		"x\x1b[200~one\rtwo\r\nthree\n\n\tfour\x1b[201~y\r": "x\x1b[200~one␤two␤three␤␤␉four\x1b[201~y\r",
		"\x1b[200~a\x03\x1b[B\x04b\x7f\x1b[201~" + keys:     "\x1b[200~a[Bb\x1b[201~" + keys,
		"\x1b[200~\x1b[20ä\x1b[201~\x1b[200~b\n\x1b[201~":   "\x1b[200~[20ä\x1b[201~\x1b[200~b␤\x1b[201~",
	} {
		for name, r := range map[string]io.Reader{"whole": strings.NewReader(in), "bytes": iotest.OneByteReader(strings.NewReader(in))} {
			got, err := io.ReadAll(&pasteReader{r: r})
			if err != nil || string(got) != want {
				t.Errorf("%s: %q is read as %q, want %q, %v", name, in, got, want, err)
			}
		}
	}
	if got := pasted.Replace("one␤␉two"); got != "one\n\ttwo" {
		t.Errorf("%q", got)
	}
	// A key is there at once, though a mark may begin with it.
	r, w := io.Pipe()
	defer w.Close()
	go w.Write([]byte("\x1b"))
	var b [8]byte
	if n, err := (&pasteReader{r: r}).Read(b[:]); n != 1 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestPlainTerminal: where lines are not edited a terminal shows the prompts, without
// escapes, and a pipe shows none.
func TestPlainTerminal(t *testing.T) {
	var shown strings.Builder
	p := &pipe{lineReader{r: bufio.NewReader(strings.NewReader("a\r\nb"))}, &shown}
	for _, want := range []string{"a", "b"} {
		if got, err := p.read(">>> "); got != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	if shown.String() != ">>> >>> " {
		t.Errorf("shown: %q", shown.String())
	}
	silent := &pipe{lineReader: lineReader{r: bufio.NewReader(strings.NewReader("a\n"))}}
	if got, err := silent.read(">>> "); got != "a" || err != nil {
		t.Errorf("of a pipe: %q, %v", got, err)
	}
}
