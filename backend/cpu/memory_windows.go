package cpu

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

// mapMemory returns zeroed pages of their own.
func mapMemory(n int) ([]byte, error) {
	at, err := windows.VirtualAlloc(0, uintptr(n), windows.MEM_RESERVE|windows.MEM_COMMIT, windows.PAGE_READWRITE)
	if err != nil {
		return nil, err
	}
	// The address is not the Go heap's: read it as the pointer it is.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&at)), n), nil
}

func unmapMemory(mem []byte) {
	_ = windows.VirtualFree(uintptr(unsafe.Pointer(unsafe.SliceData(mem))), 0, windows.MEM_RELEASE)
}
