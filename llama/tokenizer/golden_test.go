package tokenizer_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// goldenCase is one line of a cases file; see the golden README.
type goldenCase struct {
	Group      string
	Text       *string
	Bytes      string `json:"bytes_b64"`
	Repeat     []any
	Allow      bool    `json:"allow_special"`
	Parse      bool    `json:"parse_special"`
	AddSpecial bool    `json:"add_special"`
	AddBOS     bool    `json:"add_bos"`
	IDs        []int32 `json:"ids"`
	IDsBytes   []int32 `json:"ids_bytes"`
	IDsJSON    []int32 `json:"ids_tokenizer_json"`
	IDsNorm    []int32 `json:"ids_tokenizer_normalizer_json"`
	Count      int
	SHA        string `json:"ids_sha256"`
	Head, Tail []int32
	Decoded    *string `json:"decoded"`
	Skipped    *string `json:"decoded_skip"`
}

func (c goldenCase) input(t *testing.T) string {
	switch {
	case c.Text != nil:
		return *c.Text
	case c.Bytes != "":
		b, err := base64.StdEncoding.DecodeString(c.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	case len(c.Repeat) == 2:
		return strings.Repeat(c.Repeat[0].(string), int(c.Repeat[1].(float64)))
	}
	t.Fatalf("a case of group %s without input", c.Group)
	return ""
}

// check encodes and decodes one case. want picks the expected ids.
func (c goldenCase) check(t *testing.T, tok *tokenizer.Tokenizer, special bool, want []int32) {
	t.Helper()
	text := c.input(t)
	got, err := tok.Encode(text, tokenizer.EncodeOptions{AddBOS: c.AddSpecial || c.AddBOS, AddEOS: c.AddSpecial || c.AddBOS, Special: special})
	if err != nil {
		t.Fatalf("%.60q: %v", text, err)
	}
	if c.SHA != "" {
		h := sha256.New()
		binary.Write(h, binary.LittleEndian, got)
		if len(got) != c.Count || hex.EncodeToString(h.Sum(nil)) != c.SHA {
			t.Errorf("%.20q x %v: %d ids, want %d, %v ... %v", c.Repeat[0], c.Repeat[1], len(got), c.Count, c.Head, c.Tail)
		}
		return
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s %.80q special %v\n got %v\nwant %v", c.Group, text, special, got, want)
	}
}

// cases reads the cases beside a tokenizer's file.
func cases(t *testing.T, path string) []goldenCase {
	c := golden.JSONLines[goldenCase](t, path)
	if len(c) == 0 {
		t.Fatalf("%s holds no cases", path)
	}
	return c
}

func open(t testing.TB, path string) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestGoldenRankFiles(t *testing.T) {
	for _, path := range golden.Glob(t, "tokenizer/llama3*/tokenizer.model") {
		t.Run(golden.Name(path), func(t *testing.T) {
			tok := open(t, path)
			for _, c := range cases(t, filepath.Join(filepath.Dir(path), "cases.jsonl")) {
				want := c.IDs
				if c.IDsBytes != nil {
					want = c.IDsBytes
				}
				c.check(t, tok, c.Allow, want)
				if c.SHA == "" {
					if got := tok.Decode(want, tokenizer.DecodeOptions{}); got != c.input(t) {
						t.Errorf("decoded %q, want %q", got, c.input(t))
					}
				}
			}
		})
	}
}

func TestGoldenByteLevel(t *testing.T) {
	for _, path := range golden.Glob(t, "tokenizer/bytelevel/*/tokenizer.*") {
		t.Run(golden.Name(path), func(t *testing.T) {
			tok := open(t, path)
			for _, c := range cases(t, filepath.Join(filepath.Dir(path), "cases.jsonl")) {
				c.check(t, tok, true, c.IDs)
				c.checkDecode(t, tok, c.IDs)
			}
		})
	}
}

func (c goldenCase) checkDecode(t *testing.T, tok *tokenizer.Tokenizer, ids []int32) {
	t.Helper()
	for _, d := range []struct {
		want *string
		o    tokenizer.DecodeOptions
	}{{c.Decoded, tokenizer.DecodeOptions{}}, {c.Skipped, tokenizer.DecodeOptions{SkipSpecial: true}}} {
		if d.want == nil {
			continue
		}
		if got := tok.Decode(ids, d.o); got != *d.want {
			t.Errorf("%v decodes to %q, want %q", ids, got, *d.want)
		}
		stream, got := tok.NewDecoder(d.o), ""
		for _, id := range ids {
			got += stream.Write(id)
		}
		if got += stream.Flush(); got != *d.want {
			t.Errorf("%v streams to %q, want %q", ids, got, *d.want)
		}
	}
}

func TestGoldenSentencePiece(t *testing.T) {
	for _, path := range golden.Glob(t, "tokenizer/spm*/tokenizer*") {
		t.Run(golden.Name(path), func(t *testing.T) {
			tok := open(t, path)
			for _, c := range cases(t, filepath.Join(filepath.Dir(path), "cases.jsonl")) {
				want := c.IDs
				switch name := filepath.Base(path); {
				case name == "tokenizer.json" && c.IDsJSON != nil:
					want = c.IDsJSON
				case name == "tokenizer_normalizer.json" && c.IDsNorm != nil:
					want = c.IDsNorm
				}
				c.check(t, tok, strings.HasSuffix(path, ".json"), want)
				c.checkDecode(t, tok, c.IDs)
			}
		})
	}
}

func TestGoldenGGUF(t *testing.T) {
	for _, path := range golden.Glob(t, "tokenizer/gguf/*.gguf") {
		t.Run(golden.Name(path), func(t *testing.T) {
			tok := open(t, path)
			for _, c := range cases(t, strings.TrimSuffix(path, ".gguf")+".cases.jsonl") {
				c.check(t, tok, c.Parse, c.IDs)
			}
		})
	}
}

// TestRealModel encodes the prompts of the real model's reference outputs.
func TestRealModel(t *testing.T) {
	model, outputs := golden.RealModel(t)
	tok := open(t, model)
	var runs []struct {
		Prompt string
		Tokens []int32 `json:"prompt_tokens"`
	}
	golden.JSON(t, filepath.Join(outputs, "greedy.json"), &runs)
	if len(runs) == 0 {
		t.Fatal("no prompts")
	}
	for _, r := range runs {
		got, err := tok.Encode(r.Prompt, tokenizer.EncodeOptions{Special: true})
		if err != nil || !slices.Equal(got, r.Tokens) {
			t.Errorf("%.60q: %v\n got %v\nwant %v", r.Prompt, err, got, r.Tokens)
		}
	}
}
