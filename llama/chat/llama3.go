package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/llama/chat/internal/jinja"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// Version is one of the dialog protocols of Llama 3. They differ in what they
// write before the conversation.
type Version uint8

const (
	// Llama31 is that of Llama 3.1 and 3.3: a system turn with two dates is always
	// there, and built-in tools can be.
	Llama31 Version = iota
	// Llama32 has no built-in tools, and tells the day of the call.
	Llama32
	// Llama30 writes only what the messages say, and knows no tools.
	Llama30
)

// Llama3 is the dialog protocol of Llama 3:
//
//	<|begin_of_text|> then, for each turn,
//	<|start_header_id|> role <|end_header_id|> two newlines, body, <|eot_id|>
//
// with roles system, user, assistant and ipython (what a tool returned). Its
// ids are those of the models' own templates. Sources: Llama 3 paper, section
// 4.1; https://github.com/meta-llama/llama-models, models/llama3_1/prompt_format.md.
type Llama3 struct {
	version                        Version
	tok                            *tokenizer.Tokenizer
	bos, start, end, eot, eom, tag int32 // special tokens; eom and tag are -1 where the vocabulary has none
}

// NewLlama3 returns the protocol for a vocabulary, which must have its tokens.
func NewLlama3(tok *tokenizer.Tokenizer, v Version) (*Llama3, error) {
	if tok == nil {
		return nil, errors.New("chat: the Llama 3 protocol needs a tokenizer")
	}
	if v > Llama30 {
		return nil, fmt.Errorf("chat: Version is %d, want Llama31, Llama32 or Llama30", v)
	}
	l := &Llama3{version: v, tok: tok}
	var missing []string
	for _, t := range []struct {
		id       *int32
		name     string
		required bool
	}{
		{&l.bos, "<|begin_of_text|>", true}, {&l.start, startHeader, true}, {&l.end, endHeader, true},
		{&l.eot, "<|eot_id|>", true}, {&l.eom, "<|eom_id|>", false}, {&l.tag, pythonTag, false},
	} {
		id, ok := tok.ID(t.name)
		if *t.id = id; !ok {
			*t.id = -1
			if t.required {
				missing = append(missing, t.name)
			}
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("chat: the vocabulary lacks %s of the Llama 3 protocol", strings.Join(missing, ", "))
	}
	return l, nil
}

const (
	startHeader = "<|start_header_id|>"
	endHeader   = "<|end_header_id|>"
	pythonTag   = "<|python_tag|>"
)

// Encode writes a conversation. It refuses unknown roles, a message with
// neither content nor tool calls, and tool definitions without a user's message
// to put them in. A string that a tool returned is written as JSON, as the
// models' templates do. Contents are trimmed.
func (l *Llama3) Encode(messages []Message, o Options) (Prompt, error) {
	if err := o.oneTemplate(); err != nil {
		return Prompt{}, err
	}
	w := &llama3Writer{Llama3: l, messages: messages}
	if err := w.settings(o); err != nil {
		return Prompt{}, err
	}
	if err := check(messages); err != nil {
		return Prompt{}, err
	}
	w.special(l.bos, "<|begin_of_text|>", Origin{Turn: -1, Part: BOS})
	next := 0
	if messages[0].Role == "system" || l.version != Llama30 {
		next = w.system()
	}
	if w.tools != nil && w.inUser {
		if next == len(messages) || messages[next].Role != "user" {
			return Prompt{}, fmt.Errorf("chat: message %d: tools go into the first message of the user, which must be here", next)
		}
		text := w.content(next)
		w.turn(next, "user", toolIntro+toolRules+w.definitions()+text, w.eot)
		next++
	}
	for ; next < len(messages); next++ {
		w.message(next)
	}
	if !o.NoGenerationPrompt {
		w.header(Origin{Turn: len(messages), Role: "assistant"})
	}
	if w.err != nil {
		return Prompt{}, w.err
	}
	w.p.Text = w.text.String()
	return w.p, nil
}

// check refuses messages that the protocol cannot write.
func check(messages []Message) error {
	if len(messages) == 0 {
		return errors.New("chat: there are no messages")
	}
	var errs []error
	for i, m := range messages {
		known := slices.Contains([]string{"system", "user", "assistant", "tool", "ipython"}, m.Role)
		switch kind := kindOf(m.Content); {
		case m.bad != nil:
			errs = append(errs, fmt.Errorf("chat: message %d: %w", i, m.bad))
		case m.Role == "":
			errs = append(errs, fmt.Errorf("chat: message %d has no role", i))
		case !known:
			errs = append(errs, fmt.Errorf("chat: message %d: unknown role %q, want system, user, assistant, tool or ipython", i, m.Role))
		case len(m.ToolCalls) > 0 && m.Role != "assistant":
			errs = append(errs, fmt.Errorf("chat: message %d: tool calls by %q, only the assistant's are allowed", i, m.Role))
		case len(m.ToolCalls) == 0 && (kind == 0 || kind == 'n'):
			errs = append(errs, fmt.Errorf("chat: message %d (%s) has neither content nor tool calls", i, m.Role))
		case len(m.ToolCalls) == 0 && m.Role != "tool" && m.Role != "ipython":
			if _, err := contentText(m.Content); err != nil {
				errs = append(errs, fmt.Errorf("chat: message %d: %w", i, err))
			}
		}
		for k, c := range m.ToolCalls {
			if c.Function.Name == "" {
				errs = append(errs, fmt.Errorf("chat: message %d: tool call %d has no function name", i, k))
			}
			if a := c.Function.Arguments; a != nil && !json.Valid(a) {
				errs = append(errs, fmt.Errorf("chat: message %d: tool call %d: arguments are not JSON", i, k))
			}
		}
	}
	return errors.Join(errs...)
}

// llama3Writer is one call of Encode.
type llama3Writer struct {
	*Llama3
	messages []Message
	date     string
	tools    []json.RawMessage
	inUser   bool     // tools are told in the first user's turn
	builtin  []string // nil: none, not even the mode

	p    Prompt
	text strings.Builder
	err  error
}

// settings reads the options.
func (w *llama3Writer) settings(o Options) error {
	w.tools, w.inUser, w.date = o.Tools, true, "26 Jul 2024"
	if w.version == Llama32 {
		w.date = o.now().Format("02 Jan 2006")
	}
	var builtin []string
	for name, v := range map[string]any{"date_string": &w.date, "tools_in_user_message": &w.inUser, "builtin_tools": &builtin, "custom_tools": &w.tools} {
		raw, ok := o.Vars[name]
		if !ok {
			continue
		}
		if err := jsontext.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("chat: variable %s: %w", name, err)
		}
	}
	for name := range o.Vars {
		if !slices.Contains([]string{"date_string", "tools_in_user_message", "builtin_tools", "custom_tools"}, name) {
			return fmt.Errorf("chat: the Llama 3 protocol has no variable %q: it has date_string, tools_in_user_message, builtin_tools and custom_tools", name)
		}
	}
	if w.version == Llama31 {
		w.builtin = builtin
	}
	if w.version == Llama30 && w.tools != nil {
		return errors.New("chat: Llama 3.0 knows no tools")
	}
	for i, t := range w.tools {
		if kindOf(t) != '{' || !json.Valid(t) {
			return fmt.Errorf("chat: tool %d: want a JSON object", i)
		}
	}
	return nil
}

