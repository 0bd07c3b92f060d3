package house

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxModules bounds what a program that uses a package finds in its go.mod.
var maxModules = map[string]int{"llama": 15, "train": 18}

// command runs a program in a folder and returns its standard output.
func command(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	// -buildvcs=false: a checkout of another owner is no error.
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off", "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// A goMod is what go mod edit -json prints of a go.mod.
type goMod struct {
	Module  struct{ Path string }
	Require []struct{ Path string }
	Replace []struct{ New struct{ Path string } }
}

func readGoMod(t *testing.T, dir string) goMod {
	t.Helper()
	var m goMod
	if err := json.Unmarshal([]byte(command(t, dir, "go", "mod", "edit", "-json")), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestGoMod: the root neither replaces a module nor needs a nested one.
func TestGoMod(t *testing.T) {
	m := readGoMod(t, root())
	if m.Module.Path != module {
		t.Errorf("module %s, want %s", m.Module.Path, module)
	}
	if len(m.Replace) != 0 {
		t.Errorf("go.mod replaces modules: %v", m.Replace)
	}
	for _, r := range m.Require {
		if below(r.Path, module) {
			t.Errorf("go.mod requires nested module %s", r.Path)
		}
	}
}

// TestModuleWeight writes the smallest programs that use a package and counts the
// modules that go mod tidy puts into their go.mod: what their authors have to trust.
func TestModuleWeight(t *testing.T) {
	if testing.Short() {
		t.Skip("runs go mod tidy")
	}
	for pkg, most := range maxModules {
		t.Run(pkg, func(t *testing.T) { moduleWeight(t, pkg, most) })
	}
}

// maxCommandModules bounds what is fetched and compiled for the command.
const maxCommandModules = 21

// TestCommandWeight counts the modules whose packages are in the command.
func TestCommandWeight(t *testing.T) {
	names := map[string]bool{}
	for line := range strings.Lines(command(t, root(), "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./cmd/herd")) {
		if name := strings.TrimSpace(line); name != "" && name != module {
			names[name] = true
		}
	}
	if len(names) == 0 || len(names) > maxCommandModules {
		t.Errorf("the command has packages of %d modules, want 1 to %d: %v", len(names), maxCommandModules, slices.Sorted(maps.Keys(names)))
	}
}

func moduleWeight(t *testing.T, pkg string, most int) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("main.go", "package main\n\nimport _ \""+module+"/"+pkg+"\"\n\nfunc main() {}\n")
	write("go.mod", "module example.com/consumer\n\ngo 1.26.0\n\nrequire "+module+" v0.0.0\n")
	sums, err := os.ReadFile(filepath.Join(root(), "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	write("go.sum", string(sums))
	command(t, dir, "go", "mod", "edit", "-replace="+module+"="+root())
	command(t, dir, "go", "mod", "tidy")

	var names []string
	for _, r := range readGoMod(t, dir).Require {
		if r.Path != module {
			names = append(names, r.Path)
		}
	}
	if len(names) == 0 || len(names) > most {
		t.Errorf("a consumer of %s inherits %d modules, want 1 to %d: %v", pkg, len(names), most, names)
	}
	t.Logf("a consumer of %s inherits %d modules: %v", pkg, len(names), names)
	command(t, dir, "go", "build", "-o", filepath.Join(dir, "consumer"), ".")
}
