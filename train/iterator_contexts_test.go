package train

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/herd-ml/herd/internal/ctxerr"
)

// TestIteratorEnds: an iterator's calls end with both errors at whichever look at the context.
func TestIteratorEnds(t *testing.T) {
	data := open(t, strings.Repeat("abc de\nfg hijk\nl\n", 9), DataConfig{})
	for name, call := range map[string]func(ctx context.Context, it *Iterator, p Position) error{
		"Next":        func(ctx context.Context, it *Iterator, _ Position) error { _, err := it.Next(ctx); return err },
		"Restore":     func(ctx context.Context, it *Iterator, p Position) error { return it.Restore(ctx, p) },
		"RestoreNear": func(ctx context.Context, it *Iterator, p Position) error { return it.RestoreNear(ctx, p) },
	} {
		for n := 0; ; n++ {
			it, err := data.Train(2, 8, 3)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := it.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			p := it.Position()
			err = call(ctxerr.After(t.Context(), n, io.EOF), it, p)
			if err != nil && (!errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF)) {
				t.Errorf("%s, after %d looks: %v", name, n, err)
			}
			if err := it.Restore(t.Context(), p); err != nil {
				t.Errorf("%s, after %d looks: the iterator is of no use: %v", name, n, err)
			}
			it.Close()
			if err == nil {
				if n == 0 {
					t.Errorf("%s does not look at its context", name)
				}
				break
			}
		}
	}
}
