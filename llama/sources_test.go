package llama_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/safetensors"
	"github.com/herd-ml/herd/llama/sample"
)

// The tests below are of files that say one thing twice. The rules are those of Python's
// transformers 5.23.

type chatOptions = chat.Options

var (
	hello = []chat.Message{chat.Text("user", "hello")}
	tools = []json.RawMessage{json.RawMessage(`{"type": "function", "function": {"name": "f", "parameters": {}}}`)}
)

const (
	embedName = "model.embed_tokens.weight"
	headName  = "lm_head.weight"
)

func find(list []safetensors.Source, name string) int {
	return slices.IndexFunc(list, func(s safetensors.Source) bool { return s.Name == name })
}

// reversed gives the bytes of a matrix of F32, F16 or BF16 in another order of rows.
func reversed(t *testing.T, s safetensors.Source) safetensors.Source {
	t.Helper()
	row := s.Shape[1] * s.Type.BlockBytes()
	b := make([]byte, s.Shape[0]*row)
	if _, err := s.Data.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	var out []byte
	for i := s.Shape[0] - 1; i >= 0; i-- {
		out = append(out, b[i*row:(i+1)*row]...)
	}
	s.Data = strings.NewReader(string(out))
	return s
}

// equalLogits compares the logits of two models of which one is a variant of the other.
func equalLogits(t *testing.T, what, a, b string) *llama.Model {
	t.Helper()
	m := open(t, a, llama.Options{Precision: llama.PrecisionF32})
	ids := randomIDs(m.Config(), 8)
	got := scoreAll(t, session(t, m), ids)
	want, _ := logitsOf(t, b, ids)
	if !slices.Equal(got, want) {
		t.Errorf("%s: the logits differ", what)
	}
	return m
}

func warned(t *testing.T, m *llama.Model, want string) {
	t.Helper()
	if all := strings.Join(m.Warnings(), "; "); !strings.Contains(all, want) {
		t.Errorf("warnings %q, want %q", all, want)
	}
}

// TestTied: settings that tie the output layer to the embedding, beside files that hold
// both matrices, or the other one.
func TestTied(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		untied := copyFolder(t, base) // two matrices, and settings that say so
		rewrite(t, untied, func(list []safetensors.Source) []safetensors.Source {
			head := reversed(t, list[find(list, embedName)])
			head.Name = headName
			if i := find(list, headName); i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
			return append(list, head)
		})
		editJSON(t, filepath.Join(untied, "config.json"), map[string]any{"tie_word_embeddings": false})

		wrong := copyFolder(t, untied)
		editJSON(t, filepath.Join(wrong, "config.json"), map[string]any{"tie_word_embeddings": true})
		warned(t, equalLogits(t, "another output layer", wrong, untied), "lm_head.weight is another matrix")
		gguf := filepath.Join(t.TempDir(), "a.gguf")
		if _, ok := convert(t, wrong, gguf, "gguf"); ok {
			equalLogits(t, "another output layer, converted", gguf, untied)
		}

		tied := copyFolder(t, base) // one matrix
		rewrite(t, tied, func(list []safetensors.Source) []safetensors.Source {
			if i := find(list, headName); i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
			return list
		})
		editJSON(t, filepath.Join(tied, "config.json"), map[string]any{"tie_word_embeddings": true})
		twice := copyFolder(t, tied)
		rewrite(t, twice, func(list []safetensors.Source) []safetensors.Source {
			head := list[find(list, embedName)]
			head.Name = headName
			return append(list, head)
		})
		if m := equalLogits(t, "the same matrix twice", twice, tied); !m.Config().TiedEmbeddings {
			t.Error("the same matrix twice is not tied")
		}
		other := copyFolder(t, tied)
		rewrite(t, other, func(list []safetensors.Source) []safetensors.Source {
			list[find(list, embedName)].Name = headName
			return list
		})
		equalLogits(t, "the output layer alone", other, tied)
	})
}

// TestNamesWithoutModel: files of a network that was saved without its output layer.
func TestNamesWithoutModel(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		dir := copyFolder(t, base)
		rewrite(t, dir, func(list []safetensors.Source) []safetensors.Source {
			for i := range list {
				list[i].Name = strings.TrimPrefix(list[i].Name, "model.")
			}
			return list
		})
		equalLogits(t, "names without model.", dir, base)
	})
}

