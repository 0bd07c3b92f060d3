package house

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fence matches a fenced block of Markdown: its language and its text.
var fence = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")

// A block is a fenced block.
type block struct{ language, text string }

func readmeBlocks(t *testing.T) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for _, m := range fence.FindAllStringSubmatch(strings.ReplaceAll(string(text), "\r\n", "\n"), -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	return blocks
}

// TestReadmePrograms vets and runs each Go program of the README, from the
// root, and wants the output that the text block after it shows.
func TestReadmePrograms(t *testing.T) {
	programs := 0
	blocks := readmeBlocks(t)
	for i, b := range blocks {
		if b.language != "go" {
			continue
		}
		programs++
		if i+1 == len(blocks) || blocks[i+1].language != "text" {
			t.Fatalf("no text block with the output follows the program:\n%s", b.text)
		}
		// An overlay puts the program into the module without a file there.
		dir := t.TempDir()
		main := filepath.Join(dir, "main.go")
		overlay := filepath.Join(dir, "overlay.json")
		place := filepath.Join(root(), "examples", "readme", "main.go")
		list, err := json.Marshal(map[string]any{"Replace": map[string]string{place: main}})
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string][]byte{main: []byte(b.text), overlay: list} {
			if err := os.WriteFile(name, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		program := filepath.Join(dir, "program.exe")
		command(t, root(), "go", "build", "-overlay", overlay, "-o", program, "./examples/readme")
		if got := command(t, root(), program); strings.TrimSpace(got) != strings.TrimSpace(blocks[i+1].text) {
			t.Errorf("the program prints\n%s\nthe README shows\n%s", got, blocks[i+1].text)
		}
		if lines := strings.Count(b.text, "\n"); lines > 40 {
			t.Errorf("a program of %d lines is no example", lines)
		}
		if formatted := command(t, root(), "gofmt", "-l", main); formatted != "" {
			t.Errorf("not gofmt clean:\n%s", b.text)
		}
	}
	if programs == 0 {
		t.Error("the README has no Go program")
	}
}

// TestReadmeCommands runs the commands of console blocks that start with
// "$ go run" and wants on standard output what the block shows after them.
func TestReadmeCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it builds the command")
	}
	ran := 0
	for _, b := range readmeBlocks(t) {
		line, want, _ := strings.Cut(b.text, "\n")
		if b.language != "console" || !strings.HasPrefix(line, "$ go run ") {
			continue
		}
		ran++
		if got := command(t, root(), "sh", "-c", strings.TrimPrefix(line, "$ ")); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s\nprints\n%s\nthe README shows\n%s", line, got, want)
		}
	}
	if ran == 0 {
		t.Error("the README shows no command with its output")
	}
}

// TestReadmeTests wants of the README the command for the tests that .ci/run
// calls.
func TestReadmeTests(t *testing.T) {
	run, err := os.ReadFile(filepath.Join(root(), ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range readmeBlocks(t) {
		if line, ok := strings.CutPrefix(strings.TrimSpace(b.text), "go test "); ok && b.language == "sh" {
			if !strings.Contains(string(run), "go test -json "+line) {
				t.Errorf(".ci/run does not call go test %s", line)
			}
			return
		}
	}
	t.Error("the README has no command for the tests")
}
