package chat

import (
	"fmt"
	"maps"
	"slices"

	"github.com/herd-ml/herd/llama/tokenizer"
)

// The names of templates that have a meaning.
const (
	// DefaultTemplate writes what no other template is for.
	DefaultTemplate = "default"
	// ToolTemplate writes conversations with tools.
	ToolTemplate = "tool_use"
)

// Templates are the templates of a model that has several, by name. Which one writes a
// conversation is chosen as Hugging Face's transformers choose: that of Options.Template,
// else ToolTemplate where tools are given, else DefaultTemplate.
type Templates struct {
	byName map[string]*Template
	faulty map[string]error // templates that cannot be used
}

// NewTemplates parses sources, by name, as NewTemplate does. A source with a fault is an
// error when it is chosen. It is an error here only if all have faults.
func NewTemplates(sources map[string]string, tok *tokenizer.Tokenizer) (*Templates, error) {
	t := &Templates{byName: map[string]*Template{}, faulty: map[string]error{}}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		one, err := NewTemplate(sources[name], tok)
		if err != nil {
			t.faulty[name] = fmt.Errorf("chat: the template %q: %w", name, err)
			continue
		}
		t.byName[name] = one
	}
	if len(t.byName) == 0 && len(t.faulty) > 0 {
		return nil, t.faulty[slices.Min(slices.Collect(maps.Keys(t.faulty)))]
	}
	return t, nil
}

// Names lists the templates, in ascending order.
func (t *Templates) Names() []string {
	return slices.Sorted(func(yield func(string) bool) {
		for name := range t.byName {
			if !yield(name) {
				return
			}
		}
		for name := range t.faulty {
			if !yield(name) {
				return
			}
		}
	})
}

// Choose returns the template that writes a conversation with these options. The error
// names the templates where there is none of the name wanted, or no default.
func (t *Templates) Choose(o Options) (*Template, error) {
	name := o.Template
	if name == "" {
		name = DefaultTemplate
		if o.Tools != nil && slices.Contains(t.Names(), ToolTemplate) {
			name = ToolTemplate
		}
	}
	if one := t.byName[name]; one != nil {
		return one, nil
	}
	if err := t.faulty[name]; err != nil {
		return nil, err
	}
	if o.Template == "" {
		return nil, fmt.Errorf("chat: the model has several templates and no default: choose one of %q", t.Names())
	}
	return nil, fmt.Errorf("chat: the model has no template %q: choose one of %q", name, t.Names())
}

// Encode is Template.Encode of the template chosen.
func (t *Templates) Encode(messages []Message, o Options) (Prompt, error) {
	one, err := t.Choose(o)
	if err != nil {
		return Prompt{}, err
	}
	o.Template = ""
	return one.Encode(messages, o)
}

// Render is Template.Render of the template chosen.
func (t *Templates) Render(messages []Message, o Options) (string, error) {
	one, err := t.Choose(o)
	if err != nil {
		return "", err
	}
	o.Template = ""
	return one.Render(messages, o)
}

// oneTemplate refuses a name where there is nothing to choose from.
func (o Options) oneTemplate() error {
	if o.Template != "" && o.Template != DefaultTemplate {
		return fmt.Errorf("chat: the model has no template %q: it has one only", o.Template)
	}
	return nil
}
