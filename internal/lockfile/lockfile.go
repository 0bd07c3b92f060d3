// Package lockfile keeps two users of one folder apart, be they processes or goroutines
// of one. A lock is the operating system's, on an open file (flock, LockFileEx): it ends
// with the process, however that ends, so no stale lock is left behind. The file itself
// stays, and its presence means nothing; while the lock is held it says who holds it.
// Where a system has no such locks, all are granted.
package lockfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// ErrHeld is wrapped by the error of Acquire where another has the lock.
var ErrHeld = errors.New("in use by another run")

// A Lock is held until Release.
type Lock struct{ f *os.File }

// holder is what the file says of who holds the lock.
type holder struct {
	Process int       `json:"pid"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
}

// maxHolder bounds what is read of a lock file.
const maxHolder = 4 << 10

// Acquire takes the lock of a file, which it makes where there is none. It does not wait:
// where another has the lock it returns an error that wraps ErrHeld and names the process,
// its host, and since when it has it.
func Acquire(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = lock(f)
	if err == nil {
		err = write(f)
	}
	switch {
	case err == nil:
		return &Lock{f}, nil
	case errors.Is(err, ErrHeld):
		err = fmt.Errorf("%w%s", ErrHeld, who(f))
	default:
		err = &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	f.Close()
	return nil, err
}

// write says in the file who holds its lock.
func write(f *os.File) error {
	h := holder{Process: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)}
	h.Host, _ = os.Hostname() // without a name the process is still told
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, '\n'), 0)
	return err
}

// who names the holder of a file's lock, for an error; nothing where the file does not
// say, as in the moment before it is written.
func who(f *os.File) string {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxHolder))
	var h holder
	if err != nil || json.Unmarshal(b, &h) != nil || h.Process == 0 {
		return ""
	}
	host := h.Host
	if host == "" {
		host = "this machine"
	}
	if own, _ := os.Hostname(); h.Process == os.Getpid() && h.Host == own {
		return fmt.Sprintf(" of this process, %d on %s, since %s", h.Process, host, h.Since.Format(time.RFC3339))
	}
	return fmt.Sprintf(": process %d on %s, since %s", h.Process, host, h.Since.Format(time.RFC3339))
}

// Release gives the lock back.
func (l *Lock) Release() error { return errors.Join(l.f.Truncate(0), l.f.Close()) }
