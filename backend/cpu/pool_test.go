package cpu

import (
	"context"
	"errors"
	"os"
	command "os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
)

// begin opens a context and starts a step.
func begin(t testing.TB, b *Backend, ctx context.Context) backend.Exec {
	t.Helper()
	e, err := b.NewExec()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = e.End() // of a test that has panicked: else the backend's Close waits for it
		e.Close()
	})
	if err := e.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	return e
}

func newExec(t testing.TB, b *Backend) backend.Exec {
	t.Helper()
	e, err := b.NewExec()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// taskFunc is a task made of a function.
type taskFunc func(w *worker, chunk int)

func (f taskFunc) run(w *worker, chunk int) { f(w, chunk) }

// TestChunks runs many small tasks: every chunk runs once, with sleeping
// workers and with waking ones.
func TestChunks(t *testing.T) {
	b := open(t, Options{Workers: 4})
	e := begin(t, b, t.Context())
	for n := range 500 {
		if n%50 == 0 {
			time.Sleep(100 * time.Microsecond) // they go to sleep
		}
		ran := make([]atomic.Int32, n)
		b.pool.run(taskFunc(func(_ *worker, i int) { ran[i].Add(1) }), n)
		for i := range ran {
			if c := ran[i].Load(); c != 1 {
				t.Fatalf("chunk %d of %d ran %d times", i, n, c)
			}
		}
	}
	if err := e.End(); err != nil {
		t.Error(err)
	}
}

// TestStops: once the context has ended no chunk starts, and those that run see it
// at their next pause.
func TestStops(t *testing.T) {
	for _, workers := range []int{1, 3} {
		b := open(t, Options{Workers: workers})
		for _, at := range []int{0, 1, 100} {
			ctx, cancel := context.WithCancel(t.Context())
			e := begin(t, b, ctx)
			var ended atomic.Bool
			var late, deaf atomic.Int32
			b.pool.run(taskFunc(func(w *worker, i int) {
				if ended.Load() {
					late.Add(1)
				}
				if i == at {
					cancel()
					ended.Store(true)
				}
				if ended.Load() && !w.pause() {
					deaf.Add(1)
				}
			}), 1000)
			if err := e.End(); !errors.Is(err, context.Canceled) {
				t.Errorf("End returned %v", err)
			}
			// The others may have looked at the context just before it ended.
			if n := int(late.Load()); n > workers-1 {
				t.Errorf("%d workers: %d chunks began after the context had ended", workers, n)
			}
			if n := deaf.Load(); n > 0 {
				t.Errorf("%d workers: %d chunks did not see that the context had ended", workers, n)
			}
		}
	}
}

// TestCancel stops a product that takes seconds; the full run looks at the clock.
func TestCancel(t *testing.T) {
	const rows, k = 1024, 2048
	for _, variant := range []string{"generic", ""} {
		b := open(t, Options{Variant: variant})
		w, err := b.Pack(t.Context(), randomSource(backend.Q8_0, 4096, k))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Free)
		ctx, cancel := context.WithCancel(t.Context())
		e := begin(t, b, ctx)
		var a backend.Args
		a.In[0], a.Out[0], a.W[0] = e.Alloc(backend.F32, backend.Dims(rows, k)), e.Alloc(backend.F32, backend.Dims(rows, 4096)), w
		late := baseline()
		var at time.Time
		time.AfterFunc(20*time.Millisecond, func() { at = time.Now(); cancel() })
		for ctx.Err() == nil {
			e.Run(backend.MatMul, &a)
		}
		err = e.End()
		took := time.Since(at)
		t.Logf("%s: stopped %v after the cancel; a ticker alone is late by %v", b.Describe().Variant, took, late)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("End returned %v", err)
		}
		if took > 50*time.Millisecond+8*late && !testing.Short() {
			t.Errorf("stopped only %v after the cancel", took)
		}
		e = begin(t, b, t.Context()) // the pool is usable
		if err := e.End(); err != nil {
			t.Error(err)
		}
	}
}

func TestPanic(t *testing.T) {
	b := open(t, Options{Workers: 3})
	e := begin(t, b, t.Context())
	for i := range 64 {
		value := &failure{i}
		got := func() (v any) {
			defer func() { v = recover() }()
			b.pool.run(taskFunc(func(_ *worker, c int) {
				if c == i {
					panic(value)
				}
			}), 64)
			return nil
		}()
		if got != any(value) {
			t.Fatalf("chunk %d: recovered %v", i, got)
		}
	}
	var n atomic.Int32
	b.pool.run(taskFunc(func(*worker, int) { n.Add(1) }), 64)
	if n.Load() != 64 {
		t.Errorf("after a panic %d of 64 chunks ran", n.Load())
	}
	if err := e.End(); err != nil {
		t.Error(err)
	}
}

// TestQueue: steps are served in the order of Begin; one whose context ends
// leaves the line.
func TestQueue(t *testing.T) {
	b := open(t, Options{Workers: 2})
	holder := begin(t, b, t.Context())
	var order []int
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	shared := newExec(t, b) // two wait with the same one
	gaveUp := make(chan error, 1)
	for i := range 8 {
		e := shared
		if i > 1 {
			e = newExec(t, b)
		}
		if i == 3 {
			go func() { gaveUp <- e.Begin(ctx) }()
		} else {
			wg.Go(func() {
				if err := e.Begin(t.Context()); err != nil {
					t.Error(err)
					return
				}
				order = append(order, i) // ours until End
				if err := e.End(); err != nil {
					t.Error(err)
				}
			})
		}
		until(b, func(p *pool) bool { return len(p.line) == i+1 })
	}
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("Begin in line returned %v", err)
	}
	if err := holder.End(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if want := []int{0, 1, 2, 4, 5, 6, 7}; !slices.Equal(order, want) {
		t.Errorf("served %v, want %v", order, want)
	}
	if err := newExec(t, b).Begin(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Begin with an ended context: %v", err)
	}
}

