package nn_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

func TestLinear(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, bias := range []bool{false, true} {
			const r, in, out = 3, 20, 33
			l := nn.NewLinear(in, out, bias)
			v, x, c := fill(t, b, l), random(r*in), newContext(t, b)
			got := step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return l.Forward(c, write(c, x, r, in)) })
			compare(t, fmt.Sprint("bias ", bias), got, toMatrix(x, in).linear(v["weight"], v["bias"]))
		}
	})
}

func TestEmbedding(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const vocab, dim = 11, 20
		l := nn.NewEmbedding(vocab, dim)
		v, c := fill(t, b, l), newContext(t, b)
		table := toMatrix(v["weight"], dim)
		got := step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return l.Forward(c, c.IDs([]int32{10, 0, 10})) })
		compare(t, "rows", got, matrix{table[10], table[0], table[10]})
	})
}

func TestRMSNorm(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const r, dim, eps = 3, 20, 0.25
		l := nn.NewRMSNorm(dim, eps)
		v, x, c := fill(t, b, l), random(r*dim), newContext(t, b)
		want := toMatrix(x, dim)
		for _, row := range want {
			square := 0.0
			for _, x := range row {
				square += x * x
			}
			for i := range row {
				row[i] *= float64(v["weight"][i]) / math.Sqrt(square/dim+eps)
			}
		}
		got := step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return l.Forward(c, write(c, x, r, dim)) })
		compare(t, "norm", got, want)
	})
}

func TestRoPE(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const headDim, heads = 8, 2
		l := nn.NewRoPE(headDim)
		freqs := []float32{1, 0.3, 0.1, 0.01}
		bind(t, b, l.Freqs, freqs)
		layout := &backend.Layout{Pos: []int32{0, 5, 1000}}
		x, c := random(3*heads*headDim), newContext(t, b)
		got := step(t, c, layout, backend.KV{}, func() *tensor.Tensor {
			return tensor.RoPE(c, write(c, x, 3, heads*headDim), l.Table(c, nil))
		})
		compare(t, "rotation", got, toMatrix(x, heads*headDim).rotate(layout.Pos, freqs))
	})
}

func TestFeedForward(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, bias := range []bool{false, true} {
			const r, dim, hidden = 3, 20, 37
			l := nn.NewFeedForward(dim, hidden, bias)
			v, x, c := fill(t, b, l), random(r*dim), newContext(t, b)
			gate := toMatrix(x, dim).linear(v["gate_proj.weight"], v["gate_proj.bias"])
			up := toMatrix(x, dim).linear(v["up_proj.weight"], v["up_proj.bias"])
			for r, row := range gate {
				for i, g := range row {
					up[r][i] *= g / (1 + math.Exp(-g))
				}
			}
			got := step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return l.Forward(c, write(c, x, r, dim)) })
			compare(t, fmt.Sprint("bias ", bias), got, up.linear(v["down_proj.weight"], v["down_proj.bias"]))
		}
	})
}

// TestAddTo: the bits of Forward and an addition.
func TestAddTo(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		if b.Describe().Device == "ref" {
			t.Skip("sums in float64")
		}
		for _, bias := range []bool{false, true} {
			const r, dim, hidden = 3, 20, 37
			l := nn.NewFeedForward(dim, hidden, bias)
			fill(t, b, l)
			x, y, c := random(r*dim), random(r*dim), newContext(t, b)
			want := step(t, c, nil, backend.KV{}, func() *tensor.Tensor {
				return tensor.Add(c, write(c, y, r, dim), l.Forward(c, write(c, x, r, dim)))
			})
			got := step(t, c, nil, backend.KV{}, func() *tensor.Tensor {
				return l.AddTo(c, write(c, y, r, dim), write(c, x, r, dim))
			})
			if !slices.Equal(got, want) {
				t.Errorf("bias %v: %v, want %v", bias, got, want)
			}
		}
	})
}

// attention is a layer with its rotation and the geometry of its pages.
type attention struct {
	*nn.Attention
	rope *nn.RoPE
	kv   backend.KV
}

var freqs = []float32{1, 0.3, 0.1, 0.01}

// Heads of 8 numbers on a width that is not heads times 8.
const headDim, dim = 8, 20

