package backendtest

import (
	"fmt"
	"math"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// The cases of attention in training: keys and values in rows, rounded or not, with the
// logarithms of the sums or without.

// longScenes are layouts whose documents are longer than what a backend is likely to
// take at once, and end anywhere.
func longScenes() []scene {
	return []scene{
		{name: "a long document", rows: []int{311}, spans: [][]backend.Span{{{Len: 311}}}},
		{name: "long documents", rows: []int{130, 1, 201, 77}, spans: [][]backend.Span{{{Len: 130}}, {{Start: 130, Len: 1}}, {{Start: 131, Len: 201}}, {{Start: 332, Len: 77}}}},
		{name: "long responses to one prompt", rows: []int{199, 101, 110}, spans: [][]backend.Span{{{Len: 199}}, {{Len: 199}, {Start: 199, Len: 101}}, {{Len: 199}, {Start: 300, Len: 110}}}},
		{name: "long pictures, whole", rows: []int{203, 98}, spans: [][]backend.Span{{{Len: 203}}, {{Start: 203, Len: 98}}}, whole: true},
		{name: "a long text at a longer source", rows: []int{100, 3}, spans: [][]backend.Span{{{Len: 311}}, {{Start: 311, Len: 29}}}, whole: true, keys: 340},
	}
}

// attentionRowsCases are both operations on long scenes, and on all scenes rounded.
func attentionRowsCases() (cs []*testCase) {
	for i, s := range longScenes() {
		for j, g := range []heads{{6, 2, 64}, {2, 2, 48}, {3, 1, 20}} {
			for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
				c, b := attentionOfRows(s, g, round, i+j)
				if i == j { // the oracle is slow
					cs = append(cs, c)
				}
				cs = append(cs, b)
			}
		}
	}
	for i, s := range rowScenes() {
		for j, g := range append(geometries, heads{3, 1, 5}, heads{1, 1, 1}) {
			c, b := attentionOfRows(s, g, backend.RoundBothBF16, i+j)
			cs = append(cs, c, b)
		}
	}
	for i, g := range []heads{{6, 2, 64}, {3, 1, 20}} {
		for _, round := range []backend.Rounding{backend.RoundNone, backend.RoundBothBF16} {
			s := scene{name: "a later key is NaN, a value infinite", rows: []int{131, 9}, spans: [][]backend.Span{{{Len: 131}}, {{Start: 131, Len: 9}}}}
			cs = append(cs, laterNotFinite(s, g, round, i))
		}
	}
	return cs
}

// laterNotFinite is attention with a NaN in a key and an infinity in a value near the end of
// the first document: it reaches the rows that see it, and no others.
func laterNotFinite(s scene, g heads, round backend.Rounding, n int) *testCase {
	c, _ := attentionOfRows(s, g, round, n)
	end := s.rows[0]
	replace := func(o *operand, row, col int, v float64) *operand {
		x := read(o.view)
		x[row*g.kv*g.dim+col] = v
		return newOperand(backend.F32, place(n%3), func(i int) float64 { return x[i] }, o.view.Rows(), o.view.Cols())
	}
	c.in[1] = replace(c.in[1], end-2, 3, math.NaN())
	c.in[2] = replace(c.in[2], end-6, 5, math.Inf(1)) // in the middle of a panel of queries
	return c
}

// attentionOfRows is attention and its gradients; the number says where operands lie
// and which of those that may be absent are.
func attentionOfRows(s scene, g heads, round backend.Rounding, n int) (forward, backward *testCase) {
	name := fmt.Sprintf("%s/%d on %d heads of %d/round %v/%d", s.name, g.query, g.kv, g.dim, round, n)
	for i, c := range []**testCase{&forward, &backward} {
		*c = newCase([]backend.Op{backend.Attention, backend.AttentionBackward}[i], "%s", name)
		(*c).args.KV, (*c).args.Round = backend.KV{Type: backend.F32, Layers: 1, Heads: g.kv, HeadDim: g.dim}, round
		(*c).layout(s, false)
		keys := (*c).args.Layout.KeyRows()
		(*c).in[1] = newOperand(backend.F32, place(n%3), (*c).normal, keys, g.kv*g.dim)
		(*c).in[2] = newOperand(backend.F32, place((n+1)%3), (*c).normal, keys, g.kv*g.dim)
		(*c).attention(g, place(n%3))
	}
	r, keys := forward.args.Layout.Rows(), forward.args.Layout.KeyRows()
	if n%4 > 0 {
		forward.out[1] = fresh(backend.F32, place(n%3), r, g.query)
	}
	b := backward
	y := b.output(backend.Attention, r*g.query*g.dim)
	b.in[3] = newOperand(backend.F32, place((n+1)%3), func(i int) float64 { return y[i] }, r, g.query*g.dim)
	b.in[4] = newOperand(backend.F32, place(n%3), b.normal, r, g.query*g.dim)
	if n%3 > 0 {
		lse := b.output(backend.Attention, r*g.query*g.dim, r*g.query)
		b.in[5] = newOperand(backend.F32, place((n+2)%3), func(i int) float64 { return lse[i] }, r, g.query)
	}
	b.out[1], b.out[2] = fresh(backend.F32, place((n+2)%3), keys, g.kv*g.dim), fresh(backend.F32, place(n%3), keys, g.kv*g.dim)
	if n%5 < 3 && n > 3 {
		b.out[n%5] = nil
	}
	return forward, backward
}

