package tokenizer_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// vocabularies lists every tokenizer file in golden, with the real ones that are
// there.
func vocabularies(t testing.TB) []string {
	var all []string
	for _, pattern := range []string{"tokenizer/*/tokenizer*", "tokenizer/*/*/tokenizer*", "tokenizer/gguf/*.gguf"} {
		all = append(all, golden.Glob(t, pattern)...)
	}
	return all
}

// TestBadFiles opens broken files; each error must be an *Error that names the
// file and the field.
func TestBadFiles(t *testing.T) {
	ranks := func(edit func(lines []string) []string) string {
		lines := make([]string, 256)
		for i := range lines {
			lines[i] = base64.StdEncoding.EncodeToString([]byte{byte(i)}) + " " + strconv.Itoa(i)
		}
		return strings.Join(edit(lines), "\n")
	}
	bpe := func(rest string) string { return `{"model":{"type":"BPE",` + rest + `}}` }
	deep := strings.Repeat(`{"type":"Sequence","normalizers":[`, 20) + `{"type":"NFC"}` + strings.Repeat(`]}`, 20)
	for name, c := range map[string]struct{ file, want string }{
		"empty":                 {"", "empty"},
		"unknown":               {"hello", "neither"},
		"rank gap":              {ranks(func(l []string) []string { return append(l, "YWI= 300") }), "line 257: rank 300"},
		"rank twice":            {ranks(func(l []string) []string { return append(l, "YQ== 256") }), "line 257: the token of rank 97 again"},
		"rank hole":             {ranks(func(l []string) []string { return l[:200] }), "no token for byte 0xC8"},
		"rank not base64":       {ranks(func(l []string) []string { return append(l, "?? 256") }), "line 257: the token"},
		"rank without number":   {ranks(func(l []string) []string { return append(l, "YWI=") }), "line 257: expected"},
		"rank not a number":     {ranks(func(l []string) []string { return append(l, "YWI= x") }), "line 257: the rank"},
		"rank token too long":   {ranks(func(l []string) []string { return append(l, strings.Repeat("QUFB", 4000)+" 256") }), "line 257: token of more"},
		"json cut off":          {`{"model":`, "not a tokenizer.json"},
		"json nesting":          {`{"a":` + strings.Repeat("[", 1<<20), "not a tokenizer.json"},
		"json unigram":          {`{"model":{"type":"Unigram"}}`, "model.type: \"Unigram\""},
		"json no model":         {`{}`, "model: no BPE model"},
		"json vocab type":       {bpe(`"vocab":[1]`), "model.vocab: expected an object"},
		"json vocab empty":      {bpe(`"vocab":{}`), "the vocabulary is empty"},
		"json id huge":          {bpe(`"vocab":{"a":2147483647}`), "model.vocab: id 2147483647 is far outside"},
		"json id negative":      {bpe(`"vocab":{"a":-1}`), "model.vocab: token \"a\" has the id -1"},
		"json id twice":         {bpe(`"vocab":{"a":0,"b":0}`), "model.vocab: id 0 is given to both"},
		"json merge absent":     {bpe(`"vocab":{"a":0,"b":1},"merges":["a b"]`), "model.merges: merge 0"},
		"json merge shape":      {bpe(`"vocab":{"a":0},"merges":["a"]`), "model.merges: merge 0"},
		"json merge triple":     {bpe(`"vocab":{"a":0},"merges":[["a","a","a"]]`), "model.merges: merge 0 has 3 parts"},
		"json merge type":       {bpe(`"vocab":{"a":0},"merges":[1]`), "model.merges"},
		"json unk absent":       {bpe(`"vocab":{"a":0},"unk_token":"u"`), "model.unk_token"},
		"json subword prefix":   {bpe(`"vocab":{"a":0},"continuing_subword_prefix":"##"`), "continuing_subword_prefix"},
		"json normalizer":       {`{"normalizer":{"type":"Nmt"},"model":{"vocab":{"a":0},"merges":[]}}`, "normalizer: type \"Nmt\""},
		"json deep sequence":    {`{"normalizer":` + deep + `,"model":{"vocab":{"a":0},"merges":[]}}`, "normalizer: more than"},
		"json pre-tokenizer":    {`{"pre_tokenizer":{"type":"UnicodeScripts"},"model":{"vocab":{"a":0},"merges":[]}}`, "pre_tokenizer: type"},
		"json split behavior":   {`{"pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"x"},"model":{"vocab":{"a":0},"merges":[]}}`, "behavior"},
		"json split expression": {`{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"},"model":{"vocab":{"a":0},"merges":[]}}`, "split expression"},
		"json empty pattern":    {`{"pre_tokenizer":{"type":"Split","pattern":{},"behavior":"Isolated"},"model":{"vocab":{"a":0},"merges":[]}}`, "pre_tokenizer.pattern"},
		"json metaspace":        {`{"pre_tokenizer":{"type":"Metaspace","replacement":"ab"},"model":{"vocab":{"a":0},"merges":[]}}`, "replacement"},
		"json decoder":          {`{"decoder":{"type":"CTC"},"model":{"vocab":{"a":0},"merges":[]}}`, "decoder: type"},
		"json template id":      {`{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[9]}}},"model":{"vocab":{"a":0},"merges":[]}}`, "post_processor: id 9 is outside"},
		"json template name":    {`{"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}]},"model":{"vocab":{"a":0},"merges":[]}}`, "special_tokens: \"x\" is missing"},
		"json added id":         {`{"added_tokens":[{"id":99999999,"content":"x"}],"model":{"vocab":{"a":0,"c":2},"merges":[]}}`, "far outside"},
		"json added long":       {`{"added_tokens":[{"id":1,"content":"` + strings.Repeat("x", 5000) + `"}],"model":{"vocab":{"a":0},"merges":[]}}`, "added_tokens: token 1 has 5000 bytes"},
		"spm cut off":           {"\x0a\x05\x0a\x03", "model: field 1 says 5 bytes, 3 are left"},
		"spm length bomb":       {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "model: field 1 says"},
		"spm endless number":    {"\x0a" + strings.Repeat("\xff", 30), "model: field 1"},
		"spm wire type":         {"\x0a\x03\x0a\x01a\x0b", "model: field 1 has wire type 3"},
		"spm unigram":           {"\x0a\x03\x0a\x01a", "trainer_spec.model_type: 1 (Unigram)"},
		"spm piece type":        {"\x0a\x05\x0a\x01a\x18\x09\x12\x02\x18\x02", "pieces[0]: type 9"},
		"spm piece twice":       {"\x0a\x03\x0a\x01a\x0a\x03\x0a\x01a\x12\x02\x18\x02", "pieces[1]: \"a\" is also token 0"},
		"spm piece empty":       {"\x0a\x02\x0a\x00\x12\x02\x18\x02", "pieces[0]: the piece is empty"},
		"spm score":             {"\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f\x12\x02\x18\x02", "pieces[0]: the score"},
		"spm unk outside":       {"\x0a\x03\x0a\x01a\x12\x05\x18\x02\xc0\x02\x09", "unk_id: id 9"},
		"spm bos outside":       {"\x0a\x03\x0a\x01a\x12\x05\x18\x02\xc8\x02\x09", "id 9 is outside"},
		"spm byte fallback":     {"\x0a\x03\x0a\x01a\x12\x05\x18\x02\x98\x02\x01", "byte fallback without"},
		"spm charsmap":          {"\x0a\x03\x0a\x01a\x12\x02\x18\x02\x1a\x03\x12\x01x", "precompiled_charsmap"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tokenizer.OpenFS(fstest.MapFS{"dir/tok": {Data: []byte(c.file)}}, "dir/tok")
			var e *tokenizer.Error
			if !errors.As(err, &e) || e.File != "dir/tok" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant an *Error of dir/tok with %q", err, c.want)
			}
		})
	}
}

