package safetensors

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/herd-ml/herd/internal/jsontext"
	"github.com/herd-ml/herd/internal/vfs"
)

const (
	maxKeys   = 1 << 18  // members of one JSON object, so tensors of one file
	maxString = 16 << 20 // bytes of one JSON string
	maxDepth  = 32       // nesting of a value that is skipped
)

// scanner reads JSON from a string in one pass. It is used in place of
// encoding/json because that keeps the last of two equal keys, and because
// strings without escapes need no copy here: they are slices of the header.
type scanner struct {
	s string
	i int // next byte
}

func (c *scanner) fail(format string, args ...any) error {
	return fmt.Errorf("byte %d: %s", c.i, fmt.Sprintf(format, args...))
}

// peek skips white space and returns the next byte, 0 at the end.
func (c *scanner) peek() byte {
	for ; c.i < len(c.s); c.i++ {
		switch c.s[c.i] {
		case ' ', '\t', '\n', '\r':
		default:
			return c.s[c.i]
		}
	}
	return 0
}

// take consumes b if it comes next.
func (c *scanner) take(b byte) bool {
	if c.peek() != b {
		return false
	}
	c.i++
	return true
}

// end fails unless only white space is left.
func (c *scanner) end() error {
	if c.peek(); c.i < len(c.s) {
		return c.fail("text after the JSON value")
	}
	return nil
}

// object calls each for every member with the scanner before the value. It
// refuses a key that was there before.
func (c *scanner) object(each func(key string) error) error {
	if !c.take('{') {
		return c.fail("expected an object")
	}
	seen := map[string]struct{}{}
	for first := true; !c.take('}'); first = false {
		if !first && !c.take(',') {
			return c.fail("expected , or }")
		}
		key, err := c.str()
		if err != nil {
			return err
		}
		if _, twice := seen[key]; twice {
			return c.fail("key %q appears twice", vfs.Clip(key))
		}
		if len(seen) == maxKeys {
			return c.fail("more than %d keys in one object", maxKeys)
		}
		seen[key] = struct{}{}
		if !c.take(':') {
			return c.fail("expected : after key %q", vfs.Clip(key))
		}
		if err := each(key); err != nil {
			return err
		}
	}
	return nil
}

// array calls each for every element with the scanner before it.
func (c *scanner) array(each func() error) error {
	if !c.take('[') {
		return c.fail("expected an array")
	}
	for first := true; !c.take(']'); first = false {
		if !first && !c.take(',') {
			return c.fail("expected , or ]")
		}
		if err := each(); err != nil {
			return err
		}
	}
	return nil
}

// str reads a string.
func (c *scanner) str() (string, error) {
	if !c.take('"') {
		return "", c.fail("expected a string")
	}
	start, escaped := c.i, false
	for ; c.i < len(c.s) && c.s[c.i] != '"'; c.i++ {
		switch b := c.s[c.i]; {
		case b < 0x20:
			return "", c.fail("control character in a string")
		case b == '\\':
			escaped = true
			c.i++
		}
	}
	if c.i >= len(c.s) {
		return "", c.fail("unterminated string")
	}
	if c.i-start > maxString {
		return "", c.fail("string of more than %d bytes", maxString)
	}
	raw := c.s[start:c.i]
	c.i++
	if !escaped {
		return raw, nil
	}
	var s string
	if err := jsontext.Unmarshal([]byte(`"`+raw+`"`), &s); err != nil {
		return "", c.fail("%v", err)
	}
	return s, nil
}

// size reads a whole number of 0 or more that fits an int64.
func (c *scanner) size() (int64, error) {
	c.peek()
	start, n := c.i, int64(0)
	for ; c.i < len(c.s) && c.s[c.i] >= '0' && c.s[c.i] <= '9'; c.i++ {
		d := int64(c.s[c.i] - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, c.fail("number does not fit 63 bits")
		}
		n = 10*n + d
	}
	switch text := c.s[start:c.i]; {
	case text == "":
		return 0, c.fail("expected a whole number, 0 or more")
	case text[0] == '0' && len(text) > 1:
		return 0, c.fail("number with a leading zero")
	}
	return n, nil
}

// skip passes over any value.
func (c *scanner) skip(depth int) error {
	if depth > maxDepth {
		return c.fail("nested more than %d deep", maxDepth)
	}
	switch c.peek() {
	case '{':
		return c.object(func(string) error { return c.skip(depth + 1) })
	case '[':
		return c.array(func() error { return c.skip(depth + 1) })
	case '"':
		_, err := c.str()
		return err
	}
	rest := c.s[c.i:]
	n := strings.IndexFunc(rest, func(r rune) bool { return !strings.ContainsRune("+-.0123456789aeflnrstuE", r) })
	if n < 0 {
		n = len(rest)
	}
	if !json.Valid([]byte(rest[:n])) {
		return c.fail("not a JSON value")
	}
	c.i += n
	return nil
}
