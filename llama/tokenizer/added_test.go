package tokenizer_test

import (
	"bytes"
	"encoding/json"
	"slices"
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
	list := sources(t)
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
