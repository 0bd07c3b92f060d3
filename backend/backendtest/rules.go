package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend/ref"
)

// The rules of operations whose error is neither a sum's nor relative.

// ropeRule allows 4 roundings of the two elements of a pair.
func ropeRule(_ *testCase, x, _ *ref.Values) bound {
	hd, in := x.Args.In[1].Cols(), x.In[0]
	return func(_, i int) float64 {
		j := i + hd/2
		if i%hd >= hd/2 {
			j = i - hd/2
		}
		return 4 * u * (math.Abs(in[i]) + math.Abs(in[j]))
	}
}

// walk is how far n roundings of either sign take a sum, in roundings: twice the
// standard deviation and four more. Where the condition is estimated by products
// of the largest norms, the worst case n would hide mistakes.
func walk(n int) float64 { return 4 + 2*math.Sqrt(float64(n)) }

// attentionRule: a score is a dot product of hd terms, off by walk(hd)
// roundings of |q| |k| Scale; exp turns that, twice with the maximum, into a
// relative error; the sums over T keys and the division follow. The values are
// bounded by the largest. Keys and values of pages are what is stored, which
// Q8_0 too widens exactly: a code of 8 bits times a scale of 11.
//
// The logarithm of the sum of exp is off as the scores are.
func attentionRule(c *testCase, x, _ *ref.Values) bound {
	hd := x.Args.KV.HeadDim
	score := math.Abs(float64(x.Args.Scale)) * c.longest(c.in[:1]) * c.longest(append(c.pages, c.in[1]))
	total := (2*score*walk(hd) + walk(c.mostKeys()) + 12) * u
	v := c.largest(append(c.pages, c.in[2]))
	return func(out, i int) float64 {
		if out == 1 {
			return total + 4*u*math.Abs(x.Out[1][i])
		}
		return total * v
	}
}

// mostKeys is the largest number of key rows that a segment sees.
func (c *testCase) mostKeys() int {
	most := 0
	for _, s := range c.args.Layout.Segments {
		n := 0
		for _, sp := range s.Spans {
			n += sp.Len
		}
		most = max(most, n)
	}
	return most
}

// attentionBackwardRule walks the rows and keys: with rel the relative error of
// a probability as in attentionRule, a term p dy of dv is off by rel p |dy|, ds
// by rel p (|dy| |v| + |dy| |y|), and the sums over keys and rows add to rel.
func attentionBackwardRule(c *testCase, _, a *ref.Values) bound {
	g, d, scale := a.Args.KV, a.Args.In[0].Cols(), math.Abs(float64(a.Args.Scale))
	hd, kv := g.HeadDim, g.Heads*g.HeadDim
	group := d / kv
	rows, keys := a.Args.Layout.Rows(), a.Args.Layout.KeyRows()
	e := [3][]float64{make([]float64, rows*d), make([]float64, keys*kv), make([]float64, keys*kv)}
	score := scale * c.longest(c.in[:1]) * c.longest(c.in[1:2])
	rel := (2*score*walk(hd) + walk(c.mostKeys()+hd+rows*group) + 24) * u
	of := c.keyValues(a)
	c.eachRow(func(segment, row int, ts []int) {
		for h := range d / hd {
			at := row*d + h*hd
			q, y, dy := a.In[0][at:][:hd], a.In[3][at:][:hd], a.In[4][at:][:hd]
			keys, values := of(segment, 0, h/group, ts), of(segment, 1, h/group, ts)
			p := softmaxOf(float64(a.Args.Scale), q, keys)
			for i, t := range ts {
				o := t*kv + h/group*hd
				k, v := keys[i], values[i]
				ds := rel * scale * p[i] * (absDot(dy, v) + absDot(dy, y))
				for x := range hd {
					e[0][at+x] += ds * math.Abs(k[x])
					e[1][o+x] += ds * math.Abs(q[x])
					e[2][o+x] += rel * p[i] * math.Abs(dy[x])
				}
			}
		}
	})
	return func(out, i int) float64 { return e[out][i] }
}

// softmaxOf are the probabilities of keys.
func softmaxOf(scale float64, q []float64, keys [][]float64) []float64 {
	p, total, top := make([]float64, len(keys)), 0.0, math.Inf(-1)
	for i, k := range keys {
		for x, v := range q {
			p[i] += scale * v * k[x]
		}
		top = max(top, p[i])
	}
	for i := range p {
		p[i] = math.Exp(p[i] - top)
		total += p[i]
	}
	for i := range p {
		p[i] /= total
	}
	return p
}

