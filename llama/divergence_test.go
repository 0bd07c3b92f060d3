package llama_test

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/quantize"
)

// probabilities are those of the token after each position of a chunk, in float64 by the
// definition.
func probabilities(t *testing.T, m *llama.Model, ids []int32) (p [][]float64) {
	t.Helper()
	err := session(t, m).Score(context.Background(), ids, func(_ int, logits []float32) {
		row, sum := make([]float64, len(logits)), 0.0
		for i, x := range logits {
			row[i] = math.Exp(float64(x))
			sum += row[i]
		}
		for i := range row {
			row[i] /= sum
		}
		p = append(p, row)
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestDivergence compares a model with itself made smaller, and every figure with one
// computed by its definition from the logits.
func TestDivergence(t *testing.T) {
	const size, chunks = 16, 6
	for _, dir := range golden.Glob(t, "models/*") {
		in := filepath.Join(dir, "model.gguf")
		tmp := t.TempDir()
		small, file := filepath.Join(tmp, "small.gguf"), filepath.Join(tmp, "base")
		_, err := llama.Quantize(context.Background(), in, small, llama.QuantizeOptions{Rules: quantize.Rules{Mix: quantize.Q4_0, Pure: true}})
		if err != nil {
			t.Fatal(err)
		}
		a, b := open(t, in, llama.Options{Precision: llama.PrecisionF32}), open(t, small, llama.Options{Precision: llama.PrecisionF32})
		ids := make([]int32, size*chunks+3)
		for i := range ids {
			ids[i] = int32(i * (i + 3) % a.Config().Vocab)
		}
		o := llama.PerplexityOptions{Context: size}
		p, err := a.SaveBase(context.Background(), ids, file, o)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := a.Perplexity(context.Background(), ids, o); err != nil || p.Tokens != want.Tokens || p.Chunks != want.Chunks || math.Abs(p.NLL-want.NLL) > 1e-5 {
			t.Errorf("SaveBase says %+v, Perplexity %+v, %v", p, want, err)
		}
		if same, err := a.Divergence(context.Background(), ids, file, o); err != nil || same.KL != 0 || same.SameTop != 1 || same.PPLRatio != 1 || same.DeltaPRMS != 0 {
			t.Errorf("of a model from itself: %+v, %v", same, err)
		}
		got, err := b.Divergence(context.Background(), ids, file, o)
		if err != nil {
			t.Fatal(err)
		}
		checkDivergence(t, got, divergence(t, a, b, ids, size, chunks))
		a.Close()
		b.Close()
	}
}

// divergence is the figures by their definitions.
func divergence(t *testing.T, a, b *llama.Model, ids []int32, size, chunks int) quantize.Divergence {
	t.Helper()
	var kl, nll, base, delta []float64
	same := 0.0
	for c := range chunks {
		chunk := slices.Clone(ids[c*size : (c+1)*size])
		if tok := a.Tokenizer(); tok.AddsBOS() {
			chunk[0], _ = tok.BOS()
		}
		p, q := probabilities(t, a, chunk), probabilities(t, b, chunk)
		for pos := size / 2; pos < size-1; pos++ {
			sum := 0.0
			for i := range p[pos] {
				sum += p[pos][i] * math.Log(p[pos][i]/q[pos][i])
			}
			kl = append(kl, sum)
			if slices.Index(p[pos], slices.Max(p[pos])) == slices.Index(q[pos], slices.Max(q[pos])) {
				same++
			}
			next := chunk[pos+1]
			base, nll = append(base, -math.Log(p[pos][next])), append(nll, -math.Log(q[pos][next]))
			delta = append(delta, q[pos][next]-p[pos][next])
		}
	}
	n := float64(len(kl))
	mean := func(f func(i int) float64) (sum float64) {
		for i := range kl {
			sum += f(i) / n
		}
		return sum
	}
	d := quantize.Divergence{Tokens: len(kl), Chunks: chunks, SameTop: same / n}
	d.KL = mean(func(i int) float64 { return kl[i] })
	d.KLError = math.Sqrt((mean(func(i int) float64 { return kl[i] * kl[i] }) - d.KL*d.KL) / (n - 1))
	d.NLL, d.BaseNLL = mean(func(i int) float64 { return nll[i] }), mean(func(i int) float64 { return base[i] })
	d.PPL, d.BasePPL = math.Exp(d.NLL), math.Exp(d.BaseNLL)
	d.PPLRatio = d.PPL / d.BasePPL
	square := mean(func(i int) float64 { return (nll[i] - base[i]) * (nll[i] - base[i]) })
	d.PPLRatioError = d.PPLRatio * math.Sqrt((square-math.Pow(d.NLL-d.BaseNLL, 2))/(n-1))
	d.SameTopError = math.Sqrt(d.SameTop * (1 - d.SameTop) / (n - 1))
	d.DeltaP = mean(func(i int) float64 { return delta[i] })
	d.DeltaPRMS = math.Sqrt(mean(func(i int) float64 { return delta[i] * delta[i] }))
	slices.Sort(kl)
	d.Percentiles = []quantize.Percentile{{Percent: 0, Value: kl[0]}, {Percent: 50, Value: (kl[(len(kl)-1)/2] + kl[len(kl)/2]) / 2}, {Percent: 100, Value: kl[len(kl)-1]}}
	return d
}

// checkDivergence: the base file holds float32, whose last place is 5e-7 of a
// log-probability of 10.
func checkDivergence(t *testing.T, got, want quantize.Divergence) {
	t.Helper()
	const tolerance = 2e-6
	for what, v := range map[string][2]float64{
		"tokens": {float64(got.Tokens), float64(want.Tokens)}, "chunks": {float64(got.Chunks), float64(want.Chunks)},
		"KL": {got.KL, want.KL}, "its error": {got.KLError, want.KLError},
		"NLL": {got.NLL, want.NLL}, "base NLL": {got.BaseNLL, want.BaseNLL},
		"PPL": {got.PPL / want.PPL, 1}, "base PPL": {got.BasePPL / want.BasePPL, 1},
		"PPL ratio": {got.PPLRatio, want.PPLRatio}, "its error ": {got.PPLRatioError, want.PPLRatioError},
		"same top": {got.SameTop, want.SameTop}, "its error  ": {got.SameTopError, want.SameTopError},
		"delta p": {got.DeltaP, want.DeltaP}, "delta p RMS": {got.DeltaPRMS, want.DeltaPRMS},
	} {
		if !(math.Abs(v[0]-v[1]) <= tolerance) {
			t.Errorf("%s is %v, want %v", what, v[0], v[1])
		}
	}
	for _, w := range want.Percentiles {
		i := slices.IndexFunc(got.Percentiles, func(p quantize.Percentile) bool { return p.Percent == w.Percent })
		if i < 0 || !(math.Abs(got.Percentiles[i].Value-w.Value) <= tolerance) {
			t.Errorf("percentile %v is %v, want %v", w.Percent, got.Percentiles, w.Value)
		}
	}
	if want.KL < 100*tolerance {
		t.Errorf("the models hardly differ: KL %v", want.KL)
	}
}

// TestDivergenceRefuses names what is wrong with a base file or its text.
func TestDivergenceRefuses(t *testing.T) {
	m := open(t, golden.Glob(t, "models/*/model.gguf")[0], llama.Options{})
	ids := make([]int32, 64)
	file := filepath.Join(t.TempDir(), "base")
	ctx, o := context.Background(), llama.PerplexityOptions{Context: 16}
	if _, err := m.SaveBase(ctx, ids, file, o); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other := slices.Clone(ids)
	other[20] = 5
	for says, err := range map[string]error{
		"token 20 is 0 there and 5 here": second(m.Divergence(ctx, other, file, o)),
		"text of 4 chunks, not 3":        second(m.Divergence(ctx, ids, file, llama.PerplexityOptions{Context: 16, Chunks: 3})),
		"chunks of 16 tokens, not 8":     second(m.Divergence(ctx, ids, file, llama.PerplexityOptions{Context: 8})),
		"cannot be opened":               second(m.Divergence(ctx, ids, file+"x", o)),
		"less than one chunk":            second(m.SaveBase(ctx, ids[:5], file+"x", o)),
		"no such file":                   second(m.SaveBase(ctx, ids, filepath.Join(file+"x", "y"), o)),
	} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	bad := file + ".bad"
	for n := 0; n < len(whole); n += 1 + n/8 {
		if err := os.WriteFile(bad, whole[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Divergence(ctx, ids, bad, o); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	damaged := slices.Clone(whole)
	damaged[len(damaged)-1] ^= 0x80 // a sign
	if err := os.WriteFile(bad, damaged, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Divergence(ctx, ids, bad, o); err == nil || !strings.Contains(err.Error(), "no log-probability") {
		t.Errorf("a positive log-probability: %v", err)
	}
	stopped, stop := context.WithCancel(ctx)
	o.Progress = func(int, int, llama.Perplexity) { stop() }
	if _, err := m.SaveBase(stopped, ids, file+".x", o); !errors.Is(err, context.Canceled) || exists(file+".x") {
		t.Errorf("after the end of the context: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
