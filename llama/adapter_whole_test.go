package llama_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/peft"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/tensor"
)

// The tests below are of adapters that change more than linear layers by low-rank
// products. What comes out is compared with the model whose numbers were changed by hand.

// numbers are small random ones.
func numbers(seed uint64, n int) []float32 {
	rng := rand.New(rand.NewPCG(seed, 7))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64()) / 8
	}
	return x
}

// adapterFolder writes an adapter with tensors as PEFT names them, without the prefix.
func adapterFolder(t *testing.T, settings map[string]any, tensors map[string]safetensors.Source) string {
	t.Helper()
	all := map[string]any{"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": []string{"q_proj"}}
	maps.Copy(all, settings)
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var list []safetensors.Source
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		s := tensors[name]
		s.Name = "base_model.model." + name
		list = append(list, s)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, list, nil); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "adapter_config.json"), string(text))
	write(t, filepath.Join(dir, "adapter_model.safetensors"), b.String())
	return dir
}

// edited is a copy of a folder with tensors changed; a tied one has both matrices of the
// vocabulary then.
func edited(t *testing.T, base string, settings map[string]any, change map[string]func(x []float32, cols int) []float32) string {
	t.Helper()
	dir := copyFolder(t, base)
	editJSON(t, filepath.Join(dir, "config.json"), settings)
	rewrite(t, dir, func(list []safetensors.Source) []safetensors.Source {
		if find(list, headName) < 0 {
			head := list[find(list, embedName)]
			head.Name = headName
			list = append(list, head)
		}
		for name, f := range change {
			i := find(list, name)
			x, err := peft.Read(list[i])
			if err != nil {
				t.Fatal(err)
			}
			cols := 1
			if len(list[i].Shape) == 2 {
				cols = list[i].Shape[1]
			}
			x = f(x, cols)
			shape := slices.Clone(list[i].Shape)
			shape[0] = len(x) / cols
			list[i] = peft.Tensor(x, shape...)
			list[i].Name = name
		}
		return list
	})
	return dir
}

// changed compares the model with adapters, and its merged copies, with a folder that was
// edited by hand. It returns the warnings of the first conversion.
func changed(t *testing.T, base, want string, adapters ...string) (warnings string) {
	t.Helper()
	o := llama.Options{Precision: llama.PrecisionF32}
	for _, path := range adapters {
		o.Adapters = append(o.Adapters, llama.Adapter{Path: path})
	}
	hand := open(t, want, llama.Options{Precision: llama.PrecisionF32})
	ids := randomIDs(hand.Config(), 9)
	exact := scoreAll(t, session(t, hand), ids)
	plain, _ := logitsOf(t, base, randomIDs(open(t, base, llama.Options{}).Config(), 9))
	if slices.Equal(plain, exact) {
		t.Error("changes nothing")
	}
	m := open(t, base, o)
	near(t, "at run time", scoreAll(t, session(t, m), ids), exact, golden.F32Logits/4)
	for _, to := range []string{"safetensors", "gguf"} {
		out := filepath.Join(t.TempDir(), "out.gguf")
		report, err := llama.Convert(context.Background(), base, out, llama.ConvertOptions{To: to, Type: backend.F32, Adapters: o.Adapters})
		if err != nil {
			t.Fatal(err)
		}
		warnings += strings.Join(report.Warnings, "; ")
		near(t, "merged to "+to, scoreAll(t, session(t, open(t, out, llama.Options{Precision: llama.PrecisionF32})), ids), exact, golden.F32Logits/4)
	}
	return warnings
}

// addProduct adds s B A, or its transpose, to a matrix.
func addProduct(a, b []float32, r int, s float64, transpose bool) func(x []float32, cols int) []float32 {
	return func(x []float32, cols int) []float32 {
		rows := len(x) / cols
		for i := range rows {
			for k := range cols {
				out, in, width := i, k, cols
				if transpose {
					out, in, width = k, i, rows
				}
				sum := 0.0
				for j := range r {
					sum += float64(b[out*r+j]) * float64(a[j*width+in])
				}
				x[i*cols+k] = float32(float64(x[i*cols+k]) + s*sum)
			}
		}
		return x
	}
}

