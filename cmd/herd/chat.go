package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// chatFlags are those of chat beyond the common ones.
type chatFlags struct {
	*common
	generation
	model, system, messages, tools string
	template, templateName         string
	date, kwargs                   string
	bos, eos                       string
	printPrompt, noGeneration      bool
}

func newChat(c *common) *cobra.Command {
	g := &chatFlags{common: c}
	cmd := &cobra.Command{
		Use:   "chat -m MODEL",
		Short: "Talk to a model",
		Long: `Chat holds a conversation: each line is a message, and /help lists the
commands. Ctrl-C stops a reply, Ctrl-D ends the conversation. Where stdin is
not a terminal its lines are taken the same way.

With --messages it answers a conversation from a file, a JSON array of
{"role": …, "content": …}, and ends.`,
		Args: noArgs,
		RunE: g.run,
	}
	f := cmd.Flags()
	addModel(f, &g.model)
	f.StringVar(&g.system, "system", "", "`TEXT` of a system message")
	f.StringVar(&g.messages, "messages", "", "`FILE` with a conversation to answer once; - is stdin")
	f.StringVar(&g.tools, "tools", "", "`FILE` with a JSON array of the tools the model may call")
	g.generation.add(f)
	f.StringVar(&g.template, "template", "", "`FILE` with a Jinja template, instead of the model's own")
	f.StringVar(&g.date, "date", "", "`DATE` that a template sees, as 2025-03-04 or 2025-03-04T05:06:07 (default now)")
	f.StringVar(&g.templateName, "template-name", "", "the template `NAME` of a model with several (default tool_use with\n--tools, where there is one, else default)")
	f.StringVar(&g.kwargs, "chat-template-kwargs", "", "more variables of the template, a `JSON` object")
	f.BoolVar(&g.printPrompt, "print-prompt", false, "print the prompt of --messages and load no weights")
	f.BoolVar(&g.noGeneration, "no-generation-prompt", false, "end the prompt after the last message")
	f.StringVar(&g.bos, "template-bos", "", "`TEXT` of the template's bos_token (default the model's)")
	f.StringVar(&g.eos, "template-eos", "", "`TEXT` of the template's eos_token (default the model's)")
	f.SortFlags = false
	return cmd
}

func (g *chatFlags) run(cmd *cobra.Command, _ []string) error {
	f := cmd.Flags()
	options, err := g.generation.options(f)
	switch {
	case err != nil:
		return err
	case g.printPrompt && g.messages == "":
		return usagef("--print-prompt needs --messages")
	case g.json && g.messages == "":
		return usagef("--json needs --messages")
	case g.messages == "-" && g.tools == "-":
		return usagef("--messages and --tools cannot both be stdin")
	case g.model == "" && !(g.printPrompt && g.template != ""):
		return errNoModel
	}
	prompt, err := g.promptOptions(cmd)
	if err != nil {
		return err
	}
	var messages []chat.Message
	if g.messages != "" {
		if messages, err = readJSON(cmd, g.messages, chat.ParseMessages); err != nil {
			return err
		}
	}
	if f.Changed("system") {
		if len(messages) > 0 && messages[0].Role == "system" {
			return usagef("--system: %s begins with a system message already: leave one out", g.messages)
		}
		messages = append([]chat.Message{chat.Text("system", g.system)}, messages...)
	}
	if g.printPrompt {
		return g.print(cmd, messages, prompt)
	}
	m, err := g.generation.open(cmd, g.common, g.model, options)
	if err != nil {
		return err
	}
	defer m.close()
	t, err := g.newTalk(cmd, m, prompt)
	if err != nil {
		return err
	}
	defer t.session.Close()
	t.messages = messages
	if g.messages == "" {
		return t.converse(cmd)
	}
	return g.answer(cmd, t)
}

