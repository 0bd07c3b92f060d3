package checkpoint

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/parallel"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
)

// MergeError says how far a matrix that was stored with its adapters merged is
// from the exact one, computed in float64, relative to the largest number of
// that.
type MergeError struct {
	Name string  `json:"name"` // of the layer: "model.layers.0.self_attn.q_proj"
	RMS  float64 `json:"rms"`
	Max  float64 `json:"max"`
}

// merge adds the adapters of one layer to rows of its matrix.
type merge struct {
	name    string
	parts   []mergePart
	in      int
	scratch [][]float64 // of each goroutine: the change of a row
	exact   []float64   // rows [n, in]

	rows           int // compared so far
	square         float64
	largest, worst float64
}

// mergePart is one adapter of the layer.
type mergePart struct {
	*OpenedAdapter
	m       *peft.Module
	bias    bool // the part is the bias that B has
	r       int
	a, b, v []float64 // A [r, in], B [out, r], magnitude [out] or nil; nil before load
}

// mergeOf returns what adapters make of a parameter, nil for nothing.
func (c *Checkpoint) mergeOf(name string, shape []int) *merge {
	var g *merge
	for _, a := range c.Adapters {
		for i := range a.Modules {
			m := &a.Modules[i]
			p, in := mergePart{OpenedAdapter: a, m: m, r: m.Rank}, 1
			switch {
			case m.Name+".weight" == name:
				in = shape[1]
			case m.Name+".bias" == name && m.Bias.Data != nil:
				p.bias = true // B A is not in it
			default:
				continue
			}
			if g == nil {
				g = &merge{name: m.Name, in: in}
			}
			g.parts = append(g.parts, p)
		}
	}
	return g
}

// prepareMerge unties matrices of which adapters change one, and refuses what has no place
// in the merged model.
func (c *Checkpoint) prepareMerge() error {
	biases := map[string]bool{}
	for _, p := range Parameters(c.Config) {
		biases[p.Name] = !p.Matrix()
	}
	for _, a := range c.Adapters {
		for _, m := range a.Modules {
			if (m.Name == lmHead || m.Embedding) && c.Config.TiedEmbeddings {
				c.unTie(fmt.Sprintf("%s changes %s alone", a.File, m.Name))
			}
			if m.Bias.Data != nil && !biases[m.Name+".bias"] {
				return &FileError{File: a.File, Tensor: m.Bias.Name, Reason: "is a bias for a layer that has none: merging it", Err: backend.ErrUnsupported}
			}
		}
	}
	return nil
}

// load reads the adapters' numbers.
func (g *merge) load() error {
	for i := range g.parts {
		p := &g.parts[i]
		if p.bias {
			if err := p.loadBias(); err != nil {
				return err
			}
			continue
		}
		for _, t := range []struct {
			dst *[]float64
			src safetensors.Source
		}{{&p.a, p.m.A}, {&p.b, p.m.B}, {&p.v, p.m.Magnitude}} {
			if t.src.Data == nil {
				continue
			}
			values, err := peft.Read(t.src)
			if err != nil {
				return &FileError{File: p.File, Tensor: t.src.Name, Reason: "cannot be read", Err: err}
			}
			*t.dst = make([]float64, len(values))
			for i, x := range values {
				(*t.dst)[i] = float64(x)
			}
		}
	}
	g.orient()
	g.scratch = make([][]float64, runtime.GOMAXPROCS(0))
	for i := range g.scratch {
		g.scratch[i] = make([]float64, g.in)
	}
	return nil
}

// loadBias makes a change of rank 1 of the bias that B has: a vector's rows have one
// element.
func (p *mergePart) loadBias() error {
	values, err := peft.Read(p.m.Bias)
	if err != nil {
		return &FileError{File: p.File, Tensor: p.m.Bias.Name, Reason: "cannot be read", Err: err}
	}
	p.r, p.a, p.b = 1, []float64{1}, make([]float64, len(values))
	for i, x := range values {
		p.b[i] = float64(x)
	}
	return nil
}

