package parallel

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync/atomic"
	"testing"
)

// TestRanges: every number is in one range, and no worker runs two at once.
func TestRanges(t *testing.T) {
	for _, c := range []struct{ workers, n, size int }{
		{1, 10, 3}, {4, 10, 3}, {4, 3, 5}, {4, 12, 3}, {3, 0, 1}, {8, 1000, 1}, {2, 7, 7},
	} {
		seen := make([]atomic.Int32, c.n)
		busy := make([]atomic.Int32, c.workers)
		err := Ranges(t.Context(), c.workers, c.n, c.size, func(w, from, to int) error {
			if busy[w].Add(1) != 1 {
				t.Errorf("%v: worker %d runs two ranges at once", c, w)
			}
			if to-from > c.size || to <= from || from%c.size != 0 {
				t.Errorf("%v: range [%d, %d)", c, from, to)
			}
			for i := from; i < to; i++ {
				seen[i].Add(1)
			}
			busy[w].Add(-1)
			return nil
		})
		if err != nil {
			t.Errorf("%v: %v", c, err)
		}
		for i := range seen {
			if k := seen[i].Load(); k != 1 {
				t.Errorf("%v: %d is in %d ranges", c, i, k)
			}
		}
	}
}

// TestEnds: errors, panics, faults of memory, Goexit and the end of the context reach the
// caller, after which nothing of the loop runs, and what was not begun is left out.
func TestEnds(t *testing.T) {
	own, cause := errors.New("of a range"), errors.New("of the context")
	ctx, cancel := context.WithCancelCause(t.Context())
	for name, test := range map[string]struct {
		end   func() error
		check func(err error, fault any, exited bool) bool
	}{
		"error":  {func() error { return own }, func(err error, fault any, _ bool) bool { return err == own && fault == nil }},
		"panic":  {func() error { panic(own) }, func(_ error, fault any, _ bool) bool { return fault == own }},
		"Goexit": {func() error { runtime.Goexit(); return nil }, func(_ error, fault any, exited bool) bool { return fault == nil && exited }},
		"nil": {func() error { var x *int; *x = 1; return nil }, func(_ error, fault any, _ bool) bool {
			_, ok := fault.(runtime.Error)
			return ok
		}},
		"context": {func() error { cancel(cause); return nil }, func(err error, _ any, _ bool) bool {
			return errors.Is(err, context.Canceled) && errors.Is(err, cause)
		}},
	} {
		limit := t.Context()
		if name == "context" {
			limit = ctx
		}
		var ran, running atomic.Int32
		var err error
		var fault any
		returned := false
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				fault = recover()
				if n := running.Load(); n != 0 {
					t.Errorf("%s: %d ranges still run when the caller goes on", name, n)
				}
			}()
			err = Ranges(limit, 4, 1<<20, 1, func(_, from, _ int) error {
				running.Add(1)
				defer running.Add(-1)
				ran.Add(1)
				if from == 100 {
					return test.end()
				}
				return nil
			})
			returned = true
		}()
		<-done
		if !test.check(err, fault, !returned && fault == nil) {
			t.Errorf("%s: error %v, panic %v, returned %v", name, err, fault, returned)
		}
		if n := ran.Load(); n == 1<<20 {
			t.Errorf("%s: all ranges ran", name)
		}
	}
}

// TestEndedBefore: a loop with an ended context does nothing.
func TestEndedBefore(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.EOF)
	err := Ranges(ctx, 2, 10, 1, func(int, int, int) error {
		t.Error("a range runs")
		return nil
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
