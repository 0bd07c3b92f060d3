package backend

import "context"

// Step runs f as a step of e: it waits for the workers (Exec.Begin), calls f, and ends the
// step (Exec.End) however f ends, by a panic or runtime.Goexit too, so that the workers
// are free for others. It returns f's error, or else End's. A panic of f goes on to the
// caller. f must not begin a step of its own backend: it would wait for itself.
func Step(ctx context.Context, e Exec, f func() error) (err error) {
	if err := e.Begin(ctx); err != nil {
		return err
	}
	defer func() {
		if end := e.End(); err == nil {
			err = end
		}
	}()
	return f()
}
