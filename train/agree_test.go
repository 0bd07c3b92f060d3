package train_test

import (
	"math"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/tensor"
	"github.com/herd-ml/herd/train"
)

// agreeing are models to train, by what they are: float masters, and adapters on frozen
// matrices of several types.
func agreeing(t *testing.T) map[string]func(o llama.Options) *llama.Model {
	shape := llama.Config{Layers: 2, Dim: 256, Heads: 4, KVHeads: 2, HeadDim: 64, HiddenDim: 256, Vocab: 300, Context: 512,
		NormEps: 1e-5, RopeTheta: 10000}
	models := map[string]func(o llama.Options) *llama.Model{
		"masters": func(o llama.Options) *llama.Model {
			m, err := llama.New(t.Context(), shape, nil, llama.Init{Seed: 1, Std: 0.1}, o)
			if err != nil {
				t.Fatal(err)
			}
			return m
		},
	}
	types := []backend.DType{backend.F32, backend.F16, backend.BF16, backend.Q8_0, backend.Q4_K, backend.Q6_K}
	if testing.Short() {
		types = []backend.DType{backend.F32, backend.BF16, backend.Q4_K}
	}
	for _, typ := range types {
		for _, dora := range []bool{false, true} {
			name := "lora on "
			if dora {
				name = "dora on "
			}
			models[name+typ.String()] = func(o llama.Options) *llama.Model {
				m, err := llama.NewRandom(t.Context(), shape, typ, o)
				if err != nil {
					t.Fatal(err)
				}
				c := peft.Config{Rank: 4, Alpha: 8, DoRA: dora, Targets: []string{"q_proj", "k_proj", "gate_proj", "down_proj"}}
				if err := m.AddAdapter(t.Context(), c, 1); err != nil {
					t.Fatal(err)
				}
				return m
			}
		}
	}
	return models
}

// TestSamplerAndTrainer: the log-probabilities of a session of either precision are bit
// for bit those that the trainer's forward pass gives, with a tape and without one, before
// and after steps; and the losses of Step and Eval for a batch are the same bits.
func TestSamplerAndTrainer(t *testing.T) {
	const n, other = 300, 37 // more rows than go through a layer at once
	batch := train.Batch{Docs: []int{other, n}}
	for i := range other + n {
		batch.IDs = append(batch.IDs, int32(i*i*7%300))
	}
	for i := range batch.IDs {
		batch.Targets = append(batch.Targets, train.NoTarget)
		if i+1 < len(batch.IDs) && i+1 != other {
			batch.Targets[i] = batch.IDs[i+1]
		}
	}
	for name, open := range agreeing(t) {
		for _, precision := range []backend.Precision{backend.PrecisionF32, backend.PrecisionBF16} {
			t.Run(name+" "+precision.String(), func(t *testing.T) {
				m := open(llama.Options{Precision: precision, BatchRows: 101})
				defer m.Close()
				tr, err := train.NewTrainer(m, train.TrainerOptions{Precision: precision})
				if err != nil {
					t.Fatal(err)
				}
				defer tr.Close()
				for range 2 {
					// First, while no session has made packed copies of the weights.
					var want [2][]float32
					for i := range want {
						want[i] = logprobs(t, m, tr.Context(), &batch, i == 1)[other:]
					}
					s, err := m.NewSession(llama.SessionOptions{})
					if err != nil {
						t.Fatal(err)
					}
					got, err := s.Logprobs(t.Context(), batch.IDs[other:], 1)
					s.Close()
					if err != nil {
						t.Fatal(err)
					}
					compareDrawn(t, m, batch.IDs[other:other+70])
					for tape, want := range want {
						again := logprobs(t, m, tr.Context(), &batch, tape == 1)[other:] // with the copies
						for i, x := range got {
							if y := want[i]; math.Float32bits(x) != math.Float32bits(y) || math.Float32bits(again[i]) != math.Float32bits(y) {
								t.Fatalf("tape %v: position %d: a session has %v, the trainer %v, after the session %v", tape == 1, i+1, x, y, again[i])
							}
						}
					}
					nll, _, err := tr.Eval(t.Context(), []train.Batch{batch, batch})
					if err != nil {
						t.Fatal(err)
					}
					r, err := tr.Step(t.Context(), []train.Batch{batch, batch}, 1e-2)
					if err != nil {
						t.Fatal(err)
					}
					if r.NLL != nll || r.Loss != nll {
						t.Errorf("Eval gives %v, Step %v and a loss of %v", nll, r.NLL, r.Loss)
					}
				}
			})
		}
	}
}

// compareDrawn compares the log-probabilities of tokens that a session draws after a prompt,
// and of those beside them, with what Session.Logprobs gives for them: the same bits.
func compareDrawn(t *testing.T, m *llama.Model, prompt []int32) {
	t.Helper()
	s, err := m.NewSession(llama.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var drawn []llama.Token
	for token, err := range s.GenerateIDs(t.Context(), prompt, llama.GenerateOptions{
		MaxTokens: 3, IgnoreEOS: true, Logprobs: true, TopLogprobs: 2, Sampling: sample.Params{Temperature: 1, Seed: 5}}) {
		if err != nil {
			t.Fatal(err)
		}
		drawn = append(drawn, token)
	}
	prompt = slices.Clone(prompt)
	for i, token := range drawn {
		for _, alt := range append([]llama.Alt{{ID: token.ID, Logprob: token.Logprob}}, token.Top...) {
			out, err := s.Logprobs(t.Context(), append(slices.Clone(prompt), alt.ID), len(prompt))
			if err != nil {
				t.Fatal(err)
			}
			if len(token.Top) != 2 || math.Float32bits(out[0]) != math.Float32bits(alt.Logprob) {
				t.Errorf("token %d: id %d has %v when it is drawn, %v when it is scored", i, alt.ID, alt.Logprob, out[0])
			}
		}
		prompt = append(prompt, token.ID)
	}
}

// logprobs are those of a batch's targets in a forward pass of its documents.
func logprobs(t *testing.T, m *llama.Model, c *tensor.Context, b *train.Batch, tape bool) []float32 {
	t.Helper()
	out, h := make([]float32, len(b.IDs)), training(t, m)
	err := c.Step(t.Context(), backend.Documents(b.Docs...), h.KV(), func() error {
		if tape {
			c.Record(tensor.NewTape())
		}
		x, err := h.Forward(c, b.IDs, llama.ForwardOptions{})
		if err != nil {
			return err
		}
		_, logp, _ := tensor.CrossEntropy(c, x, h.Output(), tensor.Targets{IDs: b.Targets, Scale: 1})
		c.Read(out, logp)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// training is the handle of those who train a model.
func training(t testing.TB, m *llama.Model) *llama.Training {
	t.Helper()
	h, err := m.Training()
	if err != nil {
		t.Fatal(err)
	}
	return h
}
