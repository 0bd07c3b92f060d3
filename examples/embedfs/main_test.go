package main

import (
	"bytes"
	"io/fs"
	"os"
	"testing"

	"github.com/herd-ml/herd/internal/golden"
	models "github.com/herd-ml/herd/internal/golden/testdata"
)

// TestEmbedded compares the models in the program with the same ones on disk.
func TestEmbedded(t *testing.T) {
	var embedded, disk bytes.Buffer
	if err := generate(t.Context(), &embedded, models.Models, "Once upon a time"); err != nil {
		t.Fatal(err)
	}
	if err := generate(t.Context(), &disk, os.DirFS(golden.Committed("")), "Once upon a time"); err != nil {
		t.Fatal(err)
	}
	names, _ := fs.Glob(models.Models, "models/*/model.gguf")
	if len(names) == 0 || bytes.Count(embedded.Bytes(), []byte("model.gguf: ")) != len(names) {
		t.Errorf("%d models wrote %q", len(names), embedded.Bytes())
	}
	if !bytes.Equal(embedded.Bytes(), disk.Bytes()) {
		t.Errorf("embedded %q, on disk %q", embedded.Bytes(), disk.Bytes())
	}
}
