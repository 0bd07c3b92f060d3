package ref

import (
	"math"

	"github.com/herd-ml/herd/backend"
)

// logits are those of one row at a time.
type logits struct {
	x  *Values
	in []float64 // rounded
	z  []float64 // [V]
}

func (x *Values) logits(op backend.Op) *logits {
	a := x.Args
	l := &logits{x, rounded(x.In[0], a.In[0].Cols(), a.Round), make([]float64, a.W[0].Rows())}
	for r := range a.In[0].Rows() {
		index(op, x.In[1][r], len(l.z))
	}
	return l
}

// input is row r as the products see it.
func (l *logits) input(r int) []float64 {
	k := l.x.Args.In[0].Cols()
	return l.in[r*k:][:k]
}

// row computes the logits of row r.
func (l *logits) row(r int) {
	for v := range l.z {
		l.z[v] = dot(l.input(r), l.x.weight(0, v))
	}
}

// logSumExp is infinite where a logit is, or all are minus infinity.
func (l *logits) logSumExp() float64 {
	top, sum := math.Inf(-1), 0.0
	for _, z := range l.z {
		top = math.Max(top, z)
	}
	if math.IsInf(top, 0) {
		for _, z := range l.z {
			if math.IsNaN(z) {
				return z
			}
		}
		return top
	}
	for _, z := range l.z {
		sum += math.Exp(z - top)
	}
	return top + math.Log(sum)
}

// entropy is lse - sum p z, where p = 0 adds nothing.
func (l *logits) entropy(lse float64) float64 {
	h := 0.0
	for _, z := range l.z {
		if p := math.Exp(z - lse); p != 0 {
			h -= p * (z - lse)
		}
	}
	return h
}

func logProb(x *Values) {
	l := x.logits(backend.LogProb)
	for r, id := range x.In[1] {
		l.row(r)
		lse := l.logSumExp()
		x.Out[0][r], x.Out[1][r] = l.z[int(id)]-lse, lse
		if x.Out[2] != nil {
			x.Out[2][r] = l.entropy(lse)
		}
	}
}

// gradient replaces the logits of a row by their gradient, which is
// dlogp (1[v=id] - p) + dlse p - dentropy p (z - lse + entropy).
func (l *logits) gradient(id int, lse, dlogp, dlse, dentropy float64) {
	h := 0.0
	if dentropy != 0 {
		h = l.entropy(lse)
	}
	for v, z := range l.z {
		p := math.Exp(z - lse)
		l.z[v] = (dlse - dlogp) * p
		if dentropy != 0 && p != 0 {
			l.z[v] -= dentropy * p * (z - lse + h)
		}
		if v == id {
			l.z[v] += dlogp
		}
	}
}

// products adds the row's part to dx [R,K] and dW [V,K].
func (l *logits) products(r int, dx, dw []float64) {
	in := l.input(r)
	for v, g := range rounded(l.z, len(l.z), l.x.Args.Round) {
		if dx != nil {
			axpy(dx[r*len(in):][:len(in)], g, l.x.weight(0, v))
		}
		if dw != nil {
			axpy(dw[v*len(in):][:len(in)], g, in)
		}
	}
}

func logProbBackward(x *Values) {
	l := x.logits(backend.LogProbBackward)
	clear(x.Out[0])
	for r, id := range x.In[1] {
		var dlse, dentropy float64
		if x.In[4] != nil {
			dlse = x.In[4][r]
		}
		if x.In[5] != nil {
			dentropy = x.In[5][r]
		}
		if x.In[3][r] == 0 && dlse == 0 && dentropy == 0 {
			continue
		}
		l.row(r)
		l.gradient(int(id), x.In[2][r], x.In[3][r], dlse, dentropy)
		l.products(r, x.Out[0], x.Out[1])
	}
}

func crossEntropy(x *Values) {
	l := x.logits(backend.CrossEntropy)
	clear(x.Out[2])
	for r, id := range x.In[1] {
		l.row(r)
		lse, c, zc, dlse := l.logSumExp(), x.In[2][r], 0.0, 0.0
		x.Out[0][r], x.Out[1][r] = l.z[int(id)]-lse, lse
		if x.In[3] != nil {
			zc = x.In[3][r]
		}
		if zc != 0 {
			dlse = 2 * zc * lse
		}
		if c == 0 && zc == 0 {
			continue
		}
		l.gradient(int(id), lse, -c, dlse, 0)
		l.products(r, x.Out[2], x.Out[3])
	}
}
