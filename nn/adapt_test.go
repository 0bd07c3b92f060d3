package nn_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// chosen are the adapters of the segments of a test, of a model with two sets.
var chosen = [][]int{{0}, {1}, {}, nil, {1, 0}, {0}}

// layer is what a layer of a model does with its rows, norms aside.
type layer struct {
	Attention *nn.Attention   `name:"attn"`
	FFN       *nn.FeedForward `name:"ffn"`
}

func (m layer) forward(c *tensor.Context, x, rope *tensor.Tensor) *tensor.Tensor {
	x = m.Attention.AddTo(c, x, x, rope, tensor.AttentionOptions{})
	return m.FFN.AddTo(c, x, m.FFN.Forward(c, x))
}

// result is an output and the gradients of a step.
type result struct {
	y, grads []uint32
	dx       []float32
}

// bits adds those of numbers.
func bits(to []uint32, x []float32) []uint32 {
	for _, v := range x {
		to = append(to, math.Float32bits(v))
	}
	return to
}

// TestSegments: rows of one step that have adapters of their own get the bits of steps of their
// own, with a tape and without one, and their gradients.
func TestSegments(t *testing.T) {
	kv := backend.KV{Type: backend.F32, Layers: 1, Heads: 2, HeadDim: headDim}
	each(t, func(t *testing.T, b backend.Backend) {
		for name, kinds := range map[string][]bool{"lora": {false, false}, "dora": {true, false}, "both": {true, true}} {
			m, rope, params := adaptedLayer(t, b, kinds)
			lengths := []int{3, 1, 4, 2, 5, 3}
			rows := 0
			for _, n := range lengths {
				rows += n
			}
			x, dy, c := random(rows*dim), random(rows*dim), newContext(t, b)
			run := func(l *backend.Layout, x, dy []float32, tape bool) (r result) {
				grads := gradients(t, b, params)
				out, dx := make([]float32, len(x)), make([]float32, len(x))
				check(t, c.Step(t.Context(), l, kv, func() error {
					in, up := write(c, x, len(x)/dim, dim), write(c, dy, len(x)/dim, dim)
					if !tape {
						c.Read(out, m.forward(c, in, rope.Table(c, nil)))
						return nil
					}
					tp := tensor.NewTape()
					c.Record(tp)
					tp.Watch(in)
					y := m.forward(c, in, rope.Table(c, nil))
					c.Read(out, y)
					tp.Backward(tensor.Seed{Y: y, DY: up})
					c.Read(dx, tp.Grad(in))
					return nil
				}))
				r.y, r.dx = bits(nil, out), dx
				for _, g := range grads {
					r.grads = bits(r.grads, g())
				}
				return r
			}
			for _, tape := range []bool{false, true} {
				l := backend.Documents(lengths...)
				for i := range l.Segments {
					l.Segments[i].Adapters = chosen[i]
				}
				got, at := run(l, x, dy, tape), 0
				for i, n := range lengths {
					own := backend.Documents(n)
					own.Segments[0].Adapters = chosen[i]
					want, to := run(own, x[at:at+n*dim], dy[at:at+n*dim], tape), at+n*dim
					what := fmt.Sprintf("%s, tape %v: segment %d with adapters %v", name, tape, i, chosen[i])
					if !slices.Equal(got.y[at:to], want.y) {
						t.Errorf("%s: other bits than alone", what)
					}
					if tape { // adapters add to it in another order
						compare(t, what+", the gradient of the input", got.dx[at:to], toMatrix(want.dx, dim))
					}
					at = to
				}
				if !tape {
					continue
				}
				// Rows without a set add nothing to its gradients.
				few := backend.Documents(lengths[1], lengths[2])
				few.Segments[0].Adapters, few.Segments[1].Adapters = chosen[1], chosen[2]
				from, end := lengths[0]*dim, (lengths[0]+lengths[1]+lengths[2])*dim
				alone := backend.Documents(lengths[1])
				alone.Segments[0].Adapters = chosen[1]
				if a, b := run(few, x[from:end], dy[from:end], true), run(alone, x[from:][:lengths[1]*dim], dy[from:][:lengths[1]*dim], true); !slices.Equal(a.grads, b.grads) {
					t.Errorf("%s: rows without adapters change their gradients", name)
				}
			}
		}
	})
}

