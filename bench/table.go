package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

const header = `| what | on | beside | times as fast, median (quartiles) | pairs | herd | share |
|---|---|---|---|---|---|---|`

// title says what a run ran on.
func (r *run) title() string {
	return fmt.Sprintf("%s, %s, kernel %s, %d threads, %s, %s", cmp.Or(r.CPU, "unknown processor"), r.OS, r.Kernel, r.Workers, r.Go, r.Time.Format("2006-01-02"))
}

// row is a result as a line of the table.
func (r *result) row() string {
	ratio := ""
	if r.Ratio != nil {
		ratio = fmt.Sprintf("%s (%s to %s)", figure(r.Ratio.Median), figure(r.Ratio.Low), figure(r.Ratio.High))
	}
	what := strings.TrimSpace(r.Kind + " " + r.What)
	pairs := strconv.Itoa(r.Pairs)
	if r.Repeated > 0 {
		pairs += fmt.Sprintf(", %d repeated", r.Repeated)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s %s | %s |", what, cmp.Or(r.On, "-"), cmp.Or(r.Peer, "-"), cmp.Or(ratio, "-"), pairs, figure(r.Herd), r.Unit, r.Share.text())
}

func (s *share) text() string {
	if s == nil {
		return "-"
	}
	limit := figure(s.Limit/1e6) + " MB"
	switch s.Of {
	case ofRead:
		limit = figure(s.Limit/1e9) + " GB/s"
	case ofBudget:
	default:
		limit = figure(s.Limit/1e12) + " TFLOP/s"
		if strings.HasPrefix(s.Of, "int8") {
			limit = figure(s.Limit/1e12) + " TOP/s"
		}
	}
	return fmt.Sprintf("%.0f %% of %s, %s", 100*s.Median, limit, s.Of)
}

// figure keeps three digits of a number that is not large.
func figure(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// kinds is the order of the table and the plot.
var kinds = []string{"prefill", "decode", "lookup", "streams", "shared", "arrivals", "gemm", "tokenize", "load", "memory", "train", "trainmemory"}

// merge gathers the results of runs in the same surroundings: of a comparison
// that was made again, the last one, which gives the date too. Results come in
// the order of kinds, then of the runs.
func merge(runs []run) (merged []run) {
	for _, r := range runs {
		i := slices.IndexFunc(merged, func(m run) bool {
			return m.CPU == r.CPU && m.Kernel == r.Kernel && m.Workers == r.Workers && m.Go == r.Go && m.OS == r.OS
		})
		if i < 0 {
			i = len(merged)
			merged = append(merged, r)
			merged[i].Results = nil
		}
		m := &merged[i]
		if r.Time.After(m.Time) {
			m.Time = r.Time
		}
		for _, n := range r.Results {
			at := slices.IndexFunc(m.Results, func(o result) bool {
				return o.Kind == n.Kind && o.What == n.What && o.On == n.On && o.Peer == n.Peer
			})
			if at < 0 {
				m.Results = append(m.Results, n)
			} else {
				m.Results[at] = n
			}
		}
	}
	for _, m := range merged {
		slices.SortStableFunc(m.Results, func(a, b result) int {
			return cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind))
		})
	}
	return slices.DeleteFunc(merged, func(m run) bool { return len(m.Results) == 0 })
}

// readRuns reads files of results and merges them.
func readRuns(paths []string) ([]run, error) {
	var runs []run
	for _, p := range paths {
		r, err := readReport(p)
		if err != nil {
			return nil, err
		}
		runs = append(runs, r.Runs...)
	}
	if runs = merge(runs); len(runs) == 0 {
		return nil, fmt.Errorf("give files with results; see -help")
	}
	return runs, nil
}

// printTable is the mode table.
func printTable(_ context.Context, s *settings, w io.Writer) error {
	runs, err := readRuns(s.args)
	if err != nil {
		return err
	}
	for i, r := range runs {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s.\n\n%s\n", r.title(), header)
		for _, res := range r.Results {
			fmt.Fprintln(w, res.row())
		}
	}
	return nil
}
