package optim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/backend/ref"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// model is parameters with memory and the numbers to begin with.
type model struct {
	b      backend.Backend
	c      *tensor.Context
	params []nn.Named
}

// frozen marks a name of newModel.
const frozen = "frozen:"

// newModel makes parameters "name" of the shapes, numbers and gradients random.
func newModel(t testing.TB, b backend.Backend, shapes map[string][]int) *model {
	t.Helper()
	c, err := tensor.NewContext(b, tensor.Options{})
	check(t, err)
	t.Cleanup(c.Close)
	m := &model{b: b, c: c}
	rng := rand.New(rand.NewPCG(1, 2))
	names := make([]string, 0, len(shapes))
	for name := range shapes {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p := tensor.NewParam(shapes[name]...)
		view := func() backend.View {
			buf, err := b.Alloc(int64(4 * p.Shape.Elems()))
			check(t, err)
			t.Cleanup(buf.Free)
			x := make([]float32, p.Shape.Elems())
			for i := range x {
				x[i] = float32(rng.NormFloat64())
			}
			v := backend.Contiguous(buf, backend.F32, 0, p.Shape)
			check(t, tensor.Upload(b, v, x))
			return v
		}
		if v := view(); p.Matrix() {
			w, err := b.Float(name, v)
			check(t, err)
			p.BindMatrix(w, v)
		} else {
			p.BindValue(v)
		}
		plain, isFrozen := strings.CutPrefix(name, frozen)
		if g := view(); !isFrozen {
			p.BindGrad(g)
		}
		m.params = append(m.params, nn.Named{Name: plain, Param: p})
	}
	return m
}

func (m *model) find(name string) *tensor.Param {
	for _, p := range m.params {
		if p.Name == name {
			return p.Param
		}
	}
	panic(name)
}

// floats are the numbers of a view, bits their bits.
func (m *model) floats(v backend.View) []float32 {
	x := make([]float32, v.Shape.Elems())
	if err := tensor.Download(m.b, x, v); err != nil {
		panic(err)
	}
	return x
}

func (m *model) bits(v backend.View) []uint32 {
	var b []uint32
	for _, x := range m.floats(v) {
		b = append(b, math.Float32bits(x))
	}
	return b
}

func upload(b backend.Backend, v backend.View, x []float32) {
	if err := tensor.Upload(b, v, x); err != nil {
		panic(err)
	}
}

// numbers are the bits of all parameters and moments.
func (m *model) numbers(o *AdamW) (all []uint32) {
	for _, p := range m.params {
		all = append(all, m.bits(p.Param.Numbers())...)
	}
	_, views := o.tensors()
	for _, v := range views {
		all = append(all, m.bits(v)...)
	}
	return all
}

// fill gives the gradients new random numbers of a size.
func (m *model) fill(seed uint64, size float64) {
	rng := rand.New(rand.NewPCG(seed, 3))
	for _, p := range m.params {
		if g := p.Param.Grad(); g.Present() {
			x := make([]float32, g.Shape.Elems())
			for i := range x {
				x[i] = float32(size * rng.NormFloat64())
			}
			upload(m.b, g, x)
		}
	}
}

func (m *model) optimizer(t testing.TB, c AdamWConfig) *AdamW {
	t.Helper()
	o, err := NewAdamW(m.b, m.params, c)
	check(t, err)
	t.Cleanup(o.Close)
	return o
}

// each runs a test on the oracle and on the kernels of this processor.
func each(t *testing.T, test func(t *testing.T, b backend.Backend)) {
	for _, v := range []string{"ref", "", "generic"} {
		t.Run("backend "+v, func(t *testing.T) {
			if v == "ref" {
				test(t, ref.New())
				return
			}
			b, err := cpu.New(cpu.Options{Workers: 2, Variant: v})
			check(t, err)
			defer b.Close()
			test(t, b)
		})
	}
}

var small = map[string][]int{
	"model.embed_tokens.weight":                  {7, 5},
	"model.layers.0.mlp.up_proj.weight":          {33, 5},
	"model.layers.0.self_attn.q_proj.weight":     {5, 5},
	"model.layers.0.self_attn.q_proj.bias":       {5},
	"model.norm.weight":                          {5},
	"lm_head.weight":                             {7, 5},
	frozen + "model.layers.1.mlp.up_proj.weight": {3, 5},
}

