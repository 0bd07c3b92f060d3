package ctxerr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"
	"time"
)

func TestOf(t *testing.T) {
	deadline := func(parent context.Context, cause error) context.Context {
		ctx, cancel := context.WithDeadlineCause(parent, time.Now().Add(-time.Second), cause)
		t.Cleanup(cancel)
		return ctx
	}
	cancelled := func(parent context.Context, cause error) context.Context {
		ctx, cancel := context.WithCancelCause(parent)
		cancel(cause)
		return ctx
	}
	path := &fs.PathError{Op: "open", Path: "x", Err: io.EOF}
	for name, test := range map[string]struct {
		ctx  context.Context
		is   []error // what errors.Is finds
		not  error   // what it does not find
		text string
	}{
		"running":           {t.Context(), nil, context.Canceled, ""},
		"cancelled":         {cancelled(t.Context(), nil), []error{context.Canceled}, context.DeadlineExceeded, "context canceled"},
		"with a cause":      {cancelled(t.Context(), path), []error{context.Canceled, path, io.EOF}, context.DeadlineExceeded, "context canceled: open x: EOF"},
		"a cause that says": {cancelled(t.Context(), fmt.Errorf("enough: %w", context.Canceled)), []error{context.Canceled}, context.DeadlineExceeded, "enough: context canceled"},
		"of the parent":     {context.WithValue(cancelled(t.Context(), io.EOF), path, 1), []error{context.Canceled, io.EOF}, context.DeadlineExceeded, "context canceled: EOF"},
		"too late":          {deadline(t.Context(), nil), []error{context.DeadlineExceeded}, context.Canceled, "context deadline exceeded"},
		"too late, a cause": {deadline(t.Context(), io.EOF), []error{context.DeadlineExceeded, io.EOF}, context.Canceled, "context deadline exceeded: EOF"},
	} {
		err := Of(test.ctx)
		if (err == nil) != (test.is == nil) || err != nil && err.Error() != test.text {
			t.Errorf("%s: %v, want %q", name, err, test.text)
		}
		for _, want := range test.is {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v is not found in %v", name, want, err)
			}
		}
		if errors.Is(err, test.not) {
			t.Errorf("%s: %v is found in %v", name, test.not, err)
		}
		var p *fs.PathError
		if name == "with a cause" && (!errors.As(err, &p) || p != path) {
			t.Errorf("%s: errors.As does not find the cause", name)
		}
	}
}
