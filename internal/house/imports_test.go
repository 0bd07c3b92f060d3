package house

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors orders the packages: an import goes to the same floor or down. A
// folder counts for those below it unless they are named themselves.
var floors = map[string]int{
	"cmd":      50,
	"examples": 50,

	"pretrain":      45,
	"posttrain":     45,
	"llama/serve":   45,
	"llama/stories": 45,
	"bench":         45,

	"train": 40,

	"llama": 35,

	"llama/gguf":                30,
	"llama/safetensors":         30,
	"llama/pth":                 30,
	"llama/tokenizer":           30,
	"llama/chat":                30,
	"llama/sample":              30,
	"llama/quantize":            30,
	"llama/peft":                30,
	"llama/grammar":             30,
	"llama/hub":                 30,
	"llama/vision":              30,
	"llama/speech":              30,
	"llama/internal/checkpoint": 30,
	"optim":                     30,

	"nn":      20,
	"tensor":  10,
	"backend": 0,

	// Helpers that know nothing of the rest.
	"internal/ctxerr":   -10,
	"internal/parallel": -10,
	"internal/vfs":      -10,
	"internal/tfevents": -10,
	"internal/lockfile": -10,
	"internal/jsontext": -10,

	"internal/chart":  45, // draws for programs: see plotters
	"internal/corpus": 40, // reads text for the training loop and recipes
	"internal/config": 40, // settings of the training loop, recipes and programs
}

// forTests are imported by tests only, except by the packages named.
var forTests = map[string][]string{
	"backend/backendtest":      {},
	"internal/golden":          {},
	"internal/golden/testdata": {"examples/embedfs"},
	"internal/house":           {},
}

// plotters are the programs that draw. Others hand out numbers: what draws
// reaches nobody who imports them.
var plotters = []string{"cmd/herd", "bench"}

// libraries are the modules that floors 0 to 3 may import.
var libraries = []string{
	"github.com/dlclark/regexp2",
	"github.com/klauspost/compress",
	"github.com/klauspost/cpuid/v2",
	"github.com/viterin/vek",
	"github.com/x448/float16",
	"golang.org/x/sync",
	"golang.org/x/sys",
	"golang.org/x/text",
	"gonum.org/v1/gonum",
}

// find looks a folder or the nearest one above it up.
func find[V any](m map[string]V, dir string) (v V, ok bool) {
	for ; ; dir = dir[:strings.LastIndexByte(dir, '/')] {
		if v, ok = m[dir]; ok || !strings.Contains(dir, "/") {
			return v, ok
		}
	}
}

// below says whether path is the module or folder top, or in it.
func below(path, top string) bool { return path == top || strings.HasPrefix(path, top+"/") }

// wrongImport says what is wrong with an import of a file that is no test, or
// "" where nothing is.
func wrongImport(dir, path string) string {
	if path == "C" {
		return "needs a C compiler"
	}
	if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	_, test := find(forTests, dir)
	floor, known := find(floors, dir)
	switch {
	case test:
		return ""
	case !known:
		return dir + " has no floor"
	}
	if !below(path, module) {
		if floor >= 40 {
			return ""
		}
		for _, m := range libraries {
			if below(path, m) {
				return ""
			}
		}
		return "is not among the modules that floors 0 to 3 may use"
	}
	to := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
	if users, ok := find(forTests, to); ok {
		for _, u := range users {
			if dir == u {
				return ""
			}
		}
		return "is for tests"
	}
	if dir == "backend" {
		return "package backend is types and interface only"
	}
	if to == "internal/chart" && !slices.Contains(plotters, dir) {
		return "only programs draw"
	}
	target, ok := find(floors, to)
	if !ok {
		return to + " has no floor"
	}
	if target > floor {
		return "goes up from floor " + strconv.Itoa(floor) + " to " + strconv.Itoa(target)
	}
	return ""
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || s.dir == "." {
			continue
		}
		for _, i := range s.file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			if wrong := wrongImport(s.dir, path); wrong != "" {
				t.Errorf("%s: import of %s: %s", s.at(i), path, wrong)
			}
		}
	}
}

// TestWrongImport checks the check.
func TestWrongImport(t *testing.T) {
	for _, c := range []struct {
		dir, path string
		ok        bool
	}{
		{"nn", "fmt", true},
		{"nn", "C", false},
		{"nn", module + "/tensor", true},
		{"nn", module + "/backend/cpu", true},
		{"nn", module + "/llama", false},
		{"nn", module + "/llama/gguf", false},
		{"tensor", module + "/nn", false},
		{"backend", module + "/backend/block", false},
		{"backend/cpu", module + "/backend/block", true},
		{"backend/cpu", module + "/tensor", false},
		{"llama/gguf", module + "/llama", false},
		{"llama/gguf", module + "/internal/vfs", true},
		{"llama/chat/internal/jinja", module + "/llama/serve", false},
		{"llama", module + "/llama/gguf", true},
		{"llama", module + "/train", false},
		{"llama/internal/checkpoint", module + "/llama", false},
		{"llama/internal/checkpoint", module + "/llama/gguf", true},
		{"llama", module + "/llama/internal/checkpoint", true},
		{"llama", module + "/backend/backendtest", false},
		{"llama", module + "/internal/golden", false},
		{"llama", "github.com/spf13/cobra", false},
		{"llama", "golang.org/x/system", false},
		{"llama", "golang.org/x/sys/unix", true},
		{"cmd/herd", "github.com/spf13/cobra", true},
		{"cmd/herd", module + "/llama", true},
		{"train", module + "/posttrain", false},
		{"posttrain", module + "/train", true},
		{"unknown", module + "/llama", false},
		{"train", module + "/internal/chart", false},
		{"posttrain", module + "/internal/chart", false},
		{"cmd/herd", module + "/internal/chart", true},
	} {
		if wrong := wrongImport(c.dir, c.path); (wrong == "") != c.ok {
			t.Errorf("%s imports %s: %q", c.dir, c.path, wrong)
		}
	}
}
