package ref

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"unsafe"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
)

// New returns the oracle as a backend: one worker, memory in Go slices, every
// operation of the list, every float and block type as a weight. Begin waits
// in line for the steps of its other contexts.
func New() backend.Backend { return &device{step: make(chan struct{}, 1)} }

// NewOpaque is New with memory as a device far from the host has it: every step begins
// by moving all of it, and what lay where it was is NaN in every float type. Who keeps
// memory, or looks at it but through the interface, computes with that. It shows that
// callers are fit for any device.
func NewOpaque() backend.Backend {
	return &device{step: make(chan struct{}, 1), live: map[*buffer]struct{}{}}
}

// device is the backend. Who has sent to step is running a step; senders that
// wait on a channel are served in order.
type device struct {
	step chan struct{}

	// Of an opaque device, else nil.
	live map[*buffer]struct{} // buffers that outlive steps
	mu   sync.RWMutex         // held to move memory, and to read or write it from outside of steps
}

// keep makes a buffer move with the others.
func (d *device) keep(b *buffer) *buffer {
	if d.live != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		b.dev, d.live[b] = d, struct{}{}
	}
	return b
}

// move gives all buffers other memory.
func (d *device) move() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for b := range d.live {
		old := b.mem
		b.mem = newBuffer(len(old)).mem
		copy(b.mem, old)
		poison(old)
	}
}

// poison makes memory NaN.
func poison(mem []byte) {
	for i := range mem {
		mem[i] = 0xff
	}
}

func (*device) Describe() backend.Description {
	return backend.Description{Device: "ref", Variant: "float64", Workers: 1}
}

// Rounding is RoundNone: the oracle rounds only where Args.Round says so.
func (*device) Rounding(backend.DType) backend.Rounding { return backend.RoundNone }

func (*device) Supports(op backend.Op) error {
	if op == backend.NoOp || int(op) >= len(kernels) {
		return fmt.Errorf("ref: operation %v: %w", op, backend.ErrUnsupported)
	}
	return nil
}

func (b *device) Alloc(bytes int64) (backend.Buffer, error) {
	if bytes < 0 || bytes > math.MaxInt-align {
		return nil, fmt.Errorf("ref: a buffer of %d bytes: %w", bytes, backend.ErrUnsupported)
	}
	return b.keep(newBuffer(int(bytes))), nil
}

// Scratch is 0: what operations take is of Go's heap.
func (*device) Scratch(backend.Op, *backend.Args) int64 { return 0 }

func (b *device) NewExec() (backend.Exec, error) { return &exec64{dev: b}, nil }

// Close waits for the running step.
func (b *device) Close() error {
	b.step <- struct{}{}
	<-b.step
	return nil
}

const align = 64 // bytes, as backend.Buffer promises

// buffer is memory of a Go slice.
type buffer struct {
	mem []byte
	dev *device // an opaque one, else nil
}

func newBuffer(n int) *buffer {
	mem := make([]byte, n+align-1)
	at := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	skip := int(-at % align)
	return &buffer{mem: mem[skip:][:n:n]}
}

func (b *buffer) Size() int64 {
	if d := b.dev; d != nil {
		d.mu.RLock()
		defer d.mu.RUnlock()
	}
	return int64(len(b.mem))
}

func (b *buffer) Free() {
	if d := b.dev; d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.live, b)
		poison(b.mem)
	}
	b.mem = nil
}

// Host is memory of the caller's own, as a buffer for Run and Values.
type Host []byte

// Size is the number of bytes.
func (h Host) Size() int64 { return int64(len(h)) }

// Free does nothing.
func (h Host) Free() {}

// memory is that of a buffer of the oracle, or a Host.
func memory(b backend.Buffer) []byte {
	if h, ok := b.(Host); ok {
		return h
	}
	return b.(*buffer).mem
}

