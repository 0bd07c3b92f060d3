package checkpoint

import "fmt"

// FileError says what is wrong with a checkpoint. Errors of one file format
// (*gguf.Error, *safetensors.Error, *pth.Error) come unwrapped.
type FileError struct {
	File   string // path as given
	Tensor string // name in the file, or empty
	Reason string
	Err    error // cause, or nil
}

func (e *FileError) Error() string {
	s := e.File
	if e.Tensor != "" {
		s += ": tensor " + e.Tensor
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if e.Err != nil && e.Err.Error() != "" { // see vfs.Damage
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// Errorf makes a FileError of a file, of a tensor in it or "", and of a reason.
func Errorf(file, tensor, format string, a ...any) error {
	return &FileError{File: file, Tensor: tensor, Reason: fmt.Sprintf(format, a...)}
}
