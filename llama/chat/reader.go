package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/herd-ml/herd/llama/chat/internal/toolcall"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// Reader turns the tokens of a reply, as they come, into text to show, tool
// calls, and the message to append to the conversation. Calls are looked for if
// tools were offered, and after the mark that Llama 3.1 has for them,
// <|python_tag|>. These ways of writing calls are known: Llama 3's JSON and
// Python style, <function=…>, <tool_call> (Hermes, Qwen) and [TOOL_CALLS]
// (Mistral).
//
// It serves one reply and one goroutine.
type Reader struct {
	tok     *tokenizer.Tokenizer
	options toolcall.Options
	parser  *toolcall.Parser // nil: text is text
	ids     []int32          // but the stop token
	text    strings.Builder  // of ids
	shown   strings.Builder
	calls   []ToolCall
}

// CallError is a tool call that the model began but did not write well. Its
// text is part of the message's content.
type CallError struct {
	Offset int    // in bytes of the reply
	Text   string // the malformed part
	Reason string
}

// Error says what is wrong and where.
func (e *CallError) Error() string {
	return fmt.Sprintf("chat: malformed tool call at byte %d: %s in %.80q", e.Offset, e.Reason, e.Text)
}

// NewReader starts reading the reply to a prompt that was made with o. tok is
// the vocabulary of the model.
func NewReader(tok *tokenizer.Tokenizer, o Options) *Reader {
	b := o.Vars["builtin_tools"]
	builtin := b != nil && kindOf(b) != 'n'
	tools := o.Tools
	if custom := o.Vars["custom_tools"]; custom != nil {
		_ = json.Unmarshal(custom, &tools) // what is no list offers nothing more
	}
	r := &Reader{tok: tok, options: toolcall.Options{Builtin: builtin}}
	for _, t := range tools {
		var d struct {
			Name     string
			Function struct{ Name string }
		}
		if json.Unmarshal(t, &d) == nil && d.Name+d.Function.Name != "" {
			r.options.Names = append(r.options.Names, d.Name+d.Function.Name)
		}
	}
	if builtin && r.options.Names != nil {
		r.options.Names = append(r.options.Names, "brave_search", "wolfram_alpha", "code_interpreter")
	}
	if builtin || len(tools) > 0 {
		r.parser = toolcall.New(r.options)
	}
	return r
}

// callMarks are the special tokens with which some models surround calls.
var callMarks = []string{"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<tool_call>", "</tool_call>"}

// Add takes the next token with the text that it completed, and returns what is
// to be shown of the reply now. Parts of calls are not.
func (r *Reader) Add(id int32, text string) (visible string) {
	if !slices.Contains(r.tok.EOG(), id) {
		r.ids = append(r.ids, id)
	}
	if r.tok.IsSpecial(id) {
		switch name := r.tok.Name(id); {
		case name == pythonTag:
			if r.parser == nil {
				r.parser = toolcall.New(r.options)
			}
			r.parser.Tag()
		case r.parser != nil && slices.Contains(callMarks, name):
			visible = r.write(name)
		}
	}
	return visible + r.flush(text)
}

// flush takes text of the reply.
func (r *Reader) flush(text string) (visible string) {
	r.text.WriteString(text)
	return r.write(text)
}

func (r *Reader) write(text string) string {
	if r.parser != nil && text != "" {
		var calls []toolcall.Call
		text, calls = r.parser.Write(text)
		r.add(calls)
	}
	r.shown.WriteString(text)
	return text
}

func (r *Reader) add(calls []toolcall.Call) {
	for _, c := range calls {
		r.calls = append(r.calls, ToolCall{ID: c.ID, Type: "function", Function: Function{c.Name, c.Arguments}})
	}
}

// Calls are the tool calls that are complete.
func (r *Reader) Calls() []ToolCall { return slices.Clone(r.calls) }

// Message ends the reply: the message, and what of its text Add has not
// returned. A message that only calls tools has the content null. It remembers
// its tokens, so that a prompt that holds it begins as the session's cache
// does. The error is a *CallError for a malformed call; the message is valid
// all the same.
func (r *Reader) Message() (m Message, rest string, err error) {
	if r.parser != nil {
		var calls []toolcall.Call
		rest, calls, err = r.parser.Close()
		r.add(calls)
		r.shown.WriteString(rest)
		r.parser = nil
		var bad *toolcall.Error
		if errors.As(err, &bad) {
			err = &CallError{bad.Offset, bad.Text, bad.Reason}
		}
	}
	m = Text("assistant", r.shown.String())
	if m.ToolCalls = r.calls; len(r.calls) > 0 && trim(r.shown.String()) == "" {
		m.Content = json.RawMessage("null")
	}
	// With a stop text the tokens say more than the text does.
	if r.text.String() == r.tok.Decode(r.ids, tokenizer.DecodeOptions{SkipSpecial: true, Continued: true}) {
		m.made = &generated{slices.Clone(r.ids), m.Text(), slices.Clone(m.ToolCalls)}
	}
	return m, rest, err
}
