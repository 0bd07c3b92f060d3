package toolcall

// Whether held text may be a call, or was meant to be one.

import (
	"regexp"
	"slices"
	"strings"
)

// isList reports whether a text is a list in Python's syntax, not an array of
// objects.
func isList(s string) bool {
	s = strings.TrimLeft(s, " \n\t\r")
	return strings.HasPrefix(s, "[") && !strings.HasPrefix(strings.TrimLeft(s[1:], " \n\t\r"), "{")
}

// list is isList of what is held.
func (p *Parser) list() bool { return isList(string(p.head())) }

// head is the beginning of what is held.
func (p *Parser) head() []byte {
	head := p.held[:min(len(p.held), maxHead)]
	p.looked += len(head)
	return head
}

// verdict says whether held text may be a call.
type verdict int

const (
	no verdict = iota
	open
	yes
)

// firstKeys are the keys with which a call in JSON can begin.
var firstKeys = []string{"name", "type", "function", "parameters", "arguments", "id"}

// mayCall looks at how the text held begins.
func (p *Parser) mayCall() verdict {
	s := strings.TrimLeft(string(p.head()), " \n\t\r")
	if len(p.held) > maxHead && len(s) < 64 {
		return no // white space without end
	}
	if s[0] == '[' {
		s = strings.TrimLeft(s[1:], " \n\t\r")
		if s == "" {
			return open
		}
		if s[0] != '{' {
			return p.mayList(s)
		}
	}
	s = strings.TrimLeft(s[1:], " \n\t\r")
	if s == "" {
		return open
	}
	if s[0] != '"' {
		return no
	}
	key, _, ended := strings.Cut(s[1:], `"`)
	for _, k := range firstKeys {
		if ended && k == key {
			return yes
		}
		if !ended && strings.HasPrefix(k, key) {
			return open
		}
	}
	return no
}

// maxHead is how much of a value decides whether it may be a call.
const maxHead = 1 << 10

// mayList looks at what follows the bracket of a list of calls.
func (p *Parser) mayList(s string) verdict {
	name := identifier.FindString(s)
	if name == "" {
		return no
	}
	known := len(p.o.Names) == 0 || slices.Contains(p.o.Names, strings.TrimSuffix(name, ".call"))
	after := strings.TrimLeft(s[len(name):], " ")
	switch {
	case after == "" && len(name) < 256:
		for _, n := range p.o.Names {
			known = known || strings.HasPrefix(n+".call", name)
		}
		if known {
			return open
		}
	case after != "" && after[0] == '(' && known:
		return yes
	}
	return no
}

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.\-]*`)
	namedKey   = regexp.MustCompile(`"(?:name|function)"\s*:\s*"([^"\\]*)"`)
	argsKey    = regexp.MustCompile(`"(?:parameters|arguments)"\s*:`)
)

// clear reports whether malformed text was meant to be a call.
func (p *Parser) clear() bool {
	head := p.head()
	head = head[:min(len(head), p.scan.at)] // not what comes after
	if p.list() {
		return len(p.o.Names) > 0 // mayList has seen one of them
	}
	m := namedKey.FindSubmatch(head)
	if m == nil {
		return false
	}
	if len(p.o.Names) == 0 {
		return argsKey.Match(head)
	}
	return slices.Contains(p.o.Names, string(m[1]))
}
