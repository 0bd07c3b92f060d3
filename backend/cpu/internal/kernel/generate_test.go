package kernel

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGenerate writes the assembly again and wants the committed files.
func TestGenerate(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the generator")
	}
	goCommand := func(args ...string) ([]byte, error) {
		cmd := exec.Command("go", args...)
		cmd.Dir = "../../_asm"
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOOS=", "GOARCH=")
		return cmd.CombinedOutput()
	}
	if text, err := goCommand("mod", "download"); err != nil {
		t.Skipf("the modules of the generator cannot be had: %v\n%s", err, text)
	}
	dir := t.TempDir()
	if text, err := goCommand("run", ".", dir); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, name := range []string{"avx2_amd64.s", "avx2_amd64.go", "avx512_amd64.s", "avx512_amd64.go", "unpack_amd64.s", "unpack_amd64.go", "codebook_amd64.s", "codebook_amd64.go", "exp_amd64.s", "exp_amd64.go", "fewrows512_amd64.s", "fewrows512_amd64.go", "fewrows256_amd64.s", "fewrows256_amd64.go", "amx_amd64.s", "amx_amd64.go", "attend_amd64.s", "attend_amd64.go"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator writes: run go generate", name)
		}
	}
}
