package toolcall

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/herd-ml/herd/internal/jsontext"
)

// reason is an error that says why something is no call.
type reason string

func (r reason) Error() string { return string(r) }

// errNoCall is a value that is no call at all.
const errNoCall = reason("it is no call of a function")

// jsonCalls reads an object or an array of objects. A value of another shape
// gives no calls and no error.
func jsonCalls(s string, names []string) ([]Call, error) {
	if !json.Valid([]byte(s)) {
		var v any
		err := jsontext.Unmarshal([]byte(s), &v)
		return nil, reason("bad JSON: " + err.Error())
	}
	items := []json.RawMessage{json.RawMessage(s)}
	if strings.HasPrefix(s, "[") {
		if json.Unmarshal([]byte(s), &items) != nil {
			return nil, nil
		}
	}
	var calls []Call
	for _, item := range items {
		c, ok, err := jsonCall(item, names)
		if err != nil || !ok {
			return nil, err
		}
		calls = append(calls, c)
	}
	return calls, nil
}

// jsonCall reads one object.
func jsonCall(item json.RawMessage, names []string) (c Call, ok bool, err error) {
	var o map[string]json.RawMessage
	if json.Unmarshal(item, &o) != nil || o == nil {
		return c, false, nil
	}
	if f := o["function"]; f != nil && o["name"] == nil {
		if f[0] == '{' { // {"type": "function", "function": {…}}
			c, ok, err = jsonCall(f, names)
			if id := o["id"]; ok && id != nil {
				_ = json.Unmarshal(id, &c.ID) // an id of another type is none
			}
			return c, ok, err
		}
		o["name"] = f
	}
	if json.Unmarshal(o["name"], &c.Name) != nil || c.Name == "" {
		return c, false, nil
	}
	if id := o["id"]; id != nil {
		_ = json.Unmarshal(id, &c.ID)
	}
	raw := o["parameters"]
	if raw == nil {
		raw = o["arguments"]
	}
	if raw == nil {
		for key := range o {
			if !slices.Contains(firstKeys, key) {
				return c, false, nil // {"name": "Bob", "age": 3}
			}
		}
		if len(names) > 0 && !slices.Contains(names, c.Name) {
			return c, false, nil
		}
	}
	c.Arguments, err = arguments(raw)
	return c, err == nil, err
}

// arguments brings the arguments of a call into the form of an object.
func arguments(raw json.RawMessage) (json.RawMessage, error) {
	raw = bytes.TrimSpace(raw)
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return json.RawMessage("{}"), nil
	case raw[0] == '{':
		return raw, nil
	case raw[0] == '"':
		var text string
		if json.Unmarshal(raw, &text) == nil {
			if inner := strings.TrimSpace(text); strings.HasPrefix(inner, "{") && json.Valid([]byte(inner)) {
				return json.RawMessage(inner), nil
			}
		}
	}
	return nil, reason(fmt.Sprintf("the arguments %.40s are no object", raw))
}

// namedCall reads what follows <function=.
func namedCall(s string) ([]Call, error) {
	name, body, ok := strings.Cut(s, ">")
	name = strings.TrimSpace(name)
	if !ok || name == "" || len(name) > 256 {
		return nil, reason("the function has no name")
	}
	body = strings.TrimSpace(body)
	if body == "" {
		body = "{}"
	}
	if body[0] != '{' || !json.Valid([]byte(body)) {
		return nil, reason("the arguments are no JSON object")
	}
	return []Call{{Name: name, Arguments: json.RawMessage(body)}}, nil
}

// mistralCalls reads what follows [TOOL_CALLS]: an array, or names with
// arguments, each after another opening.
func mistralCalls(s string) (calls []Call, err error) {
	for _, part := range strings.Split(s, mistralOpen) {
		part = strings.TrimSpace(part)
		if name, body, ok := strings.Cut(part, mistralArgs); ok && !strings.HasPrefix(part, "[") {
			name, id, _ := strings.Cut(name, "[CALL_ID]")
			if name = strings.TrimSpace(name); name == "" {
				return calls, reason("the function has no name")
			}
			body = strings.TrimSpace(body)
			if !strings.HasPrefix(body, "{") || !json.Valid([]byte(body)) {
				return calls, reason("the arguments are no JSON object")
			}
			calls = append(calls, Call{ID: id, Name: name, Arguments: json.RawMessage(body)})
			continue
		}
		more, err := jsonCalls(part, nil)
		if err == nil && len(more) == 0 {
			err = errNoCall
		}
		if err != nil {
			return calls, err
		}
		calls = append(calls, more...)
	}
	return calls, nil
}
