package train

import "math"

const curvePoints = 2000 // of a curve; more are averaged

// newest returns the weight of a loss in the exponential mean after n others. It is 1
// for the first, then 10/(10+n), so that the mean follows the steep start, and at last
// 1/50.
func newest(n int) float64 { return max(0.02, 10/(10+float64(n))) }

// A Curve is a line to draw over the steps of a run, X ascending, of about 2000 points at
// most. Of a longer run neighbouring points are averaged, without losses that are not
// finite. A curve that needs no averaging keeps those.
type Curve struct {
	X []float64 // steps
	Y []float64 // nats
}

// LossCurves are the losses of a run.
type LossCurves struct {
	Steps  Curve // of each step
	Smooth Curve // their exponential mean
	Eval   Curve // held out
}

// ReadLossCurves reads the losses of a metrics file.
func ReadLossCurves(metrics string) (LossCurves, error) {
	var raw, smooth, eval thinned
	mean, n := 0.0, 0
	for row, err := range ReadMetrics(metrics) {
		if err != nil {
			return LossCurves{}, err
		}
		if row.Eval {
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
	return LossCurves{raw.end(), smooth.end(), eval.end()}, nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// thinned collects points with bounded memory: where there are too many, it
// averages two neighbours into one, and goes on so.
type thinned struct {
	Curve
	every int // points that make one, a power of two
	sum   [2]float64
	n     int // in sum
}

func (c *thinned) add(step int64, v float64) {
	c.every = max(c.every, 1)
	if !finite(v) && c.every > 1 {
		return // its neighbours stand for it
	}
	c.sum[0] += float64(step)
	c.sum[1] += v
	if c.n++; c.n < c.every {
		return
	}
	c.X, c.Y = append(c.X, c.sum[0]/float64(c.n)), append(c.Y, c.sum[1]/float64(c.n))
	c.sum, c.n = [2]float64{}, 0
	if len(c.X) < curvePoints {
		return
	}
	half := len(c.X) / 2
	for i := range half {
		c.X[i], c.Y[i] = (c.X[2*i]+c.X[2*i+1])/2, either(c.Y[2*i], c.Y[2*i+1])
	}
	c.X, c.Y, c.every = c.X[:half], c.Y[:half], 2*c.every
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

// end returns the points; those that make no whole one are one too.
func (c *thinned) end() Curve {
	if c.n > 0 {
		c.X, c.Y = append(c.X, c.sum[0]/float64(c.n)), append(c.Y, c.sum[1]/float64(c.n))
		c.n = 0
	}
	return c.Curve
}
