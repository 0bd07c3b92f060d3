package ref

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

func rmsNorm(x *Values) {
	d := x.Args.In[0].Cols()
	for r := range x.Args.In[0].Rows() {
		in, out := x.In[0][r*d:][:d], x.Out[0][r*d:][:d]
		s := 1 / math.Sqrt(dot(in, in)/float64(d)+float64(x.Args.Eps))
		for i, v := range in {
			out[i] = v * s * x.In[1][i]
		}
	}
}

func rmsNormBackward(x *Values) {
	d, w := x.Args.In[0].Cols(), x.In[1]
	for r := range x.Args.In[0].Rows() {
		in, dy := x.In[0][r*d:][:d], x.In[2][r*d:][:d]
		s := 1 / math.Sqrt(dot(in, in)/float64(d)+float64(x.Args.Eps))
		mean := 0.0
		for i, v := range in {
			mean += w[i] * dy[i] * v / float64(d)
		}
		for i, v := range in {
			if dx := x.Out[0]; dx != nil {
				dx[r*d+i] = s * (w[i]*dy[i] - v*s*s*mean)
			}
			if dw := x.Out[1]; dw != nil {
				dw[i] += dy[i] * v * s
			}
		}
	}
}

// centred is a row without its mean, times s of LayerNorm, which it returns too.
func centred(row []float64, eps float64) (h []float64, s float64) {
	d, mean := float64(len(row)), 0.0
	for _, v := range row {
		mean += v / d
	}
	h = make([]float64, len(row))
	for i, v := range row {
		h[i] = v - mean
	}
	s = 1 / math.Sqrt(dot(h, h)/d+eps)
	for i := range h {
		h[i] *= s
	}
	return h, s
}

func layerNorm(x *Values) {
	d := x.Args.In[0].Cols()
	for r := range x.Args.In[0].Rows() {
		h, _ := centred(x.In[0][r*d:][:d], float64(x.Args.Eps))
		for i, v := range h {
			x.Out[0][r*d+i] = v*x.In[1][i] + x.In[2][i]
		}
	}
}

func layerNormBackward(x *Values) {
	d, w := x.Args.In[0].Cols(), x.In[1]
	for r := range x.Args.In[0].Rows() {
		h, s := centred(x.In[0][r*d:][:d], float64(x.Args.Eps))
		dy := x.In[2][r*d:][:d]
		mean, along := 0.0, 0.0
		for i, v := range h {
			mean += w[i] * dy[i] / float64(d)
			along += w[i] * dy[i] * v / float64(d)
		}
		for i, v := range h {
			if dx := x.Out[0]; dx != nil {
				dx[r*d+i] = s * (w[i]*dy[i] - mean - v*along)
			}
			if dw := x.Out[1]; dw != nil {
				dw[i] += dy[i] * v
			}
			if db := x.Out[2]; db != nil {
				db[i] += dy[i]
			}
		}
	}
}

func logistic(z float64) float64 { return 1 / (1 + math.Exp(-z)) }

func swiGLU(x *Values) {
	for i, gate := range x.In[0] {
		x.Out[0][i] = silu(gate) * x.In[1][i]
	}
}

func silu(z float64) float64 { return z * logistic(z) }

func swiGLUBackward(x *Values) {
	for i, gate := range x.In[0] {
		up, dy, s := x.In[1][i], x.In[2][i], logistic(gate)
		if dgate := x.Out[0]; dgate != nil {
			dgate[i] = dy * up * s * (1 + gate*(1-s))
		}
		if dup := x.Out[1]; dup != nil {
			dup[i] = dy * gate * s
		}
	}
}

// The element-wise operations of one and of two inputs.

func each1(x *Values, f func(a float64) float64) {
	for i, a := range x.In[0] {
		x.Out[0][i] = f(a)
	}
}

func each2(x *Values, f func(a, b float64) float64) {
	for i, a := range x.In[0] {
		x.Out[0][i] = f(a, x.In[1][i])
	}
}

func copyOf(x *Values) { copy(x.Out[0], x.In[0]) }
func exp(x *Values)    { each1(x, math.Exp) }
func log(x *Values)    { each1(x, math.Log) }
func tanh(x *Values)   { each1(x, math.Tanh) }

func sigmoid(x *Values) { each1(x, logistic) }

func gelu(x *Values) {
	each1(x, func(v float64) float64 { return v * normal(v) })
}

