package quantize

import "math"

// Fidelity is how far a tensor that was stored is from the one that it was made of.
type Fidelity struct {
	RMSE float64 // root of the mean square of the errors
	// Relative is RMSE in relation to the root mean square of the numbers themselves.
	Relative float64
	// Weighted is Relative with each square weighted by the importance of its column: what
	// to expect of the errors of what the matrix computes, in relation to that. NaN is
	// none.
	Weighted float64
}

// Errors are sums over the numbers of a tensor.
type Errors struct {
	N                    int64   `json:"n"`
	Square, Norm         float64 // of errors, of the numbers
	Weighted, Importance float64 // the same, weighted
}

// Add adds the sums of another part of the tensor.
func (e *Errors) Add(o Errors) {
	e.N += o.N
	e.Square += o.Square
	e.Norm += o.Norm
	e.Weighted += o.Weighted
	e.Importance += o.Importance
}

// Row adds a row x that was stored as y. importance is of the columns, or nil.
func (e *Errors) Row(x, y, importance []float32) {
	y = y[:len(x)]
	e.N += int64(len(x))
	if importance == nil {
		var square, norm [2]float64 // sums that do not wait for each other
		for i, v := range x {
			d, v := float64(v)-float64(y[i]), float64(v)
			square[i&1] += d * d
			norm[i&1] += v * v
		}
		e.Square += square[0] + square[1]
		e.Norm += norm[0] + norm[1]
		return
	}
	importance = importance[:len(x)]
	for i, v := range x {
		d, v, w := float64(v)-float64(y[i]), float64(v), float64(importance[i])
		e.Square += d * d
		e.Norm += v * v
		e.Weighted += w * d * d
		e.Importance += w * v * v
	}
}

// Finite reports whether all numbers so far were.
func (e *Errors) Finite() bool { s := e.Square + e.Norm; return s-s == 0 }

// Fidelity is what the sums say.
func (e *Errors) Fidelity() Fidelity {
	f := Fidelity{RMSE: math.Sqrt(e.Square / float64(max(e.N, 1))), Weighted: math.NaN()}
	if e.Square > 0 {
		f.Relative = math.Sqrt(e.Square / e.Norm)
	}
	if e.Importance > 0 {
		f.Weighted = math.Sqrt(e.Weighted / e.Importance)
	}
	return f
}
