package llama_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// say asks for a reply and returns its message and tokens.
func say(t *testing.T, m *llama.Model, s *llama.Session, messages []chat.Message, o llama.ChatOptions) (chat.Message, []int32) {
	t.Helper()
	r, err := m.NewReply(o)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int32
	for token, err := range s.Chat(context.Background(), messages, o) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, token.ID)
		r.Add(token)
	}
	message, _, err := r.Message()
	var malformed *chat.CallError // random weights may begin a call
	if err != nil && !errors.As(err, &malformed) {
		t.Fatal(err)
	}
	return message, ids
}

// common is the length of the longest common prefix.
func common(a, b []int32) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// chatModels calls visit for every golden model that can chat, with each way of
// writing conversations that it has.
func chatModels(t *testing.T, visit func(t *testing.T, m *llama.Model, f chat.Format)) {
	n := 0
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		m := open(t, path, llama.Options{Context: 2048})
		formats := map[string]chat.Format{}
		if own, err := m.ChatFormat(); err == nil {
			formats["own"] = own
		} else if !errors.Is(err, llama.ErrUnsupported) {
			t.Errorf("%s: %v", path, err)
		}
		if native, err := chat.NewLlama3(m.Tokenizer(), chat.Llama31); err == nil {
			formats["llama3"] = native
		}
		for name, f := range formats {
			n++
			t.Run(golden.Name(path)+"/"+name, func(t *testing.T) { visit(t, m, f) })
		}
	}
	if n == 0 {
		t.Fatal("no model can chat")
	}
}

// TestChatComputesWhatIsNew: a further turn costs its new rows and no others,
// and an edited one what follows the edit; the replies are those of a session
// that computes everything.
func TestChatComputesWhatIsNew(t *testing.T) {
	chatModels(t, func(t *testing.T, m *llama.Model, f chat.Format) {
		s := session(t, m)
		o := llama.ChatOptions{Format: f, GenerateOptions: llama.GenerateOptions{MaxTokens: 9, Sampling: sample.Params{Temperature: 1, Seed: 3}}}
		messages := []chat.Message{chat.Text("system", "Be brief."), chat.Text("user", "Hello there")}
		said := "" // the last prompt with its reply
		ask := func(held int) {
			t.Helper()
			p, err := m.ChatPrompt(messages, o)
			if err != nil {
				t.Fatal(err)
			}
			// A template may change what was said, as Llama 2's, which adds spaces.
			if said != "" && strings.HasPrefix(p.Text, said) {
				held = s.Len()
			}
			before := s.Usage()
			same := common(p.IDs, s.IDs())
			if _, native := f.(*chat.Llama3); native && said != "" && held < s.Len() {
				t.Errorf("the prompt %q does not begin with %q", p.Text, said)
			}
			if same < held {
				t.Errorf("of %d tokens held, the next prompt begins with %d", held, same)
			}
			message, ids := say(t, m, s, messages, o)
			if got, want := s.Usage().PrefillTokens-before.PrefillTokens, len(p.IDs)-same; got != want {
				t.Errorf("%d rows computed for a prompt of %d tokens of which %d were held, want %d", got, len(p.IDs), same, want)
			}
			_, fresh := say(t, m, session(t, m), messages, o)
			if !slices.Equal(ids, fresh) {
				t.Errorf("with a cache %v, without %v", ids, fresh)
			}
			messages = append(messages, message)
			said = p.Text + message.Text()
			if _, native := f.(*chat.Llama3); native { // its ids are the reply's own, spaces and all
				said = p.Text
			} else if strings.TrimSpace(message.Text()) != message.Text() {
				said = "" // which templates cut off
			}
		}
		ask(0)
		for _, text := range []string{"And now?", "Go on", "Stop"} {
			messages = append(messages, chat.Text("user", text))
			ask(0)
		}
		// An edit of the second message: the turn before it stays.
		p, err := m.ChatPrompt(messages[:1], llama.ChatOptions{Format: f, Prompt: chat.Options{NoGenerationPrompt: true}})
		if err != nil {
			t.Fatal(err)
		}
		messages, said = []chat.Message{messages[0], chat.Text("user", "Something else")}, ""
		ask(len(p.IDs))
	})
}

// scripted is a step after which only the given tokens can be drawn, in turn.
func scripted(t *testing.T, m *llama.Model, text string) sample.Step {
	ids, err := m.Tokenizer().Encode(text, tokenizer.EncodeOptions{Special: true})
	if err != nil {
		t.Fatal(err)
	}
	return sample.StepFunc(func(c *sample.Candidates) {
		for i, id := range c.IDs {
			if id != ids[0] {
				c.Logits[i] = float32(math.Inf(-1))
			}
		}
		ids = ids[1:]
	})
}

