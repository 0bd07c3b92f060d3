//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package cpu

import "golang.org/x/sys/unix"

// mapMemory returns zeroed pages of their own.
func mapMemory(n int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil && n >= hugePage {
		adviseHuge(mem)
	}
	return mem, err
}

func unmapMemory(mem []byte) { _ = unix.Munmap(mem) }

const hugePage = 2 << 20
