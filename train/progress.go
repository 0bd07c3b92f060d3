package train

import "time"

// Progress is how far a run is, after a step or before the first.
type Progress struct {
	// Stage is what is being done: "train"; "count", when the steps that the epochs of the
	// data give are counted before the first; "reread", when a run that goes on reads
	// again what it was given.
	Stage           string
	Step, Steps     int     // done or counted, and of how many, 0 where that is not known
	Documents       int64   // read again
	Loss            float64 // mean over the step's targets, in nats
	GradNorm        float64 // of all gradients, before clipping
	LR              float64
	Tokens          int64 // trained on so far
	TokensPerSecond float64
	MFU             float64       // share of the machine's peak, 0 to 1
	Elapsed         time.Duration // of this run
	Left            time.Duration // estimated; 0 while nothing is known
}

const (
	slowSteps  = 3  // of a run: pages are touched, caches and clocks are cold
	pastSteps  = 64 // whose pace counts
	knownSteps = 2  // from which on there is an estimate
)

// Estimator estimates how long a run still takes, from the time that the last 64
// steps took together with what was done between them. The first steps of a run
// are slower; they count only until there are others. The zero value is ready.
type Estimator struct {
	start time.Time
	done  int         // steps of this run
	ends  []time.Time // of the last steps, oldest first
}

// Start begins the run, or begins it again.
func (e *Estimator) Start(now time.Time) { *e = Estimator{start: now, ends: []time.Time{now}} }

// Step notes that a step has ended.
func (e *Estimator) Step(now time.Time) {
	if e.start.IsZero() {
		e.Start(now)
	}
	e.done++
	switch {
	case e.done == slowSteps+knownSteps:
		e.ends = e.ends[slowSteps:]
	case len(e.ends) > pastSteps:
		e.ends = e.ends[:copy(e.ends, e.ends[1:])]
	}
	e.ends = append(e.ends, now)
}

// Elapsed returns how long the run has taken.
func (e *Estimator) Elapsed(now time.Time) time.Duration {
	if e.start.IsZero() {
		return 0
	}
	return now.Sub(e.start)
}

// Left estimates how long the steps that are left take; 0 while no step is done.
func (e *Estimator) Left(steps int) time.Duration {
	return time.Duration(e.pace() * float64(max(steps, 0)))
}

// PerSecond turns an amount of one step into a rate.
func (e *Estimator) PerSecond(amount float64) float64 {
	if p := e.pace(); p > 0 {
		return amount * float64(time.Second) / p
	}
	return 0
}

// pace is the mean nanoseconds of a step.
func (e *Estimator) pace() float64 {
	n := len(e.ends) - 1
	if n < 1 {
		return 0
	}
	return float64(e.ends[n].Sub(e.ends[0])) / float64(n)
}
