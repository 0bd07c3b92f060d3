package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/quantize"
)

// imatrixFlags are those of imatrix beyond the common ones.
type imatrixFlags struct {
	*common
	text   textFlags
	out    string
	format string
	in     []string
	output bool
}

func newImatrix(c *common) *cobra.Command {
	m := &imatrixFlags{common: c}
	cmd := &cobra.Command{
		Use:   "imatrix -m MODEL -f FILE -o OUT",
		Short: "Measure which weights matter",
		Long: `Imatrix runs a text through a model, in chunks as perplexity does, and writes
the mean squares of what each matrix multiplies: 'herd quantize --imatrix' then
makes the errors small where they count. The file is llama.cpp's: GGUF, or with
a name that ends in .dat its older form.

--in-file adds the sums of a file of either form; without -m and -f the sum of
such files is written, which turns one form into the other.`,
		Args: noArgs,
		RunE: m.run,
	}
	f := cmd.Flags()
	m.text.add(f)
	f.StringVarP(&m.out, "output", "o", "", "`OUT`, the file to write")
	f.StringVar(&m.format, "output-format", "", "`FORM`: gguf or dat (default by the name)")
	f.StringArrayVar(&m.in, "in-file", nil, "add the sums of `FILE` (repeatable)")
	f.BoolVar(&m.output, "process-output", false, "measure the output layer too")
	return cmd
}

func (m *imatrixFlags) run(cmd *cobra.Command, _ []string) error {
	dat := strings.EqualFold(filepath.Ext(m.out), ".dat")
	switch m.format {
	case "":
	case "gguf", "dat":
		dat = m.format == "dat"
	default:
		return usagef("--output-format is %q, want gguf or dat", m.format)
	}
	if m.out == "" {
		return usagef("give -o OUT, the file to write")
	}
	if err := writable(m.out, m.text.model, m.text.file); err != nil {
		return err
	}
	sum := &quantize.Imatrix{}
	for _, file := range m.in {
		im, err := quantize.OpenImatrix(file)
		if err == nil {
			err = sum.Add(im)
		}
		if err != nil {
			return err
		}
	}
	if len(m.in) == 0 || m.text.model != "" || m.text.file != "" {
		im, err := m.measure(cmd)
		if err == nil {
			err = sum.Add(im)
		}
		if err != nil {
			return err
		}
	}
	write := sum.WriteGGUF
	if dat {
		write = sum.WriteDat
	}
	if err := write(m.out); err != nil {
		return err
	}
	if m.json {
		return printJSON(cmd.OutOrStdout(), struct {
			Out     string `json:"out"`
			Tensors int    `json:"tensors"`
			Chunks  int    `json:"chunks"`
		}{m.out, len(sum.Entries), sum.Chunks})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %d tensors, %d chunks\n", printable(m.out), len(sum.Entries), sum.Chunks)
	return err
}

// writable refuses, before the work, a file that cannot be written: in a folder that is
// not there, or one that is read.
func writable(out string, read ...string) error {
	if _, err := os.Stat(filepath.Dir(out)); err != nil {
		return fmt.Errorf("%s cannot be written: %w", out, err)
	}
	to, err := os.Stat(out)
	if err != nil {
		return nil // it is new
	}
	if !to.Mode().IsRegular() {
		return fmt.Errorf("%s is no file that can be written: name another", out)
	}
	for _, name := range read {
		if from, err := os.Stat(name); err == nil && os.SameFile(from, to) {
			return fmt.Errorf("%s is read: name another file to write", out)
		}
	}
	return nil
}

// measure runs the text.
func (m *imatrixFlags) measure(cmd *cobra.Command) (*quantize.Imatrix, error) {
	model, ids, err := m.text.open(cmd, m.common)
	if err != nil {
		return nil, err
	}
	defer model.close()
	bar := m.bar(cmd, "measuring", false)
	im, err := model.Imatrix(cmd.Context(), ids, llama.ImatrixOptions{
		Context: m.text.context, Chunks: max(m.text.chunks, 0), Output: m.output, Dataset: m.text.file,
		Progress: func(done, total int) { bar.set(int64(done), int64(total)) },
	})
	bar.stop()
	return im, err
}
