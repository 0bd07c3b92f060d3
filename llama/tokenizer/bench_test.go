package tokenizer_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// BenchmarkEncode encodes English text with every vocabulary in golden.
func BenchmarkEncode(b *testing.B) {
	text := "The herd crosses the dry river before the storm, and nobody counts the animals twice. It's 1,024 metres wide!\n"
	if found := golden.Glob(b, "smollm2/*.txt"); len(found) > 0 {
		data, err := os.ReadFile(found[0])
		if err != nil {
			b.Fatal(err)
		}
		text = string(data)
	}
	text = strings.Repeat(text, 1+(1<<18)/len(text))
	for _, path := range vocabularies(b) {
		b.Run(golden.Name(path), func(b *testing.B) { benchmark(b, path, text) })
	}
}

// BenchmarkLongWord merges a quarter of a megabyte as one word.
func BenchmarkLongWord(b *testing.B) {
	for _, path := range vocabularies(b) {
		b.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), func(b *testing.B) { benchmark(b, path, strings.Repeat("<", 1<<18)) })
	}
}

func benchmark(b *testing.B, path, text string) {
	tok := open(b, path)
	dst, err := tok.Encode(text, tokenizer.EncodeOptions{})
	if err != nil || len(dst) == 0 {
		b.Fatal(len(dst), err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = tok.Append(dst[:0], text, tokenizer.EncodeOptions{})
	}
}