// normal is the distribution function of the standard normal, exact for large
// negative z where 1+erf cancels.
func normal(z float64) float64 { return math.Erfc(-z/math.Sqrt2) / 2 }

func add(x *Values) { each2(x, func(a, b float64) float64 { return a + b }) }
func mul(x *Values) { each2(x, func(a, b float64) float64 { return a * b }) }

func logBackward(x *Values) { each2(x, func(v, dy float64) float64 { return dy / v }) }

func sigmoidBackward(x *Values) {
	each2(x, func(y, dy float64) float64 { return dy * y * (1 - y) })
}

func tanhBackward(x *Values) {
	each2(x, func(y, dy float64) float64 { return dy * (1 - y*y) })
}

func geluBackward(x *Values) {
	each2(x, func(v, dy float64) float64 {
		return dy * (normal(v) + v*math.Exp(-v*v/2)/math.Sqrt(2*math.Pi))
	})
}

// alongAxis calls f for every line of v along axis: its elements in a
// row-major slice are base + i*step, i < n; line counts the lines.
func alongAxis(v *backend.View, axis int, f func(line, base, step, n int)) {
	n, step := v.Shape.Dim[axis], 1
	for _, d := range v.Shape.Dim[axis+1 : v.Shape.Rank] {
		step *= d
	}
	outer := 1
	for _, d := range v.Shape.Dim[:axis] {
		outer *= d
	}
	for line := range outer * step {
		f(line, line/step*n*step+line%step, step, n)
	}
}

func sum(x *Values) {
	alongAxis(&x.Args.In[0], x.Args.Axis, func(line, base, step, n int) {
		s := 0.0
		for i := range n {
			s += x.In[0][base+i*step]
		}
		x.Out[0][line] = s
	})
}

func maxOf(x *Values) {
	alongAxis(&x.Args.In[0], x.Args.Axis, func(line, base, step, n int) {
		m := math.Inf(-1)
		for i := range n {
			m = max(m, x.In[0][base+i*step])
		}
		x.Out[0][line] = m
	})
}

func maxBackward(x *Values) {
	clear(x.Out[0])
	alongAxis(&x.Args.In[0], x.Args.Axis, func(line, base, step, n int) {
		for i := range n {
			if x.In[0][base+i*step] == x.In[1][line] {
				x.Out[0][base+i*step] = x.In[2][line]
				return
			}
		}
	})
}

// softmaxRow writes exp(x - max) / sum to y, which may be x.
func softmaxRow(y, x []float64) {
	m, total := math.Inf(-1), 0.0
	for _, v := range x {
		m = max(m, v)
	}
	for i, v := range x {
		y[i] = math.Exp(v - m)
		total += y[i]
	}
	for i := range y {
		y[i] /= total
	}
}

func softmax(x *Values) {
	n := x.Args.In[0].Cols()
	for r := range x.Args.In[0].Rows() {
		softmaxRow(x.Out[0][r*n:][:n], x.In[0][r*n:][:n])
	}
}

func softmaxBackward(x *Values) {
	n := x.Args.In[0].Cols()
	for r := range x.Args.In[0].Rows() {
		y, dy := x.In[0][r*n:][:n], x.In[1][r*n:][:n]
		s := dot(y, dy)
		for i := range n {
			x.Out[0][r*n+i] = y[i] * (dy[i] - s)
		}
	}
}

func batchMatMul(x *Values) {
	m, k, n := x.Args.In[0].Shape.Dim[1], x.Args.In[0].Shape.Dim[2], x.Args.In[1].Shape.Dim[2]
	clear(x.Out[0])
	for b := range x.Args.In[0].Shape.Dim[0] {
		for i := range m {
			out := x.Out[0][(b*m+i)*n:][:n]
			for j := range k {
				axpy(out, x.In[0][(b*m+i)*k+j], x.In[1][(b*k+j)*n:][:n])
			}
		}
	}
}

func gather(x *Values) {
	d, rows := x.Args.In[0].Cols(), x.Args.In[0].Rows()
	for r, id := range x.In[1] {
		copy(x.Out[0][r*d:][:d], x.In[0][index(backend.Gather, id, rows)*d:][:d])
	}
}

func scatterAdd(x *Values) {
	d, rows := x.Args.Out[0].Cols(), x.Args.Out[0].Rows()
	for r, id := range x.In[1] {
		axpy(x.Out[0][index(backend.ScatterAdd, id, rows)*d:][:d], 1, x.In[0][r*d:][:d])
	}
}
