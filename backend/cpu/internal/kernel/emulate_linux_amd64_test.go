//go:build !noasm

package kernel

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A machine without tiles raises an exception for an instruction that uses them.
// TestEmulated runs this program again, as a debugger does, with the set amx among
// the variants, and does what such instructions say with a tileUnit. All else, the
// loops around them included, runs on the processor.

const emulated = "HERD_TEST_EMULATED_TILES"

// emulatedTiles adds amx to variants where the tiles of this program are emulated.
func emulatedTiles(list []Variant) []Variant {
	if os.Getenv(emulated) == "" {
		return list
	}
	for i := range list {
		if v := &list[i]; v.Name == "amx" && v.Set == nil {
			if s, err := AVX512(); err == nil {
				v.Set, v.Err = withTiles(s), nil
			}
		}
	}
	return list
}

func TestEmulated(t *testing.T) {
	if _, err := AMX(); err == nil || os.Getenv(emulated) != "" {
		t.Skip("this processor has tiles, or is being emulated")
	}
	if _, err := AVX512(); err != nil {
		t.Skip(err)
	}
	if testing.Short() {
		t.Skip("has an exception for every instruction of tiles")
	}
	out, count, err := emulate(t, "-test.run=^TestTiles$/^amx$", "-test.v")
	t.Logf("%v", count)
	if err != nil {
		t.Skipf("programs cannot be traced here: %v", err)
	}
	if !strings.HasSuffix(strings.TrimSpace(out), "PASS") {
		t.Fatal(out)
	}
	for _, name := range []string{"TestTiles/amx/Q4_0", "TestTiles/amx/Q4_1", "TestTiles/amx/IQ4_XS", "TestTiles/amx/Q4_K", "TestTiles/amx/Q6_K", "TestTiles/amx/Q2_K", "TestTiles/amx/NVFP4", "TestTiles/amx/IQ2_S", "TestTiles/amx/BF16"} {
		if !strings.Contains(out, "--- PASS: "+name) {
			t.Errorf("%s did not run\n%s", name, out)
		}
	}
	for _, name := range []string{"LDTILECFG", "TILERELEASE", "TILEZERO", "TILELOADD", "TILESTORED", "TDPBF16PS", "TDPBSUD"} {
		if count[name] == 0 {
			t.Errorf("no %s was run", name)
		}
	}
	if count["LDTILECFG"] != count["TILERELEASE"] {
		t.Error("tiles are configured and not released")
	}
}

// emulate runs this program with arguments and returns what it prints and how many
// instructions of each kind were emulated. An error says that it could not be run.
func emulate(t *testing.T, args ...string) (string, map[string]int, error) {
	runtime.LockOSThread() // only the thread that starts a program may trace it
	defer runtime.UnlockOSThread()
	path := filepath.Join(t.TempDir(), "output")
	output, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), emulated+"=1", "GOMAXPROCS=1")
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	e := tracer{t: t, pid: cmd.Process.Pid, units: map[int]*tileUnit{}, count: map[string]int{}}
	defer unix.Kill(-e.pid, unix.SIGKILL) // where it still runs
	err = e.run()
	text, readErr := os.ReadFile(path)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(bytes.TrimSpace(text)), maps.Clone(e.count), err
}

// A tracer runs a program and emulates its tiles.
type tracer struct {
	t     *testing.T
	pid   int
	units map[int]*tileUnit // of each thread
	count map[string]int
}

// run runs the program, which waits at its start, to its end.
func (e *tracer) run() error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(e.pid, &status, 0, nil); err != nil {
		return err
	}
	if err := unix.PtraceSetOptions(e.pid, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		return err
	}
	for id, signal := e.pid, 0; ; {
		if err := unix.PtraceCont(id, signal); err != nil && err != unix.ESRCH { // it has ended meanwhile
			return err
		}
		for {
			var err error
			if id, err = unix.Wait4(-e.pid, &status, unix.WALL, nil); err == unix.EINTR {
				continue
			} else if err != nil {
				return err
			}
			if !status.Exited() && !status.Signaled() {
				break
			}
			if id == e.pid {
				return nil
			}
			delete(e.units, id)
		}
		signal = e.deliver(id, status)
	}
}

// deliver returns the signal that a stopped thread gets.
func (e *tracer) deliver(id int, status unix.WaitStatus) int {
	known := e.units[id] != nil
	if !known {
		e.units[id] = &tileUnit{count: e.count}
	}
	switch s := status.StopSignal(); s {
	case unix.SIGTRAP: // a thread was made
		return 0
	case unix.SIGSTOP:
		if !known { // how a thread starts
			return 0
		}
		return int(s)
	case unix.SIGILL:
		if err := e.step(id); err != nil {
			e.t.Errorf("an instruction of tiles: %v", err)
			return int(s)
		}
		return 0
	default:
		return int(s)
	}
}

// step emulates the instruction that a thread has stopped at, and those behind it.
func (e *tracer) step(id int) error {
	var r unix.PtraceRegs
	if err := unix.PtraceGetRegs(id, &r); err != nil {
		return err
	}
	gp := [16]uint64{r.Rax, r.Rcx, r.Rdx, r.Rbx, r.Rsp, r.Rbp, r.Rsi, r.Rdi, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15}
	var code [64]byte
	if err := e.read([][]byte{code[:]}, r.Rip, 0); err != nil {
		return err
	}
	for at := 0; ; {
		n, err := e.units[id].step(code[at:], gp, e)
		if err == errNoTiles && at > 0 {
			r.Rip += uint64(at)
			return unix.PtraceSetRegs(id, &r)
		}
		if err != nil {
			return fmt.Errorf("% x: %w", code[at:min(at+6, len(code))], err)
		}
		at += n
	}
}

func (e *tracer) read(rows [][]byte, at, stride uint64) error {
	return e.copy(unix.ProcessVMReadv, rows, at, stride)
}

func (e *tracer) write(rows [][]byte, at, stride uint64) error {
	return e.copy(unix.ProcessVMWritev, rows, at, stride)
}

func (e *tracer) copy(f func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error), rows [][]byte, at, stride uint64) error {
	here, there, size := make([]unix.Iovec, len(rows)), make([]unix.RemoteIovec, len(rows)), 0
	for i, r := range rows {
		here[i] = unix.Iovec{Base: &r[0], Len: uint64(len(r))}
		there[i] = unix.RemoteIovec{Base: uintptr(at + uint64(i)*stride), Len: len(r)}
		size += len(r)
	}
	if n, err := f(e.pid, here, there, 0); err != nil || n != size {
		return fmt.Errorf("%d of %d bytes at %#x: %w", n, size, at, err)
	}
	return nil
}
