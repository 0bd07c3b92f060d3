package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/chat/internal/jinja"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// Template is the Jinja program that comes with a model and writes its
// prompts. It runs as Hugging Face's transformers run it, in bounded time and
// memory, and reaches nothing but the variables it is given.
type Template struct {
	// BOS and EOS are what the variables bos_token and eos_token say.
	BOS, EOS string
	// Special are the variables of further special tokens, pad_token and unk_token for
	// two: those that the vocabulary's files name.
	Special map[string]string

	program *jinja.Template
	tok     *tokenizer.Tokenizer
}

// TemplateError is a fault of a template, or what it says of the messages
// itself.
type TemplateError struct {
	Line, Column int    // in the template's source, from 1; 0 where unknown
	Kind         string // the class of the reference's exception, "limit", or "raise_exception"
	Message      string
}

// Error says what and where.
func (e *TemplateError) Error() string {
	switch {
	case e.Kind == "raise_exception":
		return "chat: the template refuses the messages: " + e.Message
	case e.Line == 0:
		return "chat: template: " + e.Message
	}
	return fmt.Sprintf("chat: template, line %d, column %d: %s", e.Line, e.Column, e.Message)
}

// NewTemplate parses a template. BOS and EOS are those of tok, which may be nil
// for a template that only renders. A fault in the source is a *TemplateError.
func NewTemplate(source string, tok *tokenizer.Tokenizer) (*Template, error) {
	program, err := jinja.Parse(string(vfs.Text([]byte(source))), jinja.Limits{})
	if err != nil {
		return nil, templateError(err)
	}
	t := &Template{program: program, tok: tok}
	if tok != nil {
		if id, ok := tok.BOS(); ok {
			t.BOS = tok.Name(id)
		}
		if id, ok := tok.EOS(); ok {
			t.EOS = tok.Name(id)
		}
		t.Special = tok.SpecialTokens()
	}
	return t, nil
}

func templateError(err error) error {
	var e *jinja.Error
	if errors.As(err, &e) {
		return &TemplateError{e.Line, e.Column, e.Kind, e.Message}
	}
	return fmt.Errorf("chat: %w", err)
}

// Sources of text: a message's index, or this for tools and variables.
const otherSource = 1 << 30

// Render returns the text of a prompt. What the template itself refuses, and
// what stops it, is a *TemplateError.
func (t *Template) Render(messages []Message, o Options) (string, error) {
	text, err := t.render(messages, o)
	return text.String, err
}

func (t *Template) renderAsIs(messages []Message, o Options) (jinja.Text, error) {
	if err := o.oneTemplate(); err != nil {
		return jinja.Text{}, err
	}
	vars := jinja.NewDict()
	list := make([]jinja.Value, len(messages))
	for i, m := range messages {
		v, err := messageValue(m, i)
		if err != nil {
			return jinja.Text{}, fmt.Errorf("chat: message %d: %w", i, err)
		}
		list[i] = v
	}
	vars.Set("messages", jinja.List(list...))
	vars.Set("documents", jinja.None())
	vars.Set("tools", jinja.None())
	if o.Tools != nil {
		tools := make([]jinja.Value, len(o.Tools))
		for i, raw := range o.Tools {
			v, err := jinja.FromJSON(raw, otherSource)
			if err != nil {
				return jinja.Text{}, fmt.Errorf("chat: tool %d: %w", i, err)
			}
			tools[i] = v
		}
		vars.Set("tools", jinja.List(tools...))
	}
	vars.Set("add_generation_prompt", jinja.Bool(!o.NoGenerationPrompt))
	for _, name := range slices.Sorted(maps.Keys(t.Special)) {
		vars.Set(name, jinja.String(t.Special[name]))
	}
	vars.Set("bos_token", jinja.String(t.BOS))
	vars.Set("eos_token", jinja.String(t.EOS))
	for name, raw := range o.Vars {
		if name == "messages" || name == "tools" || name == "add_generation_prompt" {
			return jinja.Text{}, fmt.Errorf("chat: variable %s: it is set by the messages and options", name)
		}
		v, err := jinja.FromJSON(raw, otherSource)
		if err != nil {
			return jinja.Text{}, fmt.Errorf("chat: variable %s: %w", name, err)
		}
		vars.Set(name, v)
	}
	text, err := t.program.Render(vars, jinja.Options{Now: o.now()})
	if err != nil {
		return jinja.Text{}, templateError(err)
	}
	return text, nil
}

