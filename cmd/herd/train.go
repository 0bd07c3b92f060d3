package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/internal/chart"
	"github.com/herd-ml/herd/internal/config"
	"github.com/herd-ml/herd/internal/vfs"
	"github.com/herd-ml/herd/train"
)

// trainHelp is the long help of train.
const trainHelp = `Train a model from scratch, go on with one from files, or train a LoRA adapter.

CONFIG.yaml holds the settings; every key can be given as a flag instead, and a
flag wins. Unknown keys are errors. --print-config shows all keys with what they
mean and what they are.

The folder named by out gets checkpoints (a Hugging Face folder each, or an
adapter as PEFT has it), metrics.jsonl, event files for TensorBoard and, at the
end, loss.png. There is a checkpoint every ten minutes; the newest two stay,
and the one with the least held-out loss.

Ctrl-C saves and stops, SIGHUP saves and goes on. --resume --out=DIR goes on
with the settings in that folder, as if nothing had been; --steps or
--data.epochs may be more than before, and files may have been mended or have
grown behind what the run has had. Where it cannot go on exactly it says why and
stops; --resume=anyway goes on then too.`

func newTrain(c *common) *cobra.Command {
	var printConfig bool
	var resume string
	cmd := &cobra.Command{
		Use:   "train CONFIG.yaml [--KEY=VALUE ...]",
		Short: "Train a model, or an adapter of one",
		Long:  trainHelp,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("unexpected argument %q: one CONFIG.yaml", args[1])
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&printConfig, "print-config", false, "print every key, its value and its meaning, and exit")
	flags.StringVar(&resume, "resume", "", "go on from the newest checkpoint of out; with =anyway also where that is not exact")
	flags.Lookup("resume").NoOptDefVal = "true"
	var keys []string
	for _, k := range config.Keys(train.Config{}) {
		f := flags.VarPF(&setting{kind: k.Kind}, k.Path, "", k.Help)
		if k.Kind == "bool" {
			f.NoOptDefVal = "true"
		}
		keys = append(keys, k.Path)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains([]string{"", "true", "false", "anyway"}, resume) {
			return usagef("--resume is %q, want nothing or anyway", resume)
		}
		if resume == "true" && len(args) == 1 && args[0] == "anyway" {
			return usagef("write --resume=anyway, as one word")
		}
		var conf train.Config
		switch {
		case len(args) == 1:
			if err := readConfig(cmd, args[0], &conf); err != nil {
				return err
			}
		case resume != "" && resume != "false":
			out := cmp.Or(flags.Lookup("out").Value.String(), train.Config{}.WithDefaults().Out)
			var err error
			if conf, err = train.ReadSettings(out); err != nil && (!errors.Is(err, fs.ErrNotExist) || !anyChanged(cmd, slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == "out" }))) {
				return err
			}
		}
		for _, k := range keys {
			if f := flags.Lookup(k); f.Changed {
				if err := config.Set(&conf, k, f.Value.String()); err != nil {
					return usagef("--%v", err)
				}
			}
		}
		if printConfig {
			conf = conf.WithDefaults()
			if c.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(config.Keys(&conf))
			}
			return config.Print(cmd.OutOrStdout(), &conf)
		}
		if len(args) == 0 && !anyChanged(cmd, keys) && resume == "" {
			return usagef("give CONFIG.yaml, or keys as flags")
		}
		return c.train(cmd, conf, resume)
	}
	return cmd
}

// setting is the value of a key given as a flag, checked by package config.
type setting struct{ kind, text string }

func (s *setting) String() string        { return s.text }
func (s *setting) Type() string          { return s.kind }
func (s *setting) Set(text string) error { s.text = text; return nil }

func anyChanged(cmd *cobra.Command, keys []string) bool {
	for _, k := range keys {
		if cmd.Flags().Changed(k) {
			return true
		}
	}
	return false
}

// readConfig reads settings from a file, or stdin where it is -.
func readConfig(cmd *cobra.Command, path string, conf *train.Config) error {
	b, err := readFile(cmd, path, config.MaxSize)
	if err != nil {
		return err
	}
	return config.Decode(b, path, conf)
}

