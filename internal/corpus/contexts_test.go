package corpus

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/herd-ml/herd/internal/ctxerr"
	"github.com/parquet-go/parquet-go"
)

// TestContextCauses: a context that ends with a cause at any look at it stops reading with
// an error in which errors.Is finds both, of every kind of file and however it is packed.
func TestContextCauses(t *testing.T) {
	long := strings.Repeat("a long text. ", 8000) // several buffers
	rows := `{"text": "one"}` + "\n" + `{"text": "` + long + `"}` + "\n" + `{"text": "three"}`
	table := string(parquetFile(t, &parquet.Snappy, 2, ptr("one"), ptr(long), nil, ptr("three"), ptr("four")))
	for name, content := range map[string]string{
		"a.txt": long, "a.jsonl": rows, "a.json": "[" + strings.ReplaceAll(rows, "\n", ",\n") + "]", "a.parquet": table,
	} {
		for _, suffix := range []string{"", ".gz", ".zst"} {
			f := write(t, name+suffix, pack(t, suffix, content))
			for _, cause := range []error{io.ErrClosedPipe, io.EOF} {
				n := 0
				for ; ; n++ {
					err := readTwice(ctxerr.After(t.Context(), n, cause), f)
					if err == nil {
						break
					}
					if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) || !strings.Contains(err.Error(), name+suffix) {
						t.Fatalf("%s%s, cause %v, after %d looks: %v", name, suffix, cause, n, err)
					}
				}
				if n < 2 {
					t.Errorf("%s%s: the context is looked at %d times", name, suffix, n)
				}
			}
			late, stop := context.WithDeadlineCause(t.Context(), time.Now().Add(-time.Second), io.EOF)
			if err := readTwice(late, f); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, io.EOF) {
				t.Errorf("%s%s: too late: %v", name, suffix, err)
			}
			stop()
		}
	}
}

// readTwice reads all documents, goes back to the last and reads on.
func readTwice(ctx context.Context, f File) error {
	o := defaults
	o.SkipEmpty = true
	r, err := Open(ctx, f, o)
	if err != nil {
		return err
	}
	defer r.Close()
	var last Place
	for range 2 {
		for {
			doc, err := r.Next(ctx)
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
			last = doc.At
		}
		if err := r.Seek(ctx, last); err != nil {
			return err
		}
	}
	return nil
}