// absDot is the sum of |a[i] b[i]|.
func absDot(a, b []float64) float64 {
	s := 0.0
	for i, v := range a {
		s += math.Abs(v * b[i])
	}
	return s
}

// rmsNormBackwardRule: dx = s (w dy - x s^2 mean(w dy x)) cancels; two means of D
// terms. dw adds R terms to what was there.
func rmsNormBackwardRule(_ *testCase, _, a *ref.Values) bound {
	rows, d := a.Args.In[0].Rows(), a.Args.In[0].Cols()
	e := [2][]float64{make([]float64, rows*d), make([]float64, d)}
	n := float64(2*d+rows+16) * u
	for r := range rows {
		x, w, dy := a.In[0][r*d:][:d], a.In[1], a.In[2][r*d:][:d]
		s, mean := 1/math.Sqrt(absDot(x, x)/float64(d)+float64(a.Args.Eps)), 0.0
		for i := range d {
			mean += math.Abs(w[i]*dy[i]*x[i]) / float64(d)
		}
		for i := range d {
			e[0][r*d+i] = n * s * (math.Abs(w[i]*dy[i]) + math.Abs(x[i])*s*s*mean)
			e[1][i] += n * math.Abs(dy[i]*x[i]*s)
		}
	}
	for i, v := range a.Out[1] {
		e[1][i] += n * math.Abs(v)
	}
	return func(out, i int) float64 { return e[out][i] }
}

// swiGLUBackwardRule: in dgate, 1 + gate (1-s) cancels.
func swiGLUBackwardRule(_ *testCase, _, a *ref.Values) bound {
	return func(out, i int) float64 {
		gate, up, dy := a.In[0][i], a.In[1][i], a.In[2][i]
		s := 1 / (1 + math.Exp(-gate))
		if out == 0 {
			return 16 * u * math.Abs(dy*up*s) * (1 + math.Abs(gate))
		}
		return 16 * u * math.Abs(dy*gate*s)
	}
}

// softmaxRule: exp of a difference that is off by a rounding of its size, a sum
// of n terms, a quotient.
func softmaxRule(_ *testCase, x, a *ref.Values) bound {
	n := a.Args.In[0].Cols()
	span := make([]float64, a.Args.In[0].Rows()) // largest finite |x| of a row
	for i, v := range a.In[0] {
		if !math.IsInf(v, 0) && !math.IsNaN(v) {
			span[i/n] = max(span[i/n], math.Abs(v))
		}
	}
	return func(_, i int) float64 { return (float64(n) + 16 + 4*span[i/n]) * u * x.Out[0][i] }
}

func softmaxBackwardRule(_ *testCase, _, a *ref.Values) bound {
	n := a.Args.In[0].Cols()
	cond := make([]float64, a.Args.In[0].Rows())
	for r := range cond {
		cond[r] = absDot(a.In[0][r*n:][:n], a.In[1][r*n:][:n])
	}
	return func(_, i int) float64 {
		return float64(n+4) * u * math.Abs(a.In[0][i]) * (math.Abs(a.In[1][i]) + cond[i/n])
	}
}

// longest is the largest finite norm of HeadDim successive elements.
func (c *testCase) longest(os []*operand) float64 {
	m, hd := 0.0, c.args.KV.HeadDim
	for _, o := range os {
		if o == nil {
			continue
		}
		x := read(o.view)
		for i := 0; i+hd <= len(x); i += hd {
			s := 0.0
			for _, v := range x[i:][:hd] {
				s += v * v
			}
			if !math.IsNaN(s) && !math.IsInf(s, 0) {
				m = max(m, math.Sqrt(s))
			}
		}
	}
	return m
}

// largest is the largest finite magnitude.
func (c *testCase) largest(os []*operand) float64 {
	m := 0.0
	for _, o := range os {
		if o == nil {
			continue
		}
		for _, v := range read(o.view) {
			if v = math.Abs(v); !math.IsNaN(v) && !math.IsInf(v, 0) {
				m = max(m, v)
			}
		}
	}
	return m
}
