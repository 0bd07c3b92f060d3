package llama_test

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

type scoredID struct {
	ID      int32   `json:"id"`
	Logprob float64 `json:"logprob"`
}

// TestRealModelLogprobs holds both precisions to the stored log-probabilities.
func TestRealModelLogprobs(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	file, dir := golden.RealModel(t)
	rows := golden.JSONLines[struct {
		ID   int32      `json:"id"`
		Next []scoredID `json:"next"`
	}](t, filepath.Join(dir, "score.jsonl"))
	var ids []int32
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	for _, precision := range []llama.Precision{llama.PrecisionF32, llama.PrecisionAuto} {
		t.Run(precision.String(), func(t *testing.T) {
			s := session(t, open(t, file, llama.Options{Precision: precision}))
			worst, sum, n, clear, right := 0.0, 0.0, 0, 0, 0
			err := s.Score(context.Background(), ids, func(pos int, logits []float32) {
				want := rows[pos].Next
				for _, w := range want {
					d := math.Abs(sample.Logprob(logits, w.ID) - w.Logprob)
					worst, sum, n = math.Max(worst, d), sum+d, n+1
				}
				if want[0].Logprob-want[1].Logprob > 0.3 {
					clear++
					if top := sample.TopLogprobs(nil, logits, 1); top[0].ID == want[0].ID {
						right++
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("worst %.2g, mean %.2g, best token %d of %d", worst, sum/float64(n), right, clear)
			if precision == llama.PrecisionF32 && worst > golden.RealLogprob {
				t.Errorf("worst difference %.3g, want at most %g", worst, golden.RealLogprob)
			}
			if float64(right) < 0.99*float64(clear) || sum/float64(n) > 0.10 {
				t.Errorf("best token at %d of %d, mean difference %.3f", right, clear, sum/float64(n))
			}
		})
	}
}

// vectors skips what takes minutes in portable code; the log-probabilities of
// the real model are compared there too.
func vectors(t *testing.T, m *llama.Model) {
	t.Helper()
	if d := m.Describe(); d.Variant == "generic" {
		t.Skip("long without vector kernels")
	}
}

func TestRealModelPerplexity(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	file, dir := golden.RealModel(t)
	var cases []struct {
		File        string
		Ctx, Chunks int
		Scored      int
		PPL         float64
	}
	golden.JSON(t, filepath.Join(dir, "perplexity.json"), &cases)
	m := open(t, file, llama.Options{})
	vectors(t, m)
	for _, c := range cases {
		t.Run(c.File, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(dir, c.File))
			if err != nil {
				t.Fatal(err)
			}
			ids, err := m.Tokenizer().Encode(string(text), tokenizer.EncodeOptions{})
			if err != nil {
				t.Fatal(err)
			}
			p, err := m.Perplexity(context.Background(), ids, llama.PerplexityOptions{Context: c.Ctx, Chunks: c.Chunks})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%.4f, want %.4f", p.PPL, c.PPL)
			if p.Tokens != c.Scored || p.Chunks != c.Chunks {
				t.Errorf("%d tokens in %d chunks, want %d in %d", p.Tokens, p.Chunks, c.Scored, c.Chunks)
			}
			if math.Abs(p.PPL/c.PPL-1) > golden.RealPerplexity {
				t.Errorf("perplexity %.4f, want %.4f", p.PPL, c.PPL)
			}
		})
	}
}

func TestRealModelGreedy(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	file, dir := golden.RealModel(t)
	var cases []struct {
		Prompt       string
		PromptTokens []int32 `json:"prompt_tokens"`
		Tokens       []int32
		Margins      []float64
	}
	golden.JSON(t, filepath.Join(dir, "greedy.json"), &cases)
	m := open(t, file, llama.Options{})
	vectors(t, m)
	for _, c := range cases {
		t.Run(strings.Fields(c.Prompt + " -")[0], func(t *testing.T) {
			ids, err := m.Encode(c.Prompt)
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.PromptTokens {
				if len(ids) != len(c.PromptTokens) || ids[i] != c.PromptTokens[i] {
					t.Fatalf("prompt ids %v, want %v", ids, c.PromptTokens)
				}
			}
			i := 0
			for tok, err := range session(t, m).Generate(context.Background(), c.Prompt, llama.GenerateOptions{MaxTokens: len(c.Tokens)}) {
				if err != nil {
					t.Fatal(err)
				}
				if tok.ID != c.Tokens[i] {
					if c.Margins[i] > 0.6 { // twice what 8-bit activations may turn
						t.Fatalf("token %d is %d, want %d by a margin of %.2f", i, tok.ID, c.Tokens[i], c.Margins[i])
					}
					return
				}
				i++
			}
			if i < len(c.Tokens) {
				t.Fatalf("%d tokens, want %d", i, len(c.Tokens))
			}
		})
	}
}
