package llama_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
)

// TestPanicsOfTheCaller: a panic in a function that the caller gave comes out on the
// caller's goroutine with its value, whichever goroutine of ours called it, and the
// backend goes on working.
func TestPanicsOfTheCaller(t *testing.T) {
	own := errors.New("of the caller")
	path, _ := tiny(t, 0)
	b, err := cpu.New(cpu.Options{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx := context.Background()
	config := open(t, path, llama.Options{}).Config()
	for name, call := range map[string]func(o llama.Options) error{
		"Open":      func(o llama.Options) error { _, err := llama.Open(ctx, path, o); return err },
		"trainable": func(o llama.Options) error { o.Trainable = true; _, err := llama.Open(ctx, path, o); return err },
		"OpenFS": func(o llama.Options) error {
			_, err := llama.OpenFS(ctx, os.DirFS(filepath.Dir(path)), filepath.Base(path), o)
			return err
		},
		"New":       func(o llama.Options) error { _, err := llama.New(ctx, config, nil, llama.Init{}, o); return err },
		"NewRandom": func(o llama.Options) error { _, err := llama.NewRandom(ctx, config, backend.Q8_0, o); return err },
		"Convert": func(o llama.Options) error {
			_, err := llama.Convert(ctx, path, t.TempDir()+"/out", llama.ConvertOptions{To: "gguf", Progress: o.Progress})
			return err
		},
	} {
		for _, last := range []bool{false, true} { // at the first bytes, and at the last, which are vectors
			fault := func() (v any) {
				defer func() {
					if fault := recover(); fault != nil {
						v = fault
					}
				}()
				return call(llama.Options{Backend: b, Progress: func(p llama.Progress) {
					if !last || p.Done == p.Total {
						panic(own)
					}
				}})
			}()
			if fault != own {
				t.Errorf("%s, last bytes %v: %v, want the caller's panic", name, last, fault)
			}
		}
	}
	m := open(t, path, llama.Options{Backend: b})
	if _, err := session(t, m).Logits(ctx, []int32{1}); err != nil {
		t.Errorf("after the panics: %v", err)
	}
}