// reasoningKeys are the names under which a message's reasoning is given, the
// one that templates read first.
var reasoningKeys = []string{"reasoning_content", "thinking", "reasoning"}

// messageValue is a message as a template sees it. Reasoning has several names: under
// whichever it is given, a template finds it under the two that templates read, as in
// transformers.
func messageValue(m Message, source int) (jinja.Value, error) {
	fields := m.fields()
	var reasoning json.RawMessage
	for _, key := range reasoningKeys {
		if v := lookup(fields, key); reasoning == nil && v != nil && kindOf(v) != 'n' {
			reasoning = v
		}
	}
	if reasoning != nil {
		if lookup(fields, "thinking") == nil {
			fields = append([]field{{"thinking", reasoning}}, fields...)
		}
		if lookup(fields, "reasoning_content") == nil {
			fields = append(fields, field{"reasoning_content", nil})
		}
	}
	d := jinja.NewDict()
	for _, f := range fields {
		if f.key == "reasoning_content" && reasoning != nil {
			f.value = reasoning
		}
		v, err := jinja.FromJSON(f.value, source)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.key, err)
		}
		d.Set(f.key, v)
	}
	return d, nil
}

// Encode renders the prompt and encodes it. Special tokens are those that the
// template itself wrote.
func (t *Template) Encode(messages []Message, o Options) (Prompt, error) {
	if t.tok == nil {
		return Prompt{}, errors.New("chat: the template has no tokenizer: it can only render")
	}
	text, err := t.render(messages, o)
	if err != nil {
		return Prompt{}, err
	}
	ids, err := t.encode(text, messages)
	if err != nil {
		return Prompt{}, fmt.Errorf("chat: %w", err)
	}
	return Prompt{Text: text.String, IDs: ids}, nil
}

// encode encodes a rendered prompt. Replies that it holds unchanged, between special
// tokens, become the tokens that the model wrote: a model need not cut text into tokens as
// the vocabulary would.
func (t *Template) encode(text jinja.Text, messages []Message) (ids []int32, err error) {
	at := 0
	for i, m := range messages {
		made := m.tokens()
		span, ok := whole(text, i, m.Text())
		if made == nil || len(m.ToolCalls) > 0 || !ok || span.Start < at {
			continue
		}
		after, err := t.piece(nil, text, span.End, min(span.End+maxSpecial, len(text.String)))
		if err != nil {
			return nil, err
		}
		if len(after) > 0 && !t.tok.IsSpecial(after[0]) {
			continue
		}
		if ids, err = t.piece(ids, text, at, span.Start); err != nil {
			return nil, err
		}
		ids, at = append(ids, made...), span.End
	}
	return t.piece(ids, text, at, len(text.String))
}

// maxSpecial is more bytes than a special token has.
const maxSpecial = 1 << 9

// whole is the place where a prompt says what a message says, in one piece.
func whole(text jinja.Text, source int, content string) (found jinja.Span, ok bool) {
	for _, s := range text.Data {
		if s.Source == source && text.String[s.Start:s.End] == content {
			if ok {
				return s, false // twice
			}
			found, ok = s, true
		}
	}
	return found, ok
}

// piece encodes text[start:end] onto ids.
func (t *Template) piece(ids []int32, text jinja.Text, start, end int) ([]int32, error) {
	var plain []tokenizer.Range
	for _, s := range text.Data {
		if from, to := max(s.Start, start), min(s.End, end); from < to {
			plain = append(plain, tokenizer.Range{Start: from - start, End: to - start})
		}
	}
	return t.tok.Append(ids, text.String[start:end], tokenizer.EncodeOptions{Special: true, Plain: plain})
}
