package llama_test

import (
	"context"
	"errors"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/tensor"
)

// asFamily is a copy of a folder with other settings.
func asFamily(t *testing.T, base, family string, settings map[string]any) string {
	t.Helper()
	dir := copyFolder(t, base)
	all := map[string]any{"model_type": family}
	maps.Copy(all, settings)
	editJSON(t, filepath.Join(dir, "config.json"), all)
	return dir
}

// everyWay converts a folder to a GGUF file, and that back to a folder.
func everyWay(t *testing.T, dir string) (gguf, again string, warnings []string) {
	t.Helper()
	out := t.TempDir()
	gguf, again = filepath.Join(out, "a.gguf"), filepath.Join(out, "again")
	for _, s := range [][3]string{{dir, gguf, "gguf"}, {gguf, again, "safetensors"}} {
		w, ok := convert(t, s[0], s[1], s[2])
		if !ok {
			t.Fatalf("%s cannot be said in %s", s[0], s[2])
		}
		warnings = append(warnings, w...)
	}
	return gguf, again, warnings
}

// unbiased reports whether a model has no biases.
func unbiased(m *llama.Model) bool {
	c := m.Config()
	return !c.AttentionBias && !c.AttentionOutputBias && !c.MLPBias
}

// TestMistral: a Llama with a sliding window gives a Llama's numbers up to the window, and
// refuses to go beyond.
func TestMistral(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		llamas := open(t, base, llama.Options{})
		if !unbiased(llamas) {
			return // a Mistral has none
		}
		const window = 12
		dir := asFamily(t, base, "mistral", map[string]any{"sliding_window": window})
		m := equalLogits(t, "within the window", dir, base)
		if got := m.Config().SlidingWindow; got != window {
			t.Errorf("the window is %d", got)
		}
		warned(t, m, "the last 12 positions")
		if n := session(t, m).Context(); n != window {
			t.Errorf("a session has %d positions", n)
		}
		_, err := m.NewSession(llama.SessionOptions{Context: window + 1})
		if !errors.Is(err, llama.ErrUnsupported) || !strings.Contains(err.Error(), "last 12 positions") {
			t.Errorf("a longer session: %v", err)
		}
		if _, err := llama.Open(context.Background(), dir, llama.Options{Context: window + 1}); !errors.Is(err, llama.ErrUnsupported) {
			t.Errorf("a longer context: %v", err)
		}
		c, err := training(t, m).NewContext(tensor.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for n, want := range map[int]error{window: nil, window + 1: llama.ErrUnsupported} {
			err := c.Step(t.Context(), backend.Documents(3, n), training(t, m).KV(), func() error {
				_, err := training(t, m).Forward(c, randomIDs(m.Config(), 3+n), llama.ForwardOptions{})
				return err
			})
			if !errors.Is(err, want) {
				t.Errorf("a document of %d positions: %v", n, err)
			}
		}

		gguf, again, warnings := everyWay(t, dir)
		if !strings.Contains(strings.Join(warnings, "; "), "sliding_window is 12") {
			t.Errorf("warnings %q", warnings)
		}
		for _, path := range []string{gguf, again} {
			if got := open(t, path, llama.Options{}).Config(); got.SlidingWindow != window {
				t.Errorf("%s: the window is %d", path, got.SlidingWindow)
			}
		}
		var config map[string]any
		golden.JSON(t, filepath.Join(again, "config.json"), &config)
		if config["model_type"] != "mistral" || config["sliding_window"] != float64(window) || !slices.Equal(config["architectures"].([]any), []any{"MistralForCausalLM"}) {
			t.Errorf("written as %v of %v with a window of %v", config["model_type"], config["architectures"], config["sliding_window"])
		}
		if _, ok := convert(t, dir, filepath.Join(t.TempDir(), "meta"), "meta"); ok {
			t.Error("params.json has no window")
		}
	})
}

