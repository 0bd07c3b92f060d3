package llama

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/block"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
)

// TestNewAdapters: new adapters change nothing, and what is written of them is
// what is read.
func TestNewAdapters(t *testing.T) {
	for _, path := range golden.Glob(t, "train/*/config.json") {
		for _, c := range []peft.Config{
			{Rank: 4, Alpha: 8, Targets: []string{"q_proj", "down_proj"}},
			{Rank: 2, Alpha: 2, RSLoRA: true, DoRA: true, TargetPattern: "all-linear", Ranks: []peft.Override{{Pattern: "k_proj", Value: 3}}},
		} {
			m, err := Open(context.Background(), filepath.Dir(path), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			score := func(m *Model) (all []float32) {
				s, err := m.NewSession(SessionOptions{})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if err := s.Score(context.Background(), []int32{3, 1, 4, 1, 5, 9}, func(_ int, x []float32) { all = append(all, x...) }); err != nil {
					t.Fatal(err)
				}
				return all
			}
			want := score(m)
			list, err := m.net.newAdapters(c)
			if err != nil {
				t.Fatal(err)
			}
			if perLayer := map[bool]int{false: 2, true: 7}[c.DoRA]; len(list) != perLayer*m.config.Layers {
				t.Errorf("%d adapters", len(list))
			}
			numbers := map[*tensor.Param][]float32{}
			for i, a := range list {
				numbers[a.lora.A], numbers[a.lora.B], numbers[a.lora.Magnitude] = a.lora.Initial(7, uint64(i), a.linear.Weight.Weight())
				for _, p := range []*tensor.Param{a.lora.A, a.lora.B, a.lora.Magnitude, a.lora.InverseNorm} {
					bindNumbers(t, p, numbers[p])
				}
			}
			if err := nn.Refresh(context.Background(), m.b, m.net); err != nil {
				t.Fatal(err)
			}
			if worst, _ := golden.MaxRelative(score(m), want); worst > 1e-6 {
				t.Errorf("fresh adapters change logits by %v", worst)
			}
			dir := t.TempDir()
			read := func(p *tensor.Param) []float32 { return numbers[p] }
			if err := peft.Write(dir, c, adapterModules(list, read)); err != nil {
				t.Fatal(err)
			}
			back, err := Open(context.Background(), filepath.Dir(path), Options{Adapters: []Adapter{{Path: dir}}})
			if err != nil {
				t.Fatal(err)
			}
			defer back.Close()
			if worst, _ := golden.MaxRelative(score(back), want); worst > 1e-6 {
				t.Errorf("adapters that were written change logits by %v", worst)
			}
			if !slices.Equal(score(back), score(m)) {
				t.Error("other bits than in training")
			}
		}
		net := newTransformer(Config135M())
		for want, c := range map[string]peft.Config{"dropout": {Rank: 1, Alpha: 1, Dropout: 0.1}, "no_proj": {Rank: 1, Alpha: 1, Targets: []string{"no_proj"}}, "r is 0": {}} {
			if _, err := net.newAdapters(c); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", want, err)
			}
		}
	}
}

// bindNumbers gives a parameter numbers that may change; nil is zeros.
func bindNumbers(t *testing.T, p *tensor.Param, values []float32) {
	t.Helper()
	if p == nil {
		return
	}
	b := cpu.Default()
	buf, err := b.Alloc(int64(4 * p.Shape.Elems()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(buf.Free)
	if values != nil {
		block.Encode(backend.F32, buf.Bytes()[:4*len(values)], values)
	}
	v := backend.Contiguous(buf, backend.F32, 0, p.Shape)
	if !p.Matrix() {
		p.BindValue(v)
		return
	}
	w, err := b.Float("w", v)
	if err != nil {
		t.Fatal(err)
	}
	p.BindWeight(w)
}

// TestAdapterScratch: as TestScratch, with adapters on every matrix.
func TestAdapterScratch(t *testing.T) {
	for _, dora := range []bool{false, true} {
		config := Config135M()
		config.Layers, config.Vocab = 2, 320
		net := newTransformer(config)
		c := peft.Config{Rank: 32, Alpha: 24, DoRA: dora, TargetPattern: "all-linear"}
		list, err := net.newAdapters(c)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		zeros := func(p *tensor.Param) []float32 { return make([]float32, p.Shape.Elems()) }
		if err := peft.Write(dir, c, adapterModules(list, zeros)); err != nil {
			t.Fatal(err)
		}
		m, err := NewRandom(context.Background(), config, backend.Q8_0, Options{Adapters: []Adapter{{Path: dir}}})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		s, err := m.NewSession(SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Score(context.Background(), make([]int32, 600), func(int, []float32) {}); err != nil {
			t.Fatal(err)
		}
		used, most, weights := m.cx.Scratch(), m.Memory().Scratch, int64(0)
		for _, w := range m.loader.weights {
			weights += w.Bytes()
		}
		t.Logf("%d of %d bytes of scratch, %d of %d of matrices", used, most, weights, m.Memory().Weights)
		if used > most*3/2 || used < most/2 || weights > m.Memory().Weights {
			t.Errorf("a step takes %d bytes, %d were estimated; matrices %d of %d", used, most, weights, m.Memory().Weights)
		}
	}
}
