package gguf

import (
	"errors"
	"fmt"
	"strings"
)

// ErrNoKey is what the typed getters wrap when the metadata lacks the key, so
// that errors.Is tells an optional key that is absent from one that is wrong.
var ErrNoKey = errors.New("no such key")

// Error says what is wrong with a file, and where.
type Error struct {
	File   string // as given to Open, OpenFS or New; empty for Writer.WriteTo
	Tensor string // the tensor concerned, or empty
	Key    string // the metadata key concerned, or empty
	Reason string // what was found and what was expected
	Err    error  // the cause, or nil
}

// Error joins what is set: file, tensor, key, reason, cause.
func (e *Error) Error() string {
	parts := []string{"gguf"}
	if e.File != "" {
		parts = append(parts, e.File)
	}
	if e.Tensor != "" {
		parts = append(parts, fmt.Sprintf("tensor %.80q", e.Tensor))
	}
	if e.Key != "" {
		parts = append(parts, fmt.Sprintf("key %.80q", e.Key))
	}
	if e.Reason != "" {
		parts = append(parts, e.Reason)
	}
	if e.Err != nil && e.Err.Error() != "" { // see vfs.Damage
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
