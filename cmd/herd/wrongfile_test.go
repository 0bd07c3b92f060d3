package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// inside is what Go says among itself, which means nothing to a user.
var inside = regexp.MustCompile(`(?i)unmarshal|goroutine|panic|%!|runtime error|unexpected EOF|reflect|nil pointer|internal error|\bstrconv\b|\.go:|\x1b`)

// TestWrongFiles gives every flag and argument that takes a file what is none of its kind:
// one line, which names the file as it was given, and an exit code of 1. Some text is all
// that some of them want.
func TestWrongFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a folder")
	model := filepath.Join(committedCase(t), "model.gguf")
	good, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	lora := filepath.Join(t.TempDir(), "lora")
	if err := writeAdapter(lora, model); err != nil {
		t.Fatal(err)
	}
	tensors, err := os.ReadFile(filepath.Join(lora, "adapter_model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write([]byte(`{"text": "some words"}`)); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"empty": "", "picture.png": "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "zip.gguf": "PK\x03\x04\x14\x00\x00\x00", "x.json": `{"a":1}`, "list.json": "[1,2]",
		"spaced name": "hello", "tokenizer.json": `{"model":{"type":"BPE","vocab":{},"merges":[]}}`, "short.gguf": string(good[:len(good)/3]),
		"short.safetensors": string(tensors[:len(tensors)-1]), "page.txt": "<!DOCTYPE html><html>", "nul": "a\x00b", "ünï.jsonl": "{", "cut.jsonl.gz": string(zipped.Bytes()[:zipped.Len()-9]), "none.parquet": "PAR1PAR1",
		"cut.json": `{"text": "a`, "cut.jsonl.zst": "\x28\xb5\x2f\xfd\x00", "cut.parquet.gz": string(zipped.Bytes()[:20]),
	}
	if err := os.MkdirAll(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files["folder"], files["absent"], files["folder/absent"], files["spaced name/below"] = "", "", "", ""
	messages := filepath.Join(dir, "messages.json")
	if err := os.WriteFile(messages, []byte(`[{"role":"user","content":"a"}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text bool // any text will do
		args string
	}{
		{false, "generate -p a -n 1 -m FILE"}, {false, "generate -p a -n 1 -m MODEL --lora FILE"}, {true, "generate -n 1 -c 100000 -m MODEL -f FILE"}, {true, "generate -n 1 -m MODEL --batch FILE"},
		{false, "chat --messages MESSAGES -m FILE"}, {false, "chat -m MODEL --messages FILE"}, {true, "chat -m MODEL --messages MESSAGES --print-prompt --template FILE"},
		{false, "chat -m MODEL --print-prompt --messages MESSAGES --tools FILE"}, {false, "info FILE"}, {false, "tokenize -m FILE a"}, {false, "score --text a -m FILE"},
		{true, "perplexity -c 4 -m MODEL -f FILE"}, {false, "perplexity -f MESSAGES -m FILE"}, {false, "convert FILE OUT --to gguf"}, {false, "convert FILE OUT --to safetensors"},
		{false, "generate -p a -n 1 -m MODEL --draft FILE"}, {false, "quantize FILE OUT q8_0"},
		{false, "quantize MODEL OUT q8_0 --imatrix FILE"}, {true, "imatrix -c 8 -m MODEL -o OUT -f FILE"}, {false, "imatrix -f MESSAGES -o OUT -m FILE"},
		{false, "convert MODEL OUT --to meta --lora FILE"}, {false, "bench -m FILE"}, {false, "train FILE"}, {false, "train --steps=1 --out=OUT --data.files=FILE --model.path=MODEL --lora.rank=1"},
		{false, "train --steps=1 --out=OUT --data.files=MESSAGES --model.path=FILE --lora.rank=1"}, {false, "train --steps=1 --out=OUT --data.files=MESSAGES --model.tokenizer=FILE"},
	} {
		for name := range files {
			path := filepath.Join(dir, name)
			if c.text && !strings.Contains(name, "absent") && !strings.Contains(name, "below") && name != "folder" || name == "page.txt" && strings.Contains(c.args, "data.files=FILE") {
				continue
			}
			args := strings.Fields(c.args)
			for i := range args {
				args[i] = strings.NewReplacer("FILE", path, "MODEL", model, "MESSAGES", messages, "OUT", filepath.Join(t.TempDir(), "out")).Replace(args[i])
			}
			out, said, code := herd(t, append(args, "-q")...)
			names := strings.Contains(said, path) || strings.Contains(said, filepath.Join(filepath.Dir(path), "adapter_config.json")) // which is wanted beside it
			if code != exitFailed || out != "" || strings.Count(said, "\n") != 1 || !names || inside.MatchString(said) {
				t.Errorf("%s with %q: exit code %d, %q, %q", c.args, name, code, out, said)
			}
		}
	}
}
