package jinja_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/chat/internal/jinja"
)

// feature is a line of templates/features*.jsonl.
type feature struct {
	Name     string
	Source   string `json:"template_text"`
	Context  map[string]json.RawMessage
	Now      string
	Expected *string
	Error    string `json:"expected_error"`
	Kind     string `json:"error_kind"`
}

// TestFeatures: small templates render as the reference renders them, and fail
// with its kinds of errors.
func TestFeatures(t *testing.T) {
	for _, path := range golden.Glob(t, "templates/features*.jsonl") {
		for _, f := range golden.JSONLines[feature](t, path) {
			t.Run(f.Name, func(t *testing.T) { testFeature(t, f) })
		}
	}
}

// alias gives a message's reasoning the names that transformers gives it before
// a template runs; package chat does it for real messages.
func alias(t *testing.T, raw json.RawMessage) json.RawMessage {
	var messages []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &messages); err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		for _, name := range []string{"reasoning_content", "thinking", "reasoning"} {
			if r := m[name]; r != nil {
				m["reasoning_content"], m["thinking"] = r, r
			}
		}
	}
	b, err := json.Marshal(messages)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testFeature(t *testing.T, f feature) {
	vars := jinja.NewDict()
	vars.Set("messages", jinja.List())
	vars.Set("tools", jinja.None())
	vars.Set("documents", jinja.None())
	vars.Set("add_generation_prompt", jinja.Bool(false))
	for name, raw := range f.Context {
		if name == "messages" {
			raw = alias(t, raw)
		}
		v, err := jinja.FromJSON(raw, 0)
		if err != nil {
			t.Fatal(err)
		}
		vars.Set(name, v)
	}
	if f.Now == "" {
		f.Now = "2025-03-04T05:06:07"
	}
	now, err := time.Parse("2006-01-02T15:04:05", f.Now)
	if err != nil {
		t.Fatal(err)
	}
	var text jinja.Text
	tmpl, err := jinja.Parse(f.Source, jinja.Limits{})
	if err == nil {
		text, err = tmpl.Render(vars, jinja.Options{Now: now})
	}
	if f.Expected != nil {
		if err != nil || text.String != *f.Expected {
			t.Errorf("%q\n gives %v %q,\n want %q", f.Source, err, text.String, *f.Expected)
		}
		return
	}
	e, ok := err.(*jinja.Error)
	if !ok || e.Kind != f.Kind || f.Kind == "raise_exception" && e.Message != f.Error {
		t.Errorf("%q\n gives %q, %v,\n want %s: %s", f.Source, text.String, err, f.Kind, f.Error)
	} else if e.Message != f.Error {
		t.Logf("%q\n says %q, the reference %q", f.Source, e.Message, f.Error)
	}
}
