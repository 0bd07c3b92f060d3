package tokenizer_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/llama/gguf"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// libraryIDs are the ids that Hugging Face's tokenizers gives the added tokens of a
// tokenizer.json, whose own ids it does not read: that of the vocabulary, else the
// next one after all tokens so far
// (https://github.com/huggingface/tokenizers, AddedVocabulary::add_tokens).
func libraryIDs(t *testing.T, data []byte) (got, want map[string]int) {
	t.Helper()
	var f struct {
		Added []struct {
			ID      int
			Content string
		} `json:"added_tokens"`
		Model struct{ Vocab map[string]int }
	}
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	got, want = map[string]int{}, map[string]int{}
	most := -1
	for _, a := range f.Added {
		id, ok := f.Model.Vocab[a.Content]
		if !ok {
			if id = len(f.Model.Vocab); most >= id {
				id = most + 1
			}
		}
		got[a.Content], want[a.Content] = id, a.ID
		most = max(most, id)
	}
	return got, want
}

// TestAddedTokenIDs: every vocabulary that is written as a tokenizer.json keeps the ids
// of its added tokens in the library that reads it, wherever they lie.
func TestAddedTokenIDs(t *testing.T) {
	list, _ := sources(t)
	low, err := tokenizer.FromVocab(lowControl)
	if err != nil {
		t.Fatal(err)
	}
	list["control tokens first"] = low
	var w gguf.Writer
	if err := low.SetGGUF(&w, low.VocabSize()+2); err != nil { // unused rows behind
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.New(bytes.NewReader(b.Bytes()), int64(b.Len()), "test")
	if err != nil {
		t.Fatal(err)
	}
	if list["unused tokens last"], err = tokenizer.FromGGUF(f); err != nil {
		t.Fatal(err)
	}
	for name, tok := range list {
		data, err := tok.JSON()
		if inexpressible(err) {
			continue
		}
		got, want := libraryIDs(t, data)
		for content, id := range want {
			if got[content] != id {
				t.Errorf("%s: %q becomes token %d, want %d", name, content, got[content], id)
			}
			if own, ok := tok.ID(content); !ok || int(own) != id {
				t.Errorf("%s: %q is written as token %d, is %d", name, content, id, own)
			}
		}
	}
}

// lowControl is a byte-level vocabulary whose control tokens have the lowest ids, as
// SmolLM2's has.
var lowControl = func() tokenizer.VocabGGUF {
	v := tokenizer.VocabGGUF{Model: "gpt2", Pre: "smollm", Tokens: []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, Types: []int32{3, 3, 3}}
	var parts struct {
		Model struct{ Vocab map[string]int }
	}
	if err := json.Unmarshal([]byte(bytesJSON("", `"ab":256`, "", "")), &parts); err != nil {
		panic(err)
	}
	names := make([]string, len(parts.Model.Vocab))
	for name, id := range parts.Model.Vocab {
		names[id] = name
	}
	v.Tokens = append(v.Tokens, names...)
	v.Tokens = append(v.Tokens, "<|tool|>", "abab", "<|last|>")
	for range names {
		v.Types = append(v.Types, 1)
	}
	v.Types = append(v.Types, 3, 1, 3)
	v.Merges = []string{"a b", "ab ab"}
	bos, eos := int32(1), int32(2)
	v.BOS, v.EOS = &bos, &eos
	return v
}()

// TestWhiteSpaceTaken: a token that takes the white space behind it along leaves the
// tokens in there. The ids are those of tokenizers 0.23.3.
func TestWhiteSpaceTaken(t *testing.T) {
	tok := reopen(t, fstest.MapFS{"tokenizer.json": {Data: []byte(`{
	  "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
	  "added_tokens": [{"id": 5, "content": "  ", "rstrip": true}],
	  "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
	  "model": {"type": "BPE", "vocab": {"▁": 0, "a": 1, "▁a": 2, "b": 3, "\n": 4, "  ": 5}, "merges": [["▁", "a"]]}}`)}})
	for text, want := range map[string][]int32{
		"▁a b  \n   ":        {2, 0, 3, 5, 5},
		"  \n  a":            {5, 5, 1},
		"       b":           {5, 5, 5, 3},
		"b  \n \n  \n    a ": {3, 5, 5, 5, 5, 1, 0},
	} {
		if got := encode(t, tok, text, tokenizer.EncodeOptions{}); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// TestTokensBeside: added tokens that only the files beside a tokenizer.json name. The
// ids are those of transformers 5.23.0  for the same files.
func TestTokensBeside(t *testing.T) {
	const vocab = `{"added_tokens": [{"id": 258, "content": "<s>", "special": true}, {"id": 259, "content": "</s>", "special": true}],
	  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}, "decoder": {"type": "ByteLevel"}, `
	model := bytesJSON("", `"ab":256,"abc":257`, `["a","b"],["ab","c"]`, "")
	data := vocab + model[strings.Index(model, `"model"`):]
	config := func(s string) fstest.MapFS {
		return fstest.MapFS{"tokenizer_config.json": {Data: []byte(`{"tokenizer_class": "PreTrainedTokenizerFast"` + s + `}`)}}
	}
	with := func(dir fstest.MapFS, name, content string) fstest.MapFS {
		dir[name] = &fstest.MapFile{Data: []byte(content)}
		return dir
	}
	for name, c := range map[string]struct {
		dir  fstest.MapFS
		want []int32 // of "<new> <b>a <pad>", special tokens allowed
		warn string
	}{
		"added_tokens_decoder": {config(`, "added_tokens_decoder": {"260": {"content": "<new>", "special": true}, "261": {"content": "<b>"}}`),
			[]int32{260, 32, 261, 97, 32, 60, 112, 97, 100, 62}, `token 260, "<new>", is in a file beside`},
		"ids that are not free": {config(`, "added_tokens_decoder": {"300": {"content": "<new>", "special": true}, "290": {"content": "<b>"}}`),
			[]int32{261, 32, 260, 97, 32, 60, 112, 97, 100, 62}, `token "<new>" is 261, the next free id`},
		"added_tokens.json": {with(config(""), "added_tokens.json", `{"<new>": 260, "<pad>": 261}`),
			[]int32{260, 32, 60, 98, 62, 97, 32, 261}, `"<pad>"`},
		"not beside a decoder": {with(config(`, "added_tokens_decoder": {"260": {"content": "<new>"}}`), "added_tokens.json", `{"<pad>": 261}`),
			[]int32{260, 32, 60, 98, 62, 97, 32, 60, 112, 97, 100, 62}, `"<new>"`},
		"pad_token": {config(`, "pad_token": {"content": "<pad>", "lstrip": true}`),
			[]int32{60, 110, 101, 119, 62, 32, 60, 98, 62, 97, 260}, `"<pad>"`},
		"a token of the model": {config(`, "unk_token": "abc", "added_tokens_decoder": {}`),
			[]int32{60, 110, 101, 119, 62, 32, 60, 98, 62, 97, 32, 60, 112, 97, 100, 62}, ""},
		"additional": {config(`, "additional_special_tokens": ["<new>", {"content": "<b>"}], "extra_special_tokens": {"my_token": "<pad>"}`),
			[]int32{260, 32, 261, 97, 32, 262}, `"<b>"`},
		"special_tokens_map": {with(config(`, "eos_token": "</s>"`), "special_tokens_map.json", `{"eos_token": "<new>"}`),
			[]int32{260, 32, 60, 98, 62, 97, 32, 60, 112, 97, 100, 62}, `EOS is "<new>", as special_tokens_map.json says`},
	} {
		c.dir["tokenizer.json"] = &fstest.MapFile{Data: []byte(data)}
		tok := reopen(t, c.dir)
		got := encode(t, tok, "<new> <b>a <pad>", tokenizer.EncodeOptions{Special: true})
		if !slices.Equal(got, c.want) { // the letters' ids are their bytes
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if all := strings.Join(tok.Info().Warnings, "; "); !strings.Contains(all, c.warn) || c.warn == "" && all != "" {
			t.Errorf("%s: warnings %q, want %q", name, all, c.warn)
		}
	}
	for name, c := range map[string][2]string{
		"no id":       {`, "added_tokens_decoder": {"x": {"content": "<new>"}}`, `added_tokens_decoder: "x" is no id`},
		"negative id": {`, "added_tokens_decoder": {"-1": {"content": "<new>"}}`, "is no id"},
	} {
		dir := with(config(c[0]), "tokenizer.json", data)
		if _, err := tokenizer.OpenFS(dir, "."); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, want %s", name, err, c[1])
		}
	}
}

// TestModelBeside: what the files beside a SentencePiece model say.
func TestModelBeside(t *testing.T) {
	tok, err := tokenizer.FromVocab(small)
	if err != nil {
		t.Fatal(err)
	}
	data, err := tok.ModelFile()
	if inexpressible(err) {
		t.Fatal(err)
	}
	for config, want := range map[string][]int32{
		`{}`:                       {1, 5},
		`{"add_bos_token": false}`: {5},
		`{"add_bos_token": true, "add_eos_token": true}`:                             {1, 5, 2},
		`{"add_eos_token": true, "eos_token": "<end>"}`:                              {1, 5, 6},
		`{"added_tokens_decoder": {"6": {"content": "a", "special": false}}}`:        {1, 5},
		`{"add_bos_token": false, "added_tokens_decoder": {"6": {"content": "aa"}}}`: {5},
	} {
		tok := reopen(t, fstest.MapFS{"tokenizer.model": {Data: data}, "tokenizer_config.json": {Data: []byte(config)}})
		got := encode(t, tok, "a", tokenizer.EncodeOptions{AddBOS: true, AddEOS: true})
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", config, got, want)
		}
	}
	beside := reopen(t, fstest.MapFS{"tokenizer.model": {Data: data}, "added_tokens.json": {Data: []byte(`{"<x>": 6, "<y>": 9}`)}})
	if got := encode(t, beside, "a<x>a<y>", tokenizer.EncodeOptions{}); !slices.Equal(got, []int32{5, 6, 5, 7}) {
		t.Errorf("added_tokens.json: %v", got)
	}
}
