package llama_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/herd-ml/herd/backend/cpu"
	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/sample"
)

// endsOf returns the panic or the error that f ends with. It fails where f does not end.
func endsOf(t *testing.T, what string, f func() error) (fault any, err error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { fault = recover() }()
		err = f()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s hangs", what)
	}
	return fault, err
}

// TestCallbacks: what the library calls of its caller runs in no step and under no lock: it
// may use the session and the model, and close them, which ends the call with ErrClosed;
// its panic is its own, and the session and the backend are usable afterwards.
func TestCallbacks(t *testing.T) {
	path, ids := tiny(t, 70)
	own := errors.New("of the caller")
	ctx := context.Background()
	calls := map[string]func(m *llama.Model, s *llama.Session, f func()) error{
		"Score": func(_ *llama.Model, s *llama.Session, f func()) error {
			return s.Score(ctx, ids, func(int, []float32) { f() })
		},
		"sampling step": func(_ *llama.Model, s *llama.Session, f func()) error {
			for _, err := range s.GenerateIDs(ctx, ids, llama.GenerateOptions{MaxTokens: 4, IgnoreEOS: true,
				Sampling: sample.Params{Temperature: 1}, Steps: []sample.Step{sample.StepFunc(func(*sample.Candidates) { f() })}}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"loop": func(_ *llama.Model, s *llama.Session, f func()) error {
			for _, err := range s.GenerateIDs(ctx, ids, llama.GenerateOptions{MaxTokens: 4, IgnoreEOS: true}) {
				if err != nil {
					return err
				}
				f()
			}
			return nil
		},
		"Perplexity": func(m *llama.Model, _ *llama.Session, f func()) error {
			_, err := m.Perplexity(ctx, ids, llama.PerplexityOptions{Context: 16, Progress: func(int, int, llama.Perplexity) { f() }})
			return err
		},
	}
	for call, run := range calls {
		for name, c := range map[string]struct {
			do    func(m *llama.Model, s *llama.Session)
			check func(err error, fault any) bool
		}{
			"Len": {func(m *llama.Model, s *llama.Session) { s.Len(); s.IDs(); s.Usage(); m.Memory() },
				func(err error, fault any) bool { return err == nil && fault == nil }},
			"busy": {func(_ *llama.Model, s *llama.Session) {
				if _, err := s.Logits(ctx, ids); call != "Perplexity" && !errors.Is(err, llama.ErrBusy) {
					t.Errorf("%s: a second call on the session: %v", call, err)
				}
			}, func(err error, fault any) bool { return err == nil && fault == nil }},
			"another session": {func(m *llama.Model, _ *llama.Session) {
				if len(collect(t, session(t, m), ids[:5], llama.GenerateOptions{MaxTokens: 2, IgnoreEOS: true})) != 2 {
					t.Errorf("%s: another session's generation is cut short", call)
				}
			}, func(err error, fault any) bool { return err == nil && fault == nil }},
			"Session.Close": {func(_ *llama.Model, s *llama.Session) { s.Close() },
				func(err error, fault any) bool {
					return (errors.Is(err, llama.ErrClosed) || call == "Perplexity") && fault == nil
				}},
			"Model.Close": {func(m *llama.Model, _ *llama.Session) { m.Close() },
				func(err error, fault any) bool { return errors.Is(err, llama.ErrClosed) && fault == nil }},
			"panic": {func(*llama.Model, *llama.Session) { panic(own) },
				func(_ error, fault any) bool { return fault == own }},
			"nil": {func(*llama.Model, *llama.Session) { var x *int; *x = 1 },
				func(_ error, fault any) bool { _, ok := fault.(runtime.Error); return ok }},
		} {
			b, err := cpu.New(cpu.Options{Workers: 2})
			if err != nil {
				t.Fatal(err)
			}
			m := open(t, path, llama.Options{Backend: b})
			s := session(t, m)
			fault, err := endsOf(t, name+" in "+call, func() error { return run(m, s, func() { c.do(m, s) }) })
			if !c.check(err, fault) {
				t.Errorf("%s in %s: error %v, panic %v", name, call, err, fault)
			}
			if _, err := s.Logits(ctx, ids); err != nil && !errors.Is(err, llama.ErrClosed) {
				t.Errorf("%s in %s: the session afterwards: %v", name, call, err)
			}
			if !(name == "Session.Close" || name == "Model.Close") && s.Len() != len(ids) {
				t.Errorf("%s in %s: the session is not usable afterwards", name, call)
			}
		}
	}
}