// TestWholeBesideIndex: a whole file is stronger than an index.
func TestWholeBesideIndex(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		dir := copyFolder(t, base)
		rewrite(t, dir, func(list []safetensors.Source) []safetensors.Source { return list })
		write(t, filepath.Join(dir, "model.safetensors.index.json"), `{"weight_map": {"a": "model-00001-of-00002.safetensors"}}`)
		warned(t, equalLogits(t, "beside an index", dir, base), "model.safetensors is read")
	})
}

// TestGenerationConfig: keys mean what they mean to transformers.
func TestGenerationConfig(t *testing.T) {
	order := []sample.Stage{"penalties", "temperature", "top_k", "top_p", "min_p", "typ_p"}
	for text, want := range map[string]sample.Params{
		`{"repetition_penalty": 1.5}`: {RepeatPenalty: 1.5, PenaltyLastN: -1},
		`{"do_sample": true}`:         {Temperature: 1, TopK: 50, PenaltyLastN: -1, Order: order},
		`{"do_sample": true, "top_k": 0, "top_p": 0.9, "typical_p": 0.8, "min_p": 0.1, "temperature": 0.6, "repetition_penalty": 1.1}`: {
			Temperature: 0.6, TopP: 0.9, TypicalP: 0.8, MinP: 0.1, RepeatPenalty: 1.1, PenaltyLastN: -1, Order: order},
		`{"temperature": 0.6}`: {PenaltyLastN: -1}, // do_sample is false
	} {
		eachFolder(t, "hf", func(t *testing.T, base string) {
			dir := copyFolder(t, base)
			write(t, filepath.Join(dir, "generation_config.json"), text)
			got := open(t, dir, llama.Options{}).DefaultSampling()
			if got.Temperature != want.Temperature || got.TopK != want.TopK || got.TopP != want.TopP || got.MinP != want.MinP || got.TypicalP != want.TypicalP ||
				got.RepeatPenalty != want.RepeatPenalty || got.PenaltyLastN != want.PenaltyLastN || !slices.Equal(got.Order, want.Order) {
				t.Errorf("%s: %+v, want %+v", text, got, want)
			}
		})
	}
}

