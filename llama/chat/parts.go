package chat

// Contents that are lists of parts, for templates that expect strings.

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/herd-ml/herd/llama/chat/internal/jinja"
)

// render writes a prompt. Where a template has no notion of contents that are lists of
// parts, and would fail or print their data structure, it gets their text instead.
func (t *Template) render(messages []Message, o Options) (jinja.Text, error) {
	text, err := t.renderAsIs(messages, o)
	var flat []Message
	for i, m := range messages {
		if !isParts(m.Content) || err == nil && !printed(text.String, m.Content) {
			continue
		}
		content, wrong := contentText(m.Content)
		if wrong != nil && err == nil {
			return jinja.Text{}, fmt.Errorf("chat: message %d: the template takes text only: %w", i, wrong)
		}
		if wrong != nil {
			return jinja.Text{}, err
		}
		if flat == nil {
			flat = slices.Clone(messages)
		}
		flat[i].Content = marshal(content)
	}
	if flat == nil {
		return text, err
	}
	again, wrong := t.renderAsIs(flat, o)
	if wrong != nil && err != nil {
		return text, err // it was not about the parts
	}
	return again, wrong
}

// isParts says whether a content is a list of parts: objects with a type. Results of
// tools may be other lists, which are data.
func isParts(content json.RawMessage) bool {
	if kindOf(content) != '[' {
		return false
	}
	type part struct{ Type *string }
	var parts []part
	return json.Unmarshal(content, &parts) == nil && len(parts) > 0 &&
		!slices.ContainsFunc(parts, func(p part) bool { return p.Type == nil })
}

// show prints a value as Python does.
var show, _ = jinja.Parse("{{ content }}", jinja.Limits{})

// printed says whether a prompt holds the data structure of a content.
func printed(prompt string, content json.RawMessage) bool {
	v, err := jinja.FromJSON(content, otherSource)
	if err != nil {
		return false
	}
	vars := jinja.NewDict()
	vars.Set("content", v)
	text, err := show.Render(vars, jinja.Options{})
	return err == nil && strings.Contains(prompt, text.String)
}
