package gguf

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/herd-ml/herd/internal/golden"
)

// BenchmarkOpen opens a real model and decodes its vocabulary.
func BenchmarkOpen(b *testing.B) {
	path, _ := golden.RealModel(b)
	b.ReportAllocs()
	for b.Loop() {
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		tokens, err := f.Strings("tokenizer.ggml.tokens")
		if err != nil || len(tokens) == 0 {
			b.Fatal(len(tokens), err)
		}
		f.Close()
	}
}

// vocabulary is a file with the token list of a Llama 3 model's length.
func vocabulary(t testing.TB) []byte {
	tokens := make([]string, 128_256)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("token%d", i)
	}
	var w Writer
	var out bytes.Buffer
	if err := w.Set("tokens", tokens); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openVocabulary(t testing.TB, b []byte) {
	f, err := New(bytes.NewReader(b), int64(len(b)), "m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	if tokens, err := f.Strings("tokens"); err != nil || tokens[128_255] != "token128255" {
		t.Fatal(len(tokens), err)
	}
}

func BenchmarkOpenVocabulary(b *testing.B) {
	data := vocabulary(b)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		openVocabulary(b, data)
	}
}

// A vocabulary opens in few allocations, whatever its length, and fast: in
// 7 ms when measured. The limit leaves room for the race detector and for other
// work on the machine.
func TestLargeVocabularyIsCheap(t *testing.T) {
	data := vocabulary(t)
	if n := testing.AllocsPerRun(3, func() { openVocabulary(t, data) }); n > 100 {
		t.Errorf("%v allocations", n)
	}
	best := time.Hour
	for range 5 {
		start := time.Now()
		openVocabulary(t, data)
		best = min(best, time.Since(start))
	}
	if best > 500*time.Millisecond {
		t.Errorf("the vocabulary takes %v", best)
	}
	if n := allocated(func() { openVocabulary(t, data) }); n > uint64(8*len(data)) {
		t.Errorf("%d bytes allocated for a file of %d", n, len(data))
	}
}