const (
	// half is what rounding to bfloat16 leaves at most, relative.
	half = 0x1p-9
	// dotHalf times the norm of its terms is how far a sum of products is off whose
	// factors are both rounded: a rounding has a standard deviation of half/sqrt 3, two
	// of them sqrt 2 as much, and five times that is allowed.
	dotHalf = 5 * 0.82 * half
)

// roundedAttentionRule is for q, k, v, dy, probabilities p and their gradients ds that
// may be rounded to bfloat16 before each product, or not: the oracle rounds nothing.
// A score is off by e = dotHalf |q k| Scale. A probability is off by e, by the mean of e
// over all keys, as the sum is off too, and by one rounding; the other factor of a product
// by another. dy.v of ds is off as a score is. Errors of the F32 arithmetic are smaller by far, but for what
// the rule without rounding allows.
func roundedAttentionRule(c *testCase, x, a *ref.Values) bound {
	g, d, scale := a.Args.KV, a.Args.In[0].Cols(), math.Abs(float64(a.Args.Scale))
	hd, kv := g.HeadDim, g.Heads*g.HeadDim
	group, rows, keys := d/kv, a.Args.Layout.Rows(), a.Args.Layout.KeyRows()
	back := c.op == backend.AttentionBackward
	e := [3][]float64{make([]float64, rows*d), make([]float64, keys*kv), make([]float64, keys*kv)}
	if !back {
		e[1] = make([]float64, rows*d/hd)
	}
	of := c.keyValues(a)
	c.eachRow(func(segment, row int, ts []int) {
		for h := range d / hd {
			at, head := row*d+h*hd, h/group*hd
			q := a.In[0][at:][:hd]
			keys, values := of(segment, 0, h/group, ts), of(segment, 1, h/group, ts)
			p := softmaxOf(float64(a.Args.Scale), q, keys)
			off, mean := make([]float64, len(ts)), 0.0
			for i, k := range keys {
				off[i] = dotHalf * scale * normOfProducts(q, k)
				mean += p[i] * off[i]
			}
			if !back && len(ts) > 0 {
				e[1][row*(d/hd)+h] = slices.Max(off)
			}
			for i, t := range ts {
				k, v, off := keys[i], values[i], off[i]+mean+2*half
				if !back {
					for j := range hd {
						e[0][at+j] += p[i] * off * math.Abs(v[j])
					}
					continue
				}
				y, dy := a.In[3][at:][:hd], a.In[4][at:][:hd]
				ds := p[i] * scale * (off*math.Abs(dotOf(dy, v)-dotOf(dy, y)) + dotHalf*normOfProducts(dy, v))
				for j := range hd {
					e[0][at+j] += ds * math.Abs(k[j])
					e[1][t*kv+head+j] += ds * math.Abs(q[j])
					e[2][t*kv+head+j] += p[i] * off * math.Abs(dy[j])
				}
			}
		}
	})
	exact := attentionRule
	if back {
		exact = attentionBackwardRule
	}
	more := exact(c, x, a)
	return func(out, i int) float64 { return e[out][i] + more(out, i) }
}

// eachRow calls f with every row of the step, its segment and the key rows that it sees.
func (c *testCase) eachRow(f func(segment, row int, ts []int)) {
	for n, s := range c.args.Layout.Segments {
		for j := range s.Rows {
			var ts []int
			for i, sp := range s.Spans {
				for t := sp.Start; t < sp.Start+sp.Len && (t <= s.KeyRow(j) || s.Whole || i < len(s.Spans)-1); t++ {
					ts = append(ts, t)
				}
			}
			f(n, s.Row+j, ts)
		}
	}
}

// keyValues returns a function that lists the keys (value 0) or values (1) of a key-value
// head in key rows ts of a segment, from pages or from the rows of a.
func (c *testCase) keyValues(a *ref.Values) func(segment, value, head int, ts []int) [][]float64 {
	g := c.args.KV
	var pages [][]float64
	for _, o := range c.pages {
		pages = append(pages, read(o.view))
	}
	return func(segment, value, head int, ts []int) (list [][]float64) {
		for _, t := range ts {
			if c.tables == nil {
				list = append(list, a.In[1+value][(t*g.Heads+head)*g.HeadDim:][:g.HeadDim])
				continue
			}
			page := pages[c.tables[segment][t/backend.PageLen]]
			list = append(list, page[inPage(g, c.args.Layer, value, head, t):][:g.HeadDim])
		}
		return list
	}
}

// normOfProducts is the root of the sum of the squares of a[i] b[i].
func normOfProducts(a, b []float64) float64 {
	s := 0.0
	for i, v := range a {
		s += v * b[i] * v * b[i]
	}
	return math.Sqrt(s)
}

func dotOf(a, b []float64) float64 {
	s := 0.0
	for i, v := range a {
		s += v * b[i]
	}
	return s
}
