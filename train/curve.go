package train

import (
	"fmt"
	"io"
	"math"

	"github.com/herd-ml/herd/internal/chart"
	"github.com/herd-ml/herd/internal/vfs"
)

const curvePoints = 2000 // of a line; more are averaged

// newest is the weight of a loss in the exponential mean after n others: 1 for the
// first, then about a tenth of the way so far, so that the mean follows the steep
// start, at last one in fifty.
func newest(n int) float64 { return max(0.02, 10/(10+float64(n))) }

// DrawLoss draws the loss of a metrics file over the steps as a PNG: that of each
// step, its exponential mean, and the evaluations. logX draws the steps on a
// logarithmic axis.
func DrawLoss(metrics, png, title string, logX bool) error {
	var raw, smooth, eval curve
	mean, n := 0.0, 0
	for row, err := range ReadMetrics(metrics) {
		switch {
		case err != nil:
			return err
		case row.Eval:
			eval.add(row.Step, row.Loss)
			continue
		}
		raw.add(row.Step, row.Loss)
		if finite(row.Loss) {
			mean += newest(n) * (row.Loss - mean)
			n++
		}
		if n > 0 {
			smooth.add(row.Step, mean)
		}
	}
	lines := []chart.Line{
		raw.line("loss of a step"),
		smooth.line("loss, smoothed"),
		eval.line("held-out loss"),
	}
	lines[0].Faint = true
	lines[2].Dots = len(lines[2].X) <= 50
	err := vfs.WriteAtomic(png, func(w io.Writer) error {
		return chart.Lines(w, chart.Axes{Title: title, X: "step", Y: "loss (nats)", LogX: logX}, lines)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", png, err)
	}
	return nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// curve collects points with bounded memory: where there are too many, it
// averages two neighbours into one, and goes on so.
type curve struct {
	x, y  []float64
	every int // points that make one, a power of two
	sum   [2]float64
	n     int // in sum
}

func (c *curve) add(step int64, v float64) {
	c.every = max(c.every, 1)
	if !finite(v) && c.every > 1 {
		return // its neighbours stand for it
	}
	c.sum[0] += float64(step)
	c.sum[1] += v
	if c.n++; c.n < c.every {
		return
	}
	c.x, c.y = append(c.x, c.sum[0]/float64(c.n)), append(c.y, c.sum[1]/float64(c.n))
	c.sum, c.n = [2]float64{}, 0
	if len(c.x) < curvePoints {
		return
	}
	half := len(c.x) / 2
	for i := range half {
		c.x[i], c.y[i] = (c.x[2*i]+c.x[2*i+1])/2, either(c.y[2*i], c.y[2*i+1])
	}
	c.x, c.y, c.every = c.x[:half], c.y[:half], 2*c.every
}

// either is the mean of two values, or the one that is finite.
func either(a, b float64) float64 {
	switch {
	case !finite(a):
		return b
	case !finite(b):
		return a
	}
	return (a + b) / 2
}

// line ends the curve; the points that make no whole one are one too.
func (c *curve) line(name string) chart.Line {
	if c.n > 0 {
		c.x, c.y = append(c.x, c.sum[0]/float64(c.n)), append(c.y, c.sum[1]/float64(c.n))
		c.n = 0
	}
	return chart.Line{Name: name, X: c.x, Y: c.y}
}
