package jsontext

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	var v struct {
		Layers int      `json:"num_layers"`
		Name   *string  `json:"name"`
		Tied   bool     `json:"tied"`
		Eps    float64  `json:"eps"`
		List   []uint32 `json:"list"`
		Rope   struct {
			Factor float32 `json:"factor"`
		} `json:"rope"`
	}
	for text, want := range map[string]string{
		`{"num_layers": "two"}`:      "num_layers is a text, want a whole number",
		`{"num_layers": 1e30}`:       "num_layers is the number 1e30, want a whole number",
		`{"num_layers": 1.5}`:        "num_layers is the number 1.5, want a whole number",
		`{"name": 3}`:                "name is a number, want a text",
		`{"tied": {}}`:               "tied is an object, want true or false",
		`{"eps": [1]}`:               "eps is a list, want a number",
		`{"list": {}}`:               "list is an object, want a list",
		`{"list": [-1]}`:             "list is the number -1, want a whole number from 0",
		`{"rope": {"factor": true}}`: "rope.factor is true or false, want a number",
		`[1]`:                        "the JSON is a list, want an object",
		`{"a": `:                     "not JSON: byte 6: it ends too early",
		`{"a": 1,}`:                  "not JSON: byte 9: unexpected '}'",
		`{"name": 1` + strings.Repeat("0", 99) + `}`: "name is a number",
	} {
		err := Explain(json.Unmarshal([]byte(text), &v))
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "Go ") {
			t.Errorf("%.60s: %v, want %s", text, err, want)
		}
		var e *Error
		if !errors.As(err, &e) || e.Err == nil {
			t.Errorf("%.60s: %T", text, err)
		}
	}
	for text, want := range map[string]string{
		`"x"`: "lora is a text, want an object", "\xef\xbb\xbf{\"b\": 1}": "lora.B is a number, want a text", `[`: "lora: not JSON: byte 1: it ends too early",
	} {
		var v struct{ B string }
		if err := At("lora", Unmarshal([]byte(text), &v)); err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	other := errors.New("other")
	if Explain(nil) != nil || Explain(other) != other {
		t.Error("what is no error of JSON changes")
	}
}
