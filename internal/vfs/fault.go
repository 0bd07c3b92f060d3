package vfs

import "fmt"

// A Fault is what the error types of file formats have in common: what is wrong, and
// where. Each format has a type of its own with these fields, so that errors.As tells
// them apart, and takes its text from here.
type Fault struct {
	File, Tensor, Reason string
	Err                  error
}

// Error joins what is set: file, tensor, reason, cause.
func (f Fault) Error() string {
	s := f.File
	if f.Tensor != "" {
		s += fmt.Sprintf(": tensor %q", Clip(f.Tensor))
	}
	if f.Reason != "" {
		s += ": " + f.Reason
	}
	if f.Err != nil && f.Err.Error() != "" { // see Damage
		s += ": " + f.Err.Error()
	}
	return s
}

// Clip shortens text from a file for a message, to 100 characters.
func Clip(s string) string {
	n := 0
	for i := range s {
		if n++; n > 100 {
			return s[:i] + "..."
		}
	}
	return s
}
