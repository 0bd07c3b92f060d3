package lockfile

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestMain takes a lock for ever where TestKilled says so.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "hold" {
		if _, err := Acquire(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		select {}
	}
	os.Exit(m.Run())
}

// locks reports whether this system has them.
func locks() bool {
	return runtime.GOOS != "js" && runtime.GOOS != "plan9" && runtime.GOOS != "solaris"
}

// TestOneProcess: a second lock in the process is refused until the first is released.
func TestOneProcess(t *testing.T) {
	if !locks() {
		t.Skip("no locks on " + runtime.GOOS)
	}
	path := filepath.Join(t.TempDir(), "lock")
	for range 2 {
		l, err := Acquire(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Acquire(path); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), fmt.Sprintf("of this process, %d on ", os.Getpid())) {
			t.Fatalf("a second lock: %v", err)
		}
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Acquire(filepath.Join(t.TempDir(), "none", "lock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
}

// TestKilled: the lock of a process that is killed is free at once.
func TestKilled(t *testing.T) {
	if !locks() {
		t.Skip("no locks on " + runtime.GOOS)
	}
	path := filepath.Join(t.TempDir(), "lock")
	child := exec.Command(os.Args[0], "hold", path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	_, err = Acquire(path)
	host, _ := os.Hostname()
	if want := fmt.Sprintf("process %d on %s, since 20", child.Process.Pid, host); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), want) {
		t.Fatalf("beside another process: %v, want %q in it", err, want)
	}
	if err := child.Process.Kill(); err != nil { // SIGKILL
		t.Fatal(err)
	}
	child.Wait()
	l, err := Acquire(path)
	if err != nil {
		t.Fatalf("after the other was killed: %v", err)
	}
	l.Release()
	for _, content := range []string{"", "nonsense", "{}", `{"pid":"x"}`} { // nobody is named
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(content)
		if got := who(f); got != "" {
			t.Errorf("%q names %q", content, got)
		}
		f.Close()
	}
}
