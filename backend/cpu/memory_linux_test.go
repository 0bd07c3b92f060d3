package cpu

import (
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFault: memory that is gone, as of a file that was cut short under a map,
// is a panic in the caller and not the end of the process.
func TestFault(t *testing.T) {
	mem, err := mapMemory(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	defer unmapMemory(mem)
	if err := unix.Mprotect(mem, unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	b := open(t, Options{Workers: 3})
	e := begin(t, b, t.Context()).(*exec)
	defer e.End()
	var sum byte
	for i := range 16 {
		func() {
			defer func() {
				if _, ok := recover().(runtime.Error); !ok {
					t.Errorf("fault in chunk %d: no runtime.Error", i)
				}
			}()
			defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // as Run does
			b.pool.run(taskFunc(func(_ *worker, c int) {
				if c == i {
					sum += mem[0]
				}
			}), 16)
		}()
	}
}
