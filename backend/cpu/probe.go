package cpu

import (
	"context"
	"fmt"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// Limits are what the processor does at most, with nothing else to do: figures
// to hold a measured speed against.
type Limits struct {
	ReadBytes float64 // read from memory, bytes a second, all workers
	F32       float64 // multiplications and additions of float32 in registers, a second, all workers
	Int8      float64 // the same of bytes
}

// A Probe measures Limits. It holds the memory that it reads.
type Probe struct {
	b     *Backend
	mem   *buffer
	bytes int64
}

// NewProbe returns a probe that reads so many bytes, at least 16 MiB for each
// worker: a multiple of the last cache. It fails with a *MemoryError, and with
// backend.ErrUnsupported on the generic variant.
func (b *Backend) NewProbe(bytes int64) (*Probe, error) {
	if _, ok := b.kernels.PeakF32(); !ok {
		return nil, fmt.Errorf("cpu: a probe of variant %s: %w", b.kernels.Name(), backend.ErrUnsupported)
	}
	bytes = max(bytes, int64(len(b.pool.workers))*readPart) / readPart * readPart
	mem, err := newBuffer(bytes)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(mem.mem); i += 4096 { // pages that were never written are one page
		mem.mem[i] = 1
	}
	return &Probe{b, mem, bytes}, nil
}

// readPart is what a worker reads at a time.
const readPart = 16 << 20

// Read reads the memory once and returns bytes a second. It waits in line for
// the workers like a step.
func (p *Probe) Read(ctx context.Context) (float64, error) {
	d, err := p.time(ctx, probeTask(func(w *worker, i int) { w.kernels.Reads(p.mem.mem[i*readPart:][:readPart]) }), int(p.bytes/readPart))
	return float64(p.bytes) / d.Seconds(), err
}

// Limits measures all of Limits, the best of three.
func (p *Probe) Limits(ctx context.Context) (l Limits, err error) {
	n := len(p.b.pool.workers)
	peak := func(of func(*kernel.Set) (kernel.Peak, bool)) (float64, error) {
		const rounds, chunks = 20_000, 16
		k, _ := of(p.b.kernels)
		d, err := p.time(ctx, probeTask(func(*worker, int) { k.Run(rounds) }), chunks*n)
		return float64(k.Ops) * rounds * chunks * float64(n) / d.Seconds(), err
	}
	for range 3 {
		read, err := p.Read(ctx)
		if err != nil {
			return l, err
		}
		f32, err := peak((*kernel.Set).PeakF32)
		if err != nil {
			return l, err
		}
		int8, err := peak((*kernel.Set).PeakInt8)
		if err != nil {
			return l, err
		}
		l = Limits{max(l.ReadBytes, read), max(l.F32, f32), max(l.Int8, int8)}
	}
	return l, nil
}

// Close frees the memory.
func (p *Probe) Close() { p.mem.Free() }

type probeTask func(w *worker, i int)

func (t probeTask) run(w *worker, i int) { t(w, i) }

// time runs a task and returns how long it took.
func (p *Probe) time(ctx context.Context, t task, chunks int) (time.Duration, error) {
	if err := p.b.pool.acquire(ctx); err != nil {
		return 1, err
	}
	defer p.b.pool.release()
	start := time.Now()
	p.b.pool.run(t, chunks)
	d := max(time.Since(start), 1)
	if p.b.pool.stopped.Load() {
		return d, ctx.Err()
	}
	return d, nil
}
