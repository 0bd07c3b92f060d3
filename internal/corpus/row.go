package corpus

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/herd-ml/herd/internal/jsontext"
)

// chatFields are the names under which data sets keep the turns of a chat.
var chatFields = []string{"messages", "conversations", "conversation"}

// errChat is for rows that hold turns in place of text.
func errChat(field string) error {
	return fmt.Errorf("it is a row of chats (%q), which come with post-training; this reads text", field)
}

// rowText returns the text of a row of JSON.
func rowText(line []byte, field string) (string, error) {
	row, err := object(line)
	if err != nil {
		return "", err
	}
	value, ok := lookUp(row, field)
	if !ok {
		for _, c := range chatFields {
			if _, ok := row[c]; ok {
				return "", errChat(c)
			}
		}
		return "", fmt.Errorf("%w: it has no field %q%s", errNoText, field, names(slices.Sorted(maps.Keys(row))))
	}
	switch value[0] {
	case '"':
		var s string
		if err := jsontext.Unmarshal(value, &s); err != nil {
			return "", err
		}
		if s == "" {
			return "", fmt.Errorf("%w: field %q is empty", errNoText, field)
		}
		return s, nil
	case 'n':
		return "", fmt.Errorf("%w: field %q is null", errNoText, field)
	}
	return "", fmt.Errorf("field %q is %s, want a string", field, kindOfJSON(value[0]))
}

// object splits a JSON object into its fields.
func object(b []byte) (map[string]json.RawMessage, error) {
	var row map[string]json.RawMessage
	err := jsontext.Unmarshal(b, &row)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return nil, fmt.Errorf("it is %w", err)
	case errors.As(err, &kind) || err == nil && row == nil:
		return nil, fmt.Errorf("it is %s, want an object", kindOfJSON(b[0]))
	}
	return row, err
}

// lookUp finds a field by its name or, where there is none, by its path.
func lookUp(row map[string]json.RawMessage, field string) (json.RawMessage, bool) {
	if v, ok := row[field]; ok {
		return v, len(v) > 0
	}
	first, rest, ok := strings.Cut(field, ".")
	if !ok {
		return nil, false
	}
	inner, err := object(row[first])
	if err != nil {
		return nil, false
	}
	return lookUp(inner, rest)
}

// names lists the first fields of a row, for an error.
func names(all []string) string {
	if len(all) == 0 {
		return ""
	}
	const some = 8
	more := ""
	if len(all) > some {
		all, more = all[:some], ", ..."
	}
	for i, n := range all {
		if len(n) > 40 {
			n = n[:40] + "..."
		}
		all[i] = fmt.Sprintf("%q", n)
	}
	return " (it has " + strings.Join(all, ", ") + more + ")"
}

func kindOfJSON(first byte) string {
	switch first {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a truth value"
	case 'n':
		return "null"
	}
	return "a number"
}
