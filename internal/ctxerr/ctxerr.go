// Package ctxerr makes errors of contexts that have ended: one function, so that
// errors.Is(err, context.Canceled), or DeadlineExceeded, holds wherever the library
// returns one, and the cause that the caller gave is reachable too.
package ctxerr

import (
	"context"
	"errors"
	"io"
)

// Of returns nil while ctx has not ended. Afterwards errors.Is finds ctx.Err() in what it
// returns, and errors.Is and errors.As find context.Cause(ctx).
func Of(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	cause := context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return &ended{err, cause}
}

// ended is the error of a context with a cause of its own.
type ended struct{ err, cause error }

func (e *ended) Error() string { return e.err.Error() + ": " + e.cause.Error() }

func (e *ended) Unwrap() []error { return []error{e.err, e.cause} }

// Reader reads from r until ctx ends, and fails with Of(ctx) then.
func Reader(ctx context.Context, r io.ReaderAt) io.ReaderAt { return &reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if err := Of(r.ctx); err != nil {
		return 0, err
	}
	return r.r.ReadAt(p, off)
}