// TestChatTools: a call that the model writes becomes a message, and its result
// goes back in: only that is computed.
func TestChatTools(t *testing.T) {
	path := smallModel
	m := open(t, path, llama.Options{Context: 2048})
	f, err := chat.NewLlama3(m.Tokenizer(), chat.Llama31)
	if err != nil {
		t.Fatal(err)
	}
	s := session(t, m)
	tools := []json.RawMessage{json.RawMessage(`{"type": "function", "function": {"name": "add"}}`)}
	o := llama.ChatOptions{Format: f, Prompt: chat.Options{Tools: tools}}
	o.Steps = []sample.Step{scripted(t, m, `{"name": "add", "parameters": {"b": 2, "a": 1}}<|eot_id|>`)}
	messages := []chat.Message{chat.Text("user", "1 and 2?")}
	call, _ := say(t, m, s, messages, o)
	if len(call.ToolCalls) != 1 || call.ToolCalls[0].Function.Name != "add" || string(call.ToolCalls[0].Function.Arguments) != `{"b": 2, "a": 1}` || string(call.Content) != "null" {
		t.Fatalf("the call is %+v", call)
	}
	messages = append(messages, call, chat.Message{Role: "tool", Content: json.RawMessage("3")})
	p, err := m.ChatPrompt(messages, o)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.Text, "<|start_header_id|>ipython<|end_header_id|>\n\n3<|eot_id|>") {
		t.Errorf("the result is not in %q", p.Text)
	}
	if held := s.IDs(); common(held, p.IDs) != len(held) {
		t.Errorf("of %d tokens held, the next prompt begins with %d", len(held), common(held, p.IDs))
	}
	// Changed fields win over what the model wrote.
	messages[1].ToolCalls[0].Function.Arguments = json.RawMessage(`{"a": 7}`)
	if p, err = m.ChatPrompt(messages, o); err != nil || !strings.Contains(p.Text, `"parameters": {"a": 7}`) {
		t.Errorf("an edited call is %q, %v", p.Text, err)
	}
}

// TestChatRefuses: what cannot be answered yields one error and leaves the
// session usable.
func TestChatRefuses(t *testing.T) {
	m := open(t, smallModel, llama.Options{})
	s := session(t, m)
	broken, err := chat.NewTemplate("{{ raise_exception('no ' ~ messages[0].role) }}", m.Tokenizer())
	if err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]llama.ChatOptions{
		"refuses the messages: no user": {Format: broken},
		"MaxTokens is -1":               {GenerateOptions: llama.GenerateOptions{MaxTokens: -1}},
	} {
		n := 0
		for _, err := range s.Chat(context.Background(), []chat.Message{chat.Text("user", "x")}, o) {
			if n++; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		if n != 1 {
			t.Errorf("%q is yielded %d times", want, n)
		}
	}
	if _, ids := say(t, m, s, []chat.Message{chat.Text("user", "x")}, llama.ChatOptions{GenerateOptions: llama.GenerateOptions{MaxTokens: 2}}); len(ids) == 0 {
		t.Error("the session is of no use any more")
	}
	if _, err := llama.ChatFormat(context.Background(), "no such file"); err == nil {
		t.Error("a format of no file")
	}
}

// TestContextShift: a full context keeps the first tokens and the newer half of
// the others, and goes on as a session that never saw the rest; a fork that
// shares its pages is left as it was.
func TestContextShift(t *testing.T) {
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		t.Run(golden.Name(path), func(t *testing.T) {
			const limit, total = 90, 150
			m := open(t, path, llama.Options{})
			small := func() *llama.Session {
				s, err := m.NewSession(llama.SessionOptions{Context: limit})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
			for _, keep := range []int{-1, 0, 5, 1000} {
				_, prompt := tiny(t, 70)
				for i := range prompt {
					prompt[i] %= int32(m.Config().Vocab)
				}
				s := small()
				if _, err := s.Logits(context.Background(), prompt); err != nil {
					t.Fatal(err)
				}
				fork, err := s.Fork()
				if err != nil {
					t.Fatal(err)
				}
				defer fork.Close()
				before, err := fork.Logits(context.Background(), prompt)
				if err != nil {
					t.Fatal(err)
				}
				got := collect(t, s, prompt, llama.GenerateOptions{MaxTokens: total, IgnoreEOS: true, ContextShift: true, Keep: keep})
				// The same, from logits alone.
				kept := keep
				if bos, ok := m.Tokenizer().BOS(); keep == 0 && ok && prompt[0] == bos {
					kept = 1
				}
				if kept < 0 || kept > len(prompt) {
					kept = len(prompt)
				}
				ref := small()
				ids := slices.Clone(prompt)
				var want []int32
				shifts := 0
				for len(want) < total {
					logits, err := ref.Logits(context.Background(), ids)
					if err != nil {
						t.Fatal(err)
					}
					next := int32(0)
					for i, l := range logits {
						if l > logits[next] {
							next = int32(i)
						}
					}
					want = append(want, next)
					if len(ids) == limit && len(want) < total {
						shifts++
						drop := (limit - kept + 1) / 2
						ids = slices.Delete(ids, kept, kept+drop)
					}
					ids = append(ids, next)
				}
				if n := common(got, want); n < total {
					t.Errorf("keep %d: token %d of %d differs", keep, n, total)
				}
				if u := s.Usage(); u.Shifts != shifts || shifts == 0 {
					t.Errorf("keep %d: %d shifts, want %d", keep, u.Shifts, shifts)
				}
				if held := s.IDs(); !slices.Equal(held[:kept], prompt[:kept]) {
					t.Errorf("keep %d: the first tokens are %v", keep, held[:kept])
				}
				after, err := fork.Logits(context.Background(), prompt)
				if err != nil || !slices.Equal(after, before) {
					t.Errorf("keep %d: the fork has changed (%v)", keep, err)
				}
			}
		})
	}
}