// TestMistralWindow: null is no window, and a missing one that of the class.
func TestMistralWindow(t *testing.T) {
	base := golden.Glob(t, "models/*/hf")[0]
	dir := asFamily(t, base, "mistral", nil)
	for text, want := range map[string]int{`{`: 4096, `{"sliding_window": null,`: 0, `{"sliding_window": 64.0,`: 64} {
		path := filepath.Join(dir, "config.json")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b := string(raw)
		write(t, path, text+strings.TrimPrefix(b, "{"))
		info, err := llama.ReadInfo(context.Background(), dir, llama.Options{})
		if err != nil || info.Config.SlidingWindow != want {
			t.Errorf("%s: a window of %d, want %d: %v", text, info.Config.SlidingWindow, want, err)
		}
		write(t, path, b)
	}
}

// granite makes two folders of one: with factors, and a Llama whose weights are multiplied
// by them. All are powers of two, so that both compute the same bits.
func granite(t *testing.T, base string) (factors, weights string, times map[string]float32) {
	t.Helper()
	const embedding, residual, scores, logits = 4, 0.5, 2, 8
	m := open(t, base, llama.Options{})
	times = map[string]float32{"embed_tokens.weight": embedding, "o_proj.weight": residual, "down_proj.weight": residual,
		"o_proj.bias": residual, "down_proj.bias": residual, "q_proj.weight": scores, "q_proj.bias": scores, headName: 1.0 / logits}
	factors = asFamily(t, base, "granite", map[string]any{"embedding_multiplier": embedding, "residual_multiplier": residual, "logits_scaling": logits,
		"attention_multiplier": float64(scores * float32(1/math.Sqrt(float64(m.Config().HeadDim)))), "tie_word_embeddings": false})
	weights = copyFolder(t, base)
	editJSON(t, filepath.Join(weights, "config.json"), map[string]any{"tie_word_embeddings": false})
	for dir, change := range map[string]bool{factors: false, weights: true} {
		rewrite(t, dir, func(list []safetensors.Source) []safetensors.Source {
			if find(list, headName) < 0 {
				head := list[find(list, embedName)]
				head.Name = headName
				list = append(list, head)
			}
			for i, s := range list {
				name := s.Name
				if f := factorOf(times, name); change && f != 1 {
					list[i] = scaled(t, s, f)
				} else {
					list[i] = scaled(t, s, 1) // F32 both
				}
				list[i].Name = name
			}
			return list
		})
	}
	return factors, weights, times
}

// factorOf is the factor of a parameter by the end of its name.
func factorOf(times map[string]float32, name string) float32 {
	for end, f := range times {
		if strings.HasSuffix(name, end) {
			return f
		}
	}
	return 1
}

