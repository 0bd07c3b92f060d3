package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/internal/golden"
)

// TestRealModelKnowsParis: a real model answers through its own template. Its first
// words are so close a choice that rounded activations may turn it.
func TestRealModelKnowsParis(t *testing.T) {
	model, _ := golden.RealModel(t)
	if cpu.Default().Describe().Variant == "generic" {
		t.Skip("minutes without vector kernels")
	}
	messages := filepath.Join(t.TempDir(), "messages.json")
	if err := os.WriteFile(messages, []byte(`[{"role": "user", "content": "What is the capital of France?"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"chat", "-m", model, "--messages", messages, "--temp", "0", "-n", "40", "--json", "--precision", "f32"}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var a struct {
		Message struct{ Role, Content string }
		Finish  string
	}
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	if a.Message.Role != "assistant" || !strings.Contains(a.Message.Content, "Paris") || a.Finish != "stop" {
		t.Errorf("the answer is %s", out.String())
	}
}
