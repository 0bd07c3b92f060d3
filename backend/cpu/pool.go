package cpu

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
	"github.com/herd-ml/herd/internal/ctxerr"
)

const (
	spinTime  = 20 * time.Microsecond  // how long a worker waits before it sleeps
	yieldTime = 500 * time.Microsecond // how long one works before it lets others run

	clockPauses = 4 // how many pauses there are for a look at the clock, which takes a while
)

// ErrClosed is returned by what needs a Backend or Exec that has been closed.
var ErrClosed = errors.New("cpu: closed")

// task is an operation cut into chunks that may run in any order, at once.
type task interface {
	run(w *worker, chunk int)
}

// pool is the workers of a backend. Its owner, the step between acquire and
// release, runs one task after another on them.
type pool struct {
	workers []*worker

	mu      sync.Mutex
	busy    bool
	closed  bool
	started bool
	line    []*waiter // who waits for the workers, in order

	// Of the owner; workers read them only while they hold a claim.
	task   task
	chunks uint32
	epoch  uint32
	done   <-chan struct{} // ends the step

	ticket   atomic.Uint64 // epoch << 32 | chunks not yet claimed
	finished atomic.Uint32 // chunks done
	stopped  atomic.Bool   // done was seen: the step's results are void
	failed   atomic.Pointer[failure]
	quit     atomic.Bool
}

// failure is the value of the first panic of a task.
type failure struct{ value any }

type waiter struct{ turn chan struct{} }

// worker is one of the goroutines that run chunks, with its scratch memory.
type worker struct {
	pool    *pool
	kernels *kernel.Set
	scratch arena // empty when a chunk starts
	call    kernel.Call
	sums    [2]kernel.Sums
	done    int // what spent has counted since its last pause
	yielded time.Time
	pauses  uint // since the clock was read
	parked  atomic.Bool
	wake    chan struct{}
}

func newPool(n int, k *kernel.Set) *pool {
	p := &pool{}
	for range n {
		p.workers = append(p.workers, &worker{pool: p, kernels: k, wake: make(chan struct{}, 1)})
	}
	return p
}

// acquire waits in line for the workers. It allocates only where it has to wait.
func (p *pool) acquire(ctx context.Context) error {
	if err := ctxerr.Of(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	if p.busy {
		w := &waiter{make(chan struct{})}
		p.line = append(p.line, w)
		p.mu.Unlock()
		select {
		case <-w.turn:
		case <-ctx.Done():
			p.leave(w)
			return ctxerr.Of(ctx)
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			p.release()
			return ErrClosed
		}
	}
	p.busy = true
	start := !p.started
	p.started = true
	p.mu.Unlock()
	if start {
		for _, w := range p.workers[1:] {
			go w.loop()
		}
	}
	p.done = ctx.Done()
	p.stopped.Store(false)
	return nil
}

// leave takes w out of the line. If its turn has come meanwhile, it passes on.
func (p *pool) leave(w *waiter) {
	p.mu.Lock()
	for i, o := range p.line {
		if o == w {
			p.line = append(p.line[:i], p.line[i+1:]...)
			p.mu.Unlock()
			return
		}
	}
	p.mu.Unlock()
	p.release()
}

// release gives the workers to the next in line.
func (p *pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.line) == 0 {
		p.busy = false
		return
	}
	next := p.line[0]
	p.line = append(p.line[:0], p.line[1:]...)
	close(next.turn)
}

// close refuses new steps, waits for the running one and ends the workers.
func (p *pool) close() {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	w := &waiter{make(chan struct{})}
	wait := first && p.busy
	if wait {
		p.line = append(p.line, w)
	}
	p.mu.Unlock()
	if !first {
		return
	}
	if wait {
		<-w.turn
		p.release()
	}
	p.quit.Store(true)
	p.workers[0].scratch.free()
	for _, w := range p.workers {
		w.unpark()
	}
}

