package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/herd-ml/herd/llama"
)

// isTerminal says whether a stream of the command is a terminal.
func isTerminal(stream any) bool {
	switch s := stream.(type) {
	case *cancelReader:
		stream = s.r
	case *column:
		stream = s.w
	}
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// isLive says whether a stream is a terminal on which a line can be written over.
func isLive(stream any) bool {
	name := os.Getenv("TERM")
	return isTerminal(stream) && name != "dumb" && (name != "" || os.PathSeparator == '\\')
}

// liveEvery is how often a line is written over.
const liveEvery = 200 * time.Millisecond

// liveLine is a line of a terminal that is written over.
type liveLine struct {
	w     io.Writer
	width int // of what stands there
}

// show writes text in the place of what stands there.
func (l *liveLine) show(text string) {
	if f, ok := l.w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 && len(text) >= columns {
			text = text[:columns-1] // a line that wraps could not be written over
		}
	}
	fmt.Fprintf(l.w, "\r%-*s", l.width, text)
	l.width = len(text)
}

// clear takes the line off the screen.
func (l *liveLine) clear() {
	if l.width > 0 {
		fmt.Fprintf(l.w, "\r%s\r", strings.Repeat(" ", l.width))
		l.width = 0
	}
}

// progress shows on stderr how far something is. A nil one shows nothing.
type progress struct {
	line         liveLine
	name         string
	bytes        bool
	start, shown time.Time // nothing is shown of what is done at once
}

// bar returns a progress, or nil where none is wanted: with -q, and where stderr is no
// terminal.
func (c *common) bar(cmd *cobra.Command, name string, bytes bool) *progress {
	w := cmd.ErrOrStderr()
	if c.quiet || !isLive(w) {
		return nil
	}
	return &progress{line: liveLine{w: w}, name: name, bytes: bytes, start: time.Now(), shown: time.Now()}
}

// set shows that done of total are done.
func (p *progress) set(done, total int64) {
	if p == nil || time.Since(p.shown) < liveEvery {
		return
	}
	p.shown = time.Now()
	text := fmt.Sprintf("%s %d of %d", p.name, done, total)
	if p.bytes {
		text = fmt.Sprintf("%s %s of %s", p.name, size(done), size(total))
	}
	if took := p.shown.Sub(p.start); done > 0 && took > time.Second {
		left := time.Duration(float64(took) * float64(total-done) / float64(done))
		text += ", " + left.Round(time.Second).String() + " left"
	}
	p.line.show(text)
}

// show is a callback of llama's.
func (p *progress) show(x llama.Progress) { p.set(x.Done, x.Total) }

// stop takes it off the screen.
func (p *progress) stop() {
	if p != nil {
		p.line.clear()
	}
}