// What the models' templates say about tools.
const (
	toolIntro = "Given the following functions, please respond with a JSON for a function call " +
		"with its proper arguments that best answers the given prompt.\n\n"
	toolIntroSystem = "You have access to the following functions. To call a function, please respond with JSON for a function call."
	toolRules       = `Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.` +
		"Do not use variables.\n\n"
)

// definitions are the tools as JSON.
func (w *llama3Writer) definitions() string {
	var b strings.Builder
	for _, t := range w.tools {
		b.WriteString(w.json(t, 4) + "\n\n")
	}
	return b.String()
}

// system writes the first turn and returns the message after it.
func (w *llama3Writer) system() (next int) {
	turn, text := -1, ""
	if w.messages[0].Role == "system" {
		turn, text, next = 0, w.content(0), 1
	}
	if w.version == Llama30 {
		w.turn(turn, "system", text, w.eot)
		return next
	}
	var b strings.Builder
	if w.builtin != nil || w.tools != nil {
		b.WriteString("Environment: ipython\n")
	}
	if w.builtin != nil {
		named := slices.DeleteFunc(slices.Clone(w.builtin), func(name string) bool { return name == "code_interpreter" })
		b.WriteString("Tools: " + strings.Join(named, ", ") + "\n\n")
	}
	b.WriteString("Cutting Knowledge Date: December 2023\nToday Date: " + w.date + "\n\n")
	if w.tools != nil && !w.inUser {
		b.WriteString(toolIntroSystem + toolRules + w.definitions())
	}
	w.turn(turn, "system", b.String()+text, w.eot)
	return next
}

