package house

import (
	"go/ast"
	"go/build/constraint"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

const (
	maxFile     = 600 // lines
	maxFunction = 80
)

// TestTopLevel keeps the root to what the design names.
func TestTopLevel(t *testing.T) {
	folders := []string{"backend", "bench", "cmd", "examples", "internal", "llama",
		"nn", "optim", "posttrain", "pretrain", "tensor", "train"}
	entries, err := os.ReadDir(root())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case strings.HasPrefix(name, "."), ignored(name):
		case e.IsDir() && !slices.Contains(folders, name):
			t.Errorf("folder %s: only %v are at the top", name, folders)
		case strings.HasSuffix(name, ".go") && name != "doc.go" && !strings.HasSuffix(name, "_test.go"):
			t.Errorf("%s: the root package is documentation only", name)
		}
	}
	if !ignored("run") || ignored("train") || ignored("doc.go") {
		t.Error("what runs of training leave at the top is ignored, and nothing else")
	}
	for _, s := range sources(t) {
		if s.path == "doc.go" && len(s.file.Decls) != 0 {
			t.Errorf("doc.go: the root package exports nothing")
		}
	}
}

// tableLines counts the lines in a node that belong to composite literals:
// tables are as long as what they list.
func tableLines(s source, n ast.Node) int {
	lines := 0
	ast.Inspect(n, func(n ast.Node) bool {
		if c, ok := n.(*ast.CompositeLit); ok {
			lines += s.pos.Position(c.End()).Line - s.pos.Position(c.Pos()).Line
			return false
		}
		return true
	})
	return lines
}

func TestLength(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated() {
			continue
		}
		if n := strings.Count(s.text, "\n") - tableLines(s, s.file); n > maxFile {
			t.Errorf("%s: %d lines, want at most %d", s.path, n, maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := s.pos.Position(f.End()).Line - s.pos.Position(f.Pos()).Line + 1 - tableLines(s, f)
			if n > maxFunction {
				t.Errorf("%s: %s has %d lines, want at most %d", s.at(f), f.Name.Name, n, maxFunction)
			}
		}
	}
}

// machines are the words by which a file is tied to an instruction set or a
// device: the suffixes of file names and the build tags.
var machines = []string{"386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "ppc64", "ppc64le",
	"riscv64", "s390x", "wasm", "noasm", "cu", "cuda", "avx2", "avx512", "amx"}

func tied(word string) bool {
	word, _, _ = strings.Cut(word, ".") // amd64.v3
	return slices.Contains(machines, word)
}

// TestInstructionSets keeps assembly and what depends on a machine in backend.
func TestInstructionSets(t *testing.T) {
	paths, err := files()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if below(p, "backend") {
			continue
		}
		if ext := path.Ext(p); ext == ".s" || ext == ".c" || ext == ".h" || ext == ".cu" || ext == ".syso" {
			t.Errorf("%s: only backend holds such files", p)
		}
	}
	for _, s := range sources(t) {
		if below(s.path, "backend") {
			continue
		}
		words := strings.Split(strings.TrimSuffix(strings.TrimSuffix(path.Base(s.path), ".go"), "_test"), "_")
		for _, w := range words[1:] {
			if tied(w) {
				t.Errorf("%s: only backend has files for one machine", s.path)
			}
		}
		for line := range strings.Lines(s.text) {
			if strings.HasPrefix(line, "package ") {
				break
			}
			if !constraint.IsGoBuild(line) {
				continue
			}
			expr, err := constraint.Parse(strings.TrimSpace(line))
			if err != nil {
				t.Errorf("%s: %v", s.path, err)
				continue
			}
			expr.Eval(func(tag string) bool {
				if tied(tag) {
					t.Errorf("%s: only backend has build tag %s", s.path, tag)
				}
				return false
			})
		}
	}
}
