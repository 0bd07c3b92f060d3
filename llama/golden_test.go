package llama_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

// goldenCase is the part of case.json that tests need.
type goldenCase struct {
	Spec struct {
		DType string `json:"dtype"`
	} `json:"spec"`
}

// reference is input_ids [B,T] and logits [B,T,V] of a golden file.
type reference struct {
	ids    [][]int32
	logits [][]float32 // [B][T*V]
	vocab  int
}

func readReference(t *testing.T, path, key string) reference {
	t.Helper()
	all := golden.Safetensors(t, path)
	in, out := all["input_ids"], all[key]
	b, n, v := in.Shape[0], in.Shape[1], out.Shape[2]
	r := reference{vocab: v}
	for i := range b {
		ids := make([]int32, n)
		for j := range ids {
			ids[j] = int32(in.I64[i*n+j])
		}
		r.ids = append(r.ids, ids)
		r.logits = append(r.logits, out.F32[i*n*v:(i+1)*n*v])
	}
	return r
}

func open(t *testing.T, path string, o llama.Options) *llama.Model {
	t.Helper()
	m, err := llama.Open(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// session has room for what the model was trained for, and for the tests.
func session(t testing.TB, m *llama.Model) *llama.Session {
	t.Helper()
	n := max(m.Config().Context, 4096)
	if c := m.Config(); c.SlidingWindow > 0 || c.RopeScaling.Type == "longrope" {
		n = 0 // no more than the model is opened for
	}
	s, err := m.NewSession(llama.SessionOptions{Context: n})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// scoreAll returns the logits [T*V] after every position of ids.
func scoreAll(t testing.TB, s *llama.Session, ids []int32) []float32 {
	t.Helper()
	var all []float32
	err := s.Score(context.Background(), ids, func(pos int, logits []float32) { all = append(all, logits...) })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (r reference) compare(t *testing.T, m *llama.Model, tolerance float64) {
	t.Helper()
	if m.Config().Vocab != r.vocab {
		t.Fatalf("vocabulary of %d, want %d", m.Config().Vocab, r.vocab)
	}
	s := session(t, m)
	for i, ids := range r.ids {
		got := scoreAll(t, s, ids)
		if len(got) != len(r.logits[i]) {
			t.Fatalf("%d logits, want %d", len(got), len(r.logits[i]))
		}
		worst, at := golden.MaxRelative(got, r.logits[i])
		if !(worst <= tolerance) {
			t.Errorf("sequence %d: position %d, token %d: %.3g of the largest logit, want at most %.3g", i, at/r.vocab, at%r.vocab, worst, tolerance)
		}
	}
}

// formats lists what a case comes in, and the reference of each.
func formats(dir string) map[string]string {
	list := map[string]string{}
	for _, name := range []string{"hf", "model.gguf", "meta"} {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		ref := filepath.Join(dir, "logits.safetensors")
		if alt := filepath.Join(dir, "logits_meta_factor8.safetensors"); name == "meta" && exists(alt) {
			ref = alt
		}
		list[path] = ref
	}
	return list
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func TestGoldenModels(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*") {
		var c goldenCase
		golden.JSON(t, filepath.Join(dir, "case.json"), &c)
		auto := golden.Auto16Logits
		if c.Spec.DType == "f32" {
			auto = golden.F32Logits
		}
		for path, ref := range formats(dir) {
			for _, p := range []struct {
				precision llama.Precision
				tolerance float64
			}{{llama.PrecisionF32, golden.F32Logits}, {llama.PrecisionAuto, auto}} {
				t.Run(golden.Name(path)+"/"+p.precision.String(), func(t *testing.T) {
					m := open(t, path, llama.Options{Precision: p.precision})
					readReference(t, ref, "logits").compare(t, m, p.tolerance)
				})
			}
		}
	}
}

func TestGoldenQuantised(t *testing.T) {
	for _, path := range golden.Glob(t, "quant/models/*/*.gguf") {
		ref := filepath.Join(filepath.Dir(path), "logits.safetensors")
		key := strings.TrimSuffix(filepath.Base(path), ".gguf")
		for _, p := range []struct {
			precision llama.Precision
			tolerance float64
		}{{llama.PrecisionF32, golden.F32Logits}, {llama.PrecisionAuto, golden.AutoQuantLogits}} {
			t.Run(golden.Name(path)+"/"+p.precision.String(), func(t *testing.T) {
				m := open(t, path, llama.Options{Precision: p.precision})
				readReference(t, ref, key).compare(t, m, p.tolerance)
			})
		}
	}
}

// TestGoldenVariants runs every kernel variant of this machine on one model of
// each storage type.
func TestGoldenVariants(t *testing.T) {
	for _, variant := range []string{"generic", "avx2", "avx512"} {
		b, err := cpu.New(cpu.Options{Variant: variant})
		if err != nil {
			t.Run(variant, func(t *testing.T) { t.Skip(err) })
			continue
		}
		defer b.Close()
		for _, dir := range golden.Glob(t, "models/*") {
			t.Run(variant+"/"+golden.Name(dir), func(t *testing.T) {
				m := open(t, filepath.Join(dir, "model.gguf"), llama.Options{Backend: b, Precision: llama.PrecisionF32})
				readReference(t, filepath.Join(dir, "logits.safetensors"), "logits").compare(t, m, golden.F32Logits)
			})
		}
	}
}

func TestGoldenGreedy(t *testing.T) {
	for _, dir := range golden.Glob(t, "models/*") {
		var want struct{ Prompt, Tokens []int32 }
		golden.JSON(t, filepath.Join(dir, "greedy.json"), &want)
		for path := range formats(dir) {
			if filepath.Base(path) == "meta" && exists(filepath.Join(dir, "logits_meta_factor8.safetensors")) {
				continue // another scaling, another text
			}
			t.Run(golden.Name(path), func(t *testing.T) {
				s := session(t, open(t, path, llama.Options{Precision: llama.PrecisionF32}))
				var got []int32
				for tok, err := range s.GenerateIDs(context.Background(), want.Prompt, llama.GenerateOptions{MaxTokens: len(want.Tokens), IgnoreEOS: true}) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, tok.ID)
				}
				for i := range want.Tokens {
					if i >= len(got) || got[i] != want.Tokens[i] {
						t.Fatalf("token %d: got %v, want %v", i, got, want.Tokens)
					}
				}
			})
		}
	}
}
