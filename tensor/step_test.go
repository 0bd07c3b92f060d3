package tensor_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/tensor"
)

// TestStepAlwaysEnds: however a step's function ends, the workers are free for another
// context afterwards, the step's tensors are stale, and its own context takes a new step.
func TestStepAlwaysEnds(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		own := errors.New("of the function")
		c, other := newContext(t, b, tensor.Options{}), newContext(t, b, tensor.Options{})
		for name, end := range map[string]func(cancel context.CancelFunc) error{
			"return":             func(context.CancelFunc) error { return nil },
			"error":              func(context.CancelFunc) error { return own },
			"panic":              func(context.CancelFunc) error { panic(own) },
			"shape mistake":      func(context.CancelFunc) error { tensor.Add(c, c.New(backend.F32, backend.Dims(2)), nil); return nil },
			"Goexit":             func(context.CancelFunc) error { runtime.Goexit(); return nil },
			"cancel":             func(cancel context.CancelFunc) error { cancel(); return nil },
			"cancel, then error": func(cancel context.CancelFunc) error { cancel(); return own },
			"cancel, then panic": func(cancel context.CancelFunc) error { cancel(); panic(own) },
		} {
			ctx, cancel := context.WithCancel(t.Context())
			var x *tensor.Tensor
			var err error
			var fault any
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { fault = recover() }()
				err = c.Step(ctx, nil, backend.KV{}, func() error {
					x = write(c, []float32{1}, 1)
					return end(cancel)
				})
			}()
			<-done
			cancel()
			switch {
			case strings.Contains(name, "panic"):
				if fault != own {
					t.Errorf("%s: the caller sees the panic %v, want %v", name, fault, own)
				}
			case strings.Contains(name, "mistake"):
				if fault == nil {
					t.Errorf("%s: no panic reaches the caller", name)
				}
			case strings.Contains(name, "error"):
				if err != own {
					t.Errorf("%s: Step returns %v, want %v", name, err, own)
				}
			case fault != nil:
				t.Errorf("%s: panic %v", name, fault)
			case name == "return" && err != nil:
				t.Errorf("%s: %v", name, err)
			}
			limit, stop := context.WithTimeout(t.Context(), 10*time.Second)
			if err := other.Step(limit, nil, backend.KV{}, func() error { return nil }); err != nil {
				t.Errorf("%s: another context's step afterwards: %v", name, err)
			}
			stop()
			step(t, c, nil, backend.KV{}, func() {
				panics[*tensor.StaleError](t, name, nil, func() { tensor.Add(c, x, x) })
			})
		}
	})
}

// TestStepWithinAStep is refused, where it would wait for itself for ever, and leaves the
// outer step as it is.
func TestStepWithinAStep(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		c := newContext(t, b, tensor.Options{})
		step(t, c, nil, backend.KV{}, func() {
			x := write(c, []float32{3}, 1)
			err := c.Step(t.Context(), nil, backend.KV{}, func() error {
				t.Error("the inner step runs")
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), "within a step") {
				t.Errorf("the inner step returns %v", err)
			}
			compare(t, "after it", read(c, tensor.Add(c, x, x)), []number{{6, 0}})
		})
	})
}
