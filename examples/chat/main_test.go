package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
)

func TestConverse(t *testing.T) {
	model := golden.Committed("models/tied-rope8/model.gguf")
	var out bytes.Buffer
	if err := converse(t.Context(), strings.NewReader("Hello\nAnd now?\n"), &out, model, "You are brief.", 8); err != nil {
		t.Fatal(err)
	}
	if strings.Count(out.String(), "\n") < 2 || len(strings.TrimSpace(out.String())) == 0 {
		t.Errorf("two messages are answered by %q", out.String())
	}
	if err := converse(t.Context(), strings.NewReader("x"), &out, model+"x", "", 8); err == nil {
		t.Error("no error for a model that is not there")
	}
}
