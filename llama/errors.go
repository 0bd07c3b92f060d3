package llama

import (
	"errors"

	"github.com/herd-ml/herd/backend"
	"github.com/herd-ml/herd/llama/internal/checkpoint"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrClosed is returned by every call on a closed model or session.
	ErrClosed = errors.New("llama: closed")
	// ErrBusy is returned when a session is asked for two things at once.
	ErrBusy = errors.New("llama: the session is busy with another call")
	// ErrContextFull is returned when a prompt does not fit the session's context.
	ErrContextFull = errors.New("llama: the context is full")
	// ErrStale is returned when a generation goes on after the weights have changed.
	ErrStale = errors.New("llama: the weights have changed since the session's positions were computed")
	// ErrOtherModel is wrapped by Session.Load where a file's positions were computed by
	// other weights or adapters, with other settings, or by other kernels.
	ErrOtherModel = errors.New("llama: saved by another model")
	// ErrUnsupported is wrapped by errors about what is not built or not
	// possible here.
	ErrUnsupported = backend.ErrUnsupported
	// ErrQuantized is wrapped when Quantize is given what is quantised, without leave.
	ErrQuantized = checkpoint.ErrQuantized
	// ErrMemory is wrapped when Options.MemoryLimit does not allow something.
	ErrMemory = errors.New("llama: above the memory limit")
)

// FileError says what is wrong with a model's files. Errors of one file format
// (*gguf.Error, *safetensors.Error, *pth.Error) come unwrapped.
//
//	File   string // path as given
//	Tensor string // name in the file, or empty
//	Reason string
//	Err    error // cause, or nil; Unwrap returns it
type FileError = checkpoint.FileError
