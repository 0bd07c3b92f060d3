package cpu

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/cpuid/v2"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// Options are the settings of a Backend. The zero value is what suits the
// machine.
type Options struct {
	// Workers is the number of goroutines that compute, the caller's included.
	// 0 is the number of physical cores or GOMAXPROCS, whichever is less.
	Workers int
	// Variant forces a set of kernels: "generic", "avx2", "avx512" or "amx".
	// Empty is the fastest that this processor has, amx excepted: no test of it has
	// run on a processor with tiles yet.
	Variant string
}

// Backend is a backend.Backend on the processor.
type Backend struct {
	kernels *kernel.Set
	pool    *pool
	shared  bool      // by all users of Default
	reads   sync.Pool // of *[]byte, what Pack reads into
}

// New returns a backend with a pool of workers of its own. It refuses a
// variant that is not built or that the processor lacks.
func New(o Options) (*Backend, error) {
	if o.Workers < 0 || o.Workers > maxWorkers {
		return nil, fmt.Errorf("cpu: %d workers: want 0 to %d", o.Workers, maxWorkers)
	}
	k, err := choose(o.Variant)
	if err != nil {
		return nil, err
	}
	n := o.Workers
	if n == 0 {
		n = runtime.GOMAXPROCS(0)
		if cores := cpuid.CPU.PhysicalCores; cores > 0 {
			n = min(n, cores)
		}
	}
	return &Backend{kernels: k, pool: newPool(n, k)}, nil
}

const maxWorkers = 4096

// choose returns the kernels of a variant.
func choose(name string) (*kernel.Set, error) {
	if name == "" {
		return kernel.Best(), nil
	}
	switch v, ok := kernel.Find(name); {
	case !ok:
		return nil, fmt.Errorf("cpu: unknown variant %q: want generic, avx2, avx512 or amx", name)
	case v.Err != nil:
		return nil, fmt.Errorf("cpu: variant %s: %w: %w", name, v.Err, backend.ErrUnsupported)
	default:
		return v.Set, nil
	}
}

// Default returns the backend that all who ask for none share. It is made at
// the first call and never closed.
func Default() *Backend { return std() }

var std = sync.OnceValue(func() *Backend {
	b, err := New(Options{})
	if err != nil {
		panic(err) // the zero Options are never refused
	}
	b.shared = true
	return b
})

// Describe implements backend.Backend.
func (b *Backend) Describe() backend.Description {
	d := backend.Description{
		Device:  "cpu",
		Variant: b.kernels.Name(),
		CPU:     cpuid.CPU.BrandName,
		Workers: len(b.pool.workers),
	}
	if b.vector() {
		d.Vector = []string{
			"MatMul F32", "MatMul F16", "MatMul BF16", "RoundI8", "Attention",
		}
		for _, t := range backend.DTypes() {
			switch {
			case b.kernels.Format(t) != nil:
				d.Vector = append(d.Vector, "MatMul "+t.String())
			case t.Quantized():
				d.Scalar = append(d.Scalar, "MatMul "+t.String()+" (decoded to F32)")
			}
		}
	}
	return d
}

// vector reports whether kernels use vector instructions.
func (b *Backend) vector() bool { return b.kernels.Name() != "generic" }

// Rounding implements backend.Backend: int8 where there are kernels for a
// type's codes, bfloat16 for BF16 where the processor multiplies such, else none.
// The generic variant never rounds.
func (b *Backend) Rounding(t backend.DType) backend.Rounding {
	switch f := b.kernels.Format(t); {
	case t == backend.BF16 && b.kernels.HasBF16Dot():
		return backend.RoundToBF16
	case f == nil:
		return backend.RoundNone
	case f.Group == 256:
		return backend.RoundI8x256
	}
	return backend.RoundI8x32
}

// Supports implements backend.Backend: all operations are.
func (b *Backend) Supports(op backend.Op) error {
	if op == backend.NoOp || int(op) >= len(native) {
		return fmt.Errorf("cpu: operation %v: %w", op, backend.ErrUnsupported)
	}
	return nil
}

// Alloc implements backend.Backend. It fails with a *MemoryError.
func (b *Backend) Alloc(bytes int64) (backend.Buffer, error) {
	buf, err := newBuffer(bytes)
	if err != nil {
		return nil, err
	}
	return buf, nil
}

// Upload implements backend.Backend.
func (b *Backend) Upload(dst backend.Buffer, off int64, src []byte) error {
	copy(within("Upload", dst, off, len(src)), src)
	runtime.KeepAlive(dst)
	return nil
}

// Download implements backend.Backend.
func (b *Backend) Download(dst []byte, src backend.Buffer, off int64) error {
	copy(dst, within("Download", src, off, len(dst)))
	runtime.KeepAlive(src)
	return nil
}

// within is n bytes of a buffer from off on.
func within(what string, b backend.Buffer, off int64, n int) []byte {
	mem := memory(b)
	if off < 0 || off > int64(len(mem)-n) {
		panic(&backend.ShapeError{Op: what, Detail: fmt.Sprintf("bytes [%d, +%d) of a buffer of %d", off, n, len(mem))})
	}
	return mem[off:][:n]
}

// NewExec implements backend.Backend.
func (b *Backend) NewExec() (backend.Exec, error) { return &exec{b: b}, nil }

// Close implements backend.Backend. Steps that wait in line, and later ones,
// get ErrClosed. Weights and buffers stay their owners'. The backend that
// Default returns stays open: Close does nothing there.
func (b *Backend) Close() error {
	if !b.shared {
		b.pool.close()
	}
	return nil
}
