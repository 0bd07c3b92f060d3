package cpu

import (
	"context"
	"fmt"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
	"github.com/herd-ml/herd/internal/ctxerr"
)

// Limits are the most that all workers together can do in a second. A measured speed is
// judged by its part of them.
type Limits struct {
	ReadBytes float64 // bytes read from memory
	F32       float64 // operations on float32 in registers; a multiplication and its addition are two
	BF16      float64 // the same on bfloat16, 0 where the processor has no such unit
	Int8      float64 // the same on bytes
}

// A Probe measures Limits. It holds the memory that it reads.
type Probe struct {
	b     *Backend
	mem   [2]*buffer // of huge and of small pages, where the system tells them apart
	bytes int64      // of each
}

// NewProbe returns a probe that reads so many bytes, at least 16 MiB for each
// worker. They should be several times the last cache. The probe takes twice that
// memory. NewProbe fails with a *MemoryError where there is not so much, and with
// backend.ErrUnsupported on the generic variant.
func (b *Backend) NewProbe(bytes int64) (*Probe, error) {
	if _, ok := b.kernels.PeakF32(); !ok {
		return nil, fmt.Errorf("cpu: a probe of variant %s: %w", b.kernels.Name(), backend.ErrUnsupported)
	}
	p := &Probe{b: b, bytes: max(bytes, int64(len(b.pool.workers))*readPart) / readPart * readPart}
	for i := range p.mem {
		mem, err := newBuffer(p.bytes)
		if err != nil {
			p.Close()
			return nil, err
		}
		p.mem[i] = mem
		if i == 1 {
			adviseSmall(mem.mem)
		}
		for i := 0; i < len(mem.mem); i += 4096 { // pages that were never written are one page
			mem.mem[i] = 1
		}
	}
	return p, nil
}

// readPart is what a worker reads at a time.
const readPart = 16 << 20

// Read measures how fast memory is read, in bytes a second. It tries huge and small
// pages, in order and along several streams, and returns the most: machines differ in
// which is fastest. It waits in line for the workers like a step.
func (p *Probe) Read(ctx context.Context) (best float64, err error) {
	for _, mem := range p.mem {
		for _, inOrder := range []bool{false, true} {
			d, err := p.time(ctx, probeTask(func(w *worker, i int) { w.kernels.Reads(mem.mem[i*readPart:][:readPart], inOrder) }), int(p.bytes/readPart))
			if err != nil {
				return 0, err
			}
			best = max(best, float64(p.bytes)/d.Seconds())
		}
	}
	return best, nil
}

// Limits measures all of Limits, the best of three.
func (p *Probe) Limits(ctx context.Context) (l Limits, err error) {
	n := len(p.b.pool.workers)
	peak := func(of func(*kernel.Set) (kernel.Peak, bool), best *float64) error {
		const rounds, chunks = 20_000, 16
		k, ok := of(p.b.kernels)
		if !ok {
			return nil
		}
		d, err := p.time(ctx, probeTask(func(*worker, int) { k.Run(rounds) }), chunks*n)
		*best = max(*best, float64(k.Ops)*rounds*chunks*float64(n)/d.Seconds())
		return err
	}
	for range 3 {
		read, err := p.Read(ctx)
		if err != nil {
			return l, err
		}
		l.ReadBytes = max(l.ReadBytes, read)
		for _, k := range []struct {
			of   func(*kernel.Set) (kernel.Peak, bool)
			best *float64
		}{{(*kernel.Set).PeakF32, &l.F32}, {(*kernel.Set).PeakBF16, &l.BF16}, {(*kernel.Set).PeakInt8, &l.Int8}} {
			if err := peak(k.of, k.best); err != nil {
				return l, err
			}
		}
	}
	return l, nil
}

// Close frees the memory.
func (p *Probe) Close() {
	for _, m := range p.mem {
		if m != nil {
			m.Free()
		}
	}
}

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
		return d, ctxerr.Of(ctx)
	}
	return d, nil
}

// Peak implements backend.Prober.
func (b *Backend) Peak(ctx context.Context, precision backend.Precision) (float64, error) {
	p, err := b.NewProbe(1 << 20)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	l, err := p.Limits(ctx)
	if err != nil {
		return 0, err
	}
	if precision == backend.PrecisionBF16 && l.BF16 > 0 {
		return l.BF16, nil
	}
	return l.F32, nil
}
