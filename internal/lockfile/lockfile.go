// Package lockfile keeps two users of one folder apart, be they processes or goroutines
// of one. A lock is the operating system's, on an open file (flock, LockFileEx): it ends
// with the process, however that ends, so no stale lock is left behind. The file itself
// stays; its presence means nothing. Where a system has no such locks, all are granted.
package lockfile

import (
	"errors"
	"io/fs"
	"os"
)

// ErrHeld is wrapped by the error of Acquire where another has the lock.
var ErrHeld = errors.New("in use by another run")

// A Lock is held until Release.
type Lock struct{ f *os.File }

// Acquire takes the lock of a file, which it makes where there is none. It does not wait:
// where another has the lock it returns an error that wraps ErrHeld.
func Acquire(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		f.Close()
		if errors.Is(err, ErrHeld) {
			return nil, err
		}
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return &Lock{f}, nil
}

// Release gives the lock back.
func (l *Lock) Release() error { return l.f.Close() }