// loop is AdamW of one parameter in float64.
type loop struct{ w, m, v []float64 }

func newLoop(values []float32) *loop {
	l := &loop{}
	for _, x := range values {
		l.w = append(l.w, float64(x))
	}
	l.m, l.v = make([]float64, len(l.w)), make([]float64, len(l.w))
	return l
}

func (l *loop) step(g []float32, t int, lr, decay, clip float64) {
	for i, x := range g {
		x := float64(x) * clip
		l.m[i] = 0.9*l.m[i] + (1-0.9)*x
		l.v[i] = 0.95*l.v[i] + (1-0.95)*x*x
		l.w[i] -= lr * decay * l.w[i]
		l.w[i] -= lr * l.m[i] / (1 - math.Pow(0.9, float64(t))) / (math.Sqrt(l.v[i]/(1-math.Pow(0.95, float64(t)))) + 1e-8)
	}
}

// TestAdamW runs ten steps beside a loop in float64: clipped and not, with the decay of
// each kind of parameter and a group.
func TestAdamW(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		m := newModel(t, b, small)
		group := Group{Match: "*.q_proj.*", LRScale: 0.5}
		o := m.optimizer(t, AdamWConfig{ClipNorm: 1, Groups: []Group{group}})
		loops := map[string]*loop{}
		for _, p := range m.params {
			loops[p.Name] = newLoop(m.floats(p.Param.Numbers()))
		}
		decay := map[string]float64{
			"lm_head.weight": 0.1, "model.layers.0.mlp.up_proj.weight": 0.1, "model.layers.0.self_attn.q_proj.weight": 0.1,
		}
		for step := 1; step <= 10; step++ {
			m.fill(uint64(step), []float64{0.01, 3}[step%2])
			sum := 0.0
			for _, p := range m.params {
				if g := p.Param.Grad(); g.Present() {
					for _, x := range m.floats(g) {
						sum += float64(x) * float64(x)
					}
				}
			}
			lr := 1e-3 * float64(step)
			norm, err := o.Step(t.Context(), m.c, lr)
			check(t, err)
			if d := math.Abs(norm - math.Sqrt(sum)); !(d <= 1e-6*norm) {
				t.Errorf("norm %v, want %v", norm, math.Sqrt(sum))
			}
			clip := min(1, 1/(math.Sqrt(sum)+1e-6))
			for _, p := range m.params {
				if g := p.Param.Grad(); g.Present() {
					rate := lr
					if strings.Contains(p.Name, "q_proj") {
						rate /= 2
					}
					loops[p.Name].step(m.floats(g), step, rate, decay[p.Name], clip)
				}
			}
		}
		if o.Steps() != 10 {
			t.Errorf("%d steps", o.Steps())
		}
		for _, p := range m.params {
			for i, x := range m.floats(p.Param.Numbers()) {
				// 20 changes of at most 0.01, each off by some roundings of float32.
				if want := loops[p.Name].w[i]; math.Abs(float64(x)-want) > 4e-6 {
					t.Errorf("%s[%d] is %v, want %v", p.Name, i, x, want)
				}
			}
		}
		if w := m.find("lm_head.weight").Weight(); w.Version() != 10 {
			t.Errorf("version %d of a matrix after 10 steps", w.Version())
		}
		if w := m.find("model.layers.1.mlp.up_proj.weight").Weight(); w.Version() != 0 {
			t.Error("a frozen matrix has changed")
		}
	})
}

