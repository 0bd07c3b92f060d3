package gguf

import (
	"encoding/binary"
	"iter"
	"slices"
)

// StringList is a list of strings that need not be in memory at once: it keeps
// them as they lie in a file's header. The zero StringList is empty.
type StringList struct {
	n    int
	raw  []byte // a length before each
	made []string
}

// ListOf returns a list of strings that are there already.
func ListOf(s []string) StringList { return StringList{n: len(s), made: s} }

// Len returns how many there are.
func (l StringList) Len() int { return l.n }

// Bytes returns how many bytes the strings have together.
func (l StringList) Bytes() int {
	if l.raw != nil {
		return len(l.raw) - 8*l.n
	}
	total := 0
	for _, s := range l.made {
		total += len(s)
	}
	return total
}

// All yields the strings with their places. It decodes them as it goes, at each call.
func (l StringList) All() iter.Seq2[int, string] {
	if l.raw == nil {
		return slices.All(l.made)
	}
	return func(yield func(int, string) bool) {
		for i, at := 0, 0; i < l.n; i++ {
			end := at + 8 + int(binary.LittleEndian.Uint64(l.raw[at:]))
			if !yield(i, string(l.raw[at+8:end])) {
				return
			}
			at = end
		}
	}
}