func newAttention(t testing.TB, b backend.Backend, heads, kvHeads int, bias, outBias bool) (attention, map[string][]float32) {
	l := attention{
		Attention: nn.NewAttention(dim, heads, kvHeads, headDim, bias, outBias), rope: nn.NewRoPE(headDim),
		kv: backend.KV{Type: backend.F32, Layers: 2, Heads: kvHeads, HeadDim: headDim},
	}
	bind(t, b, l.rope.Freqs, freqs)
	return l, fill(t, b, l.Attention)
}

// forward runs rows of x [n,dim] as layer 1 in steps of at most chunk rows, in
// pages or, in one step, without.
func (l attention) forward(t testing.TB, b backend.Backend, x []float32, chunk int, paged bool) []float32 {
	c := newContext(t, b)
	var pages []backend.Buffer
	var out []float32
	n := len(x) / dim
	for from := 0; from < n; from += chunk {
		rows := min(chunk, n-from)
		layout := &backend.Layout{}
		for i := range rows {
			layout.Pos = append(layout.Pos, int32(from+i))
		}
		for paged && len(pages)*backend.PageLen < from+rows {
			p, err := b.Alloc(b.PageBytes(l.kv))
			check(t, err)
			t.Cleanup(p.Free)
			pages = append(pages, p)
		}
		layout.Segments = []backend.Segment{{Rows: rows, Pages: pages, Spans: []backend.Span{{Len: from + rows}}}}
		out = append(out, step(t, c, layout, l.kv, func() *tensor.Tensor {
			rope := l.rope.Table(c, nil)
			y := l.Forward(c, write(c, x[from*dim:(from+rows)*dim], rows, dim), rope, tensor.AttentionOptions{Layer: 1})
			zeros := func() *tensor.Tensor { return write(c, make([]float32, rows*dim), rows, dim) }
			l.AddTo(c, zeros(), zeros(), rope, tensor.AttentionOptions{}) // another layer of the same pages
			return y
		})...)
	}
	return out
}

func positions(n int) (pos []int32) {
	for i := range n {
		pos = append(pos, int32(i))
	}
	return pos
}

// TestAttention covers grouped, single and full key heads, with and without
// biases, over more than two pages.
func TestAttention(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, s := range []struct {
			heads, kvHeads int
			bias, outBias  bool
		}{{4, 2, false, false}, {3, 1, true, false}, {2, 2, false, true}, {6, 3, true, true}} {
			l, v := newAttention(t, b, s.heads, s.kvHeads, s.bias, s.outBias)
			const n = 140
			x := random(n * dim)
			project := func(name string, x matrix) matrix { return x.linear(v[name+".weight"], v[name+".bias"]) }
			in := toMatrix(x, dim)
			q := project("q_proj", in).rotate(positions(n), freqs)
			k := project("k_proj", in).rotate(positions(n), freqs)
			want := project("o_proj", q.attend(k, project("v_proj", in), headDim))
			compare(t, fmt.Sprint(s), l.forward(t, b, x, n, true), want)
		}
	})
}

// TestAttentionSteps: the same bits however rows are cut into steps, one by
// one as in decoding, all at once as in prefill, and without pages as in
// training.
func TestAttentionSteps(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		l, _ := newAttention(t, b, 4, 2, true, false)
		const n = 140
		x := random(n * dim)
		want := l.forward(t, b, x, n, false)
		for _, chunk := range []int{1, 7, 64, 65, n} {
			if got := l.forward(t, b, x, chunk, true); !slices.Equal(got, want) {
				t.Errorf("steps of %d rows give other bits", chunk)
			}
		}
	})
}

// TestMisfits: what does not fit panics like package tensor does.
func TestMisfits(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		linear, ffn, norm := nn.NewLinear(4, 3, false), nn.NewFeedForward(4, 6, false), nn.NewRMSNorm(4, 1)
		uneven := nn.NewAttention(4, 3, 2, 2, false, false)
		for _, l := range []any{linear, ffn, norm, uneven} {
			fill(t, b, l)
		}
		c := newContext(t, b)
		layout := &backend.Layout{Pos: []int32{0}, Segments: []backend.Segment{{Rows: 1, Spans: []backend.Span{{Len: 1}}}}}
		five := func() *tensor.Tensor { return write(c, make([]float32, 5), 1, 5) }
		for name, work := range map[string]func() *tensor.Tensor{
			"Linear":            func() *tensor.Tensor { return linear.Forward(c, five()) },
			"Linear, unbound":   func() *tensor.Tensor { return nn.NewLinear(5, 2, false).Forward(c, five()) },
			"FeedForward":       func() *tensor.Tensor { return ffn.Forward(c, five()) },
			"RMSNorm":           func() *tensor.Tensor { return norm.Forward(c, five()) },
			"Embedding unbound": func() *tensor.Tensor { return nn.NewEmbedding(2, 2).Forward(c, c.IDs([]int32{1})) },
			"3 heads on 2": func() *tensor.Tensor {
				return uneven.Forward(c, write(c, make([]float32, 4), 1, 4), write(c, make([]float32, 2), 1, 2), tensor.AttentionOptions{})
			},
		} {
			func() {
				defer func() {
					err, _ := recover().(error)
					var shape *backend.ShapeError
					if !errors.As(err, &shape) {
						t.Errorf("%s: panics with %v, want a *backend.ShapeError", name, err)
					}
				}()
				step(t, c, layout, backend.KV{Heads: 2, HeadDim: 2}, work)
			}()
		}
	})
}

