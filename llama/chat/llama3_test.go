package chat_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// decode is the text of ids, special tokens included.
func decode(tok *tokenizer.Tokenizer, ids []int32) string {
	return tok.Decode(ids, tokenizer.DecodeOptions{Continued: true})
}

// conversation has every kind of turn.
func conversation() []chat.Message {
	return []chat.Message{
		chat.Text("system", " Be brief. "),
		chat.Text("user", "Weather in Lima?\n"),
		{Role: "assistant", Content: json.RawMessage("null"), ToolCalls: []chat.ToolCall{{Function: chat.Function{Name: "weather", Arguments: json.RawMessage(`{"b": "Lima", "a": 1}`)}}}},
		{Role: "tool", Content: json.RawMessage(`{"rain": false, "celsius": 18.50}`)},
		chat.Text("assistant", "Dry."),
		{Role: "ipython", Content: json.RawMessage(`"ok"`)},
		chat.Text("user", "Thanks"),
	}
}

// TestOrigins: the tokens of each turn, in the order of the protocol, say what
// they should, and every token tells its turn, role and part.
func TestOrigins(t *testing.T) {
	want := []struct {
		o    chat.Origin
		text string
	}{
		{chat.Origin{Turn: -1, Part: chat.BOS}, "<|begin_of_text|>"},
		{chat.Origin{Turn: 0, Role: "system", Part: chat.Header}, "<|start_header_id|>system<|end_header_id|>\n\n"},
		{chat.Origin{Turn: 0, Role: "system", Part: chat.Body}, "Cutting Knowledge Date: December 2023\nToday Date: 1 May 2025\n\nBe brief."},
		{chat.Origin{Turn: 0, Role: "system", Part: chat.Terminator}, "<|eot_id|>"},
		{chat.Origin{Turn: 1, Role: "user", Part: chat.Header}, "<|start_header_id|>user<|end_header_id|>\n\n"},
		{chat.Origin{Turn: 1, Role: "user", Part: chat.Body}, "Weather in Lima?"},
		{chat.Origin{Turn: 1, Role: "user", Part: chat.Terminator}, "<|eot_id|>"},
		{chat.Origin{Turn: 2, Role: "assistant", Part: chat.Header}, "<|start_header_id|>assistant<|end_header_id|>\n\n"},
		{chat.Origin{Turn: 2, Role: "assistant", Part: chat.Body}, `{"name": "weather", "parameters": {"b": "Lima", "a": 1}}`},
		{chat.Origin{Turn: 2, Role: "assistant", Part: chat.Terminator}, "<|eot_id|>"},
		{chat.Origin{Turn: 3, Role: "ipython", Part: chat.Header}, "<|start_header_id|>ipython<|end_header_id|>\n\n"},
		{chat.Origin{Turn: 3, Role: "ipython", Part: chat.Body}, `{"rain": false, "celsius": 18.5}`},
		{chat.Origin{Turn: 3, Role: "ipython", Part: chat.Terminator}, "<|eot_id|>"},
		{chat.Origin{Turn: 4, Role: "assistant", Part: chat.Header}, "<|start_header_id|>assistant<|end_header_id|>\n\n"},
		{chat.Origin{Turn: 4, Role: "assistant", Part: chat.Body}, "Dry."},
		{chat.Origin{Turn: 4, Role: "assistant", Part: chat.Terminator}, "<|eot_id|>"},
		{chat.Origin{Turn: 5, Role: "ipython", Part: chat.Header}, "<|start_header_id|>ipython<|end_header_id|>\n\n"},
		{chat.Origin{Turn: 5, Role: "ipython", Part: chat.Body}, `"ok"`},
		{chat.Origin{Turn: 5, Role: "ipython", Part: chat.Terminator}, "<|eot_id|>"},
		{chat.Origin{Turn: 6, Role: "user", Part: chat.Header}, "<|start_header_id|>user<|end_header_id|>\n\n"},
		{chat.Origin{Turn: 6, Role: "user", Part: chat.Body}, "Thanks"},
		{chat.Origin{Turn: 6, Role: "user", Part: chat.Terminator}, "<|eot_id|>"},
		{chat.Origin{Turn: 7, Role: "assistant", Part: chat.Header}, "<|start_header_id|>assistant<|end_header_id|>\n\n"},
	}
	for path, tok := range vocabularies(t) {
		l, err := chat.NewLlama3(tok, chat.Llama31)
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.Encode(conversation(), chat.Options{Vars: map[string]json.RawMessage{"date_string": json.RawMessage(`"1 May 2025"`)}})
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for _, w := range want {
			from := i
			for i < len(p.IDs) && p.Origins[i] == w.o {
				i++
			}
			if got := decode(tok, p.IDs[from:i]); got != w.text {
				t.Fatalf("%s: %+v is %q, want %q", path, w.o, got, w.text)
			}
		}
		if i != len(p.IDs) || len(p.Origins) != len(p.IDs) {
			t.Errorf("%s: %d of %d tokens belong to nothing", path, len(p.IDs)-i, len(p.IDs))
		}
		if text := decode(tok, p.IDs); text != p.Text {
			t.Errorf("%s: the text is %q, the ids say %q", path, p.Text, text)
		}
	}
}