// TestAdapterVocabulary: low-rank changes of the embedding and of the output layer, tied or
// not, alone and together.
func TestAdapterVocabulary(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		c := open(t, base, llama.Options{}).Config()
		ea, eb := numbers(1, 2*c.Vocab), numbers(2, c.Dim*2)
		ha, hb := numbers(3, 2*c.Dim), numbers(4, c.Vocab*2)
		tensors := map[string]safetensors.Source{
			"model.embed_tokens.lora_embedding_A": peft.Tensor(ea, 2, c.Vocab), "model.embed_tokens.lora_embedding_B": peft.Tensor(eb, c.Dim, 2),
			"lm_head.lora_A.weight": peft.Tensor(ha, 2, c.Dim), "lm_head.lora_B.weight": peft.Tensor(hb, c.Vocab, 2),
		}
		untied := map[string]any{"tie_word_embeddings": false}
		embed, head := addProduct(ea, eb, 2, 1.5, true), addProduct(ha, hb, 2, 1.5, false)
		for targets, change := range map[string]map[string]func([]float32, int) []float32{
			"embed_tokens": {embedName: embed}, "lm_head": {headName: head}, "embed_tokens lm_head": {embedName: embed, headName: head},
		} {
			part := maps.Clone(tensors)
			maps.DeleteFunc(part, func(name string, _ safetensors.Source) bool {
				return !strings.Contains(targets, strings.Split(strings.TrimPrefix(name, "model."), ".")[0])
			})
			adapter := adapterFolder(t, map[string]any{"target_modules": strings.Fields(targets)}, part)
			warnings := changed(t, base, edited(t, base, untied, change), adapter)
			if c.TiedEmbeddings != strings.Contains(warnings, "no longer tied") {
				t.Errorf("%s: tied %v, warnings %q", targets, c.TiedEmbeddings, warnings)
			}
		}
	})
}

