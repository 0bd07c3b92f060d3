package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/quantize"
)

// quantizeFlags are those of quantize beyond the common ones.
type quantizeFlags struct {
	*common
	imatrix           string
	keep              []string
	output, embedding string
	pure, force       bool
	again             bool
}

func newQuantize(c *common) *cobra.Command {
	q := &quantizeFlags{common: c}
	var names []string
	for _, m := range quantize.Mixes() {
		names = append(names, m.String())
	}
	cmd := &cobra.Command{
		Use:   "quantize IN OUT TYPE",
		Short: "Write a model with smaller weights",
		Long: fmt.Sprintf(`Quantize writes a model as a .gguf file whose matrices have smaller types, and
prints how far each is from what it was made of. TYPE is, in upper or lower
case,

  %s

Names and types of single matrices are llama.cpp's. --keep fixes the type of
matrices by name: a PATTERN is a name or whole parts of it between dots, with *
for any characters, ? for one and [0-3] for one of a set: attn_v=Q8_0,
output.weight=F16, 'blk.[01].*=Q6_K'. The first that matches decides.

An interrupted run leaves OUT.partial; the same command goes on from there.`, wrapped(names, 76)),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 || args[0] == "" || args[1] == "" {
				return usagef("want three arguments, IN, OUT and TYPE")
			}
			return nil
		},
		RunE: q.run,
	}
	f := cmd.Flags()
	f.StringVar(&q.imatrix, "imatrix", "", "importance matrix `FILE`, of 'herd imatrix' or llama.cpp")
	f.StringArrayVar(&q.keep, "keep", nil, "store matrices as a type: `PATTERN=TYPE` (repeatable)")
	f.StringVar(&q.output, "output-tensor-type", "", "`TYPE` of the output layer")
	f.StringVar(&q.embedding, "token-embedding-type", "", "`TYPE` of the token embedding")
	f.BoolVar(&q.pure, "pure", false, "store all matrices as the same type")
	f.BoolVar(&q.again, "allow-requantize", false, "take a model that is quantised already")
	f.BoolVar(&q.force, "force", false, "replace a file that is there")
	return cmd
}

// wrapped is words in lines of at most width characters.
func wrapped(words []string, width int) string {
	var b strings.Builder
	at := 0
	for i, w := range words {
		switch {
		case i == 0:
		case at+1+len(w) > width:
			b.WriteString("\n  ")
			at = 0
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(w)
		at += len(w)
	}
	return b.String()
}

// options are the settings that the flags say.
func (q *quantizeFlags) options(mix string) (o llama.QuantizeOptions, err error) {
	if o.Mix, err = quantize.ParseMix(mix); err != nil {
		return o, usagef("%s", err)
	}
	for _, s := range q.keep {
		k, err := quantize.ParseKeep(s)
		if err != nil {
			return o, usagef("--keep: %s", err)
		}
		o.Keep = append(o.Keep, k)
	}
	for _, f := range []struct {
		flag, name string
		t          *backend.DType
	}{{"--output-tensor-type", q.output, &o.Output}, {"--token-embedding-type", q.embedding, &o.Embedding}} {
		if f.name == "" {
			continue
		}
		if *f.t, err = quantize.ParseType(f.name); err != nil {
			return o, usagef("%s: %s", f.flag, err)
		}
	}
	o.Pure, o.Replace, o.AllowRequantize, o.Workers = q.pure, q.force, q.again, q.threads
	return o, nil
}

func (q *quantizeFlags) run(cmd *cobra.Command, args []string) error {
	o, err := q.options(args[2])
	if err != nil {
		return err
	}
	if q.imatrix != "" {
		if o.Imatrix, err = quantize.OpenImatrix(q.imatrix); err != nil {
			return err
		}
	}
	out := filepath.Clean(args[1])
	bar := q.bar(cmd, "quantising", true)
	o.Progress = bar.show
	r, err := llama.Quantize(cmd.Context(), args[0], out, o)
	bar.stop()
	switch {
	case errors.Is(err, fs.ErrExist):
		return errExists(out)
	case errors.Is(err, llama.ErrQuantized):
		return fmt.Errorf("%w; --allow-requantize does it all the same", err)
	case err != nil:
		return err
	}
	if r.Resumed > 0 {
		q.note(cmd, "%d tensors were taken from a run that had not finished", r.Resumed)
	}
	if q.json {
		return printJSON(cmd.OutOrStdout(), quantizeJSON(out, o.Mix, r))
	}
	warn(cmd, r.Warnings)
	return printQuantized(cmd.OutOrStdout(), out, r)
}

// quantizeJSON is what quantize prints with --json.
func quantizeJSON(out string, mix quantize.Mix, r llama.QuantizeReport) any {
	type tensor struct {
		Name        string `json:"name"`
		Shape       []int  `json:"shape"`
		Before      string `json:"before"`
		After       string `json:"after"`
		BytesBefore int64  `json:"bytes_before"`
		Bytes       int64  `json:"bytes"`
		RMSE        number `json:"rmse"`
		Relative    number `json:"relative"`
		Weighted    number `json:"weighted"`
	}
	tensors := []tensor{}
	for _, t := range r.Tensors {
		tensors = append(tensors, tensor{t.Name, t.Shape, t.Before.String(), t.After.String(), t.BytesBefore, t.Bytes,
			number(t.RMSE), number(t.Relative), number(t.Weighted)})
	}
	return struct {
		Out      string   `json:"out"`
		Type     string   `json:"type"`
		Tensors  []tensor `json:"tensors"`
		Warnings []string `json:"warnings"`
	}{out, mix.String(), tensors, list(r.Warnings)}
}

// printQuantized prints a line for each tensor that changed, and one for all.
func printQuantized(w io.Writer, out string, r llama.QuantizeReport) error {
	var before, after, weights int64
	fmt.Fprintf(w, "%-26s %14s  %-7s %-7s %11s %9s %9s\n", "tensor", "shape", "before", "after", "rmse", "relative", "weighted")
	for _, t := range r.Tensors {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		before, after, weights = before+t.BytesBefore, after+t.Bytes, weights+n
		if t.Before == t.After {
			continue
		}
		weighted := "-"
		if !math.IsNaN(t.Weighted) {
			weighted = fmt.Sprintf("%.5f", t.Weighted)
		}
		fmt.Fprintf(w, "%-26s %14s  %-7v %-7v %11.3e %9.5f %9s\n", printable(t.Name), shapeText(t.Shape),
			t.Before, t.After, t.RMSE, t.Relative, weighted)
	}
	_, err := fmt.Fprintf(w, "%s: %d tensors, %s (%.2f bits a weight), before %s\n", printable(out), len(r.Tensors), size(after),
		8*float64(after)/float64(max(weights, 1)), size(before))
	return err
}