// TestGranite: the factors of embeddings, layers, scores and logits do what multiplying
// the weights by them does: in logits, decoded one by one too, log-probabilities and
// gradients, bit for bit; through conversion and back.
func TestGranite(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		if c := open(t, base, llama.Options{}).Config(); c.AttentionBias != c.AttentionOutputBias {
			return
		}
		factors, weights, times := granite(t, base)
		m := equalLogits(t, "factors", factors, weights)
		other := open(t, weights, llama.Options{Precision: llama.PrecisionF32})
		ids := randomIDs(m.Config(), 9)
		a, b := collect(t, session(t, m), ids, llama.GenerateOptions{MaxTokens: 12, IgnoreEOS: true}), collect(t, session(t, other), ids, llama.GenerateOptions{MaxTokens: 12, IgnoreEOS: true})
		if !slices.Equal(a, b) {
			t.Errorf("generated %v, want %v", a, b)
		}
		p, errP := session(t, m).Logprobs(t.Context(), ids, 1)
		q, errQ := session(t, other).Logprobs(t.Context(), ids, 1)
		if errP != nil || errQ != nil || !slices.Equal(p, q) {
			t.Errorf("log-probabilities %v (%v), want %v (%v)", p, errP, q, errQ)
		}
		got, want := gradients(t, factors, ids), gradients(t, weights, ids)
		for name, g := range got {
			f := factorOf(times, name)
			if name == headName {
				f = 1 // Forward ends before the output layer
			}
			for i := range g {
				if w := want[name][i] * f; g[i] != w {
					t.Errorf("gradient %d of %s is %v, want %v", i, name, g[i], w)
					break
				}
			}
		}

		gguf, again, _ := everyWay(t, factors)
		for _, path := range []string{gguf, again} {
			if got, want := open(t, path, llama.Options{}).Config(), m.Config(); got.EmbeddingScale != want.EmbeddingScale || got.ResidualScale != want.ResidualScale ||
				float32(got.AttentionScale) != float32(want.AttentionScale) || got.LogitsScale != want.LogitsScale {
				t.Errorf("%s: %+v, want %+v", path, got, want)
			}
			near(t, path, scoreAll(t, session(t, open(t, path, llama.Options{Precision: llama.PrecisionF32})), ids), scoreAll(t, session(t, m), ids), golden.F32Logits/10)
		}
		info, err := llama.ReadInfo(context.Background(), gguf, llama.Options{})
		if err != nil || info.Architecture != "granite" {
			t.Errorf("the file's architecture is %q: %v", info.Architecture, err)
		}
		if _, ok := convert(t, factors, filepath.Join(t.TempDir(), "meta"), "meta"); ok {
			t.Error("params.json has no factors")
		}
	})
}