// TestLlama3Settings: what is written for each version and variable.
func TestLlama3Settings(t *testing.T) {
	call := []chat.Message{chat.Text("user", "x"), {Role: "assistant", ToolCalls: []chat.ToolCall{
		{Function: chat.Function{Name: "wolfram_alpha", Arguments: json.RawMessage(`{"query": "1+1"}`)}},
		{Function: chat.Function{Name: "f"}},
	}}}
	for _, tok := range vocabularies(t) {
		for _, c := range []struct {
			version  chat.Version
			messages []chat.Message
			o        chat.Options
			want     string
		}{
			{chat.Llama30, []chat.Message{chat.Text("user", "Hi")}, chat.Options{},
				"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
			{chat.Llama30, []chat.Message{chat.Text("system", "S"), chat.Text("user", "Hi")}, chat.Options{NoGenerationPrompt: true},
				"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"},
			{chat.Llama31, call, chat.Options{NoGenerationPrompt: true, Vars: map[string]json.RawMessage{"builtin_tools": json.RawMessage(`["wolfram_alpha", "code_interpreter"]`)}},
				"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nTools: wolfram_alpha\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>" +
					"<|start_header_id|>user<|end_header_id|>\n\nx<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n" +
					`<|python_tag|>wolfram_alpha.call(query="1+1"); {"name": "f", "parameters": {}}<|eom_id|>`},
		} {
			l, err := chat.NewLlama3(tok, c.version)
			if err != nil {
				t.Fatal(err)
			}
			p, err := l.Encode(c.messages, c.o)
			if err != nil || p.Text != c.want || decode(tok, p.IDs) != c.want {
				t.Errorf("got %v\n%q, want\n%q", err, p.Text, c.want)
			}
		}
	}
}

// TestDecode: ids become the messages that they were made of.
func TestDecode(t *testing.T) {
	for path, tok := range vocabularies(t) {
		l, err := chat.NewLlama3(tok, chat.Llama30)
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.Encode(conversation(), chat.Options{NoGenerationPrompt: true})
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Decode(p.IDs)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, m := range got {
			b, _ := json.Marshal(m)
			text = append(text, string(b))
		}
		want := []string{
			`{"role":"system","content":"Be brief."}`,
			`{"role":"user","content":"Weather in Lima?"}`,
			`{"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"weather","arguments":{"b":"Lima","a":1}}}]}`,
			`{"role":"ipython","content":"{\"rain\": false, \"celsius\": 18.5}"}`,
			`{"role":"assistant","content":"Dry."}`,
			`{"role":"ipython","content":"\"ok\""}`,
			`{"role":"user","content":"Thanks"}`,
		}
		if !slices.Equal(text, want) {
			t.Errorf("%s:\n%s", path, strings.Join(text, "\n"))
		}
		// An unfinished turn, and what is no conversation.
		if m, err := l.Decode(p.IDs[:len(p.IDs)-1]); err != nil || len(m) != len(want) {
			t.Errorf("without the last terminator: %v, %v", m, err)
		}
		for n := range p.IDs[:12] {
			if _, err := l.Decode(p.IDs[n+2:]); err == nil && p.Origins[n+2].Part != chat.Header {
				t.Errorf("from token %d on no error", n+2)
			}
		}
	}
}

// protocol are texts that would change a conversation if they became tokens.
var protocol = []string{
	"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<|end_of_text|>",
	"<|im_start|>", "<|im_end|>", "system", "assistant", "ipython", "\n\n", "\n", " ", "{{ x }}", "{% endif %}", "obey", "<|eot", "_id|>", "é",
}

// forgery is a content made of them.
func forgery(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(12) {
		b.WriteString(protocol[r.IntN(len(protocol))])
	}
	return b.String()
}

// texts shows messages.
func texts(messages []chat.Message) (all []string) {
	for _, m := range messages {
		all = append(all, m.Role+": "+m.Text())
	}
	return all
}

// A talk is a conversation whose every text is said by say, with the result of a tool.
type talk func(say func() string, result json.RawMessage) []chat.Message

// talks are conversations, those with more kinds of messages first.
var talks = []talk{
	func(say func() string, result json.RawMessage) []chat.Message {
		return append([]chat.Message{chat.Text("system", say())}, turns(say, result)...)
	},
	turns,
	func(say func() string, result json.RawMessage) []chat.Message {
		return append([]chat.Message{chat.Text("system", say())}, turns(say, result)[:3]...)
	},
	func(say func() string, result json.RawMessage) []chat.Message { return turns(say, result)[:3] },
	func(say func() string, result json.RawMessage) []chat.Message { return turns(say, result)[:1] },
}

func turns(say func() string, result json.RawMessage) []chat.Message {
	call := chat.ToolCall{ID: "1", Type: "function", Function: chat.Function{Name: "f" + say(), Arguments: chat.Text("", say()).Content}}
	return []chat.Message{chat.Text("user", say()), chat.Text("assistant", say()), chat.Text("user", say()),
		{Role: "assistant", Content: json.RawMessage(`""`), ToolCalls: []chat.ToolCall{call}},
		{Role: "tool", Content: result, ToolCallID: "1", Name: say()}}
}

// accepted is the first of the talks that a format takes: templates may refuse system
// messages or tools.
func accepted(f chat.Format) talk {
	for _, talk := range talks {
		o := chat.Options{Vars: map[string]json.RawMessage{"date_string": json.RawMessage(`"today"`)}}
		if _, err := f.Encode(talk(func() string { return "x" }, json.RawMessage(`{}`)), o); err == nil {
			return talk
		}
	}
	return nil
}

// TestNoForgery: whatever messages say, in any field, a prompt has the turns of
// the messages and no others: natively, and by every template of the golden
// data.
func TestNoForgery(t *testing.T) {
	for path, tok := range vocabularies(t) {
		formats := map[string]chat.Format{}
		for _, v := range []chat.Version{chat.Llama31, chat.Llama32, chat.Llama30} {
			l, err := chat.NewLlama3(tok, v)
			if err != nil {
				t.Fatal(err)
			}
			formats[fmt.Sprint("native ", v)] = l
		}
		rows(t, func(r row, source string, _ []chat.Message, _ chat.Options) {
			if formats[r.Template] == nil {
				tmpl, err := chat.NewTemplate(source, tok)
				if err != nil {
					t.Fatal(err)
				}
				formats[r.Template] = tmpl
			}
		})
		for name, f := range formats {
			talk := accepted(f)
			if talk == nil {
				t.Logf("%s takes no conversation that is tried", name)
				continue
			}
			r := rand.New(rand.NewPCG(3, 4))
			for range 100 {
				special := func(messages []chat.Message) []int32 {
					p, err := f.Encode(messages, chat.Options{Vars: map[string]json.RawMessage{"date_string": json.RawMessage(`"today"`)}})
					if err != nil {
						t.Fatalf("%s %s: %v", path, name, err)
					}
					return slices.DeleteFunc(p.IDs, func(id int32) bool { return !tok.IsSpecial(id) })
				}
				plain := special(talk(func() string { return "x" }, json.RawMessage(`{}`)))
				messages := talk(func() string { return "x" + forgery(r) }, chat.Text("", forgery(r)).Content)
				if got := special(messages); !slices.Equal(got, plain) {
					t.Fatalf("%s %s: %q has the special tokens %q, want %q", path, name, texts(messages), decode(tok, got), decode(tok, plain))
				}
			}
		}
	}
}

// TestRefused: what the protocol cannot say, with the message at fault.
func TestRefused(t *testing.T) {
	hi := chat.Text("user", "hi")
	parse := func(s string) []chat.Message {
		m, err := chat.ParseMessages([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	tool := []json.RawMessage{json.RawMessage(`{"name": "f"}`)}
	for _, tok := range vocabularies(t) {
		for _, c := range []struct {
			messages []chat.Message
			o        chat.Options
			want     string
		}{
			{nil, chat.Options{}, "there are no messages"},
			{parse(`[{"content": "x"}]`), chat.Options{}, "message 0 has no role"},
			{parse(`[{"role": 3, "content": "x"}]`), chat.Options{}, "message 0: role:"},
			{[]chat.Message{hi, chat.Text("narrator", "x")}, chat.Options{}, `message 1: unknown role "narrator"`},
			{[]chat.Message{hi, {Role: "assistant"}}, chat.Options{}, "message 1 (assistant) has neither content nor tool calls"},
			{parse(`[{"role": "user", "content": null}]`), chat.Options{}, "message 0 (user) has neither content nor tool calls"},
			{parse(`[{"role": "assistant", "content": null, "tool_calls": []}]`), chat.Options{}, "neither content nor tool calls"},
			{parse(`[{"role": "assistant", "tool_calls": 7}]`), chat.Options{}, "message 0: tool_calls:"},
			{parse(`[{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]`), chat.Options{}, "tool call 0 has no function name"},
			{parse(`[{"role": "user", "tool_calls": [{"function": {"name": "f"}}]}]`), chat.Options{}, "tool calls by \"user\""},
			{parse(`[{"role": "user", "content": [{"type": "image"}]}]`), chat.Options{}, `part 0 is of type "image"`},
			{parse(`[{"role": "user", "content": {"a": 1}}]`), chat.Options{}, "want a string or an array of text parts"},
			{[]chat.Message{chat.Text("system", "x")}, chat.Options{Tools: tool}, "message 1: tools go into the first message of the user"},
			{[]chat.Message{hi}, chat.Options{Tools: []json.RawMessage{json.RawMessage(`"f"`)}}, "tool 0: want a JSON object"},
			{[]chat.Message{hi}, chat.Options{Vars: map[string]json.RawMessage{"documents": json.RawMessage("[]")}}, `no variable "documents"`},
			{[]chat.Message{hi}, chat.Options{Vars: map[string]json.RawMessage{"date_string": json.RawMessage("7")}}, "variable date_string"},
		} {
			l, err := chat.NewLlama3(tok, chat.Llama31)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Encode(c.messages, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		}
	}
	for text, want := range map[string]string{
		`{}`: "messages: want an array of objects, not an object", `[1]`: "message 0: want an object, not a number",
		`[{"role":"user"},"x"]`: "message 1: want an object, not a string", `null`: "not null",
		"[{\"role\": \"user\",\n \"content\": x}]": "line 2",
	} {
		if _, err := chat.ParseMessages([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{`{"name": "f"}`: "tools: want an array of objects, not an object", `[[]]`: "tool 0: want an object, not an array"} {
		if _, err := chat.ParseTools([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
