package main

// What can be typed after a slash in a conversation.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama/chat"
)

// errBye ends a conversation.
var errBye = errors.New("bye")

// command is what can be typed after a slash.
type command struct {
	name, args, help string
}

// commands are listed by /help.
var commands = []command{
	{"help", "", "list the commands"},
	{"clear", "", "forget the conversation; the system message stays"},
	{"system", "[TEXT]", "set the system message; without TEXT show it"},
	{"save", "[--force] FILE", "write the conversation as JSON; --force replaces a FILE"},
	{"load", "FILE", "go on with a conversation from a file"},
	{"set", "[NAME VALUE]", "change a setting, as temp 0.5; without one list them"},
	{"retry", "", "answer the last message again"},
	{"stats", "", "speed of the last reply and use of the context"},
	{"bye", "", "end, as Ctrl-D does"},
}

// isCommand tells a command from a message that begins with a path or a comment.
func isCommand(line string) bool {
	word, ok := strings.CutPrefix(line, "/")
	if !ok {
		return false
	}
	if at := strings.IndexFunc(word, unicode.IsSpace); at >= 0 {
		word = word[:at]
	}
	if slices.ContainsFunc(commands, func(c command) bool { return c.name == word }) || slices.Contains(otherCommands, word) {
		return true
	}
	_, err := os.Stat("/" + word)
	return err != nil && word != "" && !strings.Contains(line, "\n") && !strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsLetter(r) })
}

// otherCommands are names that people know from elsewhere.
var otherCommands = []string{"?", "exit", "quit"}

// command runs a line that begins with a slash.
func (t *talk) command(line string) error {
	line = strings.TrimSpace(strings.TrimPrefix(line, "/"))
	word, rest := line, ""
	if at := strings.IndexFunc(line, unicode.IsSpace); at >= 0 {
		word, rest = line[:at], strings.TrimSpace(line[at:])
	}
	switch word {
	case "help", "?":
		t.help()
	case "clear":
		if len(t.messages) > 0 && t.messages[0].Role == "system" {
			t.messages = t.messages[:1]
		} else {
			t.messages = nil
		}
		t.last, t.dropped = reply{}, 0
		t.say("the conversation is forgotten")
	case "system":
		return t.setSystem(rest)
	case "save":
		return t.save(rest)
	case "load":
		return t.load(rest)
	case "set":
		return t.set(rest)
	case "retry":
		return t.retry()
	case "stats":
		t.showStats()
	case "bye", "exit", "quit":
		return errBye
	default:
		return fmt.Errorf("there is no command /%s: /help lists them", printable(word))
	}
	return nil
}

func (t *talk) help() {
	for _, c := range commands {
		t.say("  %-20s %s", strings.TrimSpace("/"+c.name+" "+c.args), c.help)
	}
	t.say("  %-20s %s", `"""`, `begin and end a message of several lines; \ at a line's`)
	t.say("  %-20s %s", "", "end goes on to the next")
	t.say("  %-20s %s", "Ctrl-C", "stop the reply")
}

func (t *talk) showStats() {
	for _, line := range t.stats() {
		t.say("%s", line)
	}
}

func (t *talk) setSystem(text string) error {
	has := len(t.messages) > 0 && t.messages[0].Role == "system"
	switch {
	case text == "" && has:
		t.say("%s", t.messages[0].Text())
	case text == "":
		t.say("there is no system message")
	case has:
		t.messages[0] = chat.Text("system", text)
	default:
		t.messages = append([]chat.Message{chat.Text("system", text)}, t.messages...)
	}
	return nil
}

