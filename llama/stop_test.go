package llama

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// script is a Step that makes a generation say given tokens.
func script(ids []int32) sample.Step {
	return sample.StepFunc(func(c *sample.Candidates) {
		want := ids[0]
		ids = ids[1:]
		for i, id := range c.IDs {
			if id != want {
				c.Logits[i] = float32(math.Inf(-1))
			}
		}
	})
}

// say runs a generation that follows a script in a session of some positions,
// and returns the text of each token and why it ended.
func say(t *testing.T, m *Model, positions int, ids []int32, o GenerateOptions) (texts []string, finish Finish) {
	t.Helper()
	s, err := m.NewSession(SessionOptions{Context: positions})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o.Steps = []sample.Step{script(ids)}
	if o.MaxTokens == 0 {
		o.MaxTokens = len(ids)
	}
	for tok, err := range s.GenerateIDs(context.Background(), []int32{1}, o) {
		if err != nil {
			t.Fatal(err)
		}
		if tok.ID != ids[len(texts)] {
			t.Fatalf("token %d is %d, want %d", len(texts), tok.ID, ids[len(texts)])
		}
		texts, finish = append(texts, tok.Text), tok.Finish
	}
	return texts, finish
}

// bytesOf gives the tokens of single bytes of a text, so that it can be cut
// anywhere.
func bytesOf(t *testing.T, tok *tokenizer.Tokenizer, text string) (ids []int32) {
	t.Helper()
	single := map[string]int32{}
	for id := range int32(tok.VocabSize()) {
		if b := tok.TokenBytes(id); len(b) == 1 && !tok.IsSpecial(id) {
			single[string(b)] = id
		}
	}
	for i := range len(text) {
		id, ok := single[text[i:i+1]]
		if !ok {
			t.Fatalf("no token for byte %q", text[i])
		}
		ids = append(ids, id)
	}
	return ids
}

// eachModel runs a test on every model that has a tokenizer.
func eachModel(t *testing.T, test func(t *testing.T, m *Model)) {
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		t.Run(golden.Name(path), func(t *testing.T) {
			m, err := Open(context.Background(), path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			test(t, m)
		})
	}
}

