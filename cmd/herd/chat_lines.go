package main

// A conversation line by line: what a person types, and what it sets off.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/peterh/liner"
	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
)

// lines reads what a person types.
type lines interface {
	// read returns a line without its end; io.EOF ends the conversation, and
	// liner.ErrPromptAborted says that Ctrl-C was pressed.
	read(prompt string) (string, error)
	close()
}

// pipe reads lines of a file or a pipe, or of a terminal on which lines are not edited.
type pipe struct {
	lineReader
	prompts io.Writer // nil but for a terminal
}

func (p *pipe) read(prompt string) (string, error) {
	if p.prompts != nil {
		io.WriteString(p.prompts, prompt)
	}
	line, err := p.line()
	if len(line) > maxLine {
		return "", fmt.Errorf("a line of %s, at most %s are allowed", size(int64(len(line))), size(maxLine))
	}
	if err == io.EOF && line != "" {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}

func (p *pipe) close() {}

// maxLine is the longest message that can be typed.
const maxLine = 16 << 20

// terminal edits lines, with a history that is kept between conversations.
type terminal struct {
	*liner.State
	out     io.Writer
	history string // a file, or empty
}

func newTerminal(in io.Reader, out io.Writer) (terminal, error) {
	state, err := newLiner(in)
	if err != nil {
		return terminal{}, err
	}
	t := terminal{State: state, out: out}
	t.SetCtrlCAborts(true)
	t.SetMultiLineMode(true)
	t.SetCompleter(func(line string) (found []string) {
		for _, c := range commands {
			if strings.HasPrefix("/"+c.name, line) {
				found = append(found, "/"+c.name)
			}
		}
		return found
	})
	if dir, err := os.UserCacheDir(); err == nil {
		t.history = filepath.Join(dir, "herd", "history")
		if f, err := os.Open(t.history); err == nil {
			_, _ = t.ReadHistory(f) // a history is a convenience: without one nothing fails
			f.Close()
		}
	}
	return t, nil
}

// newLiner makes the line editor. It reads os.Stdin as it finds it, so for that moment
// pasted text is put on one line there. On Windows it reads keys, not bytes, and a paste
// is many lines.
func newLiner(in io.Reader) (*liner.State, error) {
	if runtime.GOOS == "windows" {
		return liner.NewLiner(), nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		_, err := io.Copy(w, &pasteReader{r: in})
		_ = errors.Join(err, w.Close()) // the editor sees the end of its input
	}()
	stdin := os.Stdin
	os.Stdin = r
	defer func() { os.Stdin = stdin }()
	return liner.NewLiner(), nil
}

func (t terminal) read(prompt string) (string, error) {
	io.WriteString(t.out, pasteOn)
	defer io.WriteString(t.out, pasteOff)
	line, err := t.Prompt(prompt)
	if err == nil && strings.TrimSpace(line) != "" {
		t.AppendHistory(line)
	}
	return pasted.Replace(line), err
}

func (t terminal) close() {
	if t.history != "" && os.MkdirAll(filepath.Dir(t.history), 0o700) == nil {
		if f, err := os.OpenFile(t.history, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err == nil {
			_, _ = t.WriteHistory(f)
			f.Close()
		}
	}
	t.Close()
}

// converse talks until the input ends.
func (t *talk) converse(cmd *cobra.Command) error {
	plain := &pipe{lineReader: lineReader{r: bufio.NewReader(io.LimitReader(cmd.InOrStdin(), maxInput))}}
	var in lines = plain
	live := isTerminal(cmd.InOrStdin())
	edited := live && isTerminal(cmd.OutOrStdout()) && liner.TerminalSupported()
	switch {
	case edited:
		term, err := newTerminal(cmd.InOrStdin().(*cancelReader).r, os.Stdout)
		if err != nil {
			return err
		}
		in = term
	case live && isTerminal(cmd.OutOrStdout()):
		plain.prompts = cmd.OutOrStdout()
	}
	if edited || plain.prompts != nil {
		t.g.note(cmd, "/help lists the commands; Ctrl-D ends")
	}
	defer in.close()
	t.g.printSeed(cmd, t.params.Seed)
	// From here on Ctrl-C is about the reply, not the program.
	t.interrupts = make(chan os.Signal, 1)
	signal.Reset(os.Interrupt)
	signal.Notify(t.interrupts, os.Interrupt)
	defer signal.Stop(t.interrupts)
	for {
		text, quoted, err := t.next(in)
		switch {
		case errors.Is(err, liner.ErrPromptAborted) && edited:
			t.g.note(cmd, "Ctrl-D ends the conversation")
			continue
		case errors.Is(err, io.EOF):
			return t.ended(live)
		case err != nil:
			return err
		}
		switch {
		case strings.TrimSpace(text) == "":
		case !quoted && isCommand(text):
			if err := t.command(text); errors.Is(err, errBye) {
				return t.ended(live)
			} else if err != nil {
				t.say("%s", oneLine(err.Error()))
			}
		default:
			if err := t.ask(chat.Text("user", text)); err != nil {
				return err
			}
		}
	}
}

// ended is the result of a conversation. A person has seen what failed.
func (t *talk) ended(live bool) error {
	switch {
	case t.failed == 0 || live:
		return nil
	case t.failed == 1:
		return errors.New("a message got no reply: see above")
	}
	return fmt.Errorf("%d messages got no reply: see above", t.failed)
}

// next reads a message or a command. One that begins with """ is a message and goes on
// to the next """, one that ends with \ goes on to the next line.
func (t *talk) next(in lines) (text string, quoted bool, err error) {
	line, err := t.line(in, ">>> ")
	if err != nil {
		return "", false, err
	}
	if block, ok := strings.CutPrefix(strings.TrimLeft(line, " \t"), `"""`); ok {
		text, err = t.block(in, block)
		return text, true, err
	}
	for strings.HasSuffix(line, `\`) {
		more, err := t.line(in, "... ")
		if err != nil && err != io.EOF {
			return "", false, err
		}
		line = strings.TrimSuffix(line, `\`) + "\n" + more
		if err == io.EOF {
			break
		}
	}
	return line, false, nil
}

// block reads on to the next """.
func (t *talk) block(in lines, first string) (string, error) {
	var text strings.Builder
	text.WriteString(first)
	for from := 0; ; {
		if end := strings.Index(text.String()[from:], `"""`); end >= 0 {
			return strings.Trim(text.String()[:from+end], "\n"), nil
		}
		from = max(0, text.Len()-2)
		more, err := t.line(in, "... ")
		if err == io.EOF {
			return strings.Trim(text.String(), "\n"), nil
		}
		if err != nil {
			return "", err
		}
		if text.Len()+len(more) > maxLine {
			return "", fmt.Errorf("a message of more than %s", size(maxLine))
		}
		text.WriteString("\n" + more)
	}
}

// line reads a line. Ctrl-C ends the program where no terminal takes it.
func (t *talk) line(in lines, prompt string) (string, error) {
	if _, ok := in.(terminal); ok {
		return in.read(prompt)
	}
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := in.read(prompt)
		done <- result{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-t.interrupts:
		return "", errInterrupted
	}
}

// errInterrupted is Ctrl-C where no reply is to be stopped.
var errInterrupted = errors.New("interrupted")

// ask takes a message of the user and shows the reply. Ctrl-C stops the reply:
// what there is of it stays in the conversation. A message that cannot be
// answered is taken back.
func (t *talk) ask(m chat.Message) error {
	before := len(t.messages)
	t.messages = append(t.messages, m)
	ctx, stop := context.WithCancel(t.cmd.Context())
	defer stop()
	done := make(chan struct{})
	go func() {
		select {
		case <-t.interrupts:
			stop()
		case <-done:
		}
	}()
	err := t.reply(ctx)
	close(done)
	switch {
	case errors.Is(err, context.Canceled) && t.cmd.Context().Err() == nil:
		t.say("stopped")
	case err != nil && t.cmd.Context().Err() != nil:
		return err
	case err != nil:
		t.messages = t.messages[:before]
		t.failed++
		if errors.Is(err, llama.ErrContextFull) {
			err = t.full()
		}
		t.say("%s", oneLine(err.Error()+advice(err)))
	case t.last.finish == llama.FinishContext.String():
		t.say("%s", t.full())
	}
	if t.verbose {
		t.showStats()
	}
	return nil
}

// full says that the context is, and what can be done.
func (t *talk) full() error {
	hint := "/clear forgets the conversation, /set context-shift true its oldest turns as needed; -c makes it longer"
	if t.g.shift {
		hint = "the message is too long for it; a larger -c takes more"
	}
	return fmt.Errorf("the context of %d tokens is full: %s", t.session.Context(), hint)
}

// say prints a message to the person, beside the replies.
func (t *talk) say(format string, a ...any) {
	fmt.Fprintf(t.cmd.ErrOrStderr(), format+"\n", a...)
}