// TestSegmentsOfAnotherSource: rows of a source have the adapters that their own layout
// says, whatever the step's says of its rows: those of an encoder, which a tape computes
// again, and of the keys of cross-attention.
func TestSegmentsOfAnotherSource(t *testing.T) {
	const sourceDim = 12
	type model struct {
		Encoder *nn.MLP            `name:"encoder"`
		Cross   *nn.CrossAttention `name:"cross"`
	}
	each(t, func(t *testing.T, b backend.Backend) {
		rng = rand.New(rand.NewPCG(3, 4))
		m := model{nn.NewMLP(sourceDim, 20, false), nn.NewCrossAttention(dim, sourceDim, 4, 2, headDim)}
		adapt(t, b, m, []bool{false, false})
		for _, n := range nn.Linears(m) {
			for set, a := range n.Linear.Adapters {
				a.Set = set
			}
		}
		fill(t, b, m)
		text := backend.Documents(2, 3)
		text.Segments[0].Adapters, text.Segments[1].Adapters = []int{}, []int{1}
		lengths, chosen := []int{3, 4, 2}, [][]int{{0}, {}, {1}}
		source, dy, c := random(9*sourceDim), random(9*16), newContext(t, b)
		run := func(l, of *backend.Layout, x, dy []float32) (k, v, dx []float32) {
			check(t, c.Step(t.Context(), l, backend.KV{}, func() error {
				tape, n := tensor.NewTape(), len(x)/sourceDim
				c.Record(tape)
				in := write(c, x, n, sourceDim)
				tape.Watch(in)
				before := c.SetRows(tensor.Rows{Layout: of})
				h := tensor.Checkpoint(c, in, func(x *tensor.Tensor) *tensor.Tensor { return m.Encoder.Forward(c, x) })
				c.SetRows(before)
				keys, values := m.Cross.Keys(c, h, of)
				k, v = numbers(c, keys), numbers(c, values)
				up := write(c, dy, n, keys.Cols())
				tape.Backward(tensor.Seed{Y: keys, DY: up}, tensor.Seed{Y: values, DY: up})
				dx = numbers(c, tape.Grad(in))
				return nil
			}))
			return k, v, dx
		}
		all := backend.Documents(lengths...)
		for i := range all.Segments {
			all.Segments[i].Adapters = chosen[i]
		}
		k, v, dx := run(text, all, source, dy)
		at := 0
		for i, n := range lengths {
			own := backend.Documents(n)
			own.Segments[0].Adapters = chosen[i]
			wantK, wantV, wantDX := run(own, nil, source[at*sourceDim:][:n*sourceDim], dy[at*16:][:n*16])
			what := fmt.Sprintf("rows with adapters %v: ", chosen[i])
			if !slices.Equal(k[at*16:][:n*16], wantK) || !slices.Equal(v[at*16:][:n*16], wantV) {
				t.Error(what + "other keys or values than alone")
			}
			compare(t, what+"gradient", dx[at*sourceDim:][:n*sourceDim], toMatrix(wantDX, sourceDim))
			at += n
		}
		func() {
			defer func() {
				if err, ok := recover().(*backend.ShapeError); !ok {
					t.Errorf("more rows than the layout has: %v", err)
				}
			}()
			_, _, _ = run(text, text, source, dy)
		}()
	})
}

// adaptedLayer is a layer with two sets of adapters, one of which some of its matrices lack,
// its rotations and the parameters of the adapters.
func adaptedLayer(t *testing.T, b backend.Backend, kinds []bool) (m layer, rope *nn.RoPE, params []*tensor.Param) {
	rng = rand.New(rand.NewPCG(1, 2))
	m = layer{nn.NewAttention(dim, 4, 2, headDim, false, true), nn.NewFeedForward(dim, 24, false)}
	adapt(t, b, m, kinds)
	for i, n := range nn.Linears(m) {
		for set, a := range n.Linear.Adapters {
			a.Set = set
		}
		if i%3 == 1 {
			n.Linear.Adapters = n.Linear.Adapters[1:]
		}
		for _, p := range nn.Params(n.Linear.Adapters) {
			params = append(params, p.Param)
		}
	}
	for _, p := range nn.Params(m) { // as small as a model's
		x := random(p.Param.Shape.Elems())
		for i := range x {
			x[i] /= 5
		}
		bind(t, b, p.Param, x)
	}
	check(t, nn.Refresh(t.Context(), b, m))
	rope = nn.NewRoPE(headDim)
	bind(t, b, rope.Freqs, freqs)
	return m, rope, params
}

// gradients gives parameters memory for gradients and returns functions that read it.
func gradients(t testing.TB, b backend.Backend, params []*tensor.Param) (read []func() []float32) {
	t.Helper()
	for _, p := range params {
		n := p.Shape.Elems()
		buf, err := b.Alloc(4 * int64(n))
		check(t, err)
		t.Cleanup(buf.Free)
		p.BindGrad(backend.Contiguous(buf, backend.F32, 0, p.Shape))
		read = append(read, func() []float32 {
			out, raw := make([]float32, n), make([]byte, 4*n)
			check(t, b.Download(raw, buf, 0))
			block.Decode(backend.F32, out, raw)
			return out
		})
	}
	return read
}