// TestTextIsDecode: the texts of any tokens, put together, are what the
// tokenizer decodes.
func TestTextIsDecode(t *testing.T) {
	eachModel(t, func(t *testing.T, m *Model) {
		rng := rand.New(rand.NewPCG(3, 4))
		ids := make([]int32, 200)
		for i := range ids {
			ids[i] = rng.Int32N(int32(m.Config().Vocab))
		}
		texts, _ := say(t, m, len(ids), ids, GenerateOptions{IgnoreEOS: true, Stop: []string{"never \x00 said"}})
		want := m.Tokenizer().Decode(ids, tokenizer.DecodeOptions{SkipSpecial: true, Continued: true})
		if got := strings.Join(texts, ""); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// TestAnyStop: wherever in the text of any tokens a stop text lies, the text
// ends before it, with the token that completes it.
func TestAnyStop(t *testing.T) {
	decode := tokenizer.DecodeOptions{SkipSpecial: true, Continued: true}
	eachModel(t, func(t *testing.T, m *Model) {
		rng := rand.New(rand.NewPCG(5, 6))
		for range 50 {
			ids := make([]int32, 12)
			for i := range ids {
				ids[i] = rng.Int32N(int32(m.Config().Vocab))
			}
			whole := m.Tokenizer().Decode(ids, decode)
			if whole == "" {
				continue // all control tokens
			}
			at := rng.IntN(len(whole))
			stop := whole[at:min(len(whole), at+1+rng.IntN(8))]
			n := 1 // tokens that complete the stop text
			for !strings.Contains(m.Tokenizer().Decode(ids[:n], decode), stop) {
				n++
			}
			texts, finish := say(t, m, 0, ids, GenerateOptions{IgnoreEOS: true, Stop: []string{stop}})
			if got, want := strings.Join(texts, ""), whole[:strings.Index(whole, stop)]; got != want || finish != FinishStop {
				t.Errorf("ids %v with stop %q: %q, %v; want %q", ids, stop, got, finish, want)
			}
			// An unfinished UTF-8 sequence is looked at once it is whole.
			complete := utf8.ValidString(m.Tokenizer().Decode(ids[:n], decode))
			if len(texts) < n || complete && len(texts) > n {
				t.Errorf("ids %v with stop %q: stopped after %d tokens, want %d", ids, stop, len(texts), n)
			}
		}
	})
}

// TestStopTexts: no part of a stop text is shown, everything before it is,
// UTF-8 sequences come whole, and other bytes are kept, whether tokens are bytes
// or words.
func TestStopTexts(t *testing.T) { eachModel(t, stopTexts) }

func stopTexts(t *testing.T, m *Model) {
	for _, c := range []struct {
		text   string
		stop   []string
		want   string
		finish Finish
	}{
		{"plain", nil, "plain", FinishLength},
		{"a stop b", []string{"stop"}, "a ", FinishStop},
		{"a sto", []string{"stop"}, "a sto", FinishLength},
		{"ababac!", []string{"abac"}, "ab", FinishStop},
		{"aaaab", []string{"aab"}, "aa", FinishStop},
		{"one two", []string{"two", "one two"}, "", FinishStop},
		{"x END", []string{"END", "x END"}, "", FinishStop},
		{"naïve 🦙!", nil, "naïve 🦙!", FinishLength},
		{"naïve 🦙!", []string{"🦙"}, "naïve ", FinishStop},
		{"🦙", []string{"\xf0\x9f\xa6\x99x"}, "🦙", FinishLength},
		{"cut \xf0\x9f\xa6", nil, "cut \xf0\x9f\xa6", FinishLength},
		{"bad \xff end", nil, "bad \xff end", FinishLength},
	} {
		words, err := m.Tokenizer().Encode(c.text, tokenizer.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, ids := range [][]int32{bytesOf(t, m.Tokenizer(), c.text), words} {
			texts, finish := say(t, m, 0, ids, GenerateOptions{Stop: c.stop, IgnoreEOS: true})
			got := strings.Join(texts, "")
			// SentencePiece puts a space before words.
			whole := m.Tokenizer().Decode(ids, tokenizer.DecodeOptions{Continued: true})
			got = strings.TrimPrefix(got, strings.TrimSuffix(whole, c.text))
			if got != c.want || finish != c.finish {
				t.Errorf("%q as %v with stops %q: %q, %v; want %q, %v", c.text, ids, c.stop, got, finish, c.want, c.finish)
			}
			for _, piece := range texts {
				if utf8.ValidString(c.text) && !utf8.ValidString(piece) {
					t.Errorf("%q: shown in part: %q", c.text, piece)
				}
			}
		}
	}
}

// TestStopTokens: the token that ends a generation is yielded without text,
// with what was held back before it.
func TestStopTokens(t *testing.T) { eachModel(t, stopTokens) }

func stopTokens(t *testing.T, m *Model) {
	if len(m.StopTokens()) == 0 {
		t.Fatal("the model has no stop token")
	}
	eos := m.StopTokens()[0]
	ids := append(bytesOf(t, m.Tokenizer(), "ab st"), eos, bytesOf(t, m.Tokenizer(), "x")[0])
	texts, finish := say(t, m, 0, ids, GenerateOptions{Stop: []string{"stop"}})
	if len(texts) != 6 || strings.Join(texts, "") != "ab st" || finish != FinishStop {
		t.Errorf("%q, %v; want the text and the stop token", texts, finish)
	}
	texts, finish = say(t, m, 0, ids, GenerateOptions{IgnoreEOS: true})
	if len(texts) != 7 || strings.Join(texts, "") != "ab stx" || finish != FinishLength {
		t.Errorf("with IgnoreEOS: %q, %v", texts, finish)
	}
	texts, finish = say(t, m, 0, ids, GenerateOptions{StopTokens: []int32{ids[1]}})
	if len(texts) != 2 || strings.Join(texts, "") != "a" || finish != FinishStop {
		t.Errorf("with a stop token of its own: %q, %v", texts, finish)
	}
}

// TestFinishOrder: of the reasons to end at one token, a stop counts before the
// length, and that before a full context.
func TestFinishOrder(t *testing.T) {
	eachModel(t, func(t *testing.T, m *Model) {
		ids := bytesOf(t, m.Tokenizer(), "abcdef")
		for _, c := range []struct {
			o    GenerateOptions
			n    int
			text string
			want Finish
		}{
			{GenerateOptions{}, 4, "abcd", FinishContext},
			{GenerateOptions{MaxTokens: 4}, 4, "abcd", FinishLength},
			{GenerateOptions{MaxTokens: 4, Stop: []string{"d"}}, 4, "abc", FinishStop},
			{GenerateOptions{MaxTokens: 4, StopTokens: ids[3:4]}, 4, "abc", FinishStop},
			{GenerateOptions{MaxTokens: 3, Stop: []string{"cd"}}, 3, "abc", FinishLength},
			{GenerateOptions{Stop: []string{"de"}}, 4, "abcd", FinishContext},
		} {
			c.o.IgnoreEOS = true
			texts, finish := say(t, m, 4, ids, c.o)
			if len(texts) != c.n || strings.Join(texts, "") != c.text || finish != c.want {
				t.Errorf("%+v: %q, %v; want %d tokens, %q, %v", c.o, texts, finish, c.n, c.text, c.want)
			}
		}
	})
}

// FuzzTextStream compares text shown piece by piece with a search in the whole.
func FuzzTextStream(f *testing.F) {
	f.Add("a stop b", "stop", "top", uint64(1))
	f.Add("aaaaab", "aab", "b", uint64(2))
	f.Add("🦙 naïve \xff", "\xff", "🦙", uint64(3))
	f.Fuzz(func(t *testing.T, text, first, second string, seed uint64) {
		if first == "" || second == "" || len(text) > 1<<12 {
			t.Skip()
		}
		want, stopped := text, false
		rng := rand.New(rand.NewPCG(seed, 0))
		s := &textStream{stop: []string{first, second}}
		var got string
		given := 0
		for given < len(text) {
			n := 1 + rng.IntN(min(5, len(text)-given))
			piece, found := s.add(text[given : given+n])
			given += n
			got += piece
			if found {
				stopped = true
				break
			}
		}
		if !stopped {
			got += s.held
		}
		// The stop text whose end comes first decides; of several that are
		// complete with one piece, the one that starts first.
		for _, stop := range []string{first, second} {
			if i := strings.Index(text[:given], stop); i >= 0 {
				want = want[:min(len(want), i)]
			}
		}
		if got != want || stopped != (len(want) < len(text)) {
			t.Errorf("%q with stops %q, %q: shown %q, want %q", text, first, second, got, want)
		}
	})
}
