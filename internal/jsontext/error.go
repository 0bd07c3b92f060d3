// Package jsontext says what is wrong with JSON in words for those who wrote it, who
// need not know Go.
package jsontext

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/herd-ml/herd/internal/vfs"
)

// Unmarshal is json.Unmarshal for text that people wrote: a byte order mark does no harm,
// and errors are Explain's.
func Unmarshal(data []byte, v any) error { return Explain(json.Unmarshal(vfs.Text(data), v)) }

// Error is Explain's.
type Error struct {
	Key    string // the path of the value, "rope_scaling.factor"; empty for the whole text
	Reason string
	Err    error // of package encoding/json
}

func (e *Error) Error() string {
	switch {
	case e.Key == "" && strings.HasPrefix(e.Reason, "is "):
		return "the JSON " + e.Reason
	case e.Key == "":
		return e.Reason
	case strings.HasPrefix(e.Reason, "is "):
		return e.Key + " " + e.Reason
	}
	return e.Key + ": " + e.Reason
}

// At is err, which came of the value of a key, with that key in front.
func At(key string, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", key, err)
	}
	at := *e
	at.Key = strings.TrimSuffix(key+"."+e.Key, ".")
	return &at
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Explain turns an error of package encoding/json into an *Error that names the key and
// what was expected there; others stay as they are.
func Explain(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &kind):
		return &Error{Key: kind.Field, Reason: fmt.Sprintf("is %s, want %s", given(kind.Value), wanted(kind.Type)), Err: err}
	case errors.As(err, &syntax) && strings.Contains(syntax.Error(), "unexpected end"):
		return &Error{Reason: fmt.Sprintf("not JSON: byte %d: it ends too early", syntax.Offset), Err: err}
	case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
		return &Error{Reason: "not JSON: it ends too early", Err: err}
	case errors.As(err, &syntax):
		what, _, ok := strings.Cut(strings.TrimPrefix(syntax.Error(), "invalid character "), "' ")
		if ok {
			what = "unexpected " + what + "'"
		}
		return &Error{Reason: fmt.Sprintf("not JSON: byte %d: %s", syntax.Offset, what), Err: err}
	}
	return err
}

// given is what the text has.
func given(value string) string {
	kind, rest, _ := strings.Cut(value, " ")
	switch kind {
	case "number":
		if rest == "" {
			return "a number"
		}
		return "the number " + clip(rest)
	case "string":
		return "a text"
	case "array":
		return "a list"
	case "object":
		return "an object"
	case "bool":
		return "true or false"
	}
	return clip(value)
}

func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// wanted is what a Go type holds.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a text"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Pointer:
		return wanted(t.Elem())
	}
	return "something else"
}
