package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/herd-ml/herd/internal/chart"
)

// drawPlot is the mode plot: the ratios of files of results into the last file.
func drawPlot(_ context.Context, s *settings, _ io.Writer) error {
	n := len(s.args) - 1
	if n < 1 || !strings.HasSuffix(s.args[n], ".png") {
		return fmt.Errorf("plot takes files of results, then a .png to write")
	}
	runs, err := readRuns(s.args[:n])
	if err != nil {
		return err
	}
	title := runs[0].title()
	if len(runs) > 1 {
		title = "several machines or kernels"
	}
	how := os.O_EXCL
	if s.force {
		how = os.O_TRUNC
	}
	f, err := os.OpenFile(s.args[n], os.O_WRONLY|os.O_CREATE|how, 0o644)
	if err != nil {
		return err
	}
	if err := chart.Ratios(f, title, "times as fast as the peer, quartiles of pairs", groups(runs)); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// groups gathers results that have a ratio, kind by kind. With several runs a
// label says which kernel ran.
func groups(runs []run) (all []chart.Group) {
	for _, k := range kinds {
		g := chart.Group{Name: k}
		for _, r := range runs {
			for _, res := range r.Results {
				if res.Kind != k || res.Ratio == nil || res.Peer == ofFirst {
					continue
				}
				label := strings.TrimSuffix(strings.TrimSpace(res.What+"  "+res.On), ".gguf") + "  " + shortName(res.Peer)
				if len(runs) > 1 {
					label += "  " + r.Kernel
				}
				g.Dots = append(g.Dots, chart.Dot{Label: label, Low: res.Ratio.Low, Median: res.Ratio.Median, High: res.Ratio.High})
			}
		}
		if len(g.Dots) > 0 {
			all = append(all, g)
		}
	}
	return all
}

// shortName leaves the version out.
func shortName(peer string) string {
	name, _, _ := strings.Cut(peer, " ")
	return name
}
