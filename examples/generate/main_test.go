package main

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
)

func TestGenerate(t *testing.T) {
	for _, path := range golden.Glob(t, "models/*/model.gguf") {
		var text bytes.Buffer
		if err := generate(t.Context(), &text, path, "Once upon a time", 16); err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.HasSuffix(text.Bytes(), []byte("\n")) {
			t.Errorf("%s: no line: %q", path, text.Bytes())
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := golden.Glob(t, "models/*/model.gguf")[0]
	if err := generate(ctx, &bytes.Buffer{}, path, "Once", 16); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