func TestClose(t *testing.T) {
	b := open(t, Options{Workers: 3})
	e, refused, closed := begin(t, b, t.Context()), make(chan error), make(chan struct{})
	waits := newExec(t, b)
	go func() { refused <- waits.Begin(t.Context()) }()
	until(b, func(p *pool) bool { return len(p.line) == 1 })
	go func() { b.Close(); close(closed) }()
	until(b, func(p *pool) bool { return p.closed })
	if err := newExec(t, b).Begin(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Begin after Close: %v", err)
	}
	select {
	case <-closed:
		t.Fatal("Close did not wait for the step")
	case <-time.After(5 * time.Millisecond):
	}
	if err := e.End(); err != nil {
		t.Error(err)
	}
	if err := <-refused; !errors.Is(err, ErrClosed) {
		t.Errorf("Begin in line before Close: %v", err)
	}
	<-closed
	b.Close()
}

// until waits for a state of the pool.
func until(b *Backend, state func(*pool) bool) {
	for {
		b.pool.mu.Lock()
		ok := state(b.pool)
		b.pool.mu.Unlock()
		if ok {
			return
		}
		runtime.Gosched()
	}
}

// TestOneProc: with one processor for three workers steps end.
func TestOneProc(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	d := newDecoder(t, open(t, Options{Workers: 3}), tiny, backend.Q4_1, 100, 20)
	for range 3 {
		if err := d.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	for _, rows := range []int{1, 40} {
		d := newDecoder(t, open(t, Options{Workers: 2}), tiny, backend.Q4_1, 100, rows)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if n := testing.AllocsPerRun(20, func() {
			if err := d.step(ctx); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("a step of %d rows allocates %v times", rows, n)
		}
		used := d.x.Scratch()
		if err := d.step(ctx); err != nil || d.x.Scratch() != used || used == 0 {
			t.Errorf("scratch grew from %d to %d, error %v", used, d.x.Scratch(), err)
		}
	}
}

// lateness runs a ticker of a millisecond n times and returns how late each
// tick was, ascending.
func lateness(n int) []time.Duration {
	late := make([]time.Duration, n)
	for i := range late {
		start := time.Now()
		time.Sleep(time.Millisecond)
		late[i] = time.Since(start) - time.Millisecond
	}
	slices.Sort(late)
	return late
}

func p99(sorted []time.Duration) time.Duration { return sorted[len(sorted)*99/100] }

// baseline is how late a tick is on this machine, its other work included.
func baseline() time.Duration { return p99(lateness(100)) }

// TestHost: while all workers decode, the host program's timers and collector are
// on time. What that means on this machine, with whatever else runs there, tells
// the same load of plain goroutines that let others run as often as workers do:
// the two take turns, and the medians of many rounds are compared, so that a burst
// of other work meets both or counts for little. TestPauses tells without a clock
// how often workers let others run.
func TestHost(t *testing.T) {
	if testing.Short() {
		t.Skip("short: it takes times, which the race detector falsifies")
	}
	if !apart(t, 2*time.Minute) {
		return
	}
	workers := runtime.GOMAXPROCS(0)
	d := newDecoder(t, open(t, Options{Workers: workers}), shape{4, 576, 1536, 9, 3, 49152}, backend.Q8_0, 256, 1)
	const rounds = 15
	var tick, gc [2][]time.Duration // of decoding, and of plain goroutines
	for range rounds {
		for i, load := range []func(ctx context.Context){
			func(ctx context.Context) {
				for d.step(ctx) == nil {
				}
			},
			func(ctx context.Context) {
				var wg sync.WaitGroup
				for range workers {
					wg.Go(func() { spin(ctx) })
				}
				wg.Wait()
			},
		} {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { load(ctx) })
			tick[i] = append(tick[i], p99(lateness(100)))
			gc[i] = append(gc[i], collections(10))
			cancel()
			wg.Wait()
		}
	}
	median := func(d []time.Duration) time.Duration { slices.Sort(d); return d[len(d)/2] }
	for what, d := range map[string][2][]time.Duration{"a tick's lateness at p99": tick, "a collection": gc} {
		decoding, plain := median(d[0]), median(d[1])
		t.Logf("%s: %v beside workers, %v beside plain goroutines", what, decoding, plain)
		if decoding > 5*time.Millisecond+2*plain {
			t.Errorf("%s is %v beside workers, and %v beside plain goroutines", what, decoding, plain)
		}
	}
}

// apart runs the test of its caller in a process of its own, and reports whether this is
// it. Beside a kernel without safepoints no timer of Go may run, so another process must
// end a test that hangs.
func apart(t *testing.T, within time.Duration) bool {
	t.Helper()
	const mark = "HERD_TEST_APART"
	if os.Getenv(mark) != "" {
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := command.CommandContext(ctx, os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), mark+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v (%v)\n%s", err, ctx.Err(), out)
	}
	t.Logf("%s", out)
	return false
}

// spin computes until ctx ends, and lets others run as often as a worker does.
func spin(ctx context.Context) {
	for x := uint64(1); ctx.Err() == nil; runtime.Gosched() {
		for start := time.Now(); time.Since(start) < yieldTime; {
			for range 1000 {
				x = x*6364136223846793005 + 1442695040888963407
			}
		}
		runtime.KeepAlive(x)
	}
}

// collections is the median time of n collections.
func collections(n int) time.Duration {
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		runtime.GC()
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[n/2]
}
