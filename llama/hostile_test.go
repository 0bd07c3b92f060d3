package llama_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/pth"
	"github.com/herd-ml/herd/llama/safetensors"
)

// Bounds on what refusing a bad model may take; the models here are small.
const (
	refuseTime  = time.Minute // in the full run; some milliseconds are usual
	refuseBytes = 64 << 20
)

// refused opens a bad model in every way, which fails in little time and
// memory with an error that names the file and says all of want.
func refused(t *testing.T, path string, want ...string) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	m, err := llama.Open(context.Background(), path, llama.Options{})
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if err == nil {
		m.Close()
		t.Fatalf("opened, want an error about %q", want)
	}
	for _, w := range append(want, filepath.Base(path)) {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if took > refuseTime && !testing.Short() {
		t.Errorf("took %v", took)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > refuseBytes {
		t.Errorf("allocated %d bytes", n)
	}
	if _, again := llama.Estimate(path, llama.Options{}); again == nil {
		t.Error("Estimate finds nothing wrong")
	}
	info, again := llama.ReadInfo(context.Background(), path, llama.Options{})
	if again == nil && (len(info.Problems) == 0 || !strings.HasPrefix(info.Problems[0], "cannot be loaded")) {
		t.Errorf("ReadInfo finds nothing wrong: %q", info.Problems)
	}
	return err
}

// TestHostileGGUF takes a model that is right and makes one thing wrong: rows
// 19 to 21 of the list of bad files, and the settings beside them.
func TestHostileGGUF(t *testing.T) {
	for i, base := range golden.Glob(t, "models/*/model.gguf") {
		if testing.Short() && i > 0 {
			break // what is wrong does not depend on the model
		}
		t.Run(golden.Name(base), func(t *testing.T) { hostileGGUF(t, base) })
	}
}

func hostileGGUF(t *testing.T, base string) {
	key := func(key string, value any) func(*parts) { return func(p *parts) { p.set(key, value) } }
	const attention, rope, vocab = "llama.attention.", "llama.rope.", "tokenizer.ggml."
	embed := takeApart(t, base).shape("token_embd.weight")
	tokens := func(n int) func(*parts) {
		return func(p *parts) {
			resize(p, vocab+"tokens", n, "one more")
			resize(p, vocab+"token_type", n, int32(1))
			resize(p, vocab+"scores", n, float32(0))
		}
	}
	for name, c := range map[string]struct {
		edit func(*parts)
		want string
	}{
		"no heads":             {key(attention+"head_count", uint32(0)), "head_count"},
		"many heads":           {key(attention+"head_count", uint32(math.MaxUint32)), "head_count"},
		"heads as text":        {key(attention+"head_count", "four"), "head_count"},
		"no key-value heads":   {key(attention+"head_count_kv", uint32(0)), "KVHeads"},
		"odd key-value heads":  {key(attention+"head_count_kv", uint32(4099)), "KVHeads"},
		"no layers":            {key("llama.block_count", uint32(0)), "Layers"},
		"too many layers":      {key("llama.block_count", uint32(math.MaxUint32)), "block_count"},
		"2^31 layers":          {key("llama.block_count", uint32(1<<31)), "block_count"},
		"a million layers":     {key("llama.block_count", uint32(1<<20)), "Layers"},
		"a layer more":         {func(p *parts) { p.set("llama.block_count", p.meta["llama.block_count"].(uint32)+1) }, "missing"},
		"layers below zero":    {key("llama.block_count", int32(-1)), "block_count"},
		"no layer count":       {key("llama.block_count", nil), "block_count"},
		"no width":             {key("llama.embedding_length", uint32(0)), "embedding_length"},
		"another width":        {key("llama.embedding_length", uint32(1<<19)), ""},
		"no hidden width":      {key("llama.feed_forward_length", uint32(0)), "HiddenDim"},
		"another hidden width": {key("llama.feed_forward_length", uint32(1<<18)), "ffn"},
		"context of 2^32":      {key("llama.context_length", uint64(1<<32)), "context_length"},
		"no context":           {key("llama.context_length", uint32(0)), "Context"},
		"rope beyond the head": {key(rope+"dimension_count", uint32(1<<16)), "dimension_count"},
		"an odd head": {func(p *parts) {
			p.set(attention+"key_length", uint32(15))
			p.set(attention+"value_length", uint32(15))
			p.set(rope+"dimension_count", uint32(15))
			p.drop("rope_freqs.weight")
		}, "HeadDim"},
		"no merges": {func(p *parts) {
			if p.meta[vocab+"model"] != "gpt2" {
				p.set(attention+"causal", false) // another error
				return
			}
			p.set(vocab+"merges", nil)
		}, ""},
		"attention both ways": {key(attention+"causal", false), "attention.causal is false"},
		"unequal heads":       {key(attention+"value_length", uint32(1<<15)), "value_length"},
		"epsilon 0":           {key(attention+"layer_norm_rms_epsilon", float32(0)), "epsilon"},
		"epsilon NaN":         {key(attention+"layer_norm_rms_epsilon", float32(math.NaN())), "NormEps"},
		"epsilon below zero":  {key(attention+"layer_norm_rms_epsilon", float32(-1)), "NormEps"},
		"base 0":              {key(rope+"freq_base", float32(0)), "RopeTheta"},
		"base below zero":     {key(rope+"freq_base", float32(-1)), "RopeTheta"},
		"base infinite":       {key(rope+"freq_base", float32(math.Inf(1))), "RopeTheta"},
		"base NaN":            {key(rope+"freq_base", float32(math.NaN())), "RopeTheta"},
		"scaling by 0": {func(p *parts) {
			p.set(rope+"scaling.type", "linear")
			p.set(rope+"scaling.factor", float32(0))
			p.drop("rope_freqs.weight")
		}, "Factor"},
		"scaling by NaN": {func(p *parts) {
			p.set(rope+"scaling.factor", float32(math.NaN()))
			p.drop("rope_freqs.weight")
		}, "Factor"},
		"yarn by less than 1": {func(p *parts) {
			p.set(rope+"scaling.type", "yarn")
			p.set(rope+"scaling.factor", float32(0.5))
			p.drop("rope_freqs.weight")
		}, "Factor"},
		"yarn in part": {func(p *parts) {
			p.set(rope+"scaling.type", "yarn")
			p.set(rope+"scaling.yarn_ext_factor", float32(0.5))
			p.drop("rope_freqs.weight")
		}, "yarn_ext_factor"},
		"longrope": {func(p *parts) { p.set(rope+"scaling.type", "longrope"); p.drop("rope_freqs.weight") }, "longrope"},
		"dynamic":  {func(p *parts) { p.set(rope+"scaling.type", "dynamic"); p.drop("rope_freqs.weight") }, "dynamic"},
		"factors of zero": {func(p *parts) {
			p.set(rope+"scaling.type", nil)
			p.set(rope+"scaling.factor", nil)
			p.zeros("rope_freqs.weight", backend.F32, headDim(p)/2)
		}, "factor"},
		"factors of NaN": {func(p *parts) {
			p.set(rope+"scaling.type", nil)
			p.set(rope+"scaling.factor", nil)
			p.add("rope_freqs.weight", backend.F32, bytes.Repeat([]byte{0xff}, 2*headDim(p)), headDim(p)/2)
		}, "factor"},
		"too few factors": {func(p *parts) { p.zeros("rope_freqs.weight", backend.F32, 1) }, "rope_freqs.weight"},
		"factors and a type": {func(p *parts) {
			p.set(rope+"scaling.type", "linear")
			p.set(rope+"scaling.factor", float32(2))
			p.zeros("rope_freqs.weight", backend.F32, headDim(p)/2)
		}, "rope_freqs.weight"},
		"experts":              {key("llama.expert_count", uint32(8)), "experts"},
		"another architecture": {key("general.architecture", "gemma2"), `"gemma2"`},
		"no architecture":      {key("general.architecture", nil), "general.architecture"},
		"no vocabulary":        {key(vocab+"tokens", nil), ""},
		"types too short":      {key(vocab+"token_type", []int32{1}), "token_type"},
		"fewer tokens":         {tokens(embed[0] - 1), ""},
		"more tokens":          {tokens(embed[0] + 1), "rows"},
		"no embedding":         {func(p *parts) { p.drop("token_embd.weight") }, "token_embd.weight"},
		"fewer embeddings":     {func(p *parts) { p.zeros("token_embd.weight", backend.F32, embed[0]-1, embed[1]) }, ""},
		"a flat embedding":     {func(p *parts) { p.zeros("token_embd.weight", backend.F32, embed[0]*embed[1]) }, "token_embd.weight"},
		"no norm":              {func(p *parts) { p.drop("output_norm.weight") }, "output_norm.weight"},
		"no q":                 {func(p *parts) { p.drop("blk.0.attn_q.weight") }, "attn_q"},
		"q of another shape": {func(p *parts) {
			p.zeros("blk.0.attn_q.weight", backend.F32, p.shape("blk.0.attn_q.weight")[0]+2, embed[1])
		}, "blk.0.attn_q.weight"},
		"k of another shape": {func(p *parts) { p.zeros("blk.0.attn_k.weight", backend.F32, 8, embed[1]+8) }, "blk.0.attn_k.weight"},
		"a norm too long":    {func(p *parts) { p.zeros("blk.0.attn_norm.weight", backend.F32, embed[1]+1) }, "blk.0.attn_norm.weight"},
		"down of integers":   {func(p *parts) { p.zeros("blk.0.ffn_down.weight", backend.I32, p.shape("blk.0.ffn_down.weight")...) }, "blk.0.ffn_down.weight"},
		"a bias too short":   {func(p *parts) { p.zeros("blk.0.attn_q.bias", backend.F32, 1) }, "attn_q.bias"},
		"a bias on one of many": {func(p *parts) {
			p.zeros("blk.0.attn_q.bias", backend.F32, p.shape("blk.0.attn_q.weight")[0])
			p.drop("blk.0.attn_k.bias")
		}, "bias"},
	} {
		t.Run(name, func(t *testing.T) {
			p := takeApart(t, base)
			c.edit(p)
			refused(t, p.write(t), c.want)
		})
	}
}

func headDim(p *parts) int {
	return p.shape("blk.0.attn_q.weight")[0] / int(p.meta["llama.attention.head_count"].(uint32))
}

// eachFolder runs a test for the folder of each model in a format.
func eachFolder(t *testing.T, format string, test func(t *testing.T, base string)) {
	for _, base := range golden.Glob(t, "models/*/"+format) {
		t.Run(golden.Name(base), func(t *testing.T) { test(t, base) })
	}
}

// copyFolder copies a golden folder, so that it can be damaged.
func copyFolder(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), filepath.Base(from))
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// editJSON changes fields of an object in a file; nil removes one.
func editJSON(t *testing.T, path string, fields map[string]any) {
	t.Helper()
	m := map[string]any{}
	golden.JSON(t, path, &m)
	maps.Copy(m, fields)
	for k, v := range fields {
		if v == nil {
			delete(m, k)
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestHostileConfig damages config.json of a Hugging Face folder.
func TestHostileConfig(t *testing.T) { eachFolder(t, "hf", hostileConfig) }

func hostileConfig(t *testing.T, base string) {
	field := func(name string, value any) map[string]any { return map[string]any{name: value} }
	scaling := func(s map[string]any) map[string]any {
		return map[string]any{"rope_scaling": s, "rope_parameters": nil}
	}
	for name, c := range map[string]struct {
		fields map[string]any
		want   string
	}{
		"no layers":         {field("num_hidden_layers", 0), "missing or 0: num_hidden_layers"},
		"layers as text":    {field("num_hidden_layers", "two"), "num_hidden_layers"},
		"layers below 0":    {field("num_hidden_layers", -2), "Layers"},
		"1e30 layers":       {field("num_hidden_layers", 1e30), "num_hidden_layers"},
		"no layer count":    {field("num_hidden_layers", nil), "missing or 0: num_hidden_layers"},
		"more layers":       {field("num_hidden_layers", 40), "missing"},
		"no heads":          {field("num_attention_heads", 0), "missing or 0: num_attention_heads"},
		"key-value heads":   {field("num_key_value_heads", 4099), "KVHeads"},
		"odd head size":     {field("head_dim", 7), "HeadDim"},
		"huge width":        {field("hidden_size", int64(1<<40)), "Dim"},
		"another width":     {field("hidden_size", 1<<18), ""},
		"vocabulary":        {field("vocab_size", 3), ""},
		"more vocabulary":   {field("vocab_size", 1<<20), "embed_tokens"},
		"epsilon":           {field("rms_norm_eps", -1e-5), "NormEps"},
		"context":           {field("max_position_embeddings", 0), "missing or 0: max_position_embeddings"},
		"activation":        {field("hidden_act", "gelu"), `"gelu"`},
		"quantised":         {field("quantization_config", map[string]any{"quant_method": "gptq"}), "quantization_config"},
		"another model":     {field("model_type", "mixtral"), `"mixtral"`},
		"no model":          {field("model_type", nil), "model_type"},
		"yarn":              {scaling(map[string]any{"type": "yarn", "factor": 0.25}), "yarn"},
		"longrope":          {scaling(map[string]any{"rope_type": "longrope"}), "longrope"},
		"dynamic":           {scaling(map[string]any{"rope_type": "dynamic", "factor": 2}), "dynamic"},
		"yarn, new":         {map[string]any{"rope_scaling": nil, "rope_parameters": map[string]any{"rope_type": "yarn", "factor": "4"}}, "factor"},
		"linear by 0":       {scaling(map[string]any{"type": "linear", "factor": 0}), "Factor"},
		"linear, new":       {map[string]any{"rope_scaling": nil, "rope_parameters": map[string]any{"rope_type": "linear", "factor": -2}}, "Factor"},
		"scaling as text":   {field("rope_parameters", "llama3"), "rope_parameters"},
		"base 0":            {map[string]any{"rope_theta": 0, "rope_parameters": nil}, "RopeTheta"},
		"stop as text":      {field("eos_token_id", "last"), "eos_token_id"},
		"experts":           {field("num_local_experts", 8), "experts"},
		"llama3 of nothing": {scaling(map[string]any{"rope_type": "llama3"}), "llama3"},
		"llama3 reversed": {scaling(map[string]any{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
			"original_max_position_embeddings": 64}), "HighFreqFactor"},
		"part of a head": {field("partial_rotary_factor", 0.5), "partial_rotary_factor"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyFolder(t, base)
			editJSON(t, filepath.Join(dir, "config.json"), c.fields)
			refused(t, dir, c.want)
		})
	}
}

// TestHostileJSON puts other texts than a configuration into config.json.
func TestHostileJSON(t *testing.T) {
	base := filepath.Dir(golden.Glob(t, "models/*/hf/config.json")[0])
	for name, text := range map[string]string{
		"empty": "", "an array": "[1]", "half": `{"model_type": "llama", `, "deep": strings.Repeat("[", 1<<20), "null": "null",
		"too large": strings.Repeat(" ", 100<<20), "text": `"llama"`, "not UTF-8": "\xff\xfe{",
		"a key twice":     `{"model_type": "llama", "model_type": "gemma"}`,
		"deep in a field": `{"model_type":"llama","x":` + strings.Repeat(`{"x":`, 1<<18),
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyFolder(t, base)
			write(t, filepath.Join(dir, "config.json"), text)
			refused(t, dir, "config.json")
		})
	}
}

