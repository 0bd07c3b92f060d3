package ctxerr

import (
	"context"
	"sync/atomic"
)

// After is for tests. It returns a context that ends with a cause when it is asked for the
// n-th time, counted from 0, whether it has ended. Contexts made of it end with it, but
// what these are asked does not count.
func After(parent context.Context, n int, cause error) context.Context {
	ctx, cancel := context.WithCancelCause(parent)
	a := &after{Context: ctx, cancel: func() { cancel(cause) }}
	a.left.Store(int64(n))
	return a
}

type after struct {
	context.Context
	left   atomic.Int64
	cancel func()
}

// Err implements context.Context.
func (a *after) Err() error {
	if a.left.Add(-1) < 0 {
		a.cancel()
	}
	return a.Context.Err()
}