// promptOptions reads what goes into the prompt beside the messages.
func (g *chatFlags) promptOptions(cmd *cobra.Command) (o chat.Options, err error) {
	o.NoGenerationPrompt, o.Template = g.noGeneration, g.templateName
	if g.date != "" {
		if o.Now, err = time.Parse("2006-01-02T15:04:05", g.date); err != nil {
			if o.Now, err = time.Parse("2006-01-02", g.date); err != nil {
				return o, usagef("--date is %q, want a date as 2025-03-04 or 2025-03-04T05:06:07", g.date)
			}
		}
	}
	if g.kwargs != "" {
		if err := jsontext.Unmarshal([]byte(g.kwargs), &o.Vars); err != nil || o.Vars == nil {
			return o, usagef("--chat-template-kwargs is %q, want a JSON object", g.kwargs)
		}
	}
	if g.tools != "" {
		o.Tools, err = readJSON(cmd, g.tools, chat.ParseTools)
	}
	return o, err
}

// maxConversation is the largest file of messages or tools in bytes.
const maxConversation = 64 << 20

// readJSON reads a file with parse, whose errors get the file's name.
func readJSON[T any](cmd *cobra.Command, path string, parse func([]byte) (T, error)) (v T, err error) {
	b, err := readFile(cmd, path, maxConversation)
	if err != nil {
		return v, err
	}
	if v, err = parse(b); err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// format is how conversations are written: by --template, or as own says.
func (g *chatFlags) format(cmd *cobra.Command, tok *tokenizer.Tokenizer, own func() (chat.Format, error)) (chat.Format, error) {
	if g.template == "" {
		f, err := own()
		switch t := f.(type) {
		case *chat.Template:
			g.setTokens(cmd, t)
		case *chat.Templates:
			for _, name := range t.Names() {
				if one, err := t.Choose(chat.Options{Template: name}); err == nil {
					g.setTokens(cmd, one)
				}
			}
		}
		return f, err
	}
	source, err := readInput(cmd, g.template)
	if err != nil {
		return nil, err
	}
	t, err := chat.NewTemplate(source, tok)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.template, err)
	}
	g.setTokens(cmd, t)
	return t, nil
}

func (g *chatFlags) setTokens(cmd *cobra.Command, t *chat.Template) {
	if cmd.Flags().Changed("template-bos") {
		t.BOS = g.bos
	}
	if cmd.Flags().Changed("template-eos") {
		t.EOS = g.eos
	}
}

// print shows the prompt of a conversation.
func (g *chatFlags) print(cmd *cobra.Command, messages []chat.Message, o chat.Options) error {
	var tok *tokenizer.Tokenizer
	if g.template != "" && g.model != "" {
		var err error
		if tok, err = tokenizer.Open(g.model); err != nil {
			return err
		}
	}
	f, err := g.format(cmd, tok, func() (chat.Format, error) { return llama.ChatFormat(cmd.Context(), g.model) })
	if err != nil {
		return err
	}
	var text string
	if t, ok := f.(interface {
		Render([]chat.Message, chat.Options) (string, error)
	}); ok {
		text, err = t.Render(messages, o)
	} else {
		var p chat.Prompt
		p, err = f.Encode(messages, o)
		text = p.Text
	}
	if err != nil {
		return err
	}
	if g.json {
		return printJSON(cmd.OutOrStdout(), text)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// answered is what chat prints with --messages and --json.
type answered struct {
	Message struct {
		Role      string          `json:"role"`
		Content   json.RawMessage `json:"content"`
		ToolCalls []chat.ToolCall `json:"tool_calls,omitempty"`
	} `json:"message"`
	Tokens  []int32 `json:"tokens"`
	Finish  string  `json:"finish"`
	Seed    uint64  `json:"seed"`
	Timings timings `json:"timings"`
}

// answer replies once to a conversation.
func (g *chatFlags) answer(cmd *cobra.Command, t *talk) error {
	if g.json {
		t.out = io.Discard
	}
	failed := t.reply(cmd.Context())
	if failed != nil && !errors.Is(failed, cmd.Context().Err()) {
		return failed
	}
	var err error
	if g.json {
		a := answered{Tokens: t.last.tokens, Finish: t.last.finish, Seed: t.params.Seed, Timings: t.last.timings}
		m := t.messages[len(t.messages)-1]
		a.Message.Role, a.Message.Content, a.Message.ToolCalls = m.Role, m.Content, m.ToolCalls
		err = printJSON(cmd.OutOrStdout(), a)
	}
	g.printSeed(cmd, t.params.Seed)
	g.note(cmd, "%s", strings.Join(t.stats(), "; "))
	return errors.Join(failed, err)
}
