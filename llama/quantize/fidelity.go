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
		var s0, s1, n0, n1 float64 // sums that do not wait for each other
		for ; len(x) >= 2; x, y = x[2:], y[2:] {
			u, v := float64(x[0]), float64(x[1])
			d, f := u-float64(y[0]), v-float64(y[1])
			s0, n0 = s0+d*d, n0+u*u
			s1, n1 = s1+f*f, n1+v*v
		}
		if len(x) > 0 {
			v := float64(x[0])
			d := v - float64(y[0])
			s0, n0 = s0+d*d, n0+v*v
		}
		e.Square += s0 + s1
		e.Norm += n0 + n1
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
