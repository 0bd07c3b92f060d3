package tokenizer_test

import (
	"os"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// fuzzFile opens mutated files and, where one opens, encodes with it.
func fuzzFile(f *testing.F, patterns ...string) {
	for _, pattern := range patterns {
		for _, path := range golden.Glob(f, pattern) {
			if data, err := os.ReadFile(path); err == nil && len(data) < 1<<17 {
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := tokenizer.OpenFS(fstest.MapFS{"f": {Data: data}}, "f")
		if err != nil {
			return
		}
		ids, err := tok.Encode("Hello  wörld <s>12\n\xff 🦙", tokenizer.EncodeOptions{AddBOS: true, Special: true})
		if err != nil {
			return
		}
		for _, id := range ids {
			if id < 0 || int(id) >= tok.VocabSize() {
				t.Fatalf("id %d of a vocabulary of %d", id, tok.VocabSize())
			}
		}
		tok.Decode(ids, tokenizer.DecodeOptions{SkipSpecial: true})
	})
}

func FuzzTokenizerJSON(f *testing.F) {
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|[^\\s]+"},"behavior":"Isolated"}}`))
	fuzzFile(f, "tokenizer/*/*.json", "tokenizer/bytelevel/*/*.json")
}

func FuzzSentencePiece(f *testing.F) { fuzzFile(f, "tokenizer/spm*/tokenizer.model") }

func FuzzRankFile(f *testing.F) { fuzzFile(f, "tokenizer/bytelevel/*/tokenizer.model") }

// FuzzEncodeDecode holds byte-level vocabularies to giving back every input.
func FuzzEncodeDecode(f *testing.F) {
	var toks []*tokenizer.Tokenizer
	for _, path := range golden.Glob(f, "tokenizer/bytelevel/*/tokenizer.*") {
		toks = append(toks, open(f, path))
	}
	for _, path := range golden.Glob(f, "tokenizer/bytelevel/*/cases.jsonl") {
		for _, c := range golden.JSONLines[goldenCase](f, path) {
			f.Add([]byte(*c.Text))
		}
	}
	f.Add([]byte("a\xffb \xf0\x9f\x98 \xc3"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, tok := range toks {
			for _, special := range []bool{false, true} {
				ids, err := tok.Encode(string(text), tokenizer.EncodeOptions{Special: special})
				if err != nil {
					t.Fatal(err)
				}
				if got := tok.Decode(ids, tokenizer.DecodeOptions{}); got != string(text) {
					t.Fatalf("%q comes back as %q", text, got)
				}
			}
		}
	})
}
