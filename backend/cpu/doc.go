// Package cpu runs the operations of package backend on the processor, with
// vector kernels chosen once from what it offers.
//
// Experimental: this package may change with any release.
//
// # Workers
//
// A Backend has one pool of workers. A step holds all of them from Exec.Begin
// to Exec.End, other steps wait in line. The caller's goroutine is worker 0;
// the others start with the first step, wait for work a few microseconds
// without sleeping, then sleep, and end with Close. An operation is cut into
// chunks of its outputs, which the workers claim one by one. Nobody waits for a
// worker that wakes up late: the others have claimed its chunks. A sum is never
// divided among workers, so results are the same bits for any number of them.
//
// A worker pauses between chunks, and within a chunk every few microseconds. In a
// pause it looks whether the step's context has ended. Twice a millisecond it lets
// other goroutines run, so that timers and the collector of the host program are not
// late.
//
// # Weights
//
// Packed weights are panels of 16 rows. F32 and F16 are stored [panel][k][16],
// BF16 by pairs of inputs, [panel][k/2][16][2]; block types hold the file's fields
// in the file's order, each interleaved over the 16 rows by units of 1, 2 or 4
// bytes. Nothing is added, but a zero at the end of BF16 rows of odd length.
// Tiles of types without a kernel of their own, which are E4M3 and, without vectors, all
// block types, are decoded to F32, once for all rows of a step, and multiplied as such.
package cpu