func TestSettings(t *testing.T) {
	m := newModel(t, ref.New(), small)
	o := m.optimizer(t, AdamWConfig{WeightDecay: 0.2, Groups: []Group{
		{Match: "*embed_tokens*", WeightDecay: 0.3, LRScale: 2},
		{Match: "*.up_proj.weight", NoDecay: true},
		{Match: "model.*", LRScale: 3},
	}})
	var got []string
	for _, s := range o.Settings() {
		got = append(got, fmt.Sprintf("%s %v %v %v", s.Name, s.LRScale, s.WeightDecay, s.Frozen))
	}
	want := []string{
		"model.layers.1.mlp.up_proj.weight 1 0 true",
		"lm_head.weight 1 0.2 false",
		"model.embed_tokens.weight 2 0.3 false",
		"model.layers.0.mlp.up_proj.weight 1 0 false",
		"model.layers.0.self_attn.q_proj.bias 3 0 false",
		"model.layers.0.self_attn.q_proj.weight 3 0.2 false",
		"model.norm.weight 3 0 false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("settings\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if c := m.optimizer(t, AdamWConfig{NoDecay: true}).Config(); c.WeightDecay != 0 || c.Beta1 != 0.9 || c.Beta2 != 0.95 || c.Eps != 1e-8 {
		t.Errorf("defaults %+v", c)
	}
	if n := o.Bytes(); n < 2*4*(35+165+25+5+5+35) || n > 2*4*(48+176+32+16+16+48) {
		t.Errorf("%d bytes of moments", n)
	}
}

// TestNotFinite: a gradient that is no number changes nothing.
func TestNotFinite(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		m := newModel(t, b, small)
		o := m.optimizer(t, AdamWConfig{})
		_, err := o.Step(t.Context(), m.c, 1e-3)
		check(t, err)
		before := m.numbers(o)
		for _, x := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e30} {
			m.fill(1, 1)
			g := m.find("model.norm.weight").Grad()
			upload(b, g.Slice(0, 4, 1), []float32{float32(x)})
			norm, err := o.Step(t.Context(), m.c, 1e-3)
			if !errors.Is(err, ErrNotFinite) || !strings.Contains(err.Error(), "model.norm.weight") || !math.IsNaN(norm) && !math.IsInf(norm, 0) {
				t.Errorf("%v: norm %v, error %v", x, norm, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		m.fill(1, 1)
		if _, err := o.Step(ctx, m.c, 1e-3); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that has ended: %v", err)
		}
		for _, lr := range []float64{-1, math.NaN(), math.Inf(1)} {
			if _, err := o.Step(t.Context(), m.c, lr); err == nil {
				t.Errorf("learning rate %v is taken", lr)
			}
		}
		if !slices.Equal(m.numbers(o), before) || o.Steps() != 1 {
			t.Error("a step that failed has changed numbers")
		}
	})
}

// TestZeroGrad covers shapes around the block that zeros are copied in.
func TestZeroGrad(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		m := newModel(t, b, map[string][]int{"a": {3, 1 << 12}, "b": {1<<12 + 1}, "c": {7, 13}, "d": {1}, frozen + "e": {4}})
		o := m.optimizer(t, AdamWConfig{})
		check(t, o.ZeroGrad(t.Context(), m.c))
		for _, p := range m.params {
			if g := p.Param.Grad(); g.Present() {
				for i, x := range m.floats(g) {
					if math.Float32bits(x) != 0 {
						t.Fatalf("%s[%d] is %v", p.Name, i, x)
					}
				}
			}
		}
		norm, err := o.Step(t.Context(), m.c, 0)
		check(t, err)
		if norm != 0 {
			t.Errorf("norm %v of zeros", norm)
		}
	})
}

func TestRefusedConfigs(t *testing.T) {
	m := newModel(t, ref.New(), small)
	for _, c := range []struct {
		config AdamWConfig
		want   []string
	}{
		{AdamWConfig{Beta1: 1, Beta2: math.NaN(), Eps: -1, WeightDecay: math.Inf(1), ClipNorm: -1}, []string{"Beta1 1", "Beta2 NaN", "Eps -1", "WeightDecay +Inf", "ClipNorm -1"}},
		{AdamWConfig{Eps: 1e-60, Beta2: 1 - 1e-12, WeightDecay: 1, NoDecay: true}, []string{"Eps 1e-60", "Beta2", "beside NoDecay"}},
		{AdamWConfig{Groups: []Group{{Match: "["}, {}, {Match: "a", LRScale: -1, WeightDecay: 1, NoDecay: true}}}, []string{`"["`, `""`, "LRScale -1", "beside NoDecay"}},
		{AdamWConfig{Groups: []Group{{Match: "*.missing"}, {Match: "lm_*"}, {Match: "lm_head"}}}, []string{`"*.missing"`, `"lm_head"`}},
	} {
		_, err := NewAdamW(m.b, m.params, c.config)
		if err == nil {
			t.Errorf("%+v is taken", c.config)
			continue
		}
		if n := len(strings.Split(err.Error(), "\n")); n != len(c.want) {
			t.Errorf("%+v: %d violations: %v", c.config, n, err)
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v does not say %s", err, w)
			}
		}
	}
}

