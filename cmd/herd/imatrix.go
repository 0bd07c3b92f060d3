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
	if err := m.checkOut(); err != nil {
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

// checkOut refuses, before the work, a file that cannot be written, and one that is read: the
// text, or what belongs to the model or an adapter. An importance matrix that lies in the
// model's folder is no part of the model.
func (m *imatrixFlags) checkOut() error {
	if err := writable(m.out); err != nil {
		return err
	}
	adapters, err := parseLora(m.text.lora)
	if err != nil {
		return err
	}
	read := []string{m.text.model}
	for _, a := range adapters {
		read = append(read, a.Path)
	}
	if err := llama.CheckNotRead(m.out, read...); err != nil {
		if _, other := quantize.OpenImatrix(m.out); other != nil {
			return err
		}
	}
	return llama.CheckNotRead(m.out, m.text.file)
}

// writable refuses a file that cannot be written: in a folder that is not there, or in the
// place of what is no file.
func writable(out string) error {
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