// TestAdapterEmbeddingRows: rows of a step without the adapter look up the model's own
// embedding, those with it the changed one.
func TestAdapterEmbeddingRows(t *testing.T) {
	base := golden.Glob(t, "models/*/hf")[0]
	c := open(t, base, llama.Options{}).Config()
	adapter := adapterFolder(t, map[string]any{"target_modules": []string{"embed_tokens"}}, map[string]safetensors.Source{
		"model.embed_tokens.lora_embedding_A": peft.Tensor(numbers(1, 2*c.Vocab), 2, c.Vocab), "model.embed_tokens.lora_embedding_B": peft.Tensor(numbers(2, c.Dim*2), c.Dim, 2)})
	m := open(t, base, llama.Options{Adapters: []llama.Adapter{{Path: adapter}}})
	ids := randomIDs(c, 5)
	run := func(sets ...[]int) (out []float32) {
		l := backend.Documents(slices.Repeat([]int{5}, len(sets))...)
		for i, s := range sets {
			l.Segments[i].Adapters = s
		}
		l.Logits = nil
		for i := range 5 * len(sets) {
			l.Logits = append(l.Logits, int32(i))
		}
		cx, err := training(t, m).NewContext(tensor.Options{Precision: backend.PrecisionF32})
		if err != nil {
			t.Fatal(err)
		}
		defer cx.Close()
		err = cx.Step(t.Context(), l, training(t, m).KV(), func() error {
			h, err := training(t, m).Forward(cx, slices.Repeat(ids, len(sets)), llama.ForwardOptions{})
			if err == nil {
				out = make([]float32, h.Shape().Elems())
				cx.Read(out, h)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	with, without := run(nil), run([]int{})
	if slices.Equal(with, without) {
		t.Fatal("the adapter changes nothing")
	}
	if got := run([]int{}, nil, []int{0}, []int{}); !slices.Equal(got, slices.Concat(without, with, with, without)) {
		t.Error("rows of a mixed step differ from those of steps of their own")
	}
}

// TestAdapterBias: biases of the model's that come with an adapter, and those of B.
func TestAdapterBias(t *testing.T) {
	const q, v = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"
	eachFolder(t, "hf", func(t *testing.T, base string) {
		c := open(t, base, llama.Options{}).Config()
		n, kv := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
		a, b := numbers(1, 2*c.Dim), numbers(2, n*2)
		product := map[string]safetensors.Source{q + ".lora_A.weight": peft.Tensor(a, 2, c.Dim), q + ".lora_B.weight": peft.Tensor(b, n, 2)}
		own, other := numbers(3, n), numbers(4, kv)
		for _, kind := range []string{"all", "lora_only"} {
			tensors := maps.Clone(product)
			tensors[q+".base_layer.bias"], tensors[v+".bias"] = peft.Tensor(own, n), peft.Tensor(other, kv)
			adapter := adapterFolder(t, map[string]any{"bias": kind}, tensors)
			if !c.AttentionBias {
				if _, err := llama.Open(context.Background(), base, llama.Options{Adapters: []llama.Adapter{{Path: adapter}}}); err == nil || !strings.Contains(err.Error(), q+".bias") {
					t.Errorf("a bias that the model does not have: %v", err)
				}
				continue
			}
			changed(t, base, edited(t, base, nil, map[string]func([]float32, int) []float32{
				q + ".weight": addProduct(a, b, 2, 1.5, false),
				q + ".bias":   func([]float32, int) []float32 { return slices.Clone(own) },
				v + ".bias":   func([]float32, int) []float32 { return slices.Clone(other) },
			}), adapter)
		}
		tensors := maps.Clone(product)
		tensors[q+".lora_B.bias"] = peft.Tensor(own, n)
		adapter := adapterFolder(t, map[string]any{"lora_bias": true}, tensors)
		if c.AttentionBias {
			changed(t, base, edited(t, base, nil, map[string]func([]float32, int) []float32{
				q + ".weight": addProduct(a, b, 2, 1.5, false),
				q + ".bias": func(x []float32, _ int) []float32 {
					for i := range x {
						x[i] += 1.5 * own[i]
					}
					return x
				},
			}), adapter)
			return
		}
		open(t, base, llama.Options{Adapters: []llama.Adapter{{Path: adapter}}})
		_, err := llama.Convert(context.Background(), base, filepath.Join(t.TempDir(), "a.gguf"), llama.ConvertOptions{To: "gguf", Adapters: []llama.Adapter{{Path: adapter}}})
		if !errors.Is(err, llama.ErrUnsupported) || !strings.Contains(err.Error(), "lora_B.bias") {
			t.Errorf("a bias for a layer that has none, merged: %v", err)
		}
	})
}

// replacement replaces all numbers.
func replacement(x []float32) func([]float32, int) []float32 {
	return func([]float32, int) []float32 { return slices.Clone(x) }
}

// TestAdapterWhole: modules that come whole, the matrices of the vocabulary among them.
func TestAdapterWhole(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		c := open(t, base, llama.Options{}).Config()
		e, h, norm := numbers(1, c.Vocab*c.Dim), numbers(2, c.Vocab*c.Dim), numbers(3, c.Dim)
		untied := map[string]any{"tie_word_embeddings": false}
		embed, head := peft.Tensor(e, c.Vocab, c.Dim), peft.Tensor(h, c.Vocab, c.Dim)
		for _, w := range []struct {
			tensors map[string]safetensors.Source
			change  map[string]func([]float32, int) []float32
		}{
			{map[string]safetensors.Source{"model.embed_tokens.weight": embed, "lm_head.weight": head}, map[string]func([]float32, int) []float32{embedName: replacement(e), headName: replacement(h)}},
			{map[string]safetensors.Source{"model.embed_tokens.modules_to_save.weight": embed}, map[string]func([]float32, int) []float32{embedName: replacement(e)}},
			{map[string]safetensors.Source{"lm_head.weight": head}, map[string]func([]float32, int) []float32{headName: replacement(h)}},
			{map[string]safetensors.Source{"model.norm.weight": peft.Tensor(norm, c.Dim)}, map[string]func([]float32, int) []float32{"model.norm.weight": replacement(norm)}},
		} {
			adapter := adapterFolder(t, map[string]any{"modules_to_save": []string{"embed_tokens", "lm_head", "norm"}}, w.tensors)
			changed(t, base, edited(t, base, untied, w.change), adapter)
		}
		adapter := adapterFolder(t, map[string]any{"modules_to_save": []string{"lm_head"}}, map[string]safetensors.Source{"lm_head.weight": head})
		_, err := llama.Open(context.Background(), base, llama.Options{Adapters: []llama.Adapter{{Path: adapter}, {Path: adapter}}})
		if err == nil || !strings.Contains(err.Error(), "only one adapter") {
			t.Errorf("two that bring the same: %v", err)
		}
		wrong := adapterFolder(t, nil, map[string]safetensors.Source{"lm_head.weight": peft.Tensor(numbers(1, 6), 2, 3)})
		if _, err := llama.Open(context.Background(), base, llama.Options{Adapters: []llama.Adapter{{Path: wrong}}}); err == nil || !strings.Contains(err.Error(), "lm_head.weight") {
			t.Errorf("another shape: %v", err)
		}
	})
}

// TestAdapterTokens: rows of single tokens. A tied output layer has them too.
func TestAdapterTokens(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		c := open(t, base, llama.Options{}).Config()
		ids := append(randomIDs(c, 2), int32(c.Vocab-1))
		slices.Sort(ids)
		ids = slices.Compact(ids)
		x := numbers(1, len(ids)*c.Dim)
		rows := func(m []float32, cols int) []float32 {
			for i, id := range ids {
				copy(m[int(id)*cols:][:cols], x[i*cols:])
			}
			return m
		}
		tensors := map[string]safetensors.Source{"model.embed_tokens.token_adapter.trainable_tokens_delta": peft.Tensor(x, len(ids), c.Dim)}
		change := map[string]func([]float32, int) []float32{embedName: rows}
		settings := map[string]any{}
		if c.TiedEmbeddings {
			change[headName], settings["tie_word_embeddings"] = rows, false
		}
		for _, indices := range []any{ids, map[string]any{"embed_tokens": ids}} {
			adapter := adapterFolder(t, map[string]any{"trainable_token_indices": indices}, tensors)
			changed(t, base, edited(t, base, settings, change), adapter)
		}
		m := open(t, base, llama.Options{Adapters: []llama.Adapter{{Path: adapterFolder(t, map[string]any{"trainable_token_indices": ids}, tensors)}}})
		if m.Config().TiedEmbeddings != c.TiedEmbeddings {
			t.Error("no longer tied")
		}
		far := slices.Clone(ids)
		far[len(far)-1] = int32(c.Vocab)
		adapter := adapterFolder(t, map[string]any{"trainable_token_indices": far}, tensors)
		if _, err := llama.Open(context.Background(), base, llama.Options{Adapters: []llama.Adapter{{Path: adapter}}}); err == nil || !strings.Contains(err.Error(), "vocabulary of") {
			t.Errorf("a token outside the vocabulary: %v", err)
		}
	})
}