// TestSeveralTemplates: models with several chat templates, in each place that holds them,
// and through every conversion.
func TestSeveralTemplates(t *testing.T) {
	const (
		plain = `plain {{ messages[0].content }} {{ pad_token }}|{{ unk_token }}|{{ sep_token }}`
		tool  = `tool {{ messages[0].content }}`
		rag   = `rag {{ messages[0].content }}`
	)
	eachFolder(t, "hf", func(t *testing.T, base string) {
		list := []map[string]string{{"name": "default", "template": plain}, {"name": "tool_use", "template": tool}, {"name": "rag", "template": rag}}
		inConfig := copyFolder(t, base)
		os.Remove(filepath.Join(inConfig, "chat_template.jinja"))
		editJSON(t, filepath.Join(inConfig, "tokenizer_config.json"), map[string]any{"chat_template": list})
		inFiles := copyFolder(t, base)
		editJSON(t, filepath.Join(inFiles, "tokenizer_config.json"), map[string]any{"chat_template": "weaker"})
		write(t, filepath.Join(inFiles, "chat_template.jinja"), plain)
		if err := os.Mkdir(filepath.Join(inFiles, "additional_chat_templates"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(inFiles, "additional_chat_templates", "tool_use.jinja"), tool)
		write(t, filepath.Join(inFiles, "additional_chat_templates", "rag.jinja"), rag)
		for _, dir := range []string{inConfig, inFiles} {
			several(t, dir)
			back := t.TempDir()
			if _, ok := convert(t, dir, filepath.Join(back, "a.gguf"), "gguf"); !ok {
				continue
			}
			several(t, filepath.Join(back, "a.gguf"))
			if _, ok := convert(t, filepath.Join(back, "a.gguf"), filepath.Join(back, "hf"), "safetensors"); ok {
				several(t, filepath.Join(back, "hf"))
			}
			if _, ok := convert(t, dir, filepath.Join(back, "copy"), "safetensors"); ok {
				several(t, filepath.Join(back, "copy"))
			}
		}
		editJSON(t, filepath.Join(inConfig, "tokenizer_config.json"), map[string]any{"chat_template": list[1:]})
		f, err := llama.ChatFormat(context.Background(), inConfig)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Encode(hello, chatOptions{}); err == nil || !strings.Contains(err.Error(), `no default: choose one of ["rag" "tool_use"]`) {
			t.Errorf("without a default: %v", err)
		}
	})
}

func several(t *testing.T, path string) {
	t.Helper()
	f, err := llama.ChatFormat(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]chatOptions{
		"plain hello": {}, "tool hello": {Tools: tools}, "rag hello": {Template: "rag", Tools: tools}, "plain hello ": {Template: "default", Tools: tools},
	} {
		p, err := f.Encode(hello, o)
		if err != nil || !strings.HasPrefix(p.Text, strings.TrimSpace(want)) {
			t.Errorf("%s: %+v: %q, %v, want %q", path, o, p.Text, err, want)
		}
	}
	if _, err := f.Encode(hello, chatOptions{Template: "none"}); err == nil || !strings.Contains(err.Error(), `["default" "rag" "tool_use"]`) {
		t.Errorf("an unknown template: %v", err)
	}
	if info, err := llama.ReadInfo(context.Background(), path, llama.Options{}); err != nil || len(info.ChatTemplates) != 3 {
		t.Errorf("%s: %d templates, %v", path, len(info.ChatTemplates), err)
	}
}

// TestTemplateTokens: a template sees the special tokens that the files name.
func TestTemplateTokens(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		dir := copyFolder(t, base)
		info, err := llama.ReadInfo(context.Background(), dir, llama.Options{})
		if err != nil || info.Tokenizer == nil {
			t.Skip("no tokenizer:", err)
		}
		write(t, filepath.Join(dir, "chat_template.jinja"), `{{ pad_token }}|{{ mask_token }}|{{ sep_token is defined }}`)
		editJSON(t, filepath.Join(dir, "tokenizer_config.json"), map[string]any{"pad_token": "<pad!>", "mask_token": map[string]any{"content": "<mask!>"}, "sep_token": nil})
		f, err := llama.ChatFormat(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := f.Encode(hello, chatOptions{}); err != nil || p.Text != "<pad!>|<mask!>|False" {
			t.Errorf("%q, %v", p.Text, err)
		}
	})
}

// TestSpareFiles: GGUF files and folders that other programs run although something in
// them is missing, said twice or spelled otherwise.
func TestSpareFiles(t *testing.T) {
	for _, base := range golden.Glob(t, "models/*/model.gguf") {
		p := takeApart(t, base)
		layers, heads := int(p.meta["llama.block_count"].(uint32)), p.meta["llama.attention.head_count"].(uint32)
		for name, c := range map[string]struct {
			edit func(p *parts)
			warn string
		}{
			"BOS outside":       {func(p *parts) { p.set("tokenizer.ggml.bos_token_id", uint32(1<<30)) }, "bos_token_id 1073741824 is outside"},
			"EOS outside":       {func(p *parts) { p.set("tokenizer.ggml.eos_token_id", uint32(1<<29)) }, "eos_token_id 536870912 is outside"},
			"a vocabulary size": {func(p *parts) { p.set("llama.vocab_size", uint32(5)) }, "llama.vocab_size is 5"},
			"heads by layer": {func(p *parts) {
				p.set("llama.attention.head_count", slices.Repeat([]uint32{heads}, layers))
			}, ""},
			"axes of one": {func(p *parts) {
				for i := range p.tensors {
					p.tensors[i].shape = append([]int{1, 1}, p.tensors[i].shape...)
				}
			}, ""},
		} {
			t.Run(golden.Name(base)+"/"+name, func(t *testing.T) {
				p := takeApart(t, base)
				c.edit(p)
				m := equalLogits(t, name, p.write(t), base)
				warned(t, m, c.warn)
			})
		}
		p.set("llama.attention.head_count", append(slices.Repeat([]uint32{heads}, layers-1), heads+1))
		if layers > 1 {
			refused(t, p.write(t), "head_count is", "layers that differ")
		}
		if p := takeApart(t, base); p.meta["llama.rope.scaling.type"] == nil {
			p.set("llama.rope.scaling.type", "linear")
			p.set("llama.rope.scaling.factor", float32(1))
			equalLogits(t, "a linear factor of 1", p.write(t), base)
		}
	}
	eachFolder(t, "hf", func(t *testing.T, base string) {
		var config map[string]any
		golden.JSON(t, filepath.Join(base, "config.json"), &config)
		for name, c := range map[string]struct {
			fields map[string]any
			warn   string
		}{
			"no end":              {map[string]any{"eos_token_id": -1}, ""},
			"an end outside":      {map[string]any{"eos_token_id": []int{1, 1 << 30}}, "eos_token_id 1073741824 is outside"},
			"swish":               {map[string]any{"hidden_act": "swish"}, ""},
			"max_sequence_length": {map[string]any{"max_position_embeddings": nil, "max_sequence_length": config["max_position_embeddings"]}, ""},
			"numbers with a dot": {map[string]any{"num_hidden_layers": json.RawMessage(fmt.Sprintf("%.1f", config["num_hidden_layers"])),
				"vocab_size": json.RawMessage(fmt.Sprintf("%.2e", config["vocab_size"]))}, ""},
		} {
			dir := copyFolder(t, base)
			editJSON(t, filepath.Join(dir, "config.json"), c.fields)
			warned(t, equalLogits(t, name, dir, base), c.warn)
		}
		const norm = "model.norm.weight"
		double := copyFolder(t, base)
		n := 0
		rewrite(t, double, func(list []safetensors.Source) []safetensors.Source {
			i := find(list, norm)
			n = list[i].Shape[0]
			list[i] = safetensors.Source{Name: norm, Type: backend.F32, Shape: []int{2 * n}, Data: bytes.NewReader(make([]byte, 8*n))}
			return list
		})
		file := filepath.Join(double, "model.safetensors")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		from, to := fmt.Sprintf(`"%s":{"dtype":"F32","shape":[%d]`, norm, 2*n), fmt.Sprintf(`"%s":{"dtype":"F64","shape":[%d]`, norm, n)
		to += strings.Repeat(" ", len(from)-len(to))
		if !bytes.Contains(b, []byte(from)) {
			t.Fatal("the head of the file is written otherwise")
		}
		write(t, file, strings.Replace(string(b), from, to, 1))
		refused(t, double, norm, "type F64")
	})
}

