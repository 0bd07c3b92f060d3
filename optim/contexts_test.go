package optim

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/internal/ctxerr"
)

// TestContextCauses: a context that ends with a cause at any look at it ends a call with an
// error in which errors.Is finds both; no file has changed then and, but for Load, no number.
func TestContextCauses(t *testing.T) {
	each(t, func(t *testing.T, b backend.Backend) {
		shapes := maps.Clone(small)
		shapes["wide"] = []int{3, blockElems} // several blocks
		m := newModel(t, b, shapes)
		o := m.optimizer(t, AdamWConfig{ClipNorm: 1})
		m.fill(1, 1)
		saved, out := filepath.Join(t.TempDir(), "saved.safetensors"), filepath.Join(t.TempDir(), "out.safetensors")
		check(t, o.Save(t.Context(), m.c, saved, nil))
		numbers := func() (all []uint32) {
			for _, p := range m.params {
				all = append(all, m.bits(p.Param.Numbers())...)
			}
			return append(all, m.numbers(o)...)
		}
		for name, call := range map[string]func(ctx context.Context) error{
			"Step":     func(ctx context.Context) error { _, err := o.Step(ctx, m.c, 1e-3); return err },
			"ZeroGrad": func(ctx context.Context) error { return o.ZeroGrad(ctx, m.c) },
			"Save":     func(ctx context.Context) error { return o.Save(ctx, m.c, out, nil) },
			"Load":     func(ctx context.Context) error { _, err := o.Load(ctx, m.c, saved); return err },
			"Average":  func(ctx context.Context) error { return Average(ctx, out, []string{saved, saved}, AverageOptions{}) },
			"Average to a folder": func(ctx context.Context) error {
				return Average(ctx, filepath.Dir(out)+"/folder", []string{saved, saved}, AverageOptions{})
			},
		} {
			before := numbers()
			for n := 0; ; n++ {
				err := call(ctxerr.After(t.Context(), n, io.EOF))
				if err == nil {
					if n == 0 {
						t.Errorf("%s does not look at its context", name)
					}
					break
				}
				if !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
					t.Fatalf("%s, after %d looks: %v", name, n, err)
				}
				if name != "Load" && !slices.Equal(numbers(), before) {
					t.Fatalf("%s, after %d looks: numbers have changed", name, n)
				}
				if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 {
					t.Fatalf("%s, after %d looks: %v is left, %v", name, n, left, err)
				}
			}
			check(t, os.RemoveAll(out))
			check(t, os.RemoveAll(filepath.Dir(out)+"/folder"))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		err := Average(ctx, out, []string{saved, saved}, AverageOptions{Progress: func(int64, int64) { cancel(io.EOF) }})
		if _, left := os.Stat(out); !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) || left == nil {
			t.Errorf("Average, cancelled in Progress: %v, a file is left: %v", err, left == nil)
		}
	})
}
