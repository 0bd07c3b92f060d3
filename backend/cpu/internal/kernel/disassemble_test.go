package kernel

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// An encoded instruction is written as numbers into the assembly, behind a comment
// that says what it is.
type encoded struct {
	place, text string
	code        []byte
}

// encodedIn lists those of a file. Numbers without a comment fail the test.
func encodedIn(t *testing.T, path string) (list []encoded) {
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	comment, open := "", false // open: the line before was of numbers
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		name, value, _ := strings.Cut(line, "$")
		size := map[string]int{"LONG": 4, "WORD": 2, "BYTE": 1}[strings.TrimSpace(name)]
		place := path + ":" + strconv.Itoa(i+1)
		if size == 0 {
			comment, open = "", false
			if after, ok := strings.CutPrefix(line, "// "); ok {
				comment = after
			}
			continue
		}
		v, err := strconv.ParseUint(value, 0, 8*size)
		if err != nil || comment == "" {
			t.Fatalf("%s: %q after comment %q: %v", place, line, comment, err)
		}
		if !open {
			list, open = append(list, encoded{place: place, text: comment}), true
		}
		var bytes [8]byte
		binary.LittleEndian.PutUint64(bytes[:], v)
		last := &list[len(list)-1]
		last.code = append(last.code, bytes[:size]...)
	}
	return list
}

// TestEncoded disassembles all instructions that the assembler does not know and
// wants what their comments say.
func TestEncoded(t *testing.T) {
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip(err)
	}
	paths, err := filepath.Glob("*_amd64.s")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no assembly: %v", err)
	}
	var list []encoded
	for _, p := range paths {
		list = append(list, encodedIn(t, p)...)
	}
	var code []byte
	kinds := map[string]int{}
	for _, e := range list {
		code = append(code, e.code...)
		name, _, _ := strings.Cut(e.text, " ")
		kinds[name]++
	}
	for _, name := range []string{"VDPBF16PS", "VCVTNEPS2BF16", "LDTILECFG", "TILERELEASE", "TILEZERO", "TILELOADD", "TILESTORED", "TDPBF16PS", "TDPBSUD"} {
		if kinds[name] == 0 {
			t.Errorf("no %s found", name)
		}
	}
	file := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(objdump, "-D", "-b", "binary", "-m", "i386:x86-64", "--insn-width=16", file).CombinedOutput()
	if err != nil {
		t.Skipf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "vdpbf16ps") || !strings.Contains(string(out), "tdpbf16ps") {
		t.Skip("objdump does not know these instructions")
	}
	at := 0
	lines := regexp.MustCompile(`(?m)^\s*([0-9a-f]+):\t[0-9a-f ]+\t(.*)$`).FindAllStringSubmatch(string(out), -1)
	for i, e := range list {
		if i >= len(lines) {
			t.Fatalf("%s: %s is not disassembled", e.place, e.text)
		}
		got := strings.Join(strings.Fields(lines[i][2]), " ")
		if want := gas(e.text); got != want || lines[i][1] != strconv.FormatInt(int64(at), 16) {
			t.Fatalf("%s: % x is %q at %s, want %q at %x", e.place, e.code, got, lines[i][1], want, at)
		}
		at += len(e.code)
	}
	if len(lines) != len(list) {
		t.Errorf("%d instructions, want %d", len(lines), len(list))
	}
}

// gas turns an instruction of Go's assembler into objdump's way to write it.
func gas(text string) string {
	name, operands, _ := strings.Cut(text, " ")
	operands = regexp.MustCompile(`\((\w+)\)\((\w+)\*(\d)\)`).ReplaceAllString(operands, "($1,$2,$3)")
	operands = regexp.MustCompile(`[A-Z]\w*`).ReplaceAllStringFunc(operands, func(r string) string {
		switch {
		case len(r) == 2 && r[0] != 'R' && r[0] != 'Z' && r[0] != 'Y': // AX
			r = "r" + r
		case r[0] == 'Z' || r[0] == 'Y':
			r = strings.ToLower(r[:1]) + "mm" + r[1:]
		}
		return "%" + strings.ToLower(r)
	})
	return strings.TrimSpace(strings.ToLower(name) + " " + strings.ReplaceAll(operands, ", ", ","))
}
