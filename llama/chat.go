package llama

import (
	"context"
	"fmt"
	"iter"

	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
)

// ChatOptions are the settings of one reply. The zero value is greedy and
// writes the conversation as the model's own template does.
type ChatOptions struct {
	GenerateOptions
	// Prompt has the tools that the model may call, and more.
	Prompt chat.Options
	// Format writes the conversation; nil is Model.ChatFormat.
	Format chat.Format
}

// Chat answers a conversation: it yields the tokens of the reply that follows
// the last message. What the session holds of the prompt is not computed again,
// so a further turn costs what is new in it, and a changed one what follows the
// change. Otherwise it is as Generate. A Reply makes a message of the tokens.
func (s *Session) Chat(ctx context.Context, messages []chat.Message, o ChatOptions) iter.Seq2[Token, error] {
	return s.sequence(ctx, o.GenerateOptions, func() ([]int32, error) {
		p, err := s.m.ChatPrompt(messages, o)
		return p.IDs, err
	})
}

// ChatPrompt is the prompt that Chat takes for a conversation.
func (m *Model) ChatPrompt(messages []chat.Message, o ChatOptions) (chat.Prompt, error) {
	f := o.Format
	if f == nil {
		var err error
		if f, err = m.ChatFormat(); err != nil {
			return chat.Prompt{}, err
		}
	}
	return f.Encode(messages, o.Prompt)
}

// ChatFormat is how the model wants conversations written: the template in its
// files, a *chat.Template, or several, *chat.Templates, or, where they have none and its vocabulary is that
// of Llama 3, a *chat.Llama3. The error wraps ErrUnsupported for a model that
// has neither.
func (m *Model) ChatFormat() (chat.Format, error) { return m.format, m.formatErr }

// ChatFormat is Model.ChatFormat for files whose weights are not loaded.
func ChatFormat(ctx context.Context, path string) (chat.Format, error) {
	c, err := checkpoint.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ChatFormat()
}

// Reply makes a message of the tokens of a reply.
type Reply struct{ r *chat.Reader }

// NewReply starts reading the reply to a conversation that is asked with o.
func (m *Model) NewReply(o ChatOptions) (*Reply, error) {
	if m.tok == nil {
		return nil, errNoTokenizer
	}
	return &Reply{chat.NewReader(m.tok, o.Prompt)}, nil
}

var errNoTokenizer = fmt.Errorf("llama: the model's files hold no tokenizer: %w", ErrUnsupported)

// Add takes a token that Chat yielded and returns what is to be shown: its text
// unless it is part of a tool call.
func (r *Reply) Add(t Token) (visible string) { return r.r.Add(t.ID, t.Text) }

// Message ends the reply: the message to append to the conversation, and the
// text that Add held back. The error is a *chat.CallError where the model wrote
// a malformed call; the message is valid all the same, the call part of its
// content.
func (r *Reply) Message() (m chat.Message, rest string, err error) { return r.r.Message() }

// Calls are the tool calls that are complete.
func (r *Reply) Calls() []chat.ToolCall { return r.r.Calls() }
