package chat_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// row is a line of templates/cases.jsonl.
type row struct {
	Template   string
	Name       string
	Messages   json.RawMessage
	Tools      json.RawMessage
	Generation *bool                      `json:"add_generation_prompt"`
	BOS        string                     `json:"bos_token"`
	EOS        string                     `json:"eos_token"`
	Date       *string                    `json:"date_string"`
	Extra      map[string]json.RawMessage `json:"extra"`
	Now        string
	Expected   *string
	Error      string `json:"expected_error"`
	Kind       string `json:"error_kind"`
}

// rows calls visit for every conversation of the golden data, with the source
// of its template.
func rows(t *testing.T, visit func(r row, source string, messages []chat.Message, o chat.Options)) {
	t.Helper()
	for _, path := range golden.Glob(t, "templates/*cases.jsonl") {
		for _, r := range golden.JSONLines[row](t, path) {
			source, err := os.ReadFile(filepath.Join(filepath.Dir(path), r.Template))
			if err != nil {
				t.Fatal(err)
			}
			messages, err := chat.ParseMessages(r.Messages)
			if err != nil {
				t.Fatalf("%s: %v", r.Name, err)
			}
			o := chat.Options{Vars: map[string]json.RawMessage{}, NoGenerationPrompt: r.Generation != nil && !*r.Generation}
			for k, v := range r.Extra {
				o.Vars[k] = v
			}
			if r.Date != nil {
				o.Vars["date_string"], _ = json.Marshal(*r.Date)
			}
			if r.Now == "" {
				r.Now = "2025-03-04T05:06:07"
			}
			if o.Now, err = time.Parse("2006-01-02T15:04:05", r.Now); err != nil {
				t.Fatal(err)
			}
			if string(r.Tools) != "null" && r.Tools != nil {
				if o.Tools, err = chat.ParseTools(r.Tools); err != nil {
					t.Fatal(err)
				}
			}
			visit(r, string(source), messages, o)
		}
	}
}

// pythonPart begins a part of a message's content as Python prints it.
const pythonPart = "[{'type': "

// asPython says whether a template that takes texts was given a list, which the reference
// prints as Python does. No model was trained on that: here it is the list's text, or an
// error.
func (r row) asPython() bool {
	return r.Expected != nil && strings.Contains(*r.Expected, pythonPart) && !strings.Contains(string(r.Messages), pythonPart)
}

// TestRenderings: prompts are those of the reference, errors of its kinds.
func TestRenderings(t *testing.T) {
	n := 0
	rows(t, func(r row, source string, messages []chat.Message, o chat.Options) {
		n++
		tmpl, err := chat.NewTemplate(source, nil)
		if err != nil {
			t.Fatalf("%s: %v", r.Template, err)
		}
		tmpl.BOS, tmpl.EOS = r.BOS, r.EOS
		got, err := tmpl.Render(messages, o)
		if r.asPython() {
			if err == nil && strings.Contains(got, pythonPart) {
				t.Errorf("%s %s: %q", r.Template, r.Name, got)
			}
			return
		}
		if r.Expected != nil {
			if err != nil || got != *r.Expected {
				t.Errorf("%s %s: %v\n%q, want\n%q", r.Template, r.Name, err, got, *r.Expected)
			}
			return
		}
		e, ok := err.(*chat.TemplateError)
		if !ok || e.Kind != r.Kind || r.Kind == "raise_exception" && e.Message != r.Error {
			t.Errorf("%s %s: %v, want %s: %s", r.Template, r.Name, err, r.Kind, r.Error)
		}
	})
	if n == 0 {
		t.Fatal("no cases")
	}
}

// vocabularies are those of the golden data that have the tokens of Llama 3.
func vocabularies(t *testing.T) map[string]*tokenizer.Tokenizer {
	t.Helper()
	found := map[string]*tokenizer.Tokenizer{}
	paths := golden.Glob(t, "models/*/model.gguf")
	if meta, err := filepath.Glob(filepath.Join(golden.Roots()[0], "tokenizer", "llama3", "tokenizer.model")); err == nil {
		paths = append(paths, meta...)
	}
	for _, path := range paths {
		tok, err := tokenizer.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chat.NewLlama3(tok, chat.Llama31); err == nil {
			found[path] = tok
		}
	}
	if len(found) == 0 {
		t.Fatal("no vocabulary of Llama 3")
	}
	return found
}

// llama3 says which version of the protocol a template writes. The templates of Llama 3
// are known by their SHA-256: others begin as they do.
func llama3(source string) (v chat.Version, ok bool) {
	v, ok = map[string]chat.Version{
		"e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65": chat.Llama31, // meta-llama/Llama-3.1-8B-Instruct
		"5816fce10444e03c2e9ee1ef8a4a1ea61ae7e69e438613f3b17b69d0426223a4": chat.Llama32, // meta-llama/Llama-3.2-3B-Instruct
	}[fmt.Sprintf("%x", sha256.Sum256([]byte(source)))]
	return v, ok
}

// TestLlama3EqualsTemplates: what the models' templates render is the native
// protocol, token by token; what the protocol refuses beyond them is listed.
func TestLlama3EqualsTemplates(t *testing.T) {
	n := 0
	for path, tok := range vocabularies(t) {
		rows(t, func(r row, source string, messages []chat.Message, o chat.Options) {
			v, ok := llama3(source)
			if !ok || r.Expected == nil || r.asPython() {
				return
			}
			n++
			tmpl, err := chat.NewTemplate(source, tok)
			if err != nil {
				t.Fatal(err)
			}
			tmpl.BOS, tmpl.EOS = r.BOS, r.EOS
			want, err := tmpl.Encode(messages, o)
			if err != nil {
				t.Fatalf("%s %s: %v", r.Template, r.Name, err)
			}
			native, err := chat.NewLlama3(tok, v)
			if err != nil {
				t.Fatal(err)
			}
			got, err := native.Encode(messages, o)
			if err != nil {
				for _, m := range messages {
					if !slices.Contains([]string{"system", "user", "assistant", "tool", "ipython"}, m.Role) {
						return // a template takes any role
					}
				}
				t.Errorf("%s %s: %v", r.Template, r.Name, err)
				return
			}
			if !slices.Equal(got.IDs, want.IDs) || got.Text != want.Text {
				t.Errorf("%s: %s %s:\n%q\n%q", path, r.Template, r.Name, got.Text, want.Text)
			}
			if len(got.Origins) != len(got.IDs) {
				t.Errorf("%d ids, %d origins", len(got.IDs), len(got.Origins))
			}
		})
	}
	if n == 0 {
		t.Skip("golden: the templates of Llama 3 are not here")
	}
}
