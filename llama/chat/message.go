package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/vfs"
)

// Message is one turn of a conversation. One that was read from JSON keeps
// every key it had and their order, since templates can see both; a field that
// is changed afterwards replaces its key.
type Message struct {
	Role string // "system", "user", "assistant", "tool" or "ipython"
	// Content is any JSON: a string, null, an object or an array of parts. A
	// missing content (nil) differs from null.
	Content   json.RawMessage
	ToolCalls []ToolCall
	// ToolCallID names the call that a tool's message answers.
	ToolCallID string
	Name       string

	raw  []field    // as read
	bad  error      // what in raw has no place in the fields above
	made *generated // by a model
}

// ToolCall is a model's request to run a function.
type ToolCall struct {
	ID       string   `json:"id,omitempty"`
	Type     string   `json:"type,omitempty"` // "function"
	Function Function `json:"function"`
}

// Function names what to call, with arguments as JSON whose key order is kept.
type Function struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// generated are the tokens of a reply, and the fields they stand for.
type generated struct {
	ids     []int32
	content string
	calls   []ToolCall
}

// Text returns a message with a string as its content.
func Text(role, content string) Message {
	return Message{Role: role, Content: marshal(content)}
}

// Text is the content as text: a string, or the texts of an array of parts one
// after the other. It is empty for everything else.
func (m Message) Text() string {
	s, _ := contentText(m.Content)
	return s
}

// contentText reads a content of text only.
func contentText(content json.RawMessage) (text string, err error) {
	switch kindOf(content) {
	case '"':
		err = jsontext.Unmarshal(content, &text)
		return text, err
	case '[':
		var parts []struct{ Type, Text string }
		if err := jsontext.Unmarshal(content, &parts); err != nil {
			return "", fmt.Errorf("content: %w", err)
		}
		for i, p := range parts {
			if p.Type != "text" {
				return "", fmt.Errorf("content: part %d is of type %q, which is not supported: only text is", i, p.Type)
			}
			text += p.Text
		}
		return text, nil
	case 0, 'n':
		return "", nil
	}
	return "", errors.New("content: want a string or an array of text parts")
}

// kindOf is the first byte of a JSON value: 0 for none, 'n' for null.
func kindOf(v json.RawMessage) byte {
	if v = bytes.TrimLeft(v, " \t\r\n"); len(v) == 0 {
		return 0
	}
	return v[0]
}

// tokens are the ids of a reply as the model wrote them, if the message still
// says what they said.
func (m Message) tokens() []int32 {
	if g := m.made; g != nil && m.Text() == g.content && reflect.DeepEqual(m.ToolCalls, g.calls) {
		return g.ids
	}
	return nil
}

// field is a member of a JSON object.
type field struct {
	key   string
	value json.RawMessage
}

// members reads a JSON object in its order; of a key that is there twice the
// last value counts, at the first one's place.
func members(object []byte) ([]field, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil {
		return nil, jsontext.Explain(err)
	} else if t != json.Delim('{') {
		return nil, fmt.Errorf("want an object, not %s", name(object))
	}
	fields := []field{}
	at := map[string]int{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, jsontext.Explain(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, jsontext.Explain(err)
		}
		k, _ := key.(string)
		if i, twice := at[k]; twice {
			fields[i].value = value
			continue
		}
		at[k] = len(fields)
		fields = append(fields, field{k, value})
	}
	_, err := d.Token()
	return fields, jsontext.Explain(err)
}

// name says what kind of JSON a value is.
func name(v []byte) string {
	switch kindOf(v) {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	case 0:
		return "nothing"
	}
	return "a number"
}

// typed are the fields that have a place of their own in m, in the order in
// which they are written.
func (m *Message) typed() []struct {
	key   string
	value any // a pointer
} {
	return []struct {
		key   string
		value any
	}{
		{"role", &m.Role}, {"content", &m.Content}, {"tool_calls", &m.ToolCalls},
		{"tool_call_id", &m.ToolCallID}, {"name", &m.Name},
	}
}

