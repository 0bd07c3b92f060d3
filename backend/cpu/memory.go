package cpu

import (
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// MemoryError says that memory could not be had. Alloc and Pack return it; it
// is the value of the panic where the arena of a step cannot grow.
type MemoryError struct {
	Bytes int64 // asked for
	Err   error
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("cpu: %d bytes of memory: %v", e.Bytes, e.Err)
}

// Unwrap returns the cause.
func (e *MemoryError) Unwrap() error { return e.Err }

// buffer is a backend.Buffer. One that is dropped without Free gives its memory back when
// the collector finds it. The collector does not see mem: what works on it keeps the
// buffer alive (runtime.KeepAlive).
type buffer struct {
	mem     []byte
	freed   atomic.Bool
	dropped runtime.Cleanup
}

// newBuffer returns zeroed memory, 64-byte aligned, outside the Go heap where
// the platform can.
func newBuffer(bytes int64) (*buffer, error) {
	if bytes < 0 || bytes > math.MaxInt-pageSlack {
		return nil, &MemoryError{bytes, fmt.Errorf("not a size")}
	}
	if bytes == 0 {
		return &buffer{mem: []byte{}}, nil
	}
	mem, err := mapMemory(int(bytes))
	if err != nil {
		return nil, &MemoryError{bytes, err}
	}
	b := &buffer{mem: mem}
	b.dropped = runtime.AddCleanup(b, unmapMemory, mem)
	return b, nil
}

// pageSlack keeps sizes that are rounded up from overflowing.
const pageSlack = 1 << 16

// Size implements backend.Buffer.
func (b *buffer) Size() int64 { return int64(len(b.mem)) }

func (b *buffer) Free() {
	if b.freed.CompareAndSwap(false, true) {
		mem := b.mem
		b.mem = nil
		if len(mem) > 0 {
			b.dropped.Stop()
			unmapMemory(mem)
		}
	}
}

// number is an element of a buffer.
type number interface {
	~int8 | ~uint8 | ~bool | ~uint16 | ~int32 | ~uint64 | ~float32 | ~float64 | kernel.Meta | rowGradient
}

// as reads memory as numbers.
func as[T number](b []byte) []T {
	var t T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(t)))
}

// bytesOf is the memory of numbers.
func bytesOf[T number](s []T) []byte {
	var t T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(t)))
}

// memory is that of a buffer. A buffer of another backend panics.
func memory(b backend.Buffer) []byte { return b.(*buffer).mem }

// elems returns the buffer of a view from the view's first element on.
func elems[T number](v *backend.View) []T { return as[T](memory(v.Buf))[v.Off:] }

// arena hands out memory in order and takes it back all at once, or back to a
// mark. It grows by chunks; reset joins them into one of at least the size that is
// wanted, so a steady use of it allocates nothing.
type arena struct {
	chunks []*buffer
	start  []int64 // position of each chunk: the sizes before it
	cur    int     // chunk in use
	off    int64   // bytes taken of it
	peak   int64   // highest position since it was made
	want   int64   // the size to have at once
	counts bool    // counts only, and hands out nothing
}

const (
	align    = 64
	minChunk = 1 << 18
)

func (a *arena) reset() {
	if n := a.size(); len(a.chunks) > 1 || n > 0 && n < a.want {
		a.want = max(a.want, n)
		a.free()
	}
	a.cur, a.off = 0, 0
}

// size is the memory held.
func (a *arena) size() int64 {
	n := len(a.chunks)
	if n == 0 {
		return 0
	}
	return a.start[n-1] + int64(len(a.chunks[n-1].mem))
}

func (a *arena) free() {
	for _, c := range a.chunks {
		c.Free()
	}
	a.chunks, a.start, a.cur, a.off = a.chunks[:0], a.start[:0], 0, 0
}

// take returns the chunk and offset of n bytes, contents undefined. It panics
// with a *MemoryError.
func (a *arena) take(n int64) (*buffer, int64) {
	if n < 0 || n > math.MaxInt-pageSlack {
		panic(&MemoryError{n, fmt.Errorf("not a size")})
	}
	n = (n + align - 1) &^ (align - 1)
	if a.counts {
		a.off += n
		a.peak = max(a.peak, a.off)
		return nil, 0
	}
	for ; a.cur < len(a.chunks); a.cur++ {
		if c := a.chunks[a.cur]; n <= int64(len(c.mem))-a.off {
			at := a.off
			a.off += n
			a.peak = max(a.peak, a.mark())
			return c, at
		}
		a.off = 0
	}
	c, err := newBuffer(max(n, minChunk, a.want-a.size(), a.size()))
	if err != nil { // what was wanted to spare is not to be had
		a.want = 0
		if c, err = newBuffer(max(n, minChunk)); err != nil {
			panic(err)
		}
	}
	a.start = append(a.start, a.size())
	a.chunks = append(a.chunks, c)
	a.off = n
	a.peak = max(a.peak, a.mark())
	return c, 0
}

// mark is the position: all that is taken lies below.
func (a *arena) mark() int64 {
	if a.counts {
		return a.off
	}
	if a.cur >= len(a.start) {
		return a.size()
	}
	return a.start[a.cur] + a.off
}

// release takes back everything above a mark.
func (a *arena) release(mark int64) {
	if a.counts {
		a.off = mark
		return
	}
	if len(a.chunks) == 0 {
		return
	}
	a.cur = min(a.cur, len(a.chunks)-1)
	for a.start[a.cur] > mark {
		a.cur--
	}
	a.off = mark - a.start[a.cur]
}

// sizeOf is the bytes of a number.
func sizeOf[T number]() uintptr {
	var t T
	return unsafe.Sizeof(t)
}

// slice takes n numbers of an arena, contents undefined.
func slice[T number](a *arena, n int) []T {
	var t T
	size := int64(n) * int64(unsafe.Sizeof(t))
	c, at := a.take(size)
	if c == nil {
		return nil
	}
	return as[T](c.mem[at:][:size])
}