// TestRopeTwice: of two spellings that do not agree the reference's choice is taken, and
// said; an empty one is none.
func TestRopeTwice(t *testing.T) {
	linear := func(factor, theta float64) map[string]any {
		return map[string]any{"rope_type": "linear", "factor": factor, "rope_theta": theta}
	}
	eachFolder(t, "hf", func(t *testing.T, base string) {
		for _, c := range []struct {
			scaling, parameters any
			factor, theta       float64
			warn                bool
		}{
			{linear(2, 300), linear(4, 500), 2, 300, true},
			{linear(2, 300), linear(2, 300), 2, 300, false},
			{map[string]any{}, linear(4, 500), 4, 500, false},
			{nil, linear(4, 500), 4, 500, false},
			{map[string]any{"type": "linear", "factor": 3}, linear(4, 500), 3, 700, true}, // with the theta beside both
		} {
			dir := copyFolder(t, base)
			editJSON(t, filepath.Join(dir, "config.json"), map[string]any{"rope_scaling": c.scaling, "rope_parameters": c.parameters, "rope_theta": 700})
			m := open(t, dir, llama.Options{})
			if got := m.Config(); got.RopeScaling.Factor != c.factor || got.RopeTheta != c.theta {
				t.Errorf("%v and %v: %+v, theta %v", c.scaling, c.parameters, got.RopeScaling, got.RopeTheta)
			}
			if said := strings.Contains(strings.Join(m.Warnings(), "\n"), "rope_scaling is used"); said != c.warn {
				t.Errorf("%v and %v: warnings %q", c.scaling, c.parameters, m.Warnings())
			}
		}
	})
}

// TestMissingKeys: a config.json without a size is refused by the key's name.
func TestMissingKeys(t *testing.T) {
	eachFolder(t, "hf", func(t *testing.T, base string) {
		for _, key := range []string{"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rms_norm_eps", "max_position_embeddings"} {
			dir := copyFolder(t, base)
			editJSON(t, filepath.Join(dir, "config.json"), map[string]any{key: nil})
			if _, err := llama.Open(t.Context(), dir, llama.Options{}); err == nil || !strings.Contains(err.Error(), "missing or 0: "+key) {
				t.Errorf("without %s: %v", key, err)
			}
		}
	})
}
