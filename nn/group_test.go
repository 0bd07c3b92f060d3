package nn_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// pair is two machines that add up numbers, the first's before the second's.
func pair() (groups [2]tensor.Group) {
	var to [2]chan []float32
	for i := range to {
		to[i] = make(chan []float32, 1)
	}
	for i := range groups {
		groups[i] = func(x []float32) error {
			to[1-i] <- append([]float32(nil), x...)
			other := <-to[i]
			for j := range x {
				x[j] += other[j]
			}
			return nil
		}
	}
	return groups
}

// blockLayer is attention and a feed-forward layer, each added to what it reads.
type blockLayer struct {
	Attention *nn.Attention   `name:"attn"`
	FFN       *nn.FeedForward `name:"ffn"`
}

func newBlock(heads, kvHeads, hidden int) blockLayer {
	return blockLayer{nn.NewAttention(dim, heads, kvHeads, headDim, true, true), nn.NewFeedForward(dim, hidden, true)}
}

// learn runs a block on rows x, with a gradient dy of its result, and returns the
// result and the gradients of x and of all parameters.
func (m blockLayer) learn(t *testing.T, b backend.Backend, kvHeads int, x, dy []float32) map[string][]float32 {
	params := nn.Params(m)
	var list []*tensor.Param
	for _, p := range params {
		list = append(list, p.Param)
	}
	read := gradients(t, b, list)
	rope := nn.NewRoPE(headDim)
	bind(t, b, rope.Freqs, freqs)
	c, out, rows := newContext(t, b), map[string][]float32{}, len(x)/dim
	kv := backend.KV{Type: backend.F32, Layers: 1, Heads: kvHeads, HeadDim: headDim}
	out["dx"] = step(t, c, backend.Documents(rows-2, 2), kv, func() *tensor.Tensor {
		tape := tensor.NewTape()
		c.Record(tape)
		in := write(c, x, rows, dim)
		tape.Watch(in)
		y := m.Attention.AddTo(c, in, in, rope.Table(c, nil), tensor.AttentionOptions{})
		y = m.FFN.AddTo(c, y, y)
		out["y"] = make([]float32, len(x))
		c.Read(out["y"], y)
		tape.Backward(tensor.Seed{Y: y, DY: write(c, dy, rows, dim)})
		return tape.Grad(in)
	})
	for i, p := range params {
		out[p.Name] = read[i]()
	}
	return out
}

// part is what one of two machines has of a parameter: half of the columns of the last
// matrices, whose biases are whole, else half of the rows.
func part(name string, values []float32, shape backend.Shape, machine int) []float32 {
	last := strings.Contains(name, "o_proj") || strings.Contains(name, "down_proj")
	switch {
	case last && shape.Rank == 1:
		return values
	case !last:
		n := len(values) / 2
		return values[machine*n:][:n]
	}
	var out []float32
	for cols := shape.Dim[1]; len(values) > 0; values = values[cols:] {
		out = append(out, values[machine*cols/2:][:cols/2]...)
	}
	return out
}