// train runs a configuration.
func (c *common) train(cmd *cobra.Command, conf train.Config, resume string) error {
	if err := checkPicture(conf.WithDefaults().Out); err != nil {
		return err
	}
	b, err := c.newBackend()
	if err != nil {
		return err
	}
	defer b.Close()
	save, stop := hangups()
	defer stop()
	w := cmd.ErrOrStderr()
	s := &status{w: w, quiet: c.quiet, live: isLive(w), at: liveLine{w: w}}
	r, err := train.Run(cmd.Context(), conf, train.Options{Backend: b, Progress: s.progress, Event: s.event, Save: save,
		Resume: resume != "" && resume != "false", Anyway: resume == "anyway"})
	s.at.clear()
	out := conf.WithDefaults().Out
	switch {
	case err == nil:
		err = drawLoss(out)
	case errors.Is(err, train.ErrInexact):
		return fmt.Errorf("%w; --resume=anyway goes on nevertheless", err)
	case s.stepped:
		if e := drawLoss(out); e != nil {
			s.line("no picture of the loss: %v", e)
		}
		if r.Checkpoint != "" && !errors.Is(err, train.ErrNotFinite) {
			s.line("saved as %s; --resume goes on: herd train --resume --out=%s", r.Checkpoint, out)
		}
	}
	if err != nil {
		return err
	}
	if c.json {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(trainResult{Steps: r.Steps, Tokens: r.Tokens, Loss: r.Loss, EvalLoss: finite(r.EvalLoss), Checkpoint: r.Checkpoint})
	}
	if r.Best != "" && r.Best != r.Checkpoint {
		s.line("the least held-out loss, %.4f, is that of %s", r.BestLoss, r.Best)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%d steps, %d tokens, loss %.4f: %s\n", r.Steps, r.Tokens, r.Loss, r.Checkpoint)
	return nil
}

// trainResult is what --json prints of a run.
type trainResult struct {
	Steps      int      `json:"steps"`
	Tokens     int64    `json:"tokens"`
	Loss       float64  `json:"loss"`
	EvalLoss   *float64 `json:"eval_loss"`
	Checkpoint string   `json:"checkpoint"`
}

// finite is a number in JSON, or null where it is none.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// hangups gives a value for each SIGHUP, which asks for a checkpoint, until stop.
func hangups() (save <-chan struct{}, stop func()) {
	signals, asked := make(chan os.Signal, 1), make(chan struct{}, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for range signals {
			select {
			case asked <- struct{}{}:
			default: // asked already
			}
		}
	}()
	return asked, func() { signal.Stop(signals); close(signals) }
}

// checkPicture refuses a folder with a loss.png that no run has drawn: it would be
// replaced.
func checkPicture(dir string) error {
	path := filepath.Join(dir, "loss.png")
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(dir, train.MetricsFile)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: exists and is of no run here: name another folder with --out", path)
	}
	return nil
}

// drawLoss draws the loss of the run in a folder over the steps, as loss.png there:
// that of each step, its mean, and the evaluations.
func drawLoss(dir string) error {
	l, err := train.ReadLossCurves(filepath.Join(dir, train.MetricsFile))
	if err != nil {
		return err
	}
	lines := []chart.Line{
		{Name: "loss of a step", X: l.Steps.X, Y: l.Steps.Y, Faint: true},
		{Name: "loss, smoothed", X: l.Smooth.X, Y: l.Smooth.Y},
		{Name: "held-out loss", X: l.Eval.X, Y: l.Eval.Y, Dots: len(l.Eval.X) <= 50},
	}
	path := filepath.Join(dir, "loss.png")
	err = vfs.WriteAtomic(path, func(w io.Writer) error {
		return chart.Lines(w, chart.Axes{Title: filepath.Base(dir), X: "step", Y: "loss (nats)"}, lines)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// status shows a run on stderr: a line that is written over on a terminal, else one
// every few seconds.
type status struct {
	w       io.Writer
	quiet   bool
	live    bool
	stepped bool // something was trained
	at      liveLine
	printed time.Time
}

const lineEvery = 5 * time.Second

func (s *status) progress(p train.Progress) {
	s.stepped = s.stepped || p.Stage == "train"
	every := lineEvery
	if s.live {
		every = liveEvery
	}
	now := time.Now()
	if s.quiet || now.Sub(s.printed) < every && (p.Stage != "train" || p.Step != p.Steps && p.Step != 1) {
		return
	}
	s.printed = now
	s.show(stepText(p))
}

// stepText says on one line how far a run is.
func stepText(p train.Progress) string {
	switch p.Stage {
	case "count":
		return fmt.Sprintf("counting what the data's epochs give: %d steps, %d tokens", p.Step, p.Tokens)
	case "reread":
		return fmt.Sprintf("files have changed, reading again what was given: %d documents", p.Documents)
	}
	text := fmt.Sprintf("step %d/%d  loss %.4f  norm %.3g  lr %.3g  %.0f tokens/s", p.Step, p.Steps, p.Loss, p.GradNorm, p.LR, p.TokensPerSecond)
	if p.MFU > 0 {
		text += fmt.Sprintf("  MFU %.0f %%", 100*p.MFU)
	}
	if p.Left > 0 {
		text += "  " + p.Left.Round(time.Second).String() + " left"
	}
	return text
}

// show prints a line, over the one before on a terminal.
func (s *status) show(text string) {
	if !s.live {
		fmt.Fprintln(s.w, text)
		return
	}
	s.at.show(text)
}

func (s *status) event(e train.Event) {
	switch e.Kind {
	case train.EventSample:
		s.line("step %d: %s", e.Step, e.Text)
	case train.EventResume:
		s.line("going on from %s", e.Text)
	case train.EventPlan:
		s.line("memory: %s", e.Text)
	case train.EventBest:
		s.line("step %d: the least held-out loss so far: %s stays", e.Step, e.Text)
	case train.EventFinished:
		s.line("nothing is left to do: %s", e.Text)
	case train.EventCheckpoint:
		s.line("step %d: saved as %s", e.Step, e.Text)
	default:
		s.line("step %d: %s: %s", e.Step, e.Kind, e.Text)
	}
}

// line prints a line of its own.
func (s *status) line(format string, a ...any) {
	if s.quiet {
		return
	}
	s.at.clear()
	fmt.Fprintln(s.w, oneLine(fmt.Sprintf(format, a...)))
}
