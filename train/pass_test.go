package train_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/nn"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// small is the shape of the models of these tests.
var small = llama.Config{Layers: 2, Dim: 32, Heads: 2, KVHeads: 1, HeadDim: 16, HiddenDim: 48, Vocab: 50, Context: 64,
	NormEps: 1e-5, RopeTheta: 10000}

// adapted is a model with an adapter that is no longer the identity.
func adapted(t *testing.T) *llama.Model {
	t.Helper()
	m, err := llama.NewRandom(t.Context(), small, backend.F32, llama.Options{Precision: llama.PrecisionF32})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.AddAdapter(t.Context(), peft.Config{Rank: 2, Alpha: 4, Targets: []string{"q_proj", "down_proj"}}, 1); err != nil {
		t.Fatal(err)
	}
	tr, err := train.NewTrainer(m, train.TrainerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	b := train.Batch{IDs: []int32{3, 1, 4, 1, 5, 9, 2, 6}, Targets: []int32{1, 4, 1, 5, 9, 2, 6, train.NoTarget}, Docs: []int{8}}
	for range 4 {
		if _, err := tr.Step(t.Context(), []train.Batch{b}, 1e-2); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// TestReference: rows of the policy, of the reference without the adapter, and of the policy
// again in one pass have the bits of passes of their own; and the reference's loss leaves no
// gradient, the policy's that of its own pass.
func TestReference(t *testing.T) {
	m := adapted(t)
	set, ok := training(t, m).Adapted()
	if !ok {
		t.Fatal("no adapter")
	}
	tr, err := train.NewTrainer(m, train.TrainerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	docs, ids := []int{4, 4, 3}, []int32{3, 1, 4, 1, 3, 1, 4, 1, 5, 9, 2}
	pass := func(docs []int, ids []int32, sets [][]int, weights []float32) (out []float32) {
		l := backend.Documents(docs...)
		for i := range l.Segments {
			l.Segments[i].Adapters = sets[i]
		}
		if err := tr.ZeroGrad(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := tr.Run(t.Context(), train.Pass{IDs: ids, Layout: l, Loss: func(c *tensor.Context, h *tensor.Tensor) ([]tensor.Seed, error) {
			logp, _ := tensor.LogProb(c, h, ids, tr.Output())
			out = make([]float32, len(ids))
			c.Read(out, logp)
			dy := c.New(backend.F32, logp.Shape())
			c.Write(dy, weights)
			return []tensor.Seed{{Y: logp, DY: dy}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	gradients := func() (all []byte) {
		for _, p := range tr.Params() {
			raw := make([]byte, 4*p.Param.Shape.Elems())
			if _, err := tensor.Reader(training(t, m).Backend(), p.Param.Grad()).ReadAt(raw, 0); err != nil {
				t.Fatal(err)
			}
			all = append(all, raw...)
		}
		return all
	}
	ones := func(n int) []float32 { return slices.Repeat([]float32{1}, n) }
	sets := [][]int{{set}, {}, nil}
	all := pass(docs, ids, sets, ones(len(ids)))
	if slices.Equal(all[:4], all[4:8]) {
		t.Fatal("the adapter changes nothing")
	}
	at := 0
	for i, n := range docs {
		own := pass(docs[i:i+1], ids[at:at+n], sets[i:i+1], ones(n))
		for j, x := range own {
			if math.Float32bits(x) != math.Float32bits(all[at+j]) {
				t.Errorf("document %d, row %d: %v in one pass, %v alone", i, j, all[at+j], x)
			}
		}
		at += n
	}
	pass(docs[:1], ids[:4], sets[:1], ones(4))
	policy := gradients()
	pass(docs[:2], ids[:8], sets[:2], ones(8))
	if !bytes.Equal(policy, gradients()) {
		t.Error("rows of the reference change the gradients")
	}
}

// head is a parameter of the caller's own, with its memory.
func head(t *testing.T, m *llama.Model) []nn.Named {
	t.Helper()
	b, l := training(t, m).Backend(), nn.NewLinear(small.Dim, 1, true)
	var list []nn.Named
	for _, p := range nn.Params(l) {
		buf, err := b.Alloc(4 * int64(p.Param.Shape.Elems()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(buf.Free)
		v := backend.Contiguous(buf, backend.F32, 0, p.Param.Shape)
		if p.Param.Matrix() {
			w, err := b.Float("head", v)
			if err != nil {
				t.Fatal(err)
			}
			p.Param.BindMatrix(w, v)
		} else {
			p.Param.BindValue(v)
		}
		list = append(list, nn.Named{Name: "reward." + p.Name, Param: p.Param})
	}
	return list
}

// TestRewardHead: a head of the caller's own learns to tell two texts apart beside the
// adapter, and a run that is saved and loaded halfway ends with the same bytes.
func TestRewardHead(t *testing.T) {
	step := func(tr *train.Trainer, h []nn.Named) (reward []float32) {
		l := backend.Documents(3, 3)
		l.Logits = []int32{2, 5} // the last of each
		if err := tr.ZeroGrad(t.Context()); err != nil {
			t.Fatal(err)
		}
		err := tr.Run(t.Context(), train.Pass{IDs: []int32{1, 2, 3, 1, 2, 4}, Layout: l, Loss: func(c *tensor.Context, x *tensor.Tensor) ([]tensor.Seed, error) {
			y := tensor.AddTo(c, tensor.MatMul(c, x, h[0].Param), h[1].Param.Value())
			reward = make([]float32, 2)
			c.Read(reward, y)
			dy := c.New(backend.F32, y.Shape())
			c.Write(dy, []float32{reward[0] - 1, reward[1] + 1}) // of half the squared distance to 1 and -1
			return []tensor.Seed{{Y: y, DY: dy}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Update(t.Context(), 2e-2); err != nil {
			t.Fatal(err)
		}
		return reward
	}
	run := func(half bool) (reward []float32, dir string) {
		m, h := adapted(t), []nn.Named(nil)
		h = head(t, m)
		tr, err := train.NewTrainer(m, train.TrainerOptions{Extra: h})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			if half && i == 20 {
				saved := filepath.Join(t.TempDir(), "half")
				if err := tr.Save(t.Context(), saved); err != nil {
					t.Fatal(err)
				}
				tr.Close()
				if m, err = llama.NewRandom(t.Context(), small, backend.F32, llama.Options{}); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { m.Close() })
				if err := m.LoadAdapter(t.Context(), saved); err != nil {
					t.Fatal(err)
				}
				h = head(t, m)
				if tr, err = train.NewTrainer(m, train.TrainerOptions{Extra: h}); err != nil {
					t.Fatal(err)
				}
				if err := tr.Load(t.Context(), saved); err != nil {
					t.Fatal(err)
				}
			}
			reward = step(tr, h)
		}
		defer tr.Close()
		dir = filepath.Join(t.TempDir(), "end")
		if err := tr.Save(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		return reward, dir
	}
	reward, whole := run(false)
	if math.Abs(float64(reward[0]-1)) > 0.1 || math.Abs(float64(reward[1]+1)) > 0.1 {
		t.Errorf("rewards are %v, want 1 and -1", reward)
	}
	_, resumed := run(true)
	sameFiles(t, "resumed", whole, resumed)
	if _, err := os.Stat(filepath.Join(whole, "extra.safetensors")); err != nil {
		t.Error(err)
	}
}

// TestClosed: what is called after Close returns an error, and a trainer of a closed model
// leaves the workers to others.
func TestClosed(t *testing.T) {
	b := train.Batch{IDs: []int32{1, 2}, Targets: []int32{2, train.NoTarget}, Docs: []int{2}}
	calls := func(tr *train.Trainer) map[string]error {
		_, step := tr.Step(t.Context(), []train.Batch{b}, 1)
		_, _, eval := tr.Eval(t.Context(), []train.Batch{b})
		_, update := tr.Update(t.Context(), 1)
		run := tr.Run(t.Context(), train.Pass{IDs: b.IDs, Layout: backend.Documents(2), Loss: func(*tensor.Context, *tensor.Tensor) ([]tensor.Seed, error) { return nil, nil }})
		return map[string]error{"Step": step, "Eval": eval, "Update": update, "Run": run, "ZeroGrad": tr.ZeroGrad(t.Context()),
			"Save": tr.Save(t.Context(), filepath.Join(t.TempDir(), "x")), "Load": tr.Load(t.Context(), t.TempDir())}
	}
	m := adapted(t)
	tr, err := train.NewTrainer(m, train.TrainerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tr.Close()
	tr.Close()
	for name, err := range calls(tr) {
		if !errors.Is(err, train.ErrClosed) {
			t.Errorf("%s of a closed trainer: %v", name, err)
		}
	}
	if tr, err = train.NewTrainer(m, train.TrainerOptions{}); err != nil {
		t.Fatal(err)
	}
	m.Close()
	for name, err := range calls(tr) {
		if !errors.Is(err, llama.ErrClosed) {
			t.Errorf("%s of a closed model: %v", name, err)
		}
	}
	tr.Close()
	if _, err := train.NewTrainer(m, train.TrainerOptions{}); !errors.Is(err, llama.ErrClosed) {
		t.Errorf("NewTrainer of a closed model: %v", err)
	}
	other := adapted(t) // runs steps on the same workers
	s, err := other.NewSession(llama.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Logits(context.Background(), []int32{1}); err != nil {
		t.Error(err)
	}
}
