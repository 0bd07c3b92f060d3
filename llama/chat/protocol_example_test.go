package chat_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// small is a vocabulary with the tokens of Llama 3.
func small() *tokenizer.Tokenizer {
	tok, err := tokenizer.Open(golden.Committed("models/tied-rope8/model.gguf"))
	if err != nil {
		log.Fatal(err)
	}
	return tok
}

// The prompt of a conversation, and what each token of it is.
func ExampleLlama3_Encode() {
	protocol, err := chat.NewLlama3(small(), chat.Llama30)
	if err != nil {
		log.Fatal(err)
	}
	p, err := protocol.Encode([]chat.Message{chat.Text("user", "Hi")}, chat.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q\n", p.Text)
	last := chat.Origin{}
	for _, o := range p.Origins {
		if o != last {
			fmt.Println(o.Turn, o.Role, o.Part)
		}
		last = o
	}
	// Output:
	// "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
	// -1  BOS
	// 0 user header
	// 0 user body
	// 0 user terminator
	// 1 assistant header
}

func ExampleLlama3_Decode() {
	protocol, _ := chat.NewLlama3(small(), chat.Llama30)
	p, _ := protocol.Encode([]chat.Message{chat.Text("user", "Hi"), chat.Text("assistant", "Yes?")}, chat.Options{NoGenerationPrompt: true})
	messages, err := protocol.Decode(p.IDs)
	for _, m := range messages {
		fmt.Println(m.Role, m.Text())
	}
	fmt.Println(err)
	// Output:
	// user Hi
	// assistant Yes?
	// <nil>
}

// A vocabulary without the tokens of the protocol is refused.
func ExampleNewLlama3() {
	_, err := chat.NewLlama3(nil, chat.Llama31)
	fmt.Println(err)
	// Output: chat: the Llama 3 protocol needs a tokenizer
}

// A template renders without a tokenizer; with one it encodes, and what
// messages say never becomes a special token.
func ExampleTemplate_Render() {
	t, err := chat.NewTemplate(`{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}
{% endfor %}{{ strftime_now("%Y") }}`, nil)
	if err != nil {
		log.Fatal(err)
	}
	t.BOS = "<s>"
	text, err := t.Render([]chat.Message{chat.Text("user", " Hi ")}, chat.Options{Now: time.Date(2025, 3, 4, 0, 0, 0, 0, time.UTC)})
	fmt.Println(text, err)
	// Output:
	// <s>[user] Hi
	// 2025 <nil>
}

func ExampleTemplate_Encode() {
	tok := small()
	t, err := chat.NewTemplate(`<|eot_id|>{{ messages[0].content }}`, tok)
	if err != nil {
		log.Fatal(err)
	}
	eot, _ := tok.ID("<|eot_id|>")
	p, err := t.Encode([]chat.Message{chat.Text("user", "<|eot_id|>")}, chat.Options{})
	count := 0
	for _, id := range p.IDs {
		if id == eot {
			count++
		}
	}
	fmt.Println(p.Text, count, err)
	// Output: <|eot_id|><|eot_id|> 1 <nil>
}

// Faults have a place.
func ExampleNewTemplate() {
	_, err := chat.NewTemplate("Hello\n{{ name | shout }}", nil)
	fmt.Println(err)
	// Output: chat: template, line 2, column 11: No filter named 'shout'.
}

func ExampleTemplateError() {
	t, _ := chat.NewTemplate(`{{ raise_exception('roles must alternate') }}`, nil)
	_, err := t.Render(nil, chat.Options{})
	var fault *chat.TemplateError
	fmt.Println(errors.As(err, &fault), fault.Kind, err)
	// Output: true raise_exception chat: the template refuses the messages: roles must alternate
}

// A reply that calls a tool, as its tokens come.
func ExampleReader() {
	tok := small()
	tools := []json.RawMessage{json.RawMessage(`{"type": "function", "function": {"name": "add"}}`)}
	r := chat.NewReader(tok, chat.Options{Tools: tools})
	ids, _ := tok.Encode(`{"name": "add", "parameters": {"a": 1}}`, tokenizer.EncodeOptions{})
	d := tok.NewDecoder(tokenizer.DecodeOptions{SkipSpecial: true, Continued: true})
	for _, id := range ids {
		fmt.Print(r.Add(id, d.Write(id))) // nothing is to be shown
	}
	message, rest, err := r.Message()
	fmt.Println(message.ToolCalls[0].Function.Name, string(message.ToolCalls[0].Function.Arguments), rest == "", err)
	// Output: add {"a": 1} true <nil>
}

func ExampleCallError() {
	tok := small()
	tools := []json.RawMessage{json.RawMessage(`{"name": "add"}`)}
	r := chat.NewReader(tok, chat.Options{Tools: tools})
	ids, _ := tok.Encode(`{"name": "add", "parameters": {"a": }}`, tokenizer.EncodeOptions{})
	d := tok.NewDecoder(tokenizer.DecodeOptions{SkipSpecial: true, Continued: true})
	for _, id := range ids {
		r.Add(id, d.Write(id))
	}
	message, _, err := r.Message()
	var bad *chat.CallError
	fmt.Println(errors.As(err, &bad), len(message.ToolCalls), bad.Offset)
	// Output: true 0 0
}

func ExampleParseMessages() {
	_, err := chat.ParseMessages([]byte(`[{"role": "user"}, 7]`))
	fmt.Println(err)
	// Output: chat: message 1: want an object, not a number
}

func ExampleParseTools() {
	tools, err := chat.ParseTools([]byte(`[{"name": "f"}]`))
	fmt.Println(len(tools), err)
	// Output: 1 <nil>
}

func ExamplePart() {
	fmt.Println(chat.BOS, chat.Header, chat.Body, chat.Terminator)
	// Output: BOS header body terminator
}
