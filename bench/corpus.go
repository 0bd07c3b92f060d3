package main

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// maxCorpus bounds the text made from Go's source.
const maxCorpus = 24 << 20

// corpus is the text to encode: the user's, or English prose that is wherever
// this harness is built.
func (s *settings) corpus(ctx context.Context) (string, error) {
	if s.text != "" {
		text, err := os.ReadFile(s.text)
		if err == nil && len(text) == 0 {
			err = fmt.Errorf("%s is empty", s.text)
		}
		return string(text), err
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("no source of Go to take a text from (%w): give -text FILE", err)
	}
	text, err := comments(os.DirFS(filepath.Join(strings.TrimSpace(string(root)), "src")))
	if err == nil && text == "" {
		err = fmt.Errorf("the source of Go has no comments: give -text FILE")
	}
	return text, err
}

// comments gathers the comments of the Go files below a folder, in order, tests
// and their data left out.
func comments(fsys fs.FS) (string, error) {
	var b strings.Builder
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		switch {
		case err != nil:
			return err
		case d.IsDir() && name == "testdata":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go"):
			return nil
		case b.Len() >= maxCorpus:
			return fs.SkipAll
		}
		text, err := fs.ReadFile(fsys, path)
		if err == nil {
			prose(&b, string(text))
		}
		return err
	})
	return b.String(), err
}

// prose adds the comments of a file that are two lines or more, without those
// that every file has, directives and generated tables.
func prose(b *strings.Builder, text string) {
	var block []string
	flush := func() {
		if len(block) > 1 && !strings.Contains(block[0], "Copyright") {
			b.WriteString(strings.Join(block, "\n"))
			b.WriteString("\n\n")
		}
		block = block[:0]
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for lines.Scan() {
		line, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "//")
		switch {
		case !ok:
			flush()
		case line == "" || line[0] == ' ' || line[0] == '\t': // no directive
			block = append(block, strings.TrimPrefix(line, " "))
		}
	}
	flush()
}