// TestGroup: two machines with half of the heads and of the feed-forward layer each give
// what one gives, forward and backward; the residual stream and biases of outputs are
// added once.
func TestGroup(t *testing.T) {
	for name, open := range map[string]func() backend.Backend{
		"ref": ref.New,
		"cpu": func() backend.Backend {
			b, err := cpu.New(cpu.Options{Workers: 2})
			check(t, err)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			const heads, kvHeads, hidden, rows = 4, 2, 36, 5
			whole, b := newBlock(heads, kvHeads, hidden), open()
			defer b.Close()
			values, x, dy := map[string][]float32{}, random(rows*dim), random(rows*dim)
			for _, p := range nn.Params(whole) {
				values[p.Name] = random(p.Param.Shape.Elems())
				for i := range values[p.Name] {
					values[p.Name][i] *= 0.2 // else the softmax takes one key
				}
				bind(t, b, p.Param, values[p.Name])
			}
			want := whole.learn(t, b, kvHeads, x, dy)
			groups := pair()
			var got [2]map[string][]float32
			var wg sync.WaitGroup
			for i := range got {
				m, b := newBlock(heads/2, kvHeads/2, hidden/2), open()
				defer b.Close()
				m.Attention.WO.Group, m.FFN.Down.Group = groups[i], groups[i]
				for _, p := range nn.Params(whole) {
					for _, mine := range nn.Params(m) {
						if mine.Name == p.Name {
							bind(t, b, mine.Param, part(p.Name, values[p.Name], p.Param.Shape, i))
						}
					}
				}
				wg.Go(func() { got[i] = m.learn(t, b, kvHeads/2, x, dy) })
			}
			wg.Wait()
			const order = 1e-5 // sums are added up in another
			for i := range got {
				for _, p := range nn.Params(whole) {
					near(t, fmt.Sprintf("machine %d, gradient of %s", i, p.Name), got[i][p.Name], part(p.Name, want[p.Name], p.Param.Shape, i), order)
				}
				near(t, fmt.Sprintf("machine %d, result", i), got[i]["y"], want["y"], order)
				near(t, fmt.Sprintf("machine %d, gradient of the input", i), got[i]["dx"], want["dx"], order)
			}
		})
	}
}

// TestGroupError: a group that fails panics with its error, and the workers are free.
func TestGroupError(t *testing.T) {
	gone := errors.New("a machine is gone")
	l := nn.NewLinear(4, 3, true)
	l.Group = func([]float32) error { return gone }
	b := cpu.Default()
	fill(t, b, l)
	c := newContext(t, b)
	func() {
		defer func() {
			if err, ok := recover().(*tensor.GroupError); !ok || !errors.Is(err, gone) {
				t.Errorf("panic %v", err)
			}
		}()
		step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return l.Forward(c, write(c, random(8), 2, 4)) })
	}()
	l.Group = nil
	step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return l.Forward(c, write(c, random(8), 2, 4)) })
}

// TestGroupDoRA: machines that have half of the columns of a matrix with adapters give what
// one gives: DoRA divides by the norm of whole rows.
func TestGroupDoRA(t *testing.T) {
	const in, out, rows = 12, 7, 3
	type model struct {
		Down *nn.Linear `name:"down_proj"`
	}
	values, x := map[string][]float32{}, random(rows*in)
	build := func(b backend.Backend, in int, of func(x []float32) []float32) model {
		m := model{nn.NewLinear(in, out, true)}
		adapt(t, b, m, []bool{false, true, true})
		for _, p := range nn.Params(m) {
			if values[p.Name] == nil {
				values[p.Name] = random(p.Param.Shape.Elems())
			}
			x := values[p.Name]
			if p.Param.Shape.Rank == 2 && p.Param.Shape.Dim[1] == in { // B is all machines' alike
				x = of(x)
			}
			bind(t, b, p.Param, x)
		}
		return m
	}
	forward := func(b backend.Backend, m model, x []float32) []float32 {
		check(t, nn.Refresh(t.Context(), b, m))
		c := newContext(t, b)
		return step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return m.Down.Forward(c, write(c, x, rows, len(x)/rows)) })
	}
	whole := ref.New()
	want := forward(whole, build(whole, in, func(x []float32) []float32 { return x }), x)
	groups := pair()
	var got [2][]float32
	var wg sync.WaitGroup
	for i := range got {
		of := func(x []float32) []float32 { return part("down_proj", x, backend.Dims(len(x)/in, in), i) }
		b := ref.New()
		m := build(b, in/2, of)
		m.Down.Group = groups[i]
		wg.Go(func() { got[i] = forward(b, m, of(x)) })
	}
	wg.Wait()
	for i := range got {
		near(t, fmt.Sprint("machine ", i), got[i], want, 1e-5) // sums are added up in another order
	}
	m := build(whole, in, func(x []float32) []float32 { return x })
	gone := errors.New("a machine is gone")
	m.Down.Group = func([]float32) error { return gone }
	if err := nn.Refresh(t.Context(), whole, m); !errors.Is(err, gone) {
		t.Errorf("Refresh with a group that fails returns %v", err)
	}
}
