package backendtest

import (
	"math"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/ref"
)

// The cases of operations that encoders of pictures and sound need.

func layerNormCases() (cs []*testCase) {
	for i, d := range widths {
		r := rowCounts[i%len(rowCounts)]
		size, shift := math.Pow(10, float64(i%5-2)), float64(i%3)*100*math.Pow(10, float64(i%5-2))
		x := func(c *testCase) func(int) float64 {
			return func(int) float64 { return shift + size*c.rng.NormFloat64() }
		}
		for _, inPlace := range []bool{false, true} {
			c := newCase(backend.LayerNorm, "%dx%d, in place %v", r, d, inPlace)
			c.args.Eps = 1e-5
			c.in[0] = newOperand(backend.F32, place(i%3), x(c), r, d)
			c.in[1] = newOperand(backend.F32, place(i%2), c.normal, d)
			c.in[2] = newOperand(backend.F32, place((i+1)%2), c.normal, d)
			if c.out[0] = fresh(backend.F32, place(i%3), r, d); inPlace {
				c.out[0] = c.in[0]
			}
			cs = append(cs, c)
		}
		c := newCase(backend.LayerNormBackward, "%dx%d", r, d)
		c.args.Eps = 1e-5
		c.in[0] = newOperand(backend.F32, place(i%3), x(c), r, d)
		c.in[1] = newOperand(backend.F32, place(i%2), c.normal, d)
		c.in[2] = newOperand(backend.F32, place((i+1)%3), c.normal, r, d)
		if i%4 != 1 {
			c.out[0] = fresh(backend.F32, place(i%3), r, d)
		}
		for j := range 2 { // one of them, both or none
			if i%4 != 2+j && i%5 != 4 || c.out[0] == nil {
				c.out[1+j] = newOperand(backend.F32, place((i+j)%2), c.normal, d)
			}
		}
		cs = append(cs, c)
	}
	c := newCase(backend.LayerNorm, "zeros, infinity, NaN, denormals, one number")
	c.args.Eps = 1e-6
	c.in[0] = newOperand(backend.F32, dense, func(i int) float64 {
		return [][]float64{{0, 0, 0}, {1, math.Inf(1), 2}, {1, 2, math.NaN()}, {1e-40, 0, 0}, {3, 3, 3}}[i/3][i%3]
	}, 5, 3)
	c.in[1] = newOperand(backend.F32, dense, c.normal, 3)
	c.in[2] = newOperand(backend.F32, dense, c.normal, 3)
	c.out[0] = fresh(backend.F32, dense, 5, 3)
	return append(cs, c)
}

// layerNormRule: the mean is off by D roundings of the mean of |x|, which is the error of
// the difference that is scaled; a rounding of the scale is one of the result.
func layerNormRule(_ *testCase, _, a *ref.Values) bound {
	d := a.Args.In[0].Cols()
	h := sizes(a)
	return func(_, i int) float64 {
		return u * (float64(d+16)*h.of[i]*math.Abs(a.In[1][i%d]) + 4*math.Abs(a.In[2][i%d]))
	}
}

// scaled are the absolute terms of centred rows, |x| and the mean of those, times the
// scale of their row.
type scaled struct{ of, scale []float64 }

func sizes(a *ref.Values) scaled {
	rows, d := a.Args.In[0].Rows(), a.Args.In[0].Cols()
	s := scaled{make([]float64, rows*d), make([]float64, rows)}
	for r := range rows {
		x := a.In[0][r*d:][:d]
		mean, size, square := 0.0, 0.0, 0.0
		for _, v := range x {
			mean += v / float64(d)
			size += math.Abs(v) / float64(d)
		}
		for _, v := range x {
			square += (v - mean) * (v - mean) / float64(d)
		}
		s.scale[r] = 1 / math.Sqrt(square+float64(a.Args.Eps))
		for i, v := range x {
			s.of[r*d+i] = s.scale[r] * (math.Abs(v) + size)
		}
	}
	return s
}

