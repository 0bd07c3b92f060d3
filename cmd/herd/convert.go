package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
)

// convertFlags are those of convert beyond the common ones.
type convertFlags struct {
	*common
	to, dtype string
	base      string
	lora      []string
	force     bool
}

func newConvert(c *common) *cobra.Command {
	v := &convertFlags{common: c}
	cmd := &cobra.Command{
		Use:   "convert IN OUT --to gguf|safetensors|meta",
		Short: "Write a model in another format",
		Long: `Convert writes a model as a .gguf file, a Hugging Face folder or a Meta folder.
Float tensors keep their values and, without --type, their type; quantised ones
are decoded to F32. With --lora adapters are merged into the matrices, and how
far each is then from the exact sum is printed. An adapter as IN is written as
PEFT's folder or as a .gguf file; --base names the model that it is of.

A file that is there stays, unless --force replaces it; one that is read always
does. Of folders only new and empty ones are filled, with --force too: one that
is there may hold more than a model.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || args[0] == "" || args[1] == "" {
				return usagef("want two arguments, IN and OUT")
			}
			return nil
		},
		RunE: v.run,
	}
	cmd.Flags().StringVar(&v.to, "to", "", "`FORMAT`: gguf, safetensors or meta")
	cmd.Flags().StringVar(&v.dtype, "type", "", "`TYPE`: f32, f16 or bf16 (default the file's; f32 for quantised)")
	cmd.Flags().BoolVar(&v.force, "force", false, "replace a file that is there")
	cmd.Flags().StringVar(&v.base, "base", "", "`MODEL` that the adapter IN is of")
	addLora(cmd.Flags(), &v.lora)
	return cmd
}

func (v *convertFlags) run(cmd *cobra.Command, args []string) error {
	o := llama.ConvertOptions{To: v.to, Base: v.base, Replace: v.force}
	switch strings.ToLower(v.dtype) {
	case "":
	case "f32":
		o.Type = backend.F32
	case "f16":
		o.Type = backend.F16
	case "bf16":
		o.Type = backend.BF16
	default:
		return usagef("--type is %q, want f32, f16 or bf16", v.dtype)
	}
	switch v.to {
	case "gguf", "safetensors", "meta":
	default:
		return usagef("--to is %q, want gguf, safetensors or meta", v.to)
	}
	out := filepath.Clean(args[1])
	var err error
	if o.Adapters, err = parseLora(v.lora); err != nil {
		return err
	}
	bar := v.bar(cmd, "converting", true)
	o.Progress = bar.show
	r, err := llama.Convert(cmd.Context(), args[0], out, o)
	bar.stop()
	if errors.Is(err, fs.ErrExist) {
		if v.to == "gguf" {
			return errExists(out)
		}
		return fmt.Errorf("%w: name another", err)
	}
	if err != nil {
		return err
	}
	if v.json {
		return printJSON(cmd.OutOrStdout(), struct {
			Out      string             `json:"out"`
			Tensors  []llama.TensorInfo `json:"tensors"`
			Warnings []string           `json:"warnings"`
			Merged   []llama.MergeError `json:"merged,omitempty"`
		}{out, list(r.Tensors), list(r.Warnings), r.Merged})
	}
	warn(cmd, r.Warnings)
	for _, m := range r.Merged {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: merged; off by %.2g of the largest number at most, %.2g RMS\n", printable(m.Name), m.Max, m.RMS)
	}
	var bytes int64
	for _, t := range r.Tensors {
		bytes += t.Bytes
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d tensors, %s\n", printable(out), len(r.Tensors), size(bytes))
	return err
}
