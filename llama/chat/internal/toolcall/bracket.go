package toolcall

import (
	"bytes"
	"strings"
)

// maxDepth bounds the nesting of calls' arguments.
const maxDepth = 64

// scanner finds the end of a value in brackets, in JSON or Python, looking at
// each byte once.
type scanner struct {
	at     int
	python bool   // strings may be in three quotes
	stack  []byte // closing brackets that are due
	quote  string // what ends the string under way
	skip   bool   // the next byte is escaped
}

// run goes on over b; done says that at is behind the value.
func (s *scanner) run(b []byte) (done bool, bad string) {
	for ; s.at < len(b); s.at++ {
		c := b[s.at]
		switch {
		case s.skip:
			s.skip = false
		case s.quote != "":
			if c == '\\' {
				s.skip = true
			} else if bytes.HasPrefix(b[s.at:], []byte(s.quote)) {
				s.at += len(s.quote) - 1
				s.quote = ""
			} else if strings.HasPrefix(s.quote, string(b[s.at:min(len(b), s.at+3)])) {
				return false, "" // the rest of the quotes may come
			}
		case c == '"' || c == '\'' && s.python:
			s.quote = string(c)
			if triple := strings.Repeat(s.quote, 3); s.python && bytes.HasPrefix(b[s.at:], []byte(triple)) {
				s.quote = triple
				s.at += 2
			} else if s.python && strings.HasPrefix(triple, string(b[s.at:min(len(b), s.at+3)])) {
				s.quote = ""
				return false, ""
			}
		case c == '{' || c == '[' || c == '(':
			s.stack = append(s.stack, map[byte]byte{'{': '}', '[': ']', '(': ')'}[c])
			if len(s.stack) > maxDepth {
				return false, "it is nested too deep"
			}
		case c == '}' || c == ']' || c == ')':
			if len(s.stack) == 0 || s.stack[len(s.stack)-1] != c {
				return false, "its brackets do not match"
			}
			if s.stack = s.stack[:len(s.stack)-1]; len(s.stack) == 0 {
				s.at++
				return true, ""
			}
		}
	}
	return false, ""
}