// TestBadVocabularies is the same for GGUF metadata.
func TestBadVocabularies(t *testing.T) {
	for name, c := range map[string]struct {
		v    tokenizer.VocabGGUF
		want string
	}{
		"empty":          {tokenizer.VocabGGUF{Model: "gpt2"}, "tokens: the vocabulary is empty"},
		"model":          {tokenizer.VocabGGUF{Model: "bert", Tokens: []string{"a"}}, "model: \"bert\""},
		"short types":    {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a", "b"}, Types: []int32{1}}, "token_type: 1 entries for 2"},
		"bad type":       {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, Types: []int32{77}}, "token_type[0]: type 77"},
		"short scores":   {tokenizer.VocabGGUF{Model: "llama", Tokens: []string{"a", "b"}, Scores: []float32{1}}, "scores: 1 entries for 2"},
		"token twice":    {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a", "a"}}, "tokens[1]: \"a\" is also token 0"},
		"absent merge":   {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a", "b"}, Merges: []string{"a b"}}, "merges: merge 0"},
		"merge":          {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, Merges: []string{"a"}}, "merges[0]: \"a\""},
		"merge end":      {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, Merges: []string{"a "}}, "merges[0]: \"a \""},
		"pre":            {tokenizer.VocabGGUF{Model: "gpt2", Pre: "martian", Tokens: []string{"a"}}, "pre: \"martian\""},
		"byte spelling":  {tokenizer.VocabGGUF{Model: "llama", Tokens: []string{"a"}, Scores: []float32{0}, Types: []int32{6}}, "tokens[0]: the byte token"},
		"long piece":     {tokenizer.VocabGGUF{Model: "llama", Tokens: []string{strings.Repeat("a", 9999)}, Scores: []float32{0}}, "tokens[0]: 9999 bytes"},
		"score no value": {tokenizer.VocabGGUF{Model: "llama", Tokens: []string{"a"}, Scores: []float32{float32(math.NaN())}}, "tokens[0]: the score"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tokenizer.FromVocab(c.v)
			var e *tokenizer.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant an *Error with %q", err, c.want)
			}
		})
	}
}

