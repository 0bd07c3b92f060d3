package cpu

import (
	"context"
	"errors"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu/internal/kernel"
)

// TestProbe measures the limits of every variant: more than nothing, and no
// more than any machine has.
func TestProbe(t *testing.T) {
	for _, v := range kernel.Variants() {
		t.Run(v.Name, func(t *testing.T) {
			if v.Set == nil {
				t.Skip(v.Err)
			}
			b, err := New(Options{Variant: v.Name})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			p, err := b.NewProbe(1)
			if v.Name == "generic" {
				if !errors.Is(err, backend.ErrUnsupported) {
					t.Fatalf("a probe of generic: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			l, err := p.Limits(context.Background())
			if err != nil || l.ReadBytes < 1e8 || l.ReadBytes > 1e13 || l.F32 < 1e9 || l.BF16 > 0 && l.BF16 < l.F32 || l.Int8 < l.F32 || l.Int8 > 1e16 {
				t.Errorf("%+v, %v", l, err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, err := p.Read(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("after the context's end: %v", err)
			}
		})
	}
}
