package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/herd-ml/herd"

// root returns the root of the checkout.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// A source is one Go file of the module, of any platform.
type source struct {
	path string // slash-separated, from the root
	dir  string // of path; "." is the root
	pos  *token.FileSet
	file *ast.File
	text string
}

func (s source) test() bool      { return strings.HasSuffix(s.path, "_test.go") }
func (s source) generated() bool { return ast.IsGenerated(s.file) }

// at gives a node's place.
func (s source) at(n ast.Node) string { return s.pos.Position(n.Pos()).String() }

// ignored says whether git ignores a name at the root: runs of training and programs
// that were built, for two.
func ignored(name string) bool {
	list, err := os.ReadFile(filepath.Join(root(), ".gitignore"))
	return err == nil && slices.Contains(strings.Fields(string(list)), "/"+name)
}

// files lists the module's files, from the root, less hidden folders, what git ignores,
// nested modules and golden data.
var files = sync.OnceValues(func() ([]string, error) {
	var out []string
	err := fs.WalkDir(os.DirFS(root()), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		name := d.Name()
		if ignored(p) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.IsDir() {
			out = append(out, p)
			return nil
		}
		_, nested := os.Stat(filepath.Join(root(), filepath.FromSlash(p), "go.mod"))
		if strings.HasPrefix(name, ".") || nested == nil || path.Dir(p) == "internal/golden/testdata" {
			return fs.SkipDir
		}
		return nil
	})
	return out, err
})

var parsed = sync.OnceValues(func() ([]source, error) {
	paths, err := files()
	if err != nil {
		return nil, err
	}
	var out []source
	pos := token.NewFileSet()
	for _, p := range paths {
		if !strings.HasSuffix(p, ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root(), filepath.FromSlash(p)))
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(pos, p, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		out = append(out, source{p, path.Dir(p), pos, file, string(text)})
	}
	return out, nil
})

// sources returns all Go files of the module.
func sources(t *testing.T) []source {
	t.Helper()
	s, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(s) < 100 {
		t.Fatalf("only %d Go files found", len(s))
	}
	return s
}