// gradients are those of all parameters for a made up gradient of the states that logits
// are made of.
func gradients(t *testing.T, path string, ids []int32) map[string][]float32 {
	t.Helper()
	m := open(t, path, llama.Options{Trainable: true})
	c, err := training(t, m).NewContext(tensor.Options{Precision: backend.PrecisionF32})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all := map[string][]float32{}
	for _, p := range training(t, m).Params() {
		buf, err := training(t, m).Backend().Alloc(4 * int64(p.Param.Shape.Elems()))
		if err != nil {
			t.Fatal(err)
		}
		defer buf.Free()
		all[p.Name] = make([]float32, p.Param.Shape.Elems())
		p.Param.BindGrad(backend.Contiguous(buf, backend.F32, 0, p.Param.Shape))
		if err := tensor.Upload(training(t, m).Backend(), p.Param.Grad(), all[p.Name]); err != nil {
			t.Fatal(err)
		}
		defer p.Param.BindGrad(backend.View{})
	}
	layout := backend.Documents(len(ids))
	layout.Logits = nil
	for i := range ids {
		layout.Logits = append(layout.Logits, int32(i))
	}
	err = c.Step(t.Context(), layout, training(t, m).KV(), func() error {
		tape := tensor.NewTape()
		c.Record(tape)
		y, err := training(t, m).Forward(c, ids, llama.ForwardOptions{Checkpoint: true})
		if err != nil {
			return err
		}
		dy := make([]float32, y.Shape().Elems())
		for i := range dy {
			dy[i] = float32(math.Sin(float64(i)))
			if m.Config().LogitsScale == 0 { // what the other model's factor makes of it
				dy[i] /= 8
			}
		}
		up := c.New(backend.F32, y.Shape())
		c.Write(up, dy)
		tape.Backward(tensor.Seed{Y: y, DY: up})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range training(t, m).Params() {
		if err := tensor.Download(training(t, m).Backend(), all[p.Name], p.Param.Grad()); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestQwen2: biases on q, k and v alone have a name in config.json.
func TestQwen2(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		if !open(t, base, llama.Options{}).Config().AttentionBias {
			return
		}
		dir := asFamily(t, base, "qwen2", nil)
		rewrite(t, dir, func(list []safetensors.Source) []safetensors.Source {
			return slices.DeleteFunc(list, func(s safetensors.Source) bool {
				return strings.HasSuffix(s.Name, ".bias") && (strings.Contains(s.Name, "o_proj") || strings.Contains(s.Name, "mlp"))
			})
		})
		gguf, again, _ := everyWay(t, dir)
		ids := randomIDs(open(t, dir, llama.Options{}).Config(), 8)
		want, _ := logitsOf(t, dir, ids)
		for _, path := range []string{gguf, again} {
			got, m := logitsOf(t, path, ids)
			near(t, path, got, want, golden.F32Logits/10)
			if c := m.Config(); !c.AttentionBias || c.AttentionOutputBias {
				t.Errorf("%s: %+v", path, c)
			}
		}
	})
}

// TestLongRopeModel: yarn and longrope come through conversion with the same logits, and
// longrope's factors are those of the context that the model is opened for.
func TestLongRopeModel(t *testing.T) {
	base := golden.Glob(t, "models/*/hf")[0]
	c := open(t, base, llama.Options{}).Config()
	short, long := make([]float64, c.HeadDim/2), make([]float64, c.HeadDim/2)
	for i := range short {
		short[i], long[i] = 1+float64(i)/8, 1+float64(i)
	}
	const original = 16
	yarn := map[string]any{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": original}
	other := map[string]any{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": original, "attention_factor": 1.5, "beta_fast": 8.0, "beta_slow": 2.0}
	longrope := map[string]any{"rope_type": "longrope", "original_max_position_embeddings": original, "short_factor": short, "long_factor": long}
	var last []float32
	for _, s := range []struct {
		what    string
		scaling map[string]any
		context int
	}{{"yarn", yarn, 64}, {"yarn with all settings", other, 64}, {"longrope, short", longrope, original}, {"longrope, long", longrope, 64}} {
		dir := asFamily(t, base, "llama", map[string]any{"rope_scaling": s.scaling, "rope_parameters": nil, "max_position_embeddings": 64})
		gguf, again, _ := everyWay(t, dir)
		o := llama.Options{Precision: llama.PrecisionF32, Context: s.context}
		m := open(t, dir, o)
		ids := randomIDs(m.Config(), 15)
		want := scoreAll(t, session(t, m), ids)
		if slices.Equal(want, last) {
			t.Errorf("%s: the same logits as before", s.what)
		}
		last = want
		for _, path := range []string{gguf, again} {
			// Factors of the rotation are float32 in GGUF.
			near(t, s.what+" "+path, scoreAll(t, session(t, open(t, path, o)), ids), want, golden.F32Logits/10)
		}
		if _, err := m.NewSession(llama.SessionOptions{Context: 64}); (s.context == 64) != (err == nil) {
			t.Errorf("%s: a session of 64 positions: %v", s.what, err)
		}
		if _, ok := convert(t, dir, filepath.Join(t.TempDir(), "meta"), "meta"); ok {
			t.Errorf("%s: params.json has none", s.what)
		}
	}
	yarn["truncate"] = false
	dir := asFamily(t, base, "llama", map[string]any{"rope_scaling": yarn, "rope_parameters": nil})
	if _, ok := convert(t, dir, filepath.Join(t.TempDir(), "a.gguf"), "gguf"); ok {
		t.Error("GGUF has no yarn without truncation")
	}
}

// TestOtherFamilies: what is no Llama is refused by name, with what it would need.
func TestOtherFamilies(t *testing.T) {
	base := golden.Glob(t, "models/*/hf")[0]
	for family, want := range map[string]string{"qwen3": "norms of queries and keys", "mixtral": "experts", "gemma2": "GELU", "phi3": "one matrix for q, k and v",
		"exaone": "names of tensors", "some-model": "llama, mistral, qwen2 and granite"} {
		refused(t, asFamily(t, base, family, nil), family, want)
	}
	refused(t, asFamily(t, base, "qwen2", map[string]any{"use_sliding_window": true}), "use_sliding_window")
	refused(t, asFamily(t, base, "granite", map[string]any{"residual_multiplier": -1}), "ResidualScale is -1")
}
