package llama_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama"
)

// TestContextCauses: a context that was cancelled with a cause, before a call or during it,
// ends it with an error in which errors.Is finds both; so does one whose time is over.
func TestContextCauses(t *testing.T) {
	path, ids := tiny(t, 200)
	m := open(t, path, llama.Options{})
	tied := open(t, path, llama.Options{Trainable: true})
	ctx := t.Context()
	for name, call := range contextCalls(t, path, ids, m, tied) {
		t.Run(name, func(t *testing.T) {
			before, cancel := context.WithCancelCause(ctx)
			cancel(io.EOF)
			if err := call(before, func() {}); !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
				t.Errorf("cancelled before: %v", err)
			}
			late, stop := context.WithDeadlineCause(ctx, time.Now().Add(-time.Second), io.EOF)
			defer stop()
			if err := call(late, func() {}); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, io.EOF) {
				t.Errorf("too late: %v", err)
			}
			during, cancel := context.WithCancelCause(ctx)
			timer := time.AfterFunc(20*time.Millisecond, func() { cancel(io.EOF) })
			defer timer.Stop()
			var err error
			for end := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(end); {
				err = call(during, func() { cancel(io.EOF) })
			}
			if !errors.Is(err, context.Canceled) || !errors.Is(err, io.EOF) {
				t.Errorf("cancelled during: %v", err)
			}
		})
	}
}

// contextCalls are the calls that take a context. Each is called with what to call once it
// is under way, if it tells.
func contextCalls(t *testing.T, path string, ids []int32, m, tied *llama.Model) map[string]func(ctx context.Context, begun func()) error {
	generate := func(o llama.GenerateOptions) func(context.Context, func()) error {
		return func(ctx context.Context, _ func()) error {
			for _, err := range session(t, m).GenerateIDs(ctx, ids, o) {
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	return map[string]func(ctx context.Context, begun func()) error{
		"Open": func(ctx context.Context, begun func()) error {
			_, err := llama.Open(ctx, path, llama.Options{Progress: func(llama.Progress) { begun() }})
			return err
		},
		"OpenFS": func(ctx context.Context, begun func()) error {
			_, err := llama.OpenFS(ctx, os.DirFS(filepath.Dir(path)), filepath.Base(path), llama.Options{Progress: func(llama.Progress) { begun() }})
			return err
		},
		"New": func(ctx context.Context, begun func()) error {
			_, err := llama.New(ctx, m.Config(), nil, llama.Init{}, llama.Options{Progress: func(llama.Progress) { begun() }})
			return err
		},
		"NewRandom": func(ctx context.Context, begun func()) error {
			_, err := llama.NewRandom(ctx, m.Config(), backend.Q8_0, llama.Options{Progress: func(llama.Progress) { begun() }})
			return err
		},
		"Convert": func(ctx context.Context, begun func()) error {
			_, err := llama.Convert(ctx, path, t.TempDir()+"/out", llama.ConvertOptions{To: "gguf", Progress: func(llama.Progress) { begun() }})
			return err
		},
		"Save": func(ctx context.Context, _ func()) error {
			return tied.Save(ctx, t.TempDir()+"/out", llama.SaveOptions{})
		},
		"GenerateIDs": generate(llama.GenerateOptions{MaxTokens: 50, IgnoreEOS: true}),
		"Generate": func(ctx context.Context, _ func()) error {
			for _, err := range session(t, m).Generate(ctx, "once upon a time", llama.GenerateOptions{MaxTokens: 50, IgnoreEOS: true}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"Logits": func(ctx context.Context, _ func()) error { _, err := session(t, m).Logits(ctx, ids); return err },
		"Score": func(ctx context.Context, begun func()) error {
			return session(t, m).Score(ctx, ids, func(int, []float32) { begun() })
		},
		"Logprobs": func(ctx context.Context, _ func()) error {
			_, err := session(t, m).Logprobs(ctx, ids, 1)
			return err
		},
		"Embed": func(ctx context.Context, _ func()) error {
			_, err := session(t, m).Embed(ctx, "once upon a time", llama.EmbedOptions{})
			return err
		},
		"FillRandom": func(ctx context.Context, _ func()) error { return session(t, m).FillRandom(ctx, ids) },
		"Perplexity": func(ctx context.Context, begun func()) error {
			_, err := m.Perplexity(ctx, ids, llama.PerplexityOptions{Context: 16, Progress: func(int, int, llama.Perplexity) { begun() }})
			return err
		},
	}
}
