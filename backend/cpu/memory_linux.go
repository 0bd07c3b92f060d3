package cpu

import "golang.org/x/sys/unix"

// adviseHuge asks for huge pages: fewer faults when packing, fewer TLB misses.
// A kernel without them refuses, which changes nothing.
func adviseHuge(mem []byte) { _ = unix.Madvise(mem, unix.MADV_HUGEPAGE) }

// adviseSmall asks for small pages.
func adviseSmall(mem []byte) { _ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) }