func (t *talk) save(path string) error {
	path, force := path, false
	if rest, ok := strings.CutPrefix(path, "--force"); ok {
		path, force = strings.TrimSpace(rest), true
	}
	if path == "" {
		return errors.New("/save needs a FILE")
	}
	if _, err := os.Lstat(path); err == nil && !force && path != t.file {
		return fmt.Errorf("%s: exists: /save --force %s replaces it", path, path)
	}
	b, err := json.MarshalIndent(append([]chat.Message{}, t.messages...), "", "  ")
	if err != nil {
		return err
	}
	err = vfs.WriteAtomic(path, func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
	if err == nil {
		t.file = path
		t.say("saved %d messages to %s", len(t.messages), printable(path))
	}
	return err
}

func (t *talk) load(path string) error {
	if path == "" {
		return errors.New("/load needs a FILE")
	}
	if info, err := os.Stat(path); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", path)
	}
	messages, err := readJSON(t.cmd, path, chat.ParseMessages)
	if err != nil {
		return err
	}
	t.messages, t.last, t.dropped = messages, reply{}, 0
	t.file = path
	t.say("loaded %d messages from %s", len(messages), printable(path))
	return nil
}

// retry answers the last message of the user again.
func (t *talk) retry() error {
	for i := len(t.messages) - 1; i >= 0; i-- {
		if t.messages[i].Role == "user" {
			text := t.messages[i]
			t.messages = t.messages[:i]
			t.params.Seed++ // else a seed would give the same reply
			return t.ask(text)
		}
	}
	return errors.New("there is no message to answer")
}

// settings are the flags that /set can change.
var settings = []string{
	"temp", "top-k", "top-p", "min-p", "typical", "top-nsigma", "dynatemp-range", "dynatemp-exp",
	"repeat-penalty", "presence-penalty", "frequency-penalty", "repeat-last-n",
	"dry-multiplier", "dry-base", "dry-allowed-length", "dry-penalty-last-n", "xtc-probability", "xtc-threshold",
	"mirostat", "mirostat-lr", "mirostat-ent", "samplers", "logit-bias", "seed", "predict", "stop", "context-shift", "keep",
}

// otherNames are names that people know from elsewhere.
var otherNames = map[string]string{
	"temperature": "temp", "num-predict": "predict", "n": "predict", "typical-p": "typical", "num-keep": "keep",
	"mirostat-tau": "mirostat-ent", "mirostat-eta": "mirostat-lr",
}

// set changes a setting: NAME VALUE, verbose, or quiet.
func (t *talk) set(args string) error {
	args = strings.TrimSpace(strings.TrimPrefix(args+" ", "parameter "))
	name, value, _ := strings.Cut(args, " ")
	value = strings.TrimSpace(value)
	switch name {
	case "verbose", "quiet":
		t.verbose = name == "verbose"
		return nil
	case "system":
		return t.setSystem(strings.Trim(value, `"`))
	case "":
		for _, name := range settings {
			if f := t.cmd.Flags().Lookup(name); f != nil && f.Changed {
				t.say("  %s %s", name, f.Value)
			}
		}
		t.say("  can be set: %s", strings.Join(settings, " "))
		t.say("  and: verbose (figures after each reply), quiet")
		return nil
	}
	name = strings.ReplaceAll(name, "_", "-")
	if other, ok := otherNames[name]; ok {
		name = other
	}
	f := t.cmd.Flags().Lookup(name)
	if f == nil || !slices.Contains(settings, name) {
		return fmt.Errorf("there is no setting %q: /set lists them", name)
	}
	old, changed := f.Value.String(), f.Changed
	err := t.cmd.Flags().Set(name, value)
	if err == nil {
		_, err = t.g.options(t.cmd.Flags())
	}
	if err == nil {
		t.params, err = t.g.params(t.cmd.Flags(), t.model.Model)
	}
	if err != nil { // back to what it was
		restore(f, old)
		f.Changed = changed
		return err
	}
	return nil
}

// restore puts a flag's value back.
func restore(f *pflag.Flag, value string) {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		now := list.GetSlice()
		_ = list.Replace(now[:max(0, len(now)-1)]) // Set has appended one
		return
	}
	_ = f.Value.Set(value) // it was valid before
}