// TestCrossAttentionCached: the same bits whether the source's keys and values are at hand
// or in pages, and the numbers of the formula: norms of each head of queries and keys.
func TestCrossAttentionCached(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const heads, kvHeads, length, n, sourceDim = 4, 2, 70, 3, 12
		kv := backend.KV{Type: backend.F32, Layers: 2, Heads: kvHeads, HeadDim: headDim}
		l := nn.NewCrossAttention(dim, sourceDim, heads, kvHeads, headDim)
		l.QNorm, l.KNorm = nn.NewRMSNorm(headDim, 1e-5), nn.NewRMSNorm(headDim, 1e-5)
		values := fill(t, b, l)
		x, source := random(n*dim), random(length*sourceDim)
		sees := []backend.Span{{Len: length}}
		rows := &backend.Layout{Pos: make([]int32, n), Keys: length, Segments: []backend.Segment{{Rows: n, Spans: sees, Whole: true}}}
		var pages []backend.Buffer
		for range 2 {
			p, err := b.Alloc(b.PageBytes(kv))
			check(t, err)
			t.Cleanup(p.Free)
			pages = append(pages, p)
		}
		appended := &backend.Layout{Pos: make([]int32, length), Segments: []backend.Segment{{Rows: length, Pages: pages, Spans: sees}}}
		cached := &backend.Layout{Pos: rows.Pos, Segments: []backend.Segment{{Rows: n, Pages: pages, Spans: sees, Whole: true}}}
		c := newContext(t, b)
		want := step(t, c, nil, backend.KV{}, func() *tensor.Tensor {
			k, v := l.Keys(c, write(c, source, length, sourceDim), nil)
			tensor.KVAppend(c, k, v, tensor.AttentionOptions{Layout: appended, KV: kv, Layer: 1})
			return l.Forward(c, write(c, x, n, dim), k, v, tensor.AttentionOptions{Layout: rows, KV: kv})
		})
		got := step(t, c, nil, backend.KV{}, func() *tensor.Tensor {
			return l.Forward(c, write(c, x, n, dim), nil, nil, tensor.AttentionOptions{Layout: cached, KV: kv, Layer: 1})
		})
		if !slices.Equal(got, want) {
			t.Error("other bits from pages")
		}
		q := toMatrix(x, dim).linear(values["q_proj.weight"], nil).norm(values["q_norm.weight"])
		k := toMatrix(source, sourceDim).linear(values["k_proj.weight"], nil).norm(values["k_norm.weight"])
		v := toMatrix(source, sourceDim).linear(values["v_proj.weight"], nil)
		var seen matrix
		for _, row := range q {
			// The last row of causal attention sees all keys.
			seen = append(seen, append(make(matrix, length-1), row).last(k, v))
		}
		compare(t, "cross-attention", got, seen.linear(values["o_proj.weight"], nil))
	})
}

// norm is RMSNorm of each head of the rows.
func (x matrix) norm(w []float32) matrix {
	y := make(matrix, len(x))
	for r, row := range x {
		for from := 0; from < len(row); from += len(w) {
			square := 0.0
			for _, v := range row[from:][:len(w)] {
				square += v * v / float64(len(w))
			}
			for i, v := range row[from:][:len(w)] {
				y[r] = append(y[r], v*float64(w[i])/math.Sqrt(square+1e-5))
			}
		}
	}
	return y
}

// last is what the last row gets of all keys.
func (x matrix) last(k, v matrix) []float64 {
	row := x[len(x)-1]
	for i := range x {
		x[i] = row
	}
	return x.attend(k, v, headDim)[len(x)-1]
}