// run runs the chunks of t on all workers and waits for the last. It panics
// with the value of the first panic of a chunk. Once the step's context has
// ended it does nothing.
func (p *pool) run(t task, chunks int) {
	if chunks <= 0 || p.halted() {
		return
	}
	first := p.workers[0]
	if chunks == 1 || len(p.workers) == 1 {
		for i := 0; i < chunks && !first.pause(); i++ {
			first.chunk(t, i)
		}
	} else {
		p.task, p.chunks = t, uint32(chunks)
		p.finished.Store(0)
		p.epoch++
		p.ticket.Store(uint64(p.epoch)<<32 | uint64(p.chunks))
		for _, w := range p.workers[1:min(chunks, len(p.workers))] {
			w.unpark()
		}
		first.work()
		first.wait((*pool).idle)
		p.task = nil
	}
	if f := p.failed.Swap(nil); f != nil {
		panic(f.value)
	}
}

// idle reports whether all chunks of the task are done.
func (p *pool) idle() bool { return p.finished.Load() == p.chunks }

// wanted reports whether there is something to do for a worker.
func (p *pool) wanted() bool { return uint32(p.ticket.Load()) != 0 || p.quit.Load() }

// halted reports whether the step has been stopped, or the task has failed.
func (p *pool) halted() bool {
	if p.stopped.Load() || p.failed.Load() != nil {
		return true
	}
	select {
	case <-p.done:
		p.stopped.Store(true)
		return true
	default:
		return false
	}
}

// loop is the life of a worker that is not the caller.
func (w *worker) loop() {
	debug.SetPanicOnFault(true)
	for {
		w.wait((*pool).wanted)
		if w.pool.quit.Load() {
			w.scratch.free()
			return
		}
		w.work()
	}
}

// work runs chunks until all are claimed. A worker claims one by taking it off the
// ticket. The task cannot end before the claimed chunk is done, so the fields of the
// pool that describe it may be read after a claim, and only then.
func (w *worker) work() {
	p := w.pool
	for {
		t := p.ticket.Load()
		left := uint32(t)
		if left == 0 {
			return
		}
		if !p.ticket.CompareAndSwap(t, t-1) {
			continue
		}
		chunks := p.chunks
		if !w.pause() {
			w.chunk(p.task, int(chunks-left))
		}
		if p.finished.Add(1) == chunks {
			p.workers[0].unpark()
		}
	}
}

// chunk runs one chunk and keeps its panic for the owner.
func (w *worker) chunk(t task, i int) {
	defer func() {
		if v := recover(); v != nil {
			w.pool.failed.CompareAndSwap(nil, &failure{v})
		}
	}()
	w.scratch.reset()
	t.run(w, i)
}

// pause lets the host program's goroutines run now and then, and reports whether the
// step has been stopped. It is called between chunks and between kernel calls. It is not
// inlined and calls others, so the collector can stop a worker here.
//
//go:noinline
func (w *worker) pause() bool {
	if w.pauses++; w.pauses%clockPauses == 0 {
		if now := time.Now(); now.Sub(w.yielded) > yieldTime {
			w.yielded = now
			runtime.Gosched()
		}
	}
	return w.pool.halted()
}

// wait returns when ready does: it spins for a moment, then sleeps.
func (w *worker) wait(ready func(*pool) bool) {
	p := w.pool
	for i := 0; i < 64; i++ {
		if ready(p) {
			return
		}
	}
	for start := time.Now(); time.Since(start) < spinTime; runtime.Gosched() {
		for i := 0; i < 64; i++ {
			if ready(p) {
				return
			}
		}
	}
	for {
		w.parked.Store(true)
		if ready(p) && w.parked.CompareAndSwap(true, false) {
			return
		}
		<-w.wake // whoever cleared parked sends
		if ready(p) {
			return
		}
	}
}

// unpark wakes w if it sleeps.
func (w *worker) unpark() {
	if w.parked.CompareAndSwap(true, false) {
		w.wake <- struct{}{}
	}
}
