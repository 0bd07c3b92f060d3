package nn_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// kinds are what goes on the layers of a test, in order: with Magnitude or not.
var kinds = map[string][]bool{
	"none": nil, "lora": {false}, "dora": {true}, "two": {false, false}, "lora, dora": {false, true}, "dora, lora, dora": {true, false, true},
}

// adapt puts adapters on every layer of a model, of different ranks and scales.
func adapt(t testing.TB, b backend.Backend, model any, kinds []bool) {
	t.Helper()
	for i, n := range nn.Linears(model) {
		out, in := n.Linear.Weight.Shape.Dim[0], n.Linear.Weight.Shape.Dim[1]
		for j, dora := range kinds {
			a := nn.NewLoRA(in, out, 1+(i+2*j)%5, dora)
			a.Scale = []float32{1, 0.5, -2}[(i+j)%3]
			if dora {
				bind(t, b, a.InverseNorm, make([]float32, out))
			}
			n.Linear.Adapters = append(n.Linear.Adapters, a)
		}
	}
}

// merged is the matrix that a layer with adapters multiplies with.
func merged(v map[string][]float32, name string, l *nn.Linear) []float32 {
	base := v[name+".weight"]
	in := l.Weight.Shape.Dim[1]
	w := toMatrix(base, in)
	for i, a := range l.Adapters {
		at := fmt.Sprintf("%s.adapters.%d.", name, i)
		bm, am := toMatrix(v[at+"lora_B.weight"], a.A.Shape.Dim[0]), toMatrix(v[at+"lora_A.weight"], in)
		for n, row := range w {
			norm := 0.0
			for k := range row {
				delta := 0.0
				for r, b := range bm[n] {
					delta += b * am[r][k] * float64(a.Scale)
				}
				row[k] += delta
				norm += (float64(base[n*in+k]) + delta) * (float64(base[n*in+k]) + delta)
			}
			for k := range row {
				if a.Magnitude != nil {
					row[k] *= float64(v[at+"lora_magnitude_vector"][n]) / math.Sqrt(norm)
				}
			}
		}
	}
	var flat []float32
	for _, row := range w {
		for _, x := range row {
			flat = append(flat, float32(x))
		}
	}
	return flat
}

func TestLoRALinear(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for _, name := range slices.Sorted(maps.Keys(kinds)) { // in one order: the numbers are drawn as it goes
			kinds := kinds[name]
			for _, bias := range []bool{false, true} {
				const r, in, out = 3, 20, 33
				m := struct {
					L *nn.Linear `name:"l"`
				}{nn.NewLinear(in, out, bias)}
				adapt(t, b, m, kinds)
				v, x, y, c := fill(t, b, m), random(r*in), random(r*out), newContext(t, b)
				check(t, nn.Refresh(t.Context(), b, m))
				want := toMatrix(x, in).linear(merged(v, "l", m.L), v["l.bias"])
				what := fmt.Sprint(name, ", bias ", bias)
				compare(t, what, step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return m.L.Forward(c, write(c, x, r, in)) }), want)
				for i, row := range want {
					for k := range row {
						row[k] += float64(y[i*out+k])
					}
				}
				compare(t, what+", added", step(t, c, nil, backend.KV{}, func() *tensor.Tensor {
					to := write(c, y, r, out)
					if got := m.L.AddTo(c, to, write(c, x, r, in)); got == to {
						return got
					}
					panic("the sum is not in the place of y")
				}), want)
			}
		}
	})
}

