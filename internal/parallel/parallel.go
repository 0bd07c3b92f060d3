// Package parallel holds the one loop that the library runs on several goroutines. What a
// piece of it does wrong, an error or a panic, reaches the goroutine that called the loop:
// a callback of the caller's that panics never ends the process from a goroutine of ours.
package parallel

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/herd-ml/herd/internal/ctxerr"
)

// Ranges cuts [0, n) into ranges of size numbers, the last of what is left, and calls work
// once for each, on at most workers goroutines, and returns when all are done. A goroutine
// passes its number below workers, for memory that it does not share. After the first
// error or panic, or the end of ctx, ranges that are not begun are left out. That error is
// returned, and that panic goes on in the caller's goroutine, with its value; so does
// runtime.Goexit.
func Ranges(ctx context.Context, workers, n, size int, work func(worker, from, to int) error) error {
	l := loop{ctx: ctx, n: n, size: size, work: work}
	var wg sync.WaitGroup
	for w := range min(workers, (n+size-1)/size) {
		wg.Go(func() { l.run(w) })
	}
	wg.Wait()
	if l.exited {
		runtime.Goexit()
	}
	if l.fault != nil {
		panic(l.fault)
	}
	return l.err
}

type loop struct {
	ctx     context.Context
	n, size int
	work    func(worker, from, to int) error

	next    atomic.Int64 // number of the range to begin next
	stopped atomic.Bool

	first  sync.Once // to fail sets one of these
	err    error
	fault  any
	exited bool
}

// run works on ranges until there are none.
func (l *loop) run(worker int) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	returned := false
	var err error
	defer func() {
		fault := recover()
		if returned && err == nil {
			return
		}
		l.stopped.Store(true)
		l.first.Do(func() { l.err, l.fault, l.exited = err, fault, !returned && fault == nil })
	}()
	for err == nil && !l.stopped.Load() {
		from := (int(l.next.Add(1)) - 1) * l.size
		if from >= l.n {
			break
		}
		if err = ctxerr.Of(l.ctx); err == nil {
			err = l.work(worker, from, min(from+l.size, l.n))
		}
	}
	returned = true
}
