package llama_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

// TestSameModel: what is said in another way is the same model, bit for bit.
func TestSameModel(t *testing.T) {
	for name, c := range map[string]struct {
		kind string
		edit func(t *testing.T, base, dir string)
	}{
		"the other spelling": {"hf", func(t *testing.T, base, dir string) {
			b, err := os.ReadFile(filepath.Join(filepath.Dir(base), "config_alt.json"))
			if errors.Is(err, fs.ErrNotExist) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "config.json"), string(b))
		}},
		"unknown settings": {"hf", func(t *testing.T, base, dir string) {
			editJSON(t, filepath.Join(dir, "config.json"), map[string]any{"use_cache": false, "of_tomorrow": []int{1}})
		}},
		"a vocabulary of -1": {"meta", func(t *testing.T, base, dir string) {
			editJSON(t, filepath.Join(dir, "params.json"), map[string]any{"vocab_size": -1})
		}},
		"no vocabulary size": {"meta", func(t *testing.T, base, dir string) {
			editJSON(t, filepath.Join(dir, "params.json"), map[string]any{"vocab_size": nil})
		}},
		"no tokenizer": {"meta", func(t *testing.T, base, dir string) {
			if err := os.Remove(filepath.Join(dir, "tokenizer.model")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}},
	} {
		for _, base := range golden.Glob(t, "models/*/"+c.kind) {
			t.Run(golden.Name(base)+"/"+name, func(t *testing.T) {
				dir := copyFolder(t, base)
				c.edit(t, base, dir)
				sameLogits(t, base, open(t, dir, llama.Options{}))
			})
		}
	}
}
