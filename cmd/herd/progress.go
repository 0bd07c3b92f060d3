package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress is a bar on stderr. A nil one shows nothing.
type progress struct {
	out   *mpb.Progress
	bar   *mpb.Bar
	name  string
	bytes bool
}

// bar returns a progress bar, or nil where none is wanted: with -q, and where
// stderr is no terminal.
func (c *common) bar(cmd *cobra.Command, name string, bytes bool) *progress {
	w := cmd.ErrOrStderr()
	if c.quiet || !isTerminal(w) {
		return nil
	}
	return &progress{out: mpb.New(mpb.WithOutput(w)), name: name, bytes: bytes}
}

// set shows that done of total are done.
func (p *progress) set(done, total int64) {
	if p == nil {
		return
	}
	if p.bar == nil {
		counters := decor.CountersNoUnit("%d / %d", decor.WC{C: decor.DextraSpace})
		if p.bytes {
			counters = decor.CountersKibiByte("% .1f / % .1f", decor.WC{C: decor.DextraSpace})
		}
		p.bar = p.out.AddBar(total, mpb.PrependDecorators(decor.Name(p.name+" "), counters),
			mpb.AppendDecorators(decor.AverageETA(decor.ET_STYLE_GO)))
	}
	p.bar.SetCurrent(done)
}

// stop takes the bar off the screen.
func (p *progress) stop() {
	if p == nil {
		return
	}
	if p.bar != nil {
		p.bar.Abort(true)
	}
	p.out.Wait()
}

// isTerminal says whether a stream of the command is a terminal.
func isTerminal(stream any) bool {
	if c, ok := stream.(*cancelReader); ok {
		stream = c.r
	}
	f, ok := stream.(*os.File)
	return ok && cupwriter.New(io.Writer(f), false).IsTerminal()
}
