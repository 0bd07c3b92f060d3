package block

import (
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// The compiler may fuse a product and an addition, which skips a rounding and
// changes the last bit. amd64 does not by default, so the golden tests above
// cannot see it there: look at what is compiled for arm64, which does.
func TestNothingFused(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the package for another machine")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("no go command")
	}
	cmd := exec.Command(tool, "build", "-gcflags=-S", ".")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !regexp.MustCompile(`\tFMULS\t`).Match(out) {
		t.Fatal("the listing has no products at all")
	}
	for _, line := range regexp.MustCompile(`[\w]+\.go:\d+\)\tFN?M(ADD|SUB)[SD]\t`).FindAllString(string(out), -1) {
		t.Errorf("fused: %s", line)
	}
}