// rewrite replaces the weights of a Hugging Face folder by one file of what edit
// makes of them.
func rewrite(t *testing.T, dir string, edit func([]safetensors.Source) []safetensors.Source) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	var all []safetensors.Source
	for _, path := range files {
		f, err := safetensors.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, w := range f.Tensors() {
			all = append(all, safetensors.Source{Name: w.Name, Type: w.Type, Shape: slices.Clone(w.Shape), Data: w})
		}
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, edit(all), nil); err != nil {
		t.Fatal(err)
	}
	for _, path := range append(files, filepath.Join(dir, "model.safetensors.index.json")) {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "model.safetensors"), b.String())
}

// TestHostileFolder damages the other files of a Hugging Face folder.
func TestHostileFolder(t *testing.T) { eachFolder(t, "hf", hostileFolder) }

func hostileFolder(t *testing.T, base string) {
	weights, err := filepath.Glob(filepath.Join(base, "*.safetensors"))
	if err != nil || len(weights) == 0 {
		t.Fatal("no weights", err)
	}
	index := func(t *testing.T, dir, target string) {
		t.Helper()
		names := map[string]string{}
		for _, file := range weights {
			for name := range golden.Safetensors(t, file) {
				names[name] = target
			}
		}
		b, err := json.Marshal(map[string]any{"weight_map": names})
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "model.safetensors.index.json"), string(b))
		// A whole file would be stronger than the index.
		if err := os.Rename(filepath.Join(dir, "model.safetensors"), filepath.Join(dir, "x.safetensors")); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"index above":     {func(t *testing.T, dir string) { index(t, dir, "../"+filepath.Base(weights[0])) }, ".."},
		"index at root":   {func(t *testing.T, dir string) { index(t, dir, "/etc/passwd") }, "passwd"},
		"index backslash": {func(t *testing.T, dir string) { index(t, dir, `..\y.safetensors`) }, "y.safetensors"},
		"a missing shard": {func(t *testing.T, dir string) { index(t, dir, "model-00009-of-00009.safetensors") }, "model-00009"},
		"no weights": {func(t *testing.T, dir string) {
			for _, pattern := range []string{"*.safetensors", "*.index.json"} {
				files, _ := filepath.Glob(filepath.Join(dir, pattern))
				for _, f := range files {
					os.Remove(f)
				}
			}
		}, "model.safetensors"},
		"a tensor less": {func(t *testing.T, dir string) {
			rewrite(t, dir, func(s []safetensors.Source) []safetensors.Source {
				return slices.DeleteFunc(s, func(s safetensors.Source) bool { return s.Name == "model.norm.weight" })
			})
		}, "model.norm.weight"},
		"a tensor of another shape": {func(t *testing.T, dir string) {
			rewrite(t, dir, func(s []safetensors.Source) []safetensors.Source {
				i := slices.IndexFunc(s, func(s safetensors.Source) bool { return s.Name == "model.layers.0.self_attn.q_proj.weight" })
				s[i].Shape[0], s[i].Shape[1] = s[i].Shape[0]*s[i].Shape[1], 1
				return s
			})
		}, "model.layers.0.self_attn.q_proj.weight"},
		"a tensor of integers": {func(t *testing.T, dir string) {
			rewrite(t, dir, func(s []safetensors.Source) []safetensors.Source {
				i := slices.IndexFunc(s, func(s safetensors.Source) bool { return s.Name == "model.norm.weight" })
				n := s[i].Shape[0]
				s[i].Type, s[i].Data = backend.I32, bytes.NewReader(make([]byte, 4*n))
				return s
			})
		}, "I32"},
		"a tensor that its shard lacks": {func(t *testing.T, dir string) {
			rewrite(t, dir, func(s []safetensors.Source) []safetensors.Source { return s })
			write(t, filepath.Join(dir, "model.safetensors.index.json"), `{"weight_map": {"lm_head.weight2": "x.safetensors"}}`)
			if err := os.Rename(filepath.Join(dir, "model.safetensors"), filepath.Join(dir, "x.safetensors")); err != nil {
				t.Fatal(err)
			}
		}, "lm_head.weight2"},
		"half the weights": {func(t *testing.T, dir string) {
			path := filepath.Join(dir, filepath.Base(weights[0]))
			info, err := os.Stat(path)
			if err == nil {
				err = os.Truncate(path, info.Size()/2)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, ".safetensors"},
		"weights of noise": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, filepath.Base(weights[0])), strings.Repeat("\xff", 4096))
		}, ".safetensors"},
		"a bad tokenizer":  {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "tokenizer.json"), "{") }, "tokenizer"},
		"a bad generation": {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "generation_config.json"), "{") }, "generation_config.json"},
		"a stop text": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "generation_config.json"), `{"eos_token_id": {"a": 1}}`)
		}, "eos_token_id"},
		"a temperature": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "generation_config.json"), `{"do_sample": true, "temperature": -3}`)
		}, "Temperature"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyFolder(t, base)
			c.damage(t, dir)
			refused(t, dir, c.want)
		})
	}
}

