package checkpoint

import (
	"fmt"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/chat"
)

// templates is the only template of the files, or all of them.
func (c *Checkpoint) templates() (chat.Format, error) {
	if source, ok := c.ChatTemplates[chat.DefaultTemplate]; ok && len(c.ChatTemplates) == 1 {
		return chat.NewTemplate(source, c.Tokenizer)
	}
	return chat.NewTemplates(c.ChatTemplates, c.Tokenizer)
}

// ChatFormat is how the model wants conversations written: the template in its
// files, or all of them
// (*chat.Templates), or, where they have none and its vocabulary is that of Llama 3, that
// one's. The error wraps backend.ErrUnsupported for files that have neither.
func (c *Checkpoint) ChatFormat() (chat.Format, error) {
	switch {
	case c.Tokenizer == nil:
		return nil, fmt.Errorf("llama: %s holds no tokenizer: it cannot chat: %w", c.Path, backend.ErrUnsupported)
	case len(c.ChatTemplates) > 0:
		f, err := c.templates()
		if err != nil {
			return nil, fmt.Errorf("llama: %s: %w", c.Path, err)
		}
		return f, nil
	}
	v := chat.Llama30
	if r, ok := c.Config.llama3Scaling(c.ropeHint); ok && r.Factor > 8 { // 1B and 3B have 32
		v = chat.Llama32
	} else if ok {
		v = chat.Llama31
	}
	l, err := chat.NewLlama3(c.Tokenizer, v)
	if err != nil {
		return nil, fmt.Errorf("llama: %s has no chat template, and is no Llama 3 (%w): it cannot chat: %w", c.Path, err, backend.ErrUnsupported)
	}
	return l, nil
}