// message writes one turn.
func (w *llama3Writer) message(i int) {
	m := w.messages[i]
	end := w.eot
	if len(m.ToolCalls) > 0 && w.builtin != nil && w.eom >= 0 {
		end = w.eom
	}
	switch {
	case m.tokens() != nil:
		w.header(Origin{Turn: i, Role: "assistant"})
		for _, id := range m.tokens() {
			w.add(Origin{i, "assistant", Body}, id)
		}
		w.text.WriteString(w.tok.Decode(m.tokens(), tokenizer.DecodeOptions{Continued: true}))
		w.terminate(Origin{Turn: i, Role: "assistant"}, end)
	case len(m.ToolCalls) > 0:
		w.calls(i, end)
	case m.Role == "tool" || m.Role == "ipython":
		w.turn(i, "ipython", w.result(m.Content), end)
	default:
		w.turn(i, m.Role, w.content(i), end)
	}
}

// calls writes the turn of an assistant that calls tools.
func (w *llama3Writer) calls(i int, end int32) {
	o := Origin{Turn: i, Role: "assistant", Part: Body}
	w.header(o)
	text := ""
	for k, c := range w.messages[i].ToolCalls {
		if k > 0 {
			text += "; "
		}
		f := c.Function
		if f.Arguments == nil {
			f.Arguments = json.RawMessage("{}")
		}
		if slices.Contains(w.builtin, f.Name) && w.tag >= 0 {
			if k == 0 {
				w.special(w.tag, pythonTag, o)
			}
			text += f.Name + ".call(" + w.keywords(f.Arguments) + ")"
		} else {
			text += `{"name": "` + f.Name + `", "parameters": ` + w.json(f.Arguments, -1) + "}"
		}
	}
	w.plain(text, o)
	w.terminate(o, end)
}

// keywords writes arguments as the built-in tools take them.
func (w *llama3Writer) keywords(arguments json.RawMessage) string {
	fields, err := members(arguments)
	w.fail(err)
	var parts []string
	for _, f := range fields {
		text := string(f.value)
		if kindOf(f.value) == '"' {
			w.fail(jsontext.Unmarshal(f.value, &text))
		}
		parts = append(parts, f.key+`="`+text+`"`)
	}
	return strings.Join(parts, ", ")
}

// result writes what a tool returned.
func (w *llama3Writer) result(content json.RawMessage) string {
	switch kindOf(content) {
	case 't':
		return "True"
	case 'f':
		return "False"
	}
	return w.json(content, -1)
}

// content is the trimmed text of a message.
func (w *llama3Writer) content(i int) string {
	text, err := contentText(w.messages[i].Content)
	w.fail(err)
	return trim(text)
}

// trim takes off the white space that Python's str.strip does.
func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f })
}

// json writes JSON as the templates' tojson does.
func (w *llama3Writer) json(v json.RawMessage, indent int) string {
	value, err := jinja.FromJSON(v, 0)
	w.fail(err)
	if err != nil {
		return ""
	}
	s, err := jinja.ToJSON(value, indent)
	w.fail(err)
	return s
}

func (w *llama3Writer) fail(err error) {
	if w.err == nil && err != nil {
		w.err = fmt.Errorf("chat: %w", err)
	}
}

// turn writes a turn with a text for its body.
func (w *llama3Writer) turn(i int, role, body string, end int32) {
	o := Origin{Turn: i, Role: role, Part: Body}
	w.header(o)
	w.plain(body, o)
	w.terminate(o, end)
}

func (w *llama3Writer) header(o Origin) {
	o.Part = Header
	w.special(w.start, startHeader, o)
	w.plain(o.Role, o)
	w.special(w.end, endHeader, o)
	w.plain("\n\n", o)
}

func (w *llama3Writer) terminate(o Origin, id int32) {
	o.Part = Terminator
	w.special(id, w.tok.Name(id), o)
}

// plain writes text in which nothing is special.
func (w *llama3Writer) plain(text string, o Origin) {
	ids, err := w.tok.Encode(text, tokenizer.EncodeOptions{Plain: []tokenizer.Range{{Start: 0, End: len(text)}}})
	w.fail(err)
	w.text.WriteString(text)
	for _, id := range ids {
		w.add(o, id)
	}
}

func (w *llama3Writer) special(id int32, name string, o Origin) {
	w.text.WriteString(name)
	w.add(o, id)
}

func (w *llama3Writer) add(o Origin, id int32) {
	w.p.IDs = append(w.p.IDs, id)
	w.p.Origins = append(w.p.Origins, o)
}
