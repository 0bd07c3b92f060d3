package llama

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
)

// adaptedModel is a random model with two adapters, LoRA and DoRA.
func adaptedModel(t testing.TB, typ backend.DType) *Model {
	t.Helper()
	rng := rand.New(rand.NewPCG(5, 5))
	random := func(dims ...int) safetensors.Source {
		n := 1
		for _, d := range dims {
			n *= d
		}
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64()) / 8
		}
		return peft.Tensor(x, dims...)
	}
	c := randomModel(t, typ, Options{}).Config()
	var o Options
	for i, dora := range []bool{false, true} {
		var modules []peft.Module
		for layer := range c.Layers {
			for _, part := range []struct {
				name    string
				out, in int
			}{
				{"self_attn.q_proj", c.Heads * c.HeadDim, c.Dim}, {"self_attn.k_proj", c.KVHeads * c.HeadDim, c.Dim},
				{"mlp.up_proj", c.HiddenDim, c.Dim}, {"mlp.down_proj", c.Dim, c.HiddenDim},
			} {
				m := peft.Module{Name: fmt.Sprintf("model.layers.%d.%s", layer, part.name), A: random(4, part.in), B: random(part.out, 4)}
				if dora {
					m.Magnitude = random(part.out)
				}
				modules = append(modules, m)
			}
		}
		dir := filepath.Join(t.TempDir(), "adapter")
		config := peft.Config{Rank: 4, Alpha: 4, DoRA: dora, Targets: []string{"q_proj", "k_proj", "up_proj", "down_proj"}}
		if err := peft.Write(dir, config, modules); err != nil {
			t.Fatal(i, err)
		}
		o.Adapters = append(o.Adapters, Adapter{Path: dir})
	}
	return randomModel(t, typ, o)
}

// TestSegmentsWithAdapters: sessions with adapter sets of their own have, in one step with
// pages, the bits that each has alone, and those of other sets differ. Adapters allocate
// nothing in a decode step; what is left is for the contexts of several calls.
func TestSegmentsWithAdapters(t *testing.T) {
	sets := [][]int{nil, {0}, {1}, {}, {1, 0}}
	for _, typ := range []backend.DType{backend.F32, backend.BF16, backend.Q8_0} {
		m := adaptedModel(t, typ)
		ids := randomTokens(1, 75)
		open := func(set []int) *Session {
			s, err := m.NewSession(SessionOptions{})
			if err != nil {
				t.Fatal(err)
			}
			s.request.segment.Adapters = set
			return s
		}
		const last = 3 // rows of a step of prefill, and then one of decoding
		var want [][]float32
		for i, set := range sets {
			s := open(set)
			out := slices.Clone(s.logits)
			w := s.next()
			w.out = out
			for _, rows := range [][]int32{ids[:70], ids[70 : 70+last], ids[73:74]} {
				if err := s.extend(t.Context(), rows, w); err != nil {
					t.Fatal(err)
				}
			}
			s.Close()
			for j := range want {
				if same := slices.Equal(out, want[j]); same != (i == 4 && j == 0) {
					t.Errorf("%v: sets %v and %v have the same logits: %v", typ, sets[i], sets[j], same)
				}
			}
			want = append(want, out)
		}
		var together []*Session
		for _, set := range sets {
			s := open(set)
			if err := s.extend(t.Context(), ids[:70], wish{}); err != nil {
				t.Fatal(err)
			}
			together = append(together, s)
		}
		run := func(rows []int32) {
			var list []*client
			for _, s := range together {
				list = append(list, &client{s: s, ctx: t.Context(), ids: rows, wish: s.next()})
			}
			for i, err := range joined(m, list) {
				if err != nil {
					t.Fatalf("%v, set %v: %v", typ, sets[i], err)
				}
			}
		}
		run(ids[70:73])
		run(ids[73:74])
		for i, s := range together {
			if !slices.Equal(s.logits, want[i]) {
				t.Errorf("%v: set %v has other logits in a step with others than alone", typ, sets[i])
			}
		}
		decode := func() { run(ids[74:]) }
		decode()
		mixed := testing.AllocsPerRun(10, decode)
		for _, s := range together {
			s.request.segment.Adapters = nil
		}
		if all := testing.AllocsPerRun(10, decode); mixed > all+all/10 { // the race detector adds some at times
			t.Errorf("%v: a decode step of several sets allocates %v times, of one %v", typ, mixed, all)
		}
	}
}

// TestPagesOfAdapters: sessions share pages where they have the same adapters, in whatever
// order they are named, and else never.
func TestPagesOfAdapters(t *testing.T) {
	m := adaptedModel(t, backend.Q8_0)
	ids := randomTokens(2, 130)
	sets := [][]int{nil, {}, {0}, {1}, {0, 1}}
	reused := func(set []int) int {
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.request.segment.Adapters = set
		f, err := s.Fork() // which has the same set
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Logits(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
		return f.Usage().ReusedTokens
	}
	for _, set := range sets {
		if n := reused(set); n != 0 {
			t.Errorf("set %v finds %d tokens of other sets", set, n)
		}
	}
	for _, set := range append(sets, []int{1, 0}, []int{1, 1}) {
		if n := reused(set); n != 128 {
			t.Errorf("set %v finds %d of its 128 tokens", set, n)
		}
	}
}
