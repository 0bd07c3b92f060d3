package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
)

func newInfo(c *common) *cobra.Command {
	var path string
	var tensors bool
	cmd := &cobra.Command{
		Use:   "info MODEL",
		Short: "Describe a model's files",
		Long: `Info prints what a model's files say, without reading the weights: architecture,
settings, tokenizer, memory and bytes read per token, the problems found, and
with --tensors each tensor. It fails where the model could not be loaded.`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usagef("unexpected argument %q: one MODEL", args[1])
			case len(args) == 1 && path != "":
				return usagef("MODEL twice, %q and -m %q", args[0], path)
			case len(args) == 1:
				path = args[0]
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return errNoModel
			}
			info, err := llama.ReadInfo(cmd.Context(), path, llama.Options{Precision: c.resolvedPrecision()})
			if err != nil {
				return err
			}
			slices.Sort(info.StopTokens) // of several files, which may agree
			info.StopTokens = slices.Compact(info.StopTokens)
			if c.json {
				err = printJSON(cmd.OutOrStdout(), infoJSON(info))
			} else {
				err = printInfo(cmd.OutOrStdout(), info, tensors)
			}
			if err == nil && info.Memory.Weights == 0 { // the first problem stops loading
				err = errors.New(info.Problems[0])
			}
			return err
		},
	}
	addModel(cmd.Flags(), &path)
	cmd.Flags().BoolVar(&tensors, "tensors", false, "list the tensors; --json always does")
	return cmd
}

// infoJSON is what info prints with --json.
func infoJSON(i llama.Info) any {
	type tokens struct {
		Source   string   `json:"source"`
		Model    string   `json:"model"`
		Split    string   `json:"split"`
		Tokens   int      `json:"tokens"`
		Special  int      `json:"special"`
		Merges   int      `json:"merges"`
		Warnings []string `json:"warnings"`
	}
	out := struct {
		Path          string             `json:"path"`
		Format        string             `json:"format"`
		Architecture  string             `json:"architecture"`
		Params        int64              `json:"params"`
		Config        map[string]any     `json:"config"`
		Tokenizer     *tokens            `json:"tokenizer"`
		StopTokens    []int32            `json:"stop_tokens"`
		ChatTemplate  string             `json:"chat_template"`            // the default one
		ChatTemplates map[string]string  `json:"chat_templates,omitempty"` // of a model with several
		BytesPerToken int64              `json:"bytes_per_token"`
		Memory        llama.Memory       `json:"memory"`
		Problems      []string           `json:"problems"`
		Tensors       []llama.TensorInfo `json:"tensors"`
	}{
		Path: i.Path, Format: i.Format, Architecture: i.Architecture, Params: i.Params, Config: map[string]any{},
		StopTokens: list(i.StopTokens), ChatTemplate: i.ChatTemplates[chat.DefaultTemplate], BytesPerToken: i.BytesPerToken, Memory: i.Memory,
		Problems: list(i.Problems), Tensors: list(i.Tensors),
	}
	if len(i.ChatTemplates) > 1 {
		out.ChatTemplates = i.ChatTemplates
	}
	if t := i.Tokenizer; t != nil {
		out.Tokenizer = &tokens{t.Source, t.Model, t.Split, t.Tokens, t.Special, t.Merges, list(t.Warnings)}
	}
	visitConfig(i.Config, func(group, name string, value any) {
		at := out.Config
		if group != "" {
			inner, ok := at[group].(map[string]any)
			if !ok {
				inner = map[string]any{}
				at[group] = inner
			}
			at = inner
		}
		at[name] = value
	})
	return out
}

// list is s, or empty instead of nil, which JSON would show as null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// visitConfig calls visit for every field of a configuration, in order, under
// its JSON name; group is the struct it lies in, or empty.
func visitConfig(c llama.Config, visit func(group, name string, value any)) {
	var walk func(v reflect.Value, group string)
	walk = func(v reflect.Value, group string) {
		for i := range v.NumField() {
			name := snake(v.Type().Field(i).Name)
			switch f := v.Field(i); f.Kind() {
			case reflect.Struct:
				walk(f, name)
			case reflect.Float64:
				visit(group, name, number(f.Float()))
			case reflect.Slice:
				visit(group, name, list(f.Interface().([]float32)))
			default:
				visit(group, name, f.Interface())
			}
		}
	}
	walk(reflect.ValueOf(c), "")
}

// snake turns KVHeads into kv_heads.
func snake(name string) string {
	var b strings.Builder
	rs := []rune(name)
	for i, r := range rs {
		starts := i > 0 && unicode.IsUpper(r) && (unicode.IsLower(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1]))
		if starts {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// summary says how many tensors of which types there are, the largest share first.
func summary(tensors []llama.TensorInfo) string {
	count, bytes := map[string]int{}, map[string]int64{}
	for _, t := range tensors {
		count[t.Type.String()]++
		bytes[t.Type.String()] += t.Bytes
	}
	types := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(cmp.Compare(bytes[b], bytes[a]), cmp.Compare(a, b))
	})
	for i, t := range types {
		types[i] = fmt.Sprintf("%d %s (%s)", count[t], t, size(bytes[t]))
	}
	return fmt.Sprintf("%d: %s", len(tensors), strings.Join(types, ", "))
}

// printInfo is info for people.
func printInfo(dst io.Writer, i llama.Info, tensors bool) error {
	w := bufio.NewWriter(dst)
	row := func(name, format string, a ...any) {
		fmt.Fprintf(w, "%-31s %s\n", name, printable(fmt.Sprintf(format, a...)))
	}
	row("path", "%s", i.Path)
	row("format", "%s", i.Format)
	row("architecture", "%s", i.Architecture)
	row("parameters", "%.1f million", float64(i.Params)/1e6)
	row("read per token", "%s", size(i.BytesPerToken))
	row("memory", "%v", i.Memory)
	row("tensors", "%s", summary(i.Tensors))
	if t := i.Tokenizer; t != nil {
		row("tokenizer", "%s, %s", t.Source, t.Model)
		row("  tokens", "%d, of which %d special; %d merges", t.Tokens, t.Special, t.Merges)
	} else {
		row("tokenizer", "none")
	}
	row("stop tokens", "%v", i.StopTokens)
	if len(i.ChatTemplates) == 0 {
		row("chat template", "none")
	}
	for _, name := range slices.Sorted(maps.Keys(i.ChatTemplates)) {
		row("chat template", "%s, %d bytes", name, len(i.ChatTemplates[name]))
	}
	fmt.Fprintln(w, "\nsettings")
	visitConfig(i.Config, func(group, name string, value any) {
		if group != "" {
			name = group + "." + name
		}
		if f, _ := value.([]float32); len(f) > 0 {
			value = fmt.Sprintf("%d values, %v to %v", len(f), f[0], f[len(f)-1])
		}
		row("  "+name, "%v", value)
	})
	if tensors {
		fmt.Fprintln(w, "\ntensors")
		for _, t := range i.Tensors {
			fmt.Fprintf(w, " %-47s %-7s %13s %9s\n", printable(t.Name), t.Type, shapeText(t.Shape), size(t.Bytes))
		}
	}
	if len(i.Problems) > 0 {
		fmt.Fprintln(w, "\nproblems")
		for _, p := range i.Problems {
			fmt.Fprintf(w, "  %s\n", oneLine(p))
		}
	}
	return w.Flush()
}
