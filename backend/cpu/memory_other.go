//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly || windows)

package cpu

import (
	"fmt"
	"unsafe"
)

// mapMemory returns zeroed memory of the Go heap, aligned.
func mapMemory(n int) (mem []byte, err error) {
	defer func() {
		if v := recover(); v != nil { // make refuses sizes beyond the address space
			err = fmt.Errorf("%v", v)
		}
	}()
	mem = make([]byte, n+align)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(mem))) % align)
	return mem[skip:][:n:n], nil
}

func unmapMemory([]byte) {}
