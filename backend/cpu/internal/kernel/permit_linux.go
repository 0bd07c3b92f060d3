//go:build amd64 && !noasm

package kernel

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// permitTiles asks for leave to use tiles, which Linux gives to a process, all its
// threads and its children, for good (Documentation/arch/x86/xstate.rst). It refuses
// where it has no room for tiles in a thread's stack for signals; Go's has 32 KiB,
// and 11 are needed.
func permitTiles() error {
	const (
		request  = 0x1023 // ARCH_REQ_XCOMP_PERM
		tileData = 18     // XFEATURE_XTILEDATA
	)
	if _, _, errno := unix.RawSyscall(unix.SYS_ARCH_PRCTL, request, tileData, 0); errno != 0 {
		return permitError{errno}
	}
	return nil
}

// permitError is why Linux does not let programs use tiles.
type permitError struct{ errno unix.Errno }

func (e permitError) Error() string { return fmt.Sprintf("kernel: no AMX from Linux: %v", e.errno) }

func (e permitError) Unwrap() error { return e.errno }