// TestHostileMeta damages a Meta folder.
func TestHostileMeta(t *testing.T) { eachFolder(t, "meta", hostileMeta) }

func hostileMeta(t *testing.T, base string) {
	for name, c := range map[string]struct {
		fields map[string]any
		want   string
	}{
		"no heads":     {map[string]any{"n_heads": 0}, "n_heads"},
		"no width":     {map[string]any{"dim": 0}, "dim"},
		"huge width":   {map[string]any{"dim": int64(1 << 40)}, ""},
		"no layers":    {map[string]any{"n_layers": 0}, "Layers"},
		"many layers":  {map[string]any{"n_layers": 1 << 30}, "Layers"},
		"more layers":  {map[string]any{"n_layers": 50}, "missing"},
		"multiple 0":   {map[string]any{"multiple_of": 0}, ""},
		"multiplier":   {map[string]any{"ffn_dim_multiplier": 1e30}, ""},
		"width text":   {map[string]any{"dim": "wide"}, "params.json"},
		"epsilon":      {map[string]any{"norm_eps": 7}, "NormEps"},
		"vocabulary 1": {map[string]any{"vocab_size": 1}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyFolder(t, base)
			editJSON(t, filepath.Join(dir, "params.json"), c.fields)
			refused(t, dir, c.want)
		})
	}
	shards, err := filepath.Glob(filepath.Join(base, "consolidated.*.pth"))
	if err != nil || len(shards) == 0 {
		t.Fatal("no shards", err)
	}
	if len(shards) > 1 {
		for i, what := range []string{"the first shard", "the last shard"} {
			t.Run("without "+what, func(t *testing.T) {
				damaged := copyFolder(t, base)
				if err := os.Remove(filepath.Join(damaged, filepath.Base(shards[i*(len(shards)-1)]))); err != nil {
					t.Fatal(err)
				}
				refused(t, damaged, "consolidated")
			})
		}
	}
	t.Run("a shard of a smaller model", func(t *testing.T) {
		damaged := copyFolder(t, base)
		path := filepath.Join(damaged, fmt.Sprintf("consolidated.%02d.pth", len(shards)))
		var tensors []pth.Source
		for _, name := range []string{"tok_embeddings.weight", "norm.weight"} {
			tensors = append(tensors, pth.Source{Name: name, Type: backend.F32, Shape: []int{2, 2}, Data: bytes.NewReader(make([]byte, 16))})
		}
		if err := pth.WriteFile(path, tensors); err != nil {
			t.Fatal(err)
		}
		refused(t, damaged, "tok_embeddings.weight")
	})
	t.Run("a damaged shard", func(t *testing.T) {
		damaged := copyFolder(t, base)
		write(t, filepath.Join(damaged, "consolidated.00.pth"), "PK\x03\x04 and no more")
		refused(t, damaged, "consolidated.00.pth")
	})
	t.Run("no shard", func(t *testing.T) {
		damaged := t.TempDir()
		b, err := os.ReadFile(filepath.Join(base, "params.json"))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(damaged, "params.json"), string(b))
		refused(t, damaged, "consolidated")
	})
}