// orient exchanges the factors of an embedding, whose table changes by the transpose.
func (g *merge) orient() {
	for i := range g.parts {
		if p := &g.parts[i]; p.m.Embedding {
			p.a, p.b = transposed(p.b, p.m.Out, p.m.Rank), transposed(p.a, p.m.Rank, p.m.In)
		}
	}
}

// transposed is x [rows, cols] with its axes exchanged.
func transposed[T any](x []T, rows, cols int) []T {
	y := make([]T, len(x))
	for i := range rows {
		for k := range cols {
			y[k*rows+i] = x[i*cols+k]
		}
	}
	return y
}

// apply changes rows [n, in] of the matrix; order(i) is the row that row i is.
func (g *merge) apply(ctx context.Context, values []float32, order func(int) int) error {
	if g.scratch == nil {
		if err := g.load(); err != nil {
			return err
		}
	}
	n := len(values) / g.in
	g.exact = slices.Grow(g.exact[:0], len(values))[:len(values)]
	err := parallel.Ranges(ctx, len(g.scratch), n, 1, func(w, i, _ int) error {
		g.row(g.exact[i*g.in:(i+1)*g.in], values[i*g.in:(i+1)*g.in], g.scratch[w], order(i))
		return nil
	})
	if err != nil {
		return err
	}
	for i, x := range g.exact {
		values[i] = float32(x)
	}
	return nil
}

// row computes row n of the merged matrix: for one adapter after the other
//
//	LoRA  y = y + s b A
//	DoRA  y = m / ||w + s b A|| * (y + s b A)
func (g *merge) row(y []float64, w []float32, change []float64, n int) {
	for i, x := range w {
		y[i] = float64(x)
	}
	for k := range g.parts {
		p := &g.parts[k]
		p.change(change, n)
		square := 0.0
		for i, d := range change {
			v := float64(w[i]) + d
			square += v * v
			y[i] += d
		}
		if p.v != nil {
			f := 0.0 // of a row of zeros
			if square > 0 {
				f = p.v[n] / math.Sqrt(square)
			}
			for i := range y {
				y[i] *= f
			}
		}
	}
}

// change writes row n of s B A to d.
func (p *mergePart) change(d []float64, n int) {
	clear(d)
	s, r := float64(p.Factor(p.m)), p.r
	b := p.b[n*r : (n+1)*r]
	k, in := 0, len(d)
	for ; k+4 <= r; k += 4 { // one pass over d for four rows of A
		b0, b1, b2, b3 := s*b[k], s*b[k+1], s*b[k+2], s*b[k+3]
		a0, a1, a2, a3 := p.a[k*in:][:in], p.a[(k+1)*in:][:in], p.a[(k+2)*in:][:in], p.a[(k+3)*in:][:in]
		for i := range d {
			d[i] += b0*a0[i] + b1*a1[i] + b2*a2[i] + b3*a3[i]
		}
	}
	for ; k < r; k++ {
		bk := s * b[k]
		for i, a := range p.a[k*in:][:in] {
			d[i] += bk * a
		}
	}
}

// compare adds what was stored of the last rows to the report.
func (g *merge) compare(stored []float32, t backend.DType) error {
	for i, x := range g.exact {
		d := float64(stored[i]) - x
		if math.IsNaN(d) || math.IsInf(d, 0) {
			p := g.parts[len(g.parts)-1]
			return Errorf(p.File, p.m.A.Name, "gives a merged number of %v, which %v does not hold", x, t)
		}
		g.square += d * d
		g.worst, g.largest = max(g.worst, math.Abs(d)), max(g.largest, math.Abs(x))
	}
	g.rows += len(g.exact) / g.in
	return nil
}

// free gives back the memory; what is read again loads it again.
func (g *merge) free() {
	g.scratch, g.exact = nil, nil
	for i := range g.parts {
		g.parts[i].a, g.parts[i].b, g.parts[i].v = nil, nil, nil
	}
}

// result is the error over all rows compared.
func (g *merge) result() MergeError {
	scale := g.largest
	if scale == 0 {
		scale = 1
	}
	return MergeError{g.name, math.Sqrt(g.square/float64(max(g.rows*g.in, 1))) / scale, g.worst / scale}
}