// layerNormBackwardRule: dx = s (w dy - mean(w dy) - h mean(w dy h)) cancels, with h off
// as in layerNormRule; dw and db add R terms to what was there.
func layerNormBackwardRule(_ *testCase, _, a *ref.Values) bound {
	rows, d := a.Args.In[0].Rows(), a.Args.In[0].Cols()
	h := sizes(a)
	e := [3][]float64{make([]float64, rows*d), make([]float64, d), make([]float64, d)}
	n := float64(3*d+rows+16) * u
	for r := range rows {
		w, dy, h, s := a.In[1], a.In[2][r*d:][:d], h.of[r*d:][:d], h.scale[r]
		mean, along := 0.0, 0.0
		for i := range d {
			mean += math.Abs(w[i]*dy[i]) / float64(d)
			along += math.Abs(w[i]*dy[i]*h[i]) / float64(d)
		}
		for i := range d {
			e[0][r*d+i] = n * s * (math.Abs(w[i]*dy[i]) + mean + h[i]*along)
			e[1][i] += n * math.Abs(dy[i]) * h[i]
			e[2][i] += n * math.Abs(dy[i])
		}
	}
	for out := 1; out < 3; out++ {
		for i, v := range a.Out[out] {
			e[out][i] += n * math.Abs(v)
		}
	}
	return func(out, i int) float64 { return e[out][i] }
}

// A slide is a window over segments of so many rows.
type slide struct {
	name string
	w    backend.Window
	rows []int
}

func slides() []slide {
	picture := func(width, down, across, sDown, sAcross, pDown, pAcross int) backend.Window {
		return backend.Window{Width: width, Kernel: [2]int{down, across}, Stride: [2]int{sDown, sAcross}, Pad: [2]int{pDown, pAcross}}
	}
	return []slide{
		{"7 taps of utterances", backend.Along(7, 1, 3), []int{20, 1, 3, 40}},
		{"every second of 3", backend.Along(3, 2, 1), []int{9, 8, 1}},
		{"apart", backend.Along(2, 5, 0), []int{17, 1, 12}},
		{"one tap", backend.Along(1, 1, 0), []int{6}},
		{"patches", picture(8, 4, 4, 4, 4, 0, 0), []int{96, 32}},
		{"3x3, stride 2", picture(7, 3, 3, 2, 2, 1, 1), []int{63, 7, 35}},
		{"uneven", picture(5, 2, 3, 3, 1, 2, 1), []int{25, 10}},
		{"pictures smaller than the window", picture(3, 2, 5, 1, 1, 0, 0), []int{9, 3}},
	}
}

func unfoldCases() (cs []*testCase) {
	for i, s := range slides() {
		for j, c := range []int{1, 3, 16, 33} {
			for k, op := range []backend.Op{backend.Unfold, backend.Fold} {
				fill := normals
				if i == j && op == backend.Unfold {
					fill = allEdges
				}
				cs = append(cs, unfoldCase(op, s, c, place((i+j+k)%3), place((i+j)%3), fill))
			}
		}
	}
	return cs
}

func unfoldCase(op backend.Op, s slide, channels int, in, out place, f fill) *testCase {
	c := newCase(op, "%s, %d channels", s.name, channels)
	l := scene{rows: s.rows}
	at := 0
	for _, n := range s.rows {
		l.spans = append(l.spans, []backend.Span{{Start: at, Len: n}})
		at += n
	}
	c.layout(l, false)
	c.args.Window = s.w
	x, y := []int{at, channels}, []int{s.w.Outputs(c.args.Layout), s.w.Taps() * channels}
	if op == backend.Fold {
		x, y = y, x
	}
	c.in[0], c.out[0] = newOperand(backend.F32, in, f(c), x...), fresh(backend.F32, out, y...)
	return c
}

func layerNormGradient() *gradient {
	c := newCase(backend.LayerNorm, "gradient")
	c.args.Eps = 0.01
	c.in[0] = newOperand(backend.F32, gaps, c.normal, 4, 9)
	c.in[1], c.in[2] = newOperand(backend.F32, odd, c.normal, 9), newOperand(backend.F32, dense, c.normal, 9)
	c.out[0] = fresh(backend.F32, dense, 4, 9)
	return &gradient{c, func(g *tape) {
		g.run(backend.LayerNormBackward, []backend.View{g.in[0], g.in[1], g.dy[0]},
			g.dx(0), g.to(1, false, true, g.in[1].Shape), g.to(2, false, true, g.in[2].Shape))
	}}
}

func unfoldGradient() *gradient { return sliding(backend.Unfold, backend.Fold) }
func foldGradient() *gradient   { return sliding(backend.Fold, backend.Unfold) }

func sliding(op, back backend.Op) *gradient {
	s := slide{"gradient, windows that overlap", backend.Window{Width: 4, Kernel: [2]int{3, 2}, Stride: [2]int{2, 1}, Pad: [2]int{1, 1}}, []int{12, 8}}
	return &gradient{unfoldCase(op, s, 2, gaps, dense, normals), func(g *tape) {
		g.run(back, []backend.View{g.dy[0]}, g.dx(0))
	}}
}
