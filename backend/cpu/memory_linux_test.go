package cpu

import (
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/backendtest"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
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

// TestPanics: an operation that panics, in its own goroutine or in a worker, because
// memory faults or because there is none to be had, leaves nothing behind.
func TestPanics(t *testing.T) {
	protect := func(b backend.Buffer) (undo func()) {
		mem := b.(*buffer).mem
		set := func(prot int) {
			if err := unix.Mprotect(mem[:cap(mem)], prot); err != nil {
				t.Fatal(err)
			}
		}
		set(unix.PROT_NONE)
		return func() { set(unix.PROT_READ | unix.PROT_WRITE) }
	}
	exhaust := func(e backend.Exec, bytes int64) (undo func()) {
		x := e.(*exec)
		arenas := []*arena{&x.arena}
		for _, w := range x.b.pool.workers {
			arenas = append(arenas, &w.scratch)
		}
		for _, a := range arenas {
			c, err := newBuffer(bytes)
			if err != nil {
				t.Fatal(err)
			}
			a.free()
			a.chunks, a.start, a.want = append(a.chunks, c), append(a.start, 0), math.MaxInt64
		}
		return func() {
			for _, a := range arenas {
				a.free()
				a.want = 0
			}
		}
	}
	check := func(o Options) {
		t.Run(fmt.Sprintf("%s, %d workers", o.Variant, o.Workers), func(t *testing.T) {
			backendtest.RunFaults(t, open(t, o), backendtest.Faults{Protect: protect, Exhaust: exhaust})
		})
	}
	check(Options{Workers: 1})
	for _, v := range kernel.Variants() {
		if v.Err == nil {
			check(Options{Variant: v.Name, Workers: 3})
		}
	}
}
