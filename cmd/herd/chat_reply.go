package main

// The state of a conversation, and a reply of the model.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/sample"
)

// talk is a conversation with a model.
type talk struct {
	g        *chatFlags
	cmd      *cobra.Command
	out      io.Writer // replies
	model    *model
	session  *llama.Session
	format   chat.Format
	prompt   chat.Options
	params   sample.Params
	messages []chat.Message
	verbose  bool // figures after each reply
	last     reply
	failed   int    // messages without a reply
	dropped  int    // messages after the system message that the model no longer sees
	file     string // where the conversation was loaded from or saved to last

	interrupts chan os.Signal // Ctrl-C
}

// reply is what is known of the last reply.
type reply struct {
	tokens  []int32
	finish  string
	prompt  int // tokens
	timings timings
	err     error // of a malformed tool call
}

func (g *chatFlags) newTalk(cmd *cobra.Command, m *model, prompt chat.Options) (*talk, error) {
	t := &talk{g: g, cmd: cmd, out: cmd.OutOrStdout(), model: m, prompt: prompt}
	var err error
	if t.format, err = g.format(cmd, m.Tokenizer(), m.ChatFormat); err != nil {
		return nil, err
	}
	if t.params, err = g.params(cmd.Flags(), m.Model); err != nil {
		return nil, err
	}
	t.session, err = m.NewSession(llama.SessionOptions{})
	return t, err
}

// reply asks for the next message, shows it as it comes, and appends it to the
// conversation: what there is of it if ctx ends.
func (t *talk) reply(ctx context.Context) error {
	o := llama.ChatOptions{GenerateOptions: t.g.generateOptions(t.model, t.params), Prompt: t.prompt, Format: t.format}
	r, err := t.model.NewReply(o)
	if err != nil {
		return err
	}
	p, err := t.fit(o)
	if err != nil {
		return err
	}
	before := t.session.Usage()
	t.last = reply{tokens: []int32{}, prompt: len(p.IDs)}
	start, end := "", "\n" // before a call, and at the end
	show := func(text string) error {
		if text == "" {
			return nil
		}
		start, end = "\n", "\n"
		if strings.HasSuffix(text, "\n") {
			start, end = "", ""
		}
		_, err := io.WriteString(t.out, text)
		return err
	}
	var failed error
	for token, err := range t.g.tokens(ctx, t.session, p.IDs, o.GenerateOptions) {
		if err == nil {
			t.last.tokens = append(t.last.tokens, token.ID)
			t.last.finish = token.Finish.String()
			err = show(r.Add(token))
		}
		if err != nil {
			failed = err
			break
		}
	}
	switch {
	case errors.Is(failed, context.Canceled):
		t.last.finish = "cancelled"
	case failed == nil && t.last.finish == "":
		t.last.finish = llama.FinishLength.String()
	case failed != nil:
		return failed
	}
	t.count(before)
	m, rest, malformed := r.Message()
	err = show(rest)
	for _, c := range m.ToolCalls {
		err = errors.Join(err, show(fmt.Sprintf("%s%s %s", start, c.Function.Name, c.Function.Arguments)))
	}
	t.last.err = malformed
	if malformed != nil {
		t.g.note(t.cmd, "%s", malformed)
	}
	_, ending := io.WriteString(t.out, end)
	t.messages = append(t.messages, m)
	return errors.Join(failed, err, ending)
}

// fit makes the prompt. With --context-shift it leaves the oldest turns out once they do
// not fit, with room for a reply, and never the system message.
func (t *talk) fit(o llama.ChatOptions) (chat.Prompt, error) {
	limit := t.session.Context()
	room := limit / 4
	if o.MaxTokens > 0 {
		room = min(room, o.MaxTokens)
	}
	for first := true; ; first = false {
		p, err := t.model.ChatPrompt(t.seen(), o)
		most := limit - room
		if first {
			most = limit - 1 // once turns are left out, it is for more than one
		}
		if err != nil || !o.ContextShift || len(p.IDs) <= most {
			return p, err
		}
		next := t.nextTurn()
		if next < 0 {
			return p, nil // the last message alone: the session says whether it fits
		}
		if t.dropped == 0 {
			t.say("the context of %d tokens is full: the oldest turns are left out from here on", limit)
		}
		t.dropped = next
	}
}

// seen are the messages that the model sees.
func (t *talk) seen() []chat.Message {
	if t.dropped == 0 {
		return t.messages
	}
	system := t.system()
	return append(slices.Clone(t.messages[:system]), t.messages[system+t.dropped:]...)
}

// system is the number of system messages at the start, 0 or 1.
func (t *talk) system() int {
	if len(t.messages) > 0 && t.messages[0].Role == "system" {
		return 1
	}
	return 0
}

// nextTurn is where the second turn that the model sees begins, after the system message;
// -1 where there is none.
func (t *talk) nextTurn() int {
	rest := t.messages[t.system():]
	for i := t.dropped + 1; i < len(rest); i++ {
		if rest[i].Role == "user" {
			return i
		}
	}
	return -1
}

// count takes the figures of a reply from the session.
func (t *talk) count(before llama.Usage) {
	u := t.session.Usage()
	t.last.timings = timings{
		Load:    number(t.model.LoadTime().Seconds()),
		Prefill: number((u.PrefillTime - before.PrefillTime).Seconds()), PrefillTokens: u.PrefillTokens - before.PrefillTokens,
		Decode: number((u.DecodeTime - before.DecodeTime).Seconds()), DecodeTokens: u.DecodeTokens - before.DecodeTokens,
	}
}

// stats says how the last reply went and how much of the context is used.
func (t *talk) stats() []string {
	l := t.last
	rate := func(n int, s number) string {
		if n == 0 || s <= 0 {
			return ""
		}
		return fmt.Sprintf(", %.1f/s", float64(n)/float64(s))
	}
	var lines []string
	if l.finish != "" {
		lines = append(lines,
			fmt.Sprintf("prompt %d tokens, %d new%s", l.prompt, l.timings.PrefillTokens, rate(l.timings.PrefillTokens, l.timings.Prefill)),
			fmt.Sprintf("reply %d tokens%s, ended by %s", len(l.tokens), rate(l.timings.DecodeTokens, l.timings.Decode), l.finish))
	}
	return append(lines, fmt.Sprintf("context %d of %d tokens", t.session.Len(), t.session.Context()))
}