// TestSpareVocabularies: what other programs run although something is missing or wrong.
func TestSpareVocabularies(t *testing.T) {
	id := func(n int32) *int32 { return &n }
	for name, c := range map[string]struct {
		v    tokenizer.VocabGGUF
		want string
	}{
		"bos":    {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, BOS: id(1)}, "bos_token_id 1 is outside"},
		"eos":    {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, EOS: id(-7)}, "eos_token_id -7 is outside"},
		"eot":    {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, EOT: id(7)}, "eot_token_id 7 is outside"},
		"eom":    {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, EOM: id(5)}, "eom_token_id 5 is outside"},
		"unk":    {tokenizer.VocabGGUF{Model: "llama", Tokens: []string{"a"}, Scores: []float32{0}, UNK: id(5)}, "unknown_token_id 5 is outside"},
		"pad":    {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, PAD: id(9)}, ""},
		"none":   {tokenizer.VocabGGUF{Model: "gpt2", Tokens: []string{"a"}, BOS: id(-1), EOM: id(-1)}, ""},
		"scores": {tokenizer.VocabGGUF{Model: "llama", Tokens: []string{"▁", "a", "aa", "▁a"}}, "scores is missing"},
	} {
		tok, err := tokenizer.FromVocab(c.v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if all := strings.Join(tok.Info().Warnings, "; "); !strings.Contains(all, c.want) {
			t.Errorf("%s: warnings %q, want %q", name, all, c.want)
		}
		if ids, err := tok.Encode("aaa", tokenizer.EncodeOptions{AddBOS: true, AddEOS: true}); err != nil || name == "scores" && fmt.Sprint(ids) != "[3 2]" {
			t.Errorf("%s: %v, %v", name, ids, err)
		}
	}
}

// TestTruncatedFiles cuts the real files short everywhere.
func TestTruncatedFiles(t *testing.T) {
	for _, path := range vocabularies(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 1<<18 {
			continue // the small ones have every structure
		}
		whole := open(t, path).VocabSize()
		for k := 1; k < 40; k++ {
			cut := data[:len(data)*k/40]
			tok, err := tokenizer.OpenFS(fstest.MapFS{"f": {Data: cut}}, "f")
			if err == nil && tok.VocabSize() >= whole {
				t.Errorf("%s: %d of %d bytes give the whole vocabulary", golden.Name(path), len(cut), len(data))
			}
		}
	}
}
