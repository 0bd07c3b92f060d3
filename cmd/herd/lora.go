package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/herd-ml/herd/llama"
)

// addLora adds --lora.
func addLora(f *pflag.FlagSet, list *[]string) {
	f.StringArrayVar(list, "lora", nil, "adapter `FILE[=SCALE]`: a folder that PEFT wrote, its adapter_model.safetensors, or a .gguf file; repeatable")
}

// parseLora reads the values of --lora. What follows the last = is a scale
// where it is a number, and no file has the whole name.
func parseLora(list []string) ([]llama.Adapter, error) {
	var adapters []llama.Adapter
	for _, text := range list {
		a := llama.Adapter{Path: text}
		if i := strings.LastIndexByte(text, '='); i >= 0 {
			if _, err := os.Stat(text); err != nil {
				x, err := strconv.ParseFloat(text[i+1:], 32)
				if err != nil {
					return nil, usagef("--lora is %q, want FILE or FILE=SCALE with a number", text)
				}
				a.Path, a.Scale = text[:i], float32(x)
				if x == 0 || x-x != 0 {
					return nil, usagef("--lora is %q: the scale must be a finite number other than 0", text)
				}
			}
		}
		if a.Path == "" {
			return nil, usagef("--lora is %q, want FILE or FILE=SCALE", text)
		}
		adapters = append(adapters, a)
	}
	return adapters, nil
}