// TestRefusedParams: numbers that cannot change.
func TestRefusedParams(t *testing.T) {
	b := ref.New()
	m := newModel(t, b, small)
	twice := append(slices.Clone(m.params), m.params[1])
	if _, err := NewAdamW(b, twice, AdamWConfig{}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a name twice: %v", err)
	}
	p := tensor.NewParam(4, 6)
	buf, err := b.Alloc(4 * 24)
	check(t, err)
	w, err := b.Float("half", backend.Contiguous(buf, backend.BF16, 0, p.Shape))
	check(t, err)
	p.BindGrad(backend.Contiguous(buf, backend.F32, 0, p.Shape))
	p.BindWeight(w)
	if _, err := NewAdamW(b, []nn.Named{{Name: "half", Param: p}}, AdamWConfig{}); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("a weight without memory that changes: %v", err)
	}
	p.BindMatrix(w, backend.Contiguous(buf, backend.BF16, 0, p.Shape))
	if _, err := NewAdamW(b, []nn.Named{{Name: "half", Param: p}}, AdamWConfig{}); !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), "BF16") {
		t.Errorf("a weight of bfloat16: %v", err)
	}
	o := m.optimizer(t, AdamWConfig{})
	m.find("model.norm.weight").BindGrad(backend.View{})
	if _, err := o.Step(t.Context(), m.c, 1); err == nil || !strings.Contains(err.Error(), "model.norm.weight") {
		t.Errorf("a gradient that is gone: %v", err)
	}
	o.Close()
	o.Close()
	if _, err := o.Step(t.Context(), m.c, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("a step after Close: %v", err)
	}
}

// TestNothing: a model without trained parameters has nothing to do.
func TestNothing(t *testing.T) {
	m := newModel(t, cpu.Default(), map[string][]int{frozen + "a": {3}})
	o := m.optimizer(t, AdamWConfig{})
	check(t, o.ZeroGrad(t.Context(), m.c))
	if norm, err := o.Step(t.Context(), m.c, 1); norm != 0 || err != nil {
		t.Errorf("norm %v, %v", norm, err)
	}
}

// TestSameBits: workers and kernels make no difference.
func TestSameBits(t *testing.T) {
	var want []uint32
	for _, o := range []cpu.Options{{Workers: 1}, {Workers: 3}, {Workers: 2, Variant: "generic"}} {
		b, err := cpu.New(o)
		check(t, err)
		m := newModel(t, b, map[string][]int{"a": {300, 301}, "b": {77}})
		opt := m.optimizer(t, AdamWConfig{ClipNorm: 1})
		for range 3 {
			_, err := opt.Step(t.Context(), m.c, 1e-2)
			check(t, err)
		}
		got := m.numbers(opt)
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v gives other bits", o)
		}
		opt.Close()
		b.Close()
	}
}

// BenchmarkStep is 16M parameters. A step reads the gradients twice, the moments and the
// numbers once, and writes the latter: 32 bytes each. ZeroGrad writes 4.
func BenchmarkStep(b *testing.B) {
	m := newModel(b, cpu.Default(), map[string][]int{"a": {1 << 11, 1 << 11}, "b": {1 << 10, 1 << 11}, "c": {1 << 10, 10 << 10}})
	o := m.optimizer(b, AdamWConfig{ClipNorm: 1})
	b.Run("Step", func(b *testing.B) {
		b.SetBytes(32 << 24)
		for b.Loop() {
			_, err := o.Step(b.Context(), m.c, 1e-3)
			check(b, err)
		}
	})
	b.Run("ZeroGrad", func(b *testing.B) {
		b.SetBytes(4 << 24)
		for b.Loop() {
			check(b, o.ZeroGrad(b.Context(), m.c))
		}
	})
}