// TestLoRALayers: adapters on some of the products that share a dispatch.
func TestLoRALayers(t *testing.T) {
	rng = rand.New(rand.NewPCG(7, 11)) // the same numbers in whatever order tests run
	each(t, func(t *testing.T, b backend.Backend) {
		for _, name := range slices.Sorted(maps.Keys(kinds)) { // in one order: the numbers are drawn as it goes
			kinds := kinds[name]
			for skip := range 4 {
				l, _ := newAttention(t, b, 4, 2, true, false)
				adapt(t, b, l.Attention, kinds)
				[]*nn.Linear{l.WQ, l.WK, l.WV, l.WO}[skip].Adapters = nil
				v := fill(t, b, l.Attention)
				check(t, nn.Refresh(t.Context(), b, l.Attention))
				const n = 5
				x := random(n * dim)
				weights := map[string][]float32{}
				for _, p := range nn.Linears(l.Attention) {
					weights[p.Name] = merged(v, p.Name, p.Linear)
				}
				project := func(name string, x matrix) matrix { return x.linear(weights[name], v[name+".bias"]) }
				in := toMatrix(x, dim)
				q, k := project("q_proj", in).rotate(positions(n), freqs), project("k_proj", in).rotate(positions(n), freqs)
				compare(t, fmt.Sprint(name, skip), l.forward(t, b, x, n, true), project("o_proj", q.attend(k, project("v_proj", in), headDim)))
			}
			const r, hidden = 3, 37
			f := nn.NewFeedForward(dim, hidden, false)
			adapt(t, b, f, kinds)
			v, x, c := fill(t, b, f), random(r*dim), newContext(t, b)
			check(t, nn.Refresh(t.Context(), b, f))
			gate := toMatrix(x, dim).linear(merged(v, "gate_proj", f.Gate), nil)
			up := toMatrix(x, dim).linear(merged(v, "up_proj", f.Up), nil)
			for r, row := range gate {
				for i, g := range row {
					up[r][i] *= g / (1 + math.Exp(-g))
				}
			}
			got := step(t, c, nil, backend.KV{}, func() *tensor.Tensor { return f.Forward(c, write(c, x, r, dim)) })
			compare(t, name+", feed-forward", got, up.linear(merged(v, "down_proj", f.Down), nil))
		}
	})
}

// bindFloat gives a matrix numbers that change, which it returns.
func bindFloat(t testing.TB, b backend.Backend, p *tensor.Param, values []float32) (set func([]float32)) {
	t.Helper()
	buf, err := b.Alloc(int64(4 * len(values)))
	check(t, err)
	t.Cleanup(buf.Free)
	w, err := b.Float("w", backend.Contiguous(buf, backend.F32, 0, p.Shape))
	check(t, err)
	set = func(values []float32) {
		check(t, tensor.Upload(b, backend.Contiguous(buf, backend.F32, 0, p.Shape), values))
		w.Changed()
	}
	set(values)
	p.BindWeight(w)
	return set
}

// TestRefresh: the norms follow the numbers, also where they nearly cancel, and
// are exact to float32.
func TestRefresh(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const in, out, r = 50, 70, 3
		m := struct {
			L *nn.Linear `name:"l"`
		}{nn.NewLinear(in, out, false)}
		adapt(t, b, m, []bool{true})
		a := m.L.Adapters[0]
		a.A, a.B, a.Scale = tensor.NewParam(r, in), tensor.NewParam(out, r), 0.25
		v := fill(t, b, m)
		w := v["l.weight"]
		setA, setB := bindFloat(t, b, a.A, v["l.adapters.0.lora_A.weight"]), bindFloat(t, b, a.B, v["l.adapters.0.lora_B.weight"])
		setW := bindFloat(t, b, m.L.Weight, w)
		c := newContext(t, b)
		verify := func(what string) {
			t.Helper()
			check(t, nn.Refresh(t.Context(), b, m))
			got := step(t, c, nil, backend.KV{}, func() *tensor.Tensor {
				return tensor.Add(c, a.InverseNorm.Value(), write(c, make([]float32, out), out))
			})
			am, bm := toMatrix(v["l.adapters.0.lora_A.weight"], in), toMatrix(v["l.adapters.0.lora_B.weight"], r)
			for n := range out {
				norm := 0.0
				for k := range in {
					x := float64(w[n*in+k])
					for i := range r {
						x += float64(a.Scale) * bm[n][i] * am[i][k]
					}
					norm += x * x
				}
				want := 1 / math.Sqrt(norm)
				if norm == 0 {
					want = 0
				}
				if d := math.Abs(float64(got[n])/want - 1); d > 1e-6 && !(want == 0 && got[n] == 0) {
					t.Fatalf("%s: row %d: %v, want %v", what, n, got[n], want)
				}
			}
		}
		verify("at first")
		for name, set := range map[string]func([]float32){"lora_A": setA, "lora_B": setB} {
			values := v["l.adapters.0."+name+".weight"]
			copy(values, random(len(values)))
			set(values)
			verify(name)
		}
		a.Scale = 2
		verify("scale")
		// Row 1 becomes zero; row 2 nearly what cancels the change.
		copy(w, random(len(w)))
		clear(w[in : 2*in])
		bs := v["l.adapters.0.lora_B.weight"]
		copy(bs[r:2*r], make([]float32, r))
		setB(bs)
		for k := range in {
			delta := 0.0
			for i := range r {
				delta += float64(a.Scale) * float64(bs[2*r+i]) * float64(v["l.adapters.0.lora_A.weight"][i*in+k])
			}
			w[2*in+k] = float32(-delta * (1 + 1e-4*float64(k)))
		}
		setW(w)
		verify("cancelling")
	})
}

