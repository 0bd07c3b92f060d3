package tokenizer_test

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// fromJSON opens a tokenizer.json given as text, with files beside it.
func fromJSON(t *testing.T, json string, beside ...string) *tokenizer.Tokenizer {
	t.Helper()
	dir := fstest.MapFS{"tokenizer.json": {Data: []byte(json)}}
	for i := 0; i+1 < len(beside); i += 2 {
		dir[beside[i]] = &fstest.MapFile{Data: []byte(beside[i+1])}
	}
	tok, err := tokenizer.OpenFS(dir, ".")
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// letters is a character vocabulary with ids in the order of the arguments.
func letters(names ...string) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%d", n, i)
	}
	return b.String()
}

func encode(t *testing.T, tok *tokenizer.Tokenizer, text string, o tokenizer.EncodeOptions) []int32 {
	t.Helper()
	ids, err := tok.Encode(text, o)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestNormalizersAndPreTokenizers(t *testing.T) {
	vocab := letters("a", "b", "A", "é", "e", "\u0301", " ", "x", "▁", "▁a", "ab", "1", "i", "\u0307", "<u>")
	const merges = `"merges":[["▁","a"],["a","b"]]`
	for name, c := range map[string]struct {
		parts, text string
		want        []int32
	}{
		"plain":              {``, "ab", []int32{10}},
		"NFC":                {`"normalizer":{"type":"NFC"},`, "e\u0301", []int32{3}},
		"NFD":                {`"normalizer":{"type":"NFD"},`, "é", []int32{4, 5}},
		"NFKC":               {`"normalizer":{"type":"NFKC"},`, "ａ", []int32{0}},
		"NFKD":               {`"normalizer":{"type":"NFKD"},`, "é", []int32{4, 5}},
		"lowercase":          {`"normalizer":{"type":"Lowercase"},`, "Aİ", []int32{0, 12, 13}},
		"strip":              {`"normalizer":{"type":"Strip","strip_left":true,"strip_right":false},`, " \u3000a ", []int32{0, 6}},
		"strip accents":      {`"normalizer":{"type":"Sequence","normalizers":[{"type":"NFD"},{"type":"StripAccents"}]},`, "é", []int32{4}},
		"replace expression": {`"normalizer":{"type":"Replace","pattern":{"Regex":"\\s+"},"content":"x"},`, "a \u3000b", []int32{0, 7, 1}},
		"prepend":            {`"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},`, "a a", []int32{9, 9}},
		"metaspace always":   {`"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"},`, "a a", []int32{9, 9}},
		"metaspace never":    {`"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"never"},`, "a a", []int32{0, 9}},
		"metaspace old":      {`"pre_tokenizer":{"type":"Metaspace","replacement":"▁","add_prefix_space":true},`, "a", []int32{9}},
		"split removed":      {`"pre_tokenizer":{"type":"Split","pattern":{"String":"x"},"behavior":"Removed"},`, "axb", []int32{0, 1}},
		"whitespace":         {`"pre_tokenizer":{"type":"Whitespace"},`, "a  b", []int32{0, 1}},
		"whitespace split":   {`"pre_tokenizer":{"type":"WhitespaceSplit"},`, "ab\u3000b", []int32{10, 1}},
		"delimiter":          {`"pre_tokenizer":{"type":"CharDelimiterSplit","delimiter":"1"},`, "a1b", []int32{0, 1}},
		"punctuation":        {`"pre_tokenizer":{"type":"Punctuation"},`, "ab", []int32{10}},
		"unknown dropped":    {``, "a?b", []int32{10}}, // before merging, as the reference does
	} {
		tok := fromJSON(t, `{`+c.parts+`"model":{"type":"BPE","vocab":{`+vocab+`},`+merges+`}}`)
		if got := encode(t, tok, c.text, tokenizer.EncodeOptions{}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q gives %v, want %v", name, c.text, got, c.want)
		}
	}
	for _, fuse := range []bool{false, true} {
		tok := fromJSON(t, fmt.Sprintf(`{"model":{"type":"BPE","unk_token":"<u>","fuse_unk":%v,"vocab":{%s},%s}}`, fuse, vocab, merges))
		want := []int32{0, 14, 14, 1}
		if fuse {
			want = []int32{0, 14, 1}
		}
		if got := encode(t, tok, "a??b", tokenizer.EncodeOptions{}); !slices.Equal(got, want) {
			t.Errorf("fuse_unk %v: %v, want %v", fuse, got, want)
		}
	}
}

// A file must not turn a short text into a huge one.
func TestNormalizerGrowth(t *testing.T) {
	grow := strings.TrimSuffix(strings.Repeat(`{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaa"},`, 7), ",")
	tok := fromJSON(t, `{"normalizer":{"type":"Sequence","normalizers":[`+grow+`]},"model":{"vocab":{"a":0},"merges":[]}}`)
	var e *tokenizer.Error
	if _, err := tok.Encode("aaaaaaaa", tokenizer.EncodeOptions{}); !errors.As(err, &e) || e.Field != "normalizer" {
		t.Errorf("%v, want an *Error of the normalizer", err)
	}
}

func TestAddedTokens(t *testing.T) {
	added := func(flags string) string {
		return `{"added_tokens":[{"id":4,"content":"<x>"` + flags + `},{"id":5,"content":"<x><y>","special":false}],"normalizer":{"type":"Lowercase"},"model":{"vocab":{` +
			letters("a", "<", "x", ">") + `,"y":6," ":7},"merges":[]}}`
	}
	for _, c := range []struct {
		flags, text string
		special     bool
		want        []int32
	}{
		{``, "a<x>a", false, []int32{0, 4, 0}},
		{``, "<x><y>", false, []int32{5}}, // the longest
		{``, "<X>", false, []int32{1, 2, 3}},
		{`,"normalized":true`, "<X>", false, []int32{4}},
		{`,"special":true`, "a<x>", false, []int32{0, 1, 2, 3}}, // a control token stays text
		{`,"special":true`, "a<x>", true, []int32{0, 4}},
		{`,"special":true`, "<x><y>", false, []int32{5}},
		{`,"lstrip":true`, "a  <x> a", false, []int32{0, 4, 7, 0}},
		{`,"rstrip":true`, "a <x>  a", false, []int32{0, 7, 4, 0}},
		{`,"single_word":true`, "a<x>", false, []int32{0, 1, 2, 3}},
		{`,"single_word":true`, "a <x>", false, []int32{0, 7, 4}},
	} {
		tok := fromJSON(t, added(c.flags))
		if got := encode(t, tok, c.text, tokenizer.EncodeOptions{Special: c.special}); !slices.Equal(got, c.want) {
			t.Errorf("%s %q special %v: %v, want %v", c.flags, c.text, c.special, got, c.want)
		}
	}
}

func TestBOSAndEOS(t *testing.T) {
	const template = `"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[1]}}},`
	file := func(post string) string {
		return `{"added_tokens":[{"id":1,"content":"<s>","special":true},{"id":2,"content":"</s>","special":true}],` + post + `"model":{"vocab":{"a":0},"merges":[]}}`
	}
	for name, c := range map[string]struct {
		post, config, generation string
		want                     []int32
		eog                      []int32
	}{
		"template":            {template, `{}`, `{}`, []int32{1, 0}, []int32{2}},
		"no template":         {``, `{}`, `{}`, []int32{0}, []int32{2}},
		"config adds":         {``, `{"add_bos_token":true,"bos_token":{"content":"<s>"}}`, `{}`, []int32{1, 0}, []int32{2}},
		"config forbids":      {template, `{"add_bos_token":false}`, `{}`, []int32{0}, []int32{2}},
		"plain class":         {template, `{"add_bos_token":false,"tokenizer_class":"PreTrainedTokenizerFast"}`, `{}`, []int32{1, 0}, []int32{2}},
		"config adds eos":     {template, `{"add_eos_token":true,"eos_token":"</s>"}`, `{}`, []int32{1, 0, 2}, []int32{2}},
		"generation settings": {template, `{"eos_token":"</s>"}`, `{"eos_token_id":[0,2]}`, []int32{1, 0}, []int32{0, 2}},
	} {
		tok := fromJSON(t, file(c.post), "tokenizer_config.json", c.config, "generation_config.json", c.generation)
		if got := encode(t, tok, "a", tokenizer.EncodeOptions{AddBOS: true, AddEOS: true}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if got := tok.EOG(); !slices.Equal(got, c.eog) {
			t.Errorf("%s: generation ends at %v, want %v", name, got, c.eog)
		}
		if bos, ok := tok.BOS(); !ok || bos != 1 {
			t.Errorf("%s: BOS is %d, %v", name, bos, ok)
		}
	}
}

// byteVocab is a GGUF vocabulary of the 256 bytes, in GPT-2's spelling, and more.
func byteVocab(more ...string) (tokens []string) {
	for c := range 256 {
		r := rune(c)
		switch { // the printable bytes stand for themselves
		case c <= ' ':
			r = 256 + r
		case c >= 0x7f && c <= 0xa0:
			r = 256 + 33 + r - 0x7f
		case c == 0xad:
			r = 256 + 67
		}
		tokens = append(tokens, string(r))
	}
	return append(tokens, more...)
}

func TestVocabularyKinds(t *testing.T) {
	tokens := byteVocab("ab", "<c>", "<u>", "")
	types := slices.Repeat([]int32{1}, len(tokens))
	types[257], types[258] = 3, 4
	tok, err := tokenizer.FromVocab(tokenizer.VocabGGUF{Model: "gpt2", Tokens: tokens, Types: types, Merges: []string{"a b"}})
	if err != nil {
		t.Fatal(err)
	}
	if w := tok.Info().Warnings; len(w) != 1 || !strings.Contains(w[0], "tokenizer.ggml.pre is missing") {
		t.Errorf("warnings %q", w)
	}
	for _, c := range []struct {
		text    string
		special bool
		want    []int32
	}{
		{"ab<u>", false, []int32{256, 258}}, // user-defined tokens always match
		{"<c>", false, []int32{'<', 'c', '>'}},
		{"<c>", true, []int32{257}},
	} {
		if got := encode(t, tok, c.text, tokenizer.EncodeOptions{Special: c.special}); !slices.Equal(got, c.want) {
			t.Errorf("%q special %v: %v, want %v", c.text, c.special, got, c.want)
		}
	}
	if !tok.IsSpecial(257) || tok.IsSpecial(258) || tok.IsSpecial(-1) || tok.IsSpecial(1<<30) {
		t.Error("IsSpecial is wrong")
	}
	if got := tok.Decode([]int32{'a', 257, 'b', -5, 1 << 30}, tokenizer.DecodeOptions{SkipSpecial: true}); got != "ab" {
		t.Errorf("decoded %q", got)
	}
}

// A SentencePiece text starts with a space that the text does not have.
func TestLeadingSpace(t *testing.T) {
	tok, err := tokenizer.FromVocab(tokenizer.VocabGGUF{Model: "llama", Tokens: []string{"<unk>", "<s>", "</s>", "▁", "a", "▁a"},
		Types: []int32{2, 3, 3, 1, 1, 1}, Scores: []float32{0, 0, 0, -2, -3, -1}})
	if err != nil {
		t.Fatal(err)
	}
	ids := encode(t, tok, "a a", tokenizer.EncodeOptions{AddBOS: true})
	if want := []int32{1, 5, 5}; !slices.Equal(ids, want) {
		t.Fatalf("%v, want %v", ids, want)
	}
	for _, c := range []struct {
		o    tokenizer.DecodeOptions
		want string
	}{
		{tokenizer.DecodeOptions{SkipSpecial: true}, "a a"},
		{tokenizer.DecodeOptions{SkipSpecial: true, Continued: true}, " a a"},
		{tokenizer.DecodeOptions{}, "<s> a a"},
	} {
		if got := tok.Decode(ids, c.o); got != c.want {
			t.Errorf("%+v: %q, want %q", c.o, got, c.want)
		}
	}
	if got := string(tok.TokenBytes(5)); got != " a" {
		t.Errorf("TokenBytes %q", got)
	}
}

func TestStreamKeepsSequencesWhole(t *testing.T) {
	tok, err := tokenizer.FromVocab(tokenizer.VocabGGUF{Model: "gpt2", Pre: "gpt-2", Tokens: byteVocab()})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]string{
		"a🦙b":          {"a", "", "", "", "🦙", "b", ""},
		"\xf0\x9fa":    {"", "", "\xf0\x9fa", ""},
		"\xff":         {"\xff", ""},
		"é\xe4\xb8":    {"", "é", "", "", "\xe4\xb8"},
		"\x80\x80":     {"\x80", "\x80", ""},
		"\xc3\xc3\xa9": {"", "\xc3", "é", ""},
	} {
		d, got := tok.NewDecoder(tokenizer.DecodeOptions{}), []string{}
		for _, id := range encode(t, tok, text, tokenizer.EncodeOptions{}) {
			got = append(got, d.Write(id))
		}
		if got = append(got, d.Flush()); !slices.Equal(got, want) {
			t.Errorf("%q streams as %q, want %q", text, got, want)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	for _, path := range golden.Glob(t, "tokenizer/bytelevel/*/tokenizer.json") {
		tok := open(t, path)
		text := strings.Repeat("The herd's 1234 llamas. ", 50)
		want := encode(t, tok, text, tokenizer.EncodeOptions{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5 {
					if got, err := tok.Encode(text, tokenizer.EncodeOptions{}); err != nil || !slices.Equal(got, want) {
						t.Errorf("another result when used at once, %v", err)
					}
				}
			})
		}
		wg.Wait()
	}
}

func TestOpenFolder(t *testing.T) {
	if _, err := tokenizer.OpenFS(fstest.MapFS{"a/b": {}}, "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder without a tokenizer: %v", err)
	}
	for _, dir := range golden.Glob(t, "models/*/hf") {
		if tok := open(t, dir); !tok.AddsBOS() || len(tok.EOG()) == 0 {
			t.Errorf("%s: adds BOS %v, ends at %v", golden.Name(dir), tok.AddsBOS(), tok.EOG())
		}
	}
}
