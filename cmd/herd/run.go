package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/llama"
)

// Exit codes; cancelled is what shells report after Ctrl-C.
const (
	exitDone      = 0
	exitFailed    = 1
	exitUsage     = 2
	exitCancelled = 130
)

// usageError is a wrong command line.
type usageError struct{ error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// run executes a command line and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (code int) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(stderr, "herd: internal error: %s; please report it with the command line\n", oneLine(fmt.Sprint(p)))
			code = exitFailed
		}
	}()
	root := newRoot()
	args = append([]string{}, args...) // never nil: cobra would read os.Args
	for i := range len(args) - 1 {
		if _, err := strconv.Atoi(args[i+1]); args[i] == "-np" && err == nil { // llama.cpp's; here letters are flags of their own
			args[i] = "--parallel"
		}
	}
	root.SetArgs(args)
	root.SetIn(&cancelReader{ctx: ctx, r: stdin})
	out := &column{w: stdout}
	root.SetOut(out)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && out.within && isTerminal(out) && isTerminal(stderr) {
		fmt.Fprintln(stderr) // the error gets a line of its own
	}
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil, errors.Is(err, errInterrupted):
		fmt.Fprintln(stderr, "herd: interrupted")
		return exitCancelled
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "herd: %s; see '%s --help'\n", oneLine(err.Error()), cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(stderr, "herd: %s\n", oneLine(err.Error()+advice(err)))
	return exitFailed
}

func newRoot() *cobra.Command {
	c := &common{}
	root := &cobra.Command{
		Use:   "herd",
		Short: "Run and train Llama models",
		Long: `Herd runs Llama models on this computer: a .gguf file, a Hugging Face folder
or a Meta folder.

  herd generate -m model.gguf -p "Once upon a time" -n 64`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return c.check(cmd) },
		Args: func(cmd *cobra.Command, args []string) error {
			switch asked, _ := cmd.Flags().GetBool("version"); {
			case len(args) > 0:
				return usagef("there is no command %q", args[0])
			case asked:
				return nil
			}
			return usagef("no command given")
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return c.printVersion(cmd) }, // Args refuses first
	}
	root.Flags().Bool("version", false, "print the version")
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", ".FlagUsagesWrapped 80 "))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usagef("%s", wrongFlag(err))
	})
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("there is no command %q", strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	})
	c.add(root.PersistentFlags())
	root.AddGroup(&cobra.Group{ID: "now", Title: "Commands:"}, &cobra.Group{ID: "later", Title: "Not built yet:"})
	for _, cmd := range []*cobra.Command{
		newGenerate(c), newChat(c), newInfo(c), newTokenize(c), newScore(c), newPerplexity(c), newConvert(c), newQuantize(c), newImatrix(c), newTrain(c), newBench(c), newVersion(c),
	} {
		cmd.GroupID = "now"
		root.AddCommand(cmd)
	}
	root.AddCommand(laterCommands()...)
	return root
}

// wrongFlag says what is wrong with a flag, without how it was parsed.
func wrongFlag(err error) string {
	var value *pflag.InvalidValueError
	if !errors.As(err, &value) {
		return err.Error()
	}
	want := map[string]string{"bool": "true or false, or nothing", "string": "a text", "float32": "a number"}[value.GetFlag().Value.Type()]
	if want == "" {
		want = "a whole number"
	}
	return fmt.Sprintf("--%s is %q, want %s", value.GetFlag().Name, value.GetValue(), want)
}

// noArgs refuses anything that is not a flag.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}

// column is stdout, and knows whether what was written ends within a line.
type column struct {
	w      io.Writer
	within bool
}

// Write implements io.Writer.
func (c *column) Write(p []byte) (int, error) {
	if len(p) > 0 {
		c.within = p[len(p)-1] != '\n'
	}
	return c.w.Write(p)
}

// oneLine makes a message fit for one line of a terminal, whatever names from
// foreign files it holds.
func oneLine(s string) string {
	s = strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ")
	s = printable(s)
	if r := []rune(s); len(r) > 1000 {
		s = string(r[:1000]) + "..."
	}
	return s
}

// printable replaces control characters, which could drive a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// advice says what to do about an error, where the error does not.
func advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(err.Error(), "~"+string(filepath.Separator)):
		return ": check the path; a shell makes ~ the home folder only where it begins a word, outside quotes"
	case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(err.Error(), "-: "):
		return ": it is read from a file, not from stdin: give its path"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return ": check the path"
	case errors.Is(err, syscall.EISDIR):
		return ": name a file in it"
	case errors.Is(err, fs.ErrPermission):
		return ": change who may use it, or name another"
	case errors.Is(err, llama.ErrContextFull):
		return ": give a larger -c or a shorter prompt"
	case errors.Is(err, llama.ErrOtherModel):
		return ": name another file, or remove this one"
	case errors.Is(err, vfs.ErrDamaged) && errors.Is(err, io.ErrUnexpectedEOF):
		return ": the file is incomplete: fetch it again"
	case errors.Is(err, vfs.ErrDamaged):
		return ": the file is incomplete, damaged or of another kind; fetch or convert it again"
	}
	return ""
}

// laterCommands are the commands that are not built.
func laterCommands() []*cobra.Command {
	var cmds []*cobra.Command
	for _, c := range [][2]string{
		{"tokenizer", "Train a tokenizer"},
		{"rounds", "Run rounds of post-training"},
		{"data", "Look at training data"},
		{"serve", "Answer over HTTP"},
		{"pull", "Fetch a model"},
	} {
		cmds = append(cmds, &cobra.Command{
			Use: c[0], Short: c[1], GroupID: "later", DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return fmt.Errorf("%s is not built yet: 'herd help' lists what is", c[0])
			},
		})
	}
	return cmds
}