// UnmarshalJSON reads an object. A value of a type that the field cannot hold
// leaves it empty: a template sees it all the same, the native protocol
// refuses it.
func (m *Message) UnmarshalJSON(b []byte) error {
	raw, err := members(b)
	if err != nil {
		return err
	}
	*m = Message{raw: raw}
	for _, f := range m.typed() {
		value := lookup(raw, f.key)
		if value == nil || f.key != "content" && kindOf(value) == 'n' {
			continue
		}
		if err := jsontext.Unmarshal(value, f.value); err != nil {
			reflect.ValueOf(f.value).Elem().SetZero() // not half of it
			m.bad = errors.Join(m.bad, fmt.Errorf("%s: %w", f.key, err))
		}
	}
	return nil
}

func lookup(fields []field, key string) json.RawMessage {
	for _, f := range fields {
		if f.key == key {
			return f.value
		}
	}
	return nil
}

// MarshalJSON writes the object: what was read, with the changes made since.
func (m Message) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	sep := byte('{')
	for _, f := range m.fields() {
		b.WriteByte(sep)
		b.Write(marshal(f.key))
		b.WriteByte(':')
		b.Write(f.value)
		sep = ','
	}
	if sep == '{' {
		b.WriteByte(sep)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// fields are the members of the message's JSON object.
func (m Message) fields() []field {
	var before Message // what the fields were after reading
	for _, f := range before.typed() {
		if v := lookup(m.raw, f.key); v != nil && (f.key == "content" || kindOf(v) != 'n') && json.Unmarshal(v, f.value) != nil {
			reflect.ValueOf(f.value).Elem().SetZero()
		}
	}
	out := slices.Clone(m.raw)
	old := before.typed()
	for i, f := range m.typed() {
		now := reflect.ValueOf(f.value).Elem()
		if reflect.DeepEqual(f.value, old[i].value) {
			continue
		}
		at := slices.IndexFunc(out, func(o field) bool { return o.key == f.key })
		switch {
		case now.Len() == 0 && at >= 0: // taken out
			out = slices.Delete(out, at, at+1)
		case now.Len() == 0:
		case at >= 0:
			out[at].value = marshal(f.value)
		default:
			out = append(out, field{f.key, marshal(f.value)})
		}
	}
	return out
}

// marshal is json.Marshal for values that have a JSON form, with <, > and & as
// they are. Broken raw JSON becomes null.
func marshal(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return json.RawMessage("null")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// ParseMessages reads a conversation: a JSON array of objects. Errors name the
// message, counted from 0.
func ParseMessages(data []byte) ([]Message, error) {
	items, err := array(data, "messages")
	if err != nil {
		return nil, err
	}
	messages := make([]Message, len(items))
	for i, item := range items {
		if err := messages[i].UnmarshalJSON(item); err != nil {
			return nil, fmt.Errorf("chat: message %d: %w", i, err)
		}
	}
	return messages, nil
}

// ParseTools reads tool definitions: a JSON array of objects, as chat
// interfaces take them. Errors name the tool, counted from 0.
func ParseTools(data []byte) ([]json.RawMessage, error) {
	tools, err := array(data, "tools")
	if err != nil {
		return nil, err
	}
	for i, t := range tools {
		if kindOf(t) != '{' {
			return nil, fmt.Errorf("chat: tool %d: want an object, not %s", i, name(t))
		}
	}
	return tools, nil
}

// array reads a JSON array; what is its name in errors.
func array(data []byte, what string) (items []json.RawMessage, err error) {
	data = vfs.Text(data)
	err = jsontext.Unmarshal(data, &items)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		line := 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte("\n"))
		return nil, fmt.Errorf("chat: %s: line %d: %w", what, line, err)
	case err != nil || items == nil:
		return nil, fmt.Errorf("chat: %s: want an array of objects, not %s", what, name(data))
	}
	return items, nil
}
