package backendtest_test

import (
	"testing"

	"github.com/herd-ml/herd/backend/backendtest"
	"github.com/herd-ml/herd/backend/ref"
)

// A backend's own tests call the four functions.
func Example() {
	_ = func(t *testing.T) { backendtest.Run(t, ref.New()) }
	_ = func(t *testing.T) { backendtest.RunSame(t, ref.New(), ref.New()) }
	_ = func(t *testing.T) { backendtest.Gradients(t, ref.New()) }
	_ = func(b *testing.B) { backendtest.Benchmark(b, ref.New()) }
}