// within is n bytes of a buffer from off on.
func within(what string, b backend.Buffer, off int64, n int) []byte {
	mem := memory(b)
	if off < 0 || off > int64(len(mem)-n) {
		panic(&backend.ShapeError{Op: what, Detail: fmt.Sprintf("bytes [%d, +%d) of a buffer of %d", off, n, len(mem))})
	}
	return mem[off:][:n]
}

func (d *device) Upload(dst backend.Buffer, off int64, src []byte) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(within("Upload", dst, off, len(src)), src)
	return nil
}

func (d *device) Download(dst []byte, src backend.Buffer, off int64) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(dst, within("Download", src, off, len(dst)))
	return nil
}

// exec64 is an execution context. Arena memory is filled with NaN, so that
// reading what was never written shows.
type exec64 struct {
	dev     *device
	ctx     context.Context
	stopped error     // why operations do nothing, nil while they run
	arena   []*buffer // of this step
	used    int64     // bytes of arena
	scratch int64     // the largest used
}

func (e *exec64) Backend() backend.Backend { return e.dev }

func (e *exec64) Begin(ctx context.Context) error {
	if err := ctxerr.Of(ctx); err != nil {
		return err
	}
	select {
	case e.dev.step <- struct{}{}:
	case <-ctx.Done():
		return ctxerr.Of(ctx)
	}
	if e.dev.live != nil {
		e.dev.move()
	}
	e.ctx, e.stopped = ctx, nil
	return nil
}

func (e *exec64) End() error {
	e.Close()
	<-e.dev.step
	return e.stopped
}

func (e *exec64) Alloc(t backend.DType, s backend.Shape) backend.View {
	buf := newBuffer(s.Elems() * t.BlockBytes())
	poison(buf.mem)
	e.arena = append(e.arena, buf)
	e.used += int64(len(buf.mem))
	e.scratch = max(e.scratch, e.used)
	return backend.Contiguous(buf, t, 0, s)
}

// Mark is the number of allocations so far.
func (e *exec64) Mark() int64 { return int64(len(e.arena)) }

func (e *exec64) Release(mark int64) {
	for _, b := range e.arena[mark:] {
		e.used -= int64(len(b.mem))
		b.Free()
	}
	e.arena = e.arena[:mark]
}

func (e *exec64) Run(op backend.Op, a *backend.Args) {
	if e.stopped == nil {
		e.stopped = ctxerr.Of(e.ctx)
	}
	if e.stopped == nil {
		backend.Check(op, a, e.dev)
		run(op, a)
	}
}

func (e *exec64) Layout(l *backend.Layout) { l.Check() }

func (e *exec64) Read(dst []float32, v backend.View) {
	contiguous("Read", &v, backend.F32, len(dst))
	mem := memory(v.Buf)[4*v.Off:]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(mem[4*i:]))
	}
}

func (e *exec64) Write(v backend.View, src []float32) {
	contiguous("Write", &v, backend.F32, len(src))
	mem := memory(v.Buf)[4*v.Off:]
	for i, x := range src {
		binary.LittleEndian.PutUint32(mem[4*i:], math.Float32bits(x))
	}
}

func (e *exec64) WriteIDs(v backend.View, src []int32) {
	contiguous("WriteIDs", &v, backend.I32, len(src))
	mem := memory(v.Buf)[4*v.Off:]
	for i, x := range src {
		binary.LittleEndian.PutUint32(mem[4*i:], uint32(x))
	}
}

// Reserve does nothing: every Alloc makes a buffer of its own.
func (e *exec64) Reserve(int64) {}

func (e *exec64) Scratch() int64 { return e.scratch }

func (e *exec64) Close() {
	e.Release(0)
	e.arena = nil
}

func contiguous(what string, v *backend.View, t backend.DType, n int) {
	if v.Type != t || v.Shape.Elems() != n || !v.IsContiguous() {
		panic(&backend.ShapeError{Op: what, Detail: fmt.Sprintf("%d values of %v for a view of %v %v", n, t, v.Type, v.Shape)})
	}
}
