package llama

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// machine is one of several that have parts of a network.
type machine struct {
	b   backend.Backend
	net *transformer
	c   *tensor.Context
	kv  backend.KV
}

// part is the second or the first half of a model's heads and feed-forward layers, on a
// backend of its own: its weights are packed from ranges of the model's.
func part(t *testing.T, m *Model, which int, group tensor.Group) *machine {
	t.Helper()
	config := m.config
	config.Heads, config.KVHeads, config.HiddenDim = config.Heads/2, config.KVHeads/2, config.HiddenDim/2
	b, err := cpu.New(cpu.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	p := &machine{b: b, net: newTransformer(config), c: newContext(t, b), kv: m.pages.kv}
	p.kv.Heads = config.KVHeads
	for _, l := range p.net.Layers {
		l.Attention.WO.Group, l.FFN.Down.Group = group, group
	}
	whole := nn.Params(m.net)
	for i, mine := range append(nn.Params(p.net), nn.Named{Param: p.net.RoPE.Freqs}) {
		if i == len(whole) {
			p.vector(t, m, mine.Param, m.net.RoPE.Freqs, which)
		} else if mine.Param.Matrix() {
			p.matrix(t, mine.Param, whole[i].Param.Weight(), which)
		} else {
			p.vector(t, m, mine.Param, whole[i].Param, which)
		}
	}
	return p
}

// matrix packs the range of a weight that a parameter has.
func (p *machine) matrix(t *testing.T, mine *tensor.Param, whole backend.Weight, which int) {
	t.Helper()
	src := backend.WeightSource{Name: whole.Name(), Type: whole.Type(), Rows: whole.Rows(), Cols: whole.Cols(),
		ReadRows: func(dst []byte, row, n int) error { whole.Unpack(dst, row, n); return nil }}
	rows, cols := mine.Shape.Dim[0], mine.Shape.Dim[1]
	from, at := 0, 0
	if rows < src.Rows {
		from = which * rows
	}
	if cols < src.Cols {
		at = which * cols
	}
	src, err := src.RowRange(from, rows)
	if err == nil {
		src, err = src.ColumnRange(at, cols)
	}
	if err != nil {
		t.Fatal(err)
	}
	w, err := p.b.Pack(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Free)
	mine.BindWeight(w)
}

// vector copies the part of a vector that a parameter has.
func (p *machine) vector(t *testing.T, m *Model, mine, whole *tensor.Param, which int) {
	t.Helper()
	all, n := make([]float32, whole.Shape.Elems()), mine.Shape.Elems()
	err := tensor.Download(m.b, all, whole.Numbers())
	if err != nil {
		t.Fatal(err)
	}
	if n < len(all) {
		all = all[which*n:][:n]
	}
	buf, err := p.b.Alloc(4 * int64(n))
	if err == nil {
		t.Cleanup(buf.Free)
		mine.BindValue(backend.Contiguous(buf, backend.F32, 0, mine.Shape))
		err = tensor.Upload(p.b, mine.Numbers(), all)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newContext(t *testing.T, b backend.Backend) *tensor.Context {
	t.Helper()
	c, err := tensor.NewContext(b, tensor.Options{Precision: backend.PrecisionF32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// run is a step of rows as the layout says, of ids or, with from, of what layers before
// have left; it returns the residual stream, or logits after the last layer.
func (p *machine) run(t *testing.T, l *backend.Layout, ids []int32, layers LayerRange, from []float32) (out []float32) {
	t.Helper()
	err := p.c.Step(t.Context(), l, p.kv, func() error {
		var x *tensor.Tensor
		if from != nil {
			x = p.c.New(backend.F32, backend.Dims(l.Rows(), p.net.Norm.Weight.Shape.Dim[0]))
			p.c.Write(x, from)
		} else {
			x = p.net.embed(p.c, ids, nil, nil)
		}
		x = p.net.hidden(p.c, x, layers, false)
		if _, to := layers.of(len(p.net.Layers)); to == len(p.net.Layers) {
			x = p.net.Output.Forward(p.c, x)
		}
		out = make([]float32, x.Shape().Elems())
		p.c.Read(out, x)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return out
}

// models calls f with every golden model, some ids for it, and the whole of it as a
// machine.
func models(t *testing.T, f func(t *testing.T, m *Model, ids []int32, whole *machine)) {
	n := 0
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		n++
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			m, err := Open(t.Context(), path, Options{Precision: backend.PrecisionF32})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			ids := make([]int32, 30)
			for i := range ids {
				ids[i] = int32(i*i*7+3) % int32(m.config.Vocab)
			}
			f(t, m, ids, &machine{m.b, m.net, newContext(t, m.b), m.pages.kv})
		})
	}
	if n == 0 {
		t.Error("no model")
	}
}

// TestHalves: two machines with half of the heads and of the feed-forward layers give the
// logits of one, and both the same.
func TestHalves(t *testing.T) {
	halved := 0
	models(t, func(t *testing.T, m *Model, ids []int32, whole *machine) {
		if m.config.KVHeads%2 != 0 {
			return
		}
		halved++
		want := whole.run(t, backend.Documents(20, 10), ids, LayerRange{}, nil)
		var to [2]chan []float32
		for i := range to {
			to[i] = make(chan []float32, 1)
		}
		var got [2][]float32
		var wg sync.WaitGroup
		for i := range got {
			p := part(t, m, i, func(x []float32) error {
				to[1-i] <- append([]float32(nil), x...)
				other := <-to[i]
				for j := range x {
					x[j] += other[j]
				}
				return nil
			})
			wg.Go(func() { got[i] = p.run(t, backend.Documents(20, 10), ids, LayerRange{}, nil) })
		}
		wg.Wait()
		for i := range got[0] {
			if got[0][i] != got[1][i] {
				t.Fatalf("logit %d is %g and %g", i, got[0][i], got[1][i])
			}
		}
		if len(got[0]) != len(want) {
			t.Fatalf("%d logits, want %d", len(got[0]), len(want))
		}
		if d, at := golden.MaxRelative(got[0], want); !(d <= golden.IncrementalLogits) {
			t.Errorf("logit %d is %g, want %g: another order of sums is no reason", at, got[0][at], want[at])
		}
	})
	if halved == 0 {
		t.Skip("golden: no model has heads that can be halved")
	}
}

// TestLayers: a machine with the layers up to one, and another with the rest, give the
// bits of one with all, of all rows or of some.
func TestLayers(t *testing.T) {
	models(t, func(t *testing.T, m *Model, ids []int32, whole *machine) {
		n := len(m.net.Layers)
		for _, wanted := range [][]int32{nil, {19, 29}} {
			l := backend.Documents(20, 10)
			if wanted != nil {
				l.Logits = wanted
			}
			want := whole.run(t, l, ids, LayerRange{}, nil)
			for k := 1; k < n; k++ {
				x := whole.run(t, l, ids, LayerRange{0, k}, nil)
				if len(x) != len(ids)*m.config.Dim {
					t.Fatalf("layers [0, %d): %d numbers", k, len(x))
				}
				got := whole.run(t, l, nil, LayerRange{k, n}, x)
				if len(got) != len(want) {
					t.Fatalf("%d logits, want %d", len(got), len(want))
				}
				for i := range want {
					if got[i] != want[i] {
						t.Fatalf("cut at layer %d: logit %d is %g, want %g", k, i, got[i], want[i])
					}
				}
			}
		}
		err := whole.c.Step(t.Context(), backend.Documents(3), whole.kv, func() error {
			input := func(rows int) *tensor.Tensor { return whole.c.New(backend.F32, backend.Dims(rows, m.config.Dim)) }
			for name, o := range map[string]ForwardOptions{
				"beyond the last": {Layers: LayerRange{0, n + 1}}, "no layer": {Layers: LayerRange{1, 1}, Input: input(3)},
				"negative": {Layers: LayerRange{-1, 1}}, "no input": {Layers: LayerRange{1, n}},
				"ids beside an input": {Layers: LayerRange{1, n}, Input: input(3)}, "an input of the first": {Input: input(3)},
			} {
				if _, err := (&Training{m}).Forward(whole.c, ids[:3], o); err == nil {
					t.Errorf("%s: Forward takes it", name)
				}
			}
			if _, err := (&Training{m}).Forward(whole.c, nil, ForwardOptions{Layers: LayerRange{1, n}, Input: input(2)}); err == nil {
				t.Error("Forward takes an input of 2 rows for 3")
			}
			x, err := (&Training{m}).Forward(whole.c, ids[:3], ForwardOptions{Layers: LayerRange{0, 1}})
			if err == nil {
				_, err = (&Training{m}).Forward(whole.c, nil, ForwardOptions{Layers: LayerRange{1, n}, Input: x})
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