func TestLoRAInitial(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		const in, out, r = 100, 9, 8
		p := tensor.NewParam(out, in)
		w := random(in * out)
		bind(t, b, p, w)
		l := nn.NewLoRA(in, out, r, true)
		initial := func(stream uint64) (a, bs, m []float32) {
			a, bs, m, err := l.Initial(t.Context(), b, 1, stream, p)
			check(t, err)
			return a, bs, m
		}
		a, bs, m := initial(2)
		again, _, _ := initial(2)
		other, _, _ := initial(3)
		if !slices.Equal(a, again) || slices.Equal(a, other) || len(a) != r*in || len(bs) != r*out {
			t.Error("the numbers do not follow from seed and stream")
		}
		if lo, hi := slices.Min(a), slices.Max(a); lo < -0.1 || hi > 0.1 || lo > -0.098 || hi < 0.098 {
			t.Errorf("A in [%v, %v], want +-1/10", lo, hi)
		}
		if slices.ContainsFunc(bs, func(x float32) bool { return x != 0 }) {
			t.Error("B is not zero")
		}
		for n, got := range m {
			sum := 0.0
			for _, x := range w[n*in : (n+1)*in] {
				sum += float64(x) * float64(x)
			}
			if want := math.Sqrt(sum); math.Abs(float64(got)/want-1) > 1e-6 {
				t.Errorf("magnitude %d is %v, want %v", n, got, want)
			}
		}
		if _, _, m, err := nn.NewLoRA(in, out, r, false).Initial(t.Context(), b, 1, 2, nil); m != nil || err != nil {
			t.Error("magnitudes without DoRA")
		}
	})
}

// TestLoRAMisfits: adapters of other shapes, and such without numbers.
func TestLoRAMisfits(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		for what, l := range map[string]*nn.LoRA{
			"in": nn.NewLoRA(5, 3, 2, false), "out": nn.NewLoRA(4, 5, 2, false), "no numbers": nil, "no norm": nn.NewLoRA(4, 3, 2, true),
		} {
			m := nn.NewLinear(4, 3, false)
			fill(t, b, m)
			if l == nil {
				l = nn.NewLoRA(4, 3, 2, false)
			} else {
				fill(t, b, l)
			}
			m.Adapters = []*nn.LoRA{l}
			c := newContext(t, b)
			func() {
				defer func() {
					err, _ := recover().(error)
					var shape *backend.ShapeError
					if !errors.As(err, &shape) {
						t.Errorf("%s: panics with %v, want a *backend.ShapeError", what, err)
					}
				}()
				step(t, c, nil, backend.KV{}, func() *tensor.Tensor {
					return m.Forward(c, write(c, make([]float32, 4), 1, 4))
				})
			}()
		}
	})
}