// TestAdapterResized: an adapter made after tokens were added.
func TestAdapterResized(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		c := open(t, base, llama.Options{}).Config()
		vocab := c.Vocab + 3
		e, h := numbers(1, vocab*c.Dim), numbers(2, vocab*c.Dim)
		embed, head := peft.Tensor(e, vocab, c.Dim), peft.Tensor(h, vocab, c.Dim)
		tensors := map[string]safetensors.Source{"model.embed_tokens.weight": embed, "lm_head.weight": head}
		change := map[string]func([]float32, int) []float32{embedName: replacement(e), headName: replacement(h)}
		if c.TiedEmbeddings {
			tensors["lm_head.weight"], change[headName] = embed, replacement(e)
		}
		settings := map[string]any{"vocab_size": vocab}
		adapter := adapterFolder(t, nil, tensors)
		changed(t, base, edited(t, base, settings, change), adapter)
		m := open(t, base, llama.Options{Adapters: []llama.Adapter{{Path: adapter}}})
		if m.Config().Vocab != vocab || m.Config().TiedEmbeddings != c.TiedEmbeddings {
			t.Errorf("%+v", m.Config())
		}
		warned(t, m, "has no tokenizer")
		resizedTokenizer(t, base, adapter, c.Vocab)
		if c.TiedEmbeddings {
			return
		}
		delete(tensors, "lm_head.weight")
		_, err := llama.Open(context.Background(), base, llama.Options{Adapters: []llama.Adapter{{Path: adapterFolder(t, nil, tensors)}}})
		if err == nil || !strings.Contains(err.Error(), "one matrix of a vocabulary") {
			t.Errorf("one of the two matrices: %v", err)
		}
	})
}

// resizedTokenizer: the tokenizer in the folder of an adapter that added tokens is the
// model's, and goes with it through conversion.
func resizedTokenizer(t *testing.T, base, adapter string, id int) {
	t.Helper()
	path := filepath.Join(base, "tokenizer.json")
	if !exists(path) {
		return
	}
	var tok map[string]any
	golden.JSON(t, path, &tok)
	added, _ := tok["added_tokens"].([]any)
	added = append(added, map[string]any{"id": id, "content": "<new>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
	tok["added_tokens"] = added
	b, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(adapter, "tokenizer.json"), string(b))
	list := []llama.Adapter{{Path: adapter}}
	m := open(t, base, llama.Options{Adapters: list})
	warned(t, m, "is that of the adapter")
	for _, to := range []string{"", "safetensors", "gguf"} {
		if to != "" {
			out := filepath.Join(t.TempDir(), "out.gguf")
			if _, err := llama.Convert(context.Background(), base, out, llama.ConvertOptions{To: to, Adapters: list}); err != nil {
				t.Fatal(err)
			}
			m = open(t, out, llama.Options{})
		}
		if got := string(m.Tokenizer().TokenBytes(int32(id))); got != "<new>" {
			t.Errorf("%s: the new token is %q", to, got)
		}
	}
}
