package cpu

import (
	"fmt"
	"testing"

	"github.com/herd-ml/herd/backend/backendtest"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// each runs f on a backend of every variant that runs here.
func each(t *testing.T, workers int, f func(t *testing.T, b *Backend)) {
	for _, v := range kernel.Variants() {
		t.Run(fmt.Sprintf("%s-%d", v.Name, workers), func(t *testing.T) {
			if v.Err != nil {
				t.Skip(v.Err)
			}
			b := open(t, Options{Variant: v.Name, Workers: workers})
			f(t, b)
		})
	}
}

func open(t testing.TB, o Options) *Backend {
	t.Helper()
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestOracle(t *testing.T) {
	for _, workers := range []int{1, 3} {
		each(t, workers, func(t *testing.T, b *Backend) { backendtest.Run(t, b) })
	}
}
