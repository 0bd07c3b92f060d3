package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/ref"
)

// The rules of log-probabilities.

// logitsOf is what MatMul gives for the operands.
func logitsOf(v *ref.Values) []float64 {
	z, keep := make([]float64, v.Args.In[0].Rows()*v.Args.W[0].Rows()), v.Out
	v.Out = [backend.MaxOut][]float64{z}
	v.Eval(backend.MatMul)
	v.Out = keep
	return z
}

// A logitRow is the logits of a row, and their largest error.
type logitRow struct {
	z   []float64
	err float64
}

// logitRows uses up a. A logit is off by K+8 roundings of its condition, the largest
// of which stands for the row.
func logitRows(x, a *ref.Values) []logitRow {
	z := logitsOf(x)
	magnitudes(a)
	cond, vocab := logitsOf(a), a.Args.W[0].Rows()
	rows := make([]logitRow, a.Args.In[0].Rows())
	for r := range rows {
		rows[r].z = z[r*vocab:][:vocab]
		for _, c := range cond[r*vocab:][:vocab] {
			if math.IsInf(c, 0) || math.IsNaN(c) {
				continue // exact
			}
			rows[r].err = max(rows[r].err, float64(a.Args.In[0].Cols()+8)*u*c)
		}
	}
	return rows
}

// deviation is sum p |z - lse|, and the same with |z|.
func (l logitRow) deviation(lse float64) (from, size float64) {
	for _, z := range l.z {
		if p := math.Exp(z - lse); p != 0 {
			from += p * math.Abs(z-lse)
			size += p * math.Abs(z)
		}
	}
	return from, size
}

// logProbRule: the largest error of a logit bounds that of lse; the sum over V adds
// V+16 roundings of 1. In the entropy a probability is off by both, as a fraction,
// and so are the differences that it weighs; it may be computed as lse - sum p z.
func logProbRule(_ *testCase, x, a *ref.Values) bound {
	rows, vocab := logitRows(x, a), a.Args.W[0].Rows()
	return func(out, i int) float64 {
		lse := x.Out[1][i]
		e := 2*rows[i].err + u*(float64(vocab+16)+2*math.Abs(lse)+2*math.Abs(x.Out[0][i]))
		if out < 2 {
			return e
		}
		from, size := rows[i].deviation(lse)
		return 2*e*(1+from) + float64(vocab+16)*u*(from+size+math.Abs(lse))
	}
}

// gradientOf are the coefficients of a row's dz = add [v=id] + mul p - ent p (z - lse +
// entropy).
type gradientOf struct {
	id            int
	lse           float64
	add, mul, ent float64
	mulErr        float64 // largest error of mul
}

func logProbBackwardRule(_ *testCase, x, a *ref.Values) bound {
	at := func(v []float64, r int) float64 {
		if v == nil {
			return 0
		}
		return v[r]
	}
	var gs []gradientOf
	for r, id := range x.In[1] {
		dlogp, dlse := x.In[3][r], at(x.In[4], r)
		gs = append(gs, gradientOf{id: int(id), lse: x.In[2][r], add: dlogp, mul: dlse - dlogp, ent: at(x.In[5], r),
			mulErr: 4 * u * (math.Abs(dlogp) + math.Abs(dlse))})
	}
	return gradientBound(x, a, gs, 0)
}

func crossEntropyRule(c *testCase, x, a *ref.Values) bound {
	var gs []gradientOf
	for r, id := range x.In[1] {
		w, zc, lse := x.In[2][r], 0.0, x.Out[1][r]
		if x.In[3] != nil {
			zc = x.In[3][r]
		}
		dlse := 0.0
		if zc != 0 {
			dlse = 2 * zc * lse
		}
		gs = append(gs, gradientOf{id: int(id), lse: lse, add: -w, mul: dlse + w, mulErr: 4 * u * (math.Abs(w) + math.Abs(dlse))})
	}
	gradient := gradientBound(x, a, gs, 2)
	forward := logProbRule(c, x, a)
	return func(out, i int) float64 {
		if out < 2 {
			return forward(out, i)
		}
		return gradient(out-2, i)
	}
}

// gradientBound bounds the errors of dx, at out, and dW behind it, and uses up a. A
// product's term is off by the error of dz and by the roundings of the sum over V or R.
// Where dz is rounded to bfloat16, its error is how far its neighbourhood is spread by
// that: nothing mostly, or a step.
func gradientBound(x, a *ref.Values, gs []gradientOf, out int) bound {
	args := a.Args
	k, vocab, rows := args.In[0].Cols(), args.W[0].Rows(), logitRows(x, a)
	e := [2][]float64{make([]float64, len(gs)*k), make([]float64, vocab*k)}
	n := float64(max(len(gs), vocab)+16) * u
	for r, g := range gs {
		dz, dzErr := g.row(rows[r], args.Round == backend.RoundBothBF16)
		for v := range dz {
			w := a.W[0](v)
			for i := range k {
				term := func(y float64) float64 {
					if e := dzErr[v] + n*math.Abs(dz[v]); e != 0 && y != 0 { // infinity has no part
						return e * y * (1 + 0x1p-8) // rounded, perhaps
					}
					return 0
				}
				e[0][r*k+i] += term(w[i])
				e[1][v*k+i] += term(a.In[0][r*k+i])
			}
		}
	}
	for i, v := range a.Out[out+1] {
		e[1][i] += n * v
	}
	return func(out, i int) float64 { return e[out][i] }
}

// row is dz and its largest errors. p is off by those of its logit and of lse, as a
// fraction; the entropy by as much of the deviation.
func (g gradientOf) row(l logitRow, rounded bool) (dz, e []float64) {
	dz, e = make([]float64, len(l.z)), make([]float64, len(l.z))
	if g.add == 0 && g.mul == 0 && g.ent == 0 {
		return dz, e
	}
	from, _ := l.deviation(g.lse)
	sum := float64(len(l.z)+16) * u
	for v, z := range l.z {
		d := z - g.lse
		if p := math.Exp(d); p != 0 {
			rel := 2*l.err + sum + 4*u*(math.Abs(g.lse)+math.Abs(d))
			t := d + from // the entropy is the deviation, since no logit is above lse
			tErr := 2*rel + (rel+sum)*from + 4*u*(math.Abs(d)+from)
			dz[v] = p * (g.mul - g.ent*t)
			e[v] = p * (math.Abs(g.mul)*rel + g.mulErr + math.Abs(g.ent)*(math.Abs(t)*rel+tErr))
		}
		if v == g.id {
			dz[v] += g.add
			e[v] += 4 * u * math.Abs(g.add)
		}
		e[v] += 4*u*math.Abs(dz[v]) + 0x1p-120*(math.Abs(g.mul)+math.Abs(g.ent)) // probabilities may be denormal
		if rounded {
			e[v] = bf16(dz[v]+e[v]) - bf16(dz[v]-e[v])
			dz[v] = bf16(dz[v])
		}
	}
	return dz, e
}

func bf16(x float64) float64 { return float64(block.BF16ToF32(block.F32ToBF16(float32(x)))) }
