package toolcall

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Call is one call of a function.
type Call struct {
	ID        string // where the syntax has one
	Name      string
	Arguments json.RawMessage // an object, spelled as the model did
}

// Options say what calls are possible.
type Options struct {
	// Builtin: after the python tag, what is no call is code for the function
	// code_interpreter.
	Builtin bool
	// Names are the functions that were offered; empty is any. Without a tag or a
	// wrapper, only calls of these are calls.
	Names []string
}

// Error is a call that was begun and not written well.
type Error struct {
	Offset int    // in bytes of the reply
	Text   string // the malformed part
	Reason string
}

// Error says what is wrong.
func (e *Error) Error() string { return "malformed tool call: " + e.Reason }

// The texts that begin and end calls.
const (
	pythonTag     = "<|python_tag|>"
	functionOpen  = "<function="
	functionClose = "</function>"
	toolOpen      = "<tool_call>"
	toolClose     = "</tool_call>"
	mistralOpen   = "[TOOL_CALLS]"
	mistralArgs   = "[ARGS]"
)

var openings = []string{pythonTag, functionOpen, toolOpen, mistralOpen}

// state is what the text that is held may be.
type state int

const (
	start   state = iota // nothing but white space, or separators after a call
	text                 // ordinary text
	bare                 // what began with { or [ and may be a call
	wrapped              // the inside of a wrapper
	rest                 // after the python tag, or Mistral's: all to the end
)

// Parser reads one reply.
type Parser struct {
	o     Options
	state state
	held  []byte // text of which nothing was decided
	base  int    // offset of held in the reply
	open  string // the opening behind wrapped and rest
	scan  scanner
	sure  bool // bare text begins as a call
	calls int  // found so far
	err   error

	// looked is how many bytes were looked at so far, counting again those that
	// were looked at again: work that has to stay linear in the reply's length.
	looked int

	visible strings.Builder // of the call under way
	found   []Call
}

// New returns a parser at the start of a reply.
func New(o Options) *Parser { return &Parser{o: o} }

// Parse reads a whole reply.
func Parse(reply string, o Options) (visible string, calls []Call, err error) {
	p := New(o)
	visible, calls = p.Write(reply)
	more, last, err := p.Close()
	return visible + more, append(calls, last...), err
}

// Tag says that the model wrote its python tag.
func (p *Parser) Tag() { p.held = append(p.held, pythonTag...) }

// Write adds text. It returns what is certainly no part of a call, and the
// calls that are complete.
func (p *Parser) Write(s string) (visible string, calls []Call) {
	p.held = append(p.held, s...)
	for p.advance(false) {
	}
	return p.take()
}

// Close ends the reply and decides about what was held back. The error is an
// *Error for the first malformed call, whose text is visible.
func (p *Parser) Close() (visible string, calls []Call, err error) {
	for p.advance(true) {
	}
	visible, calls = p.take()
	return visible, calls, p.err
}

func (p *Parser) take() (string, []Call) {
	visible, calls := p.visible.String(), p.found
	p.visible.Reset()
	p.found = nil
	return visible, calls
}

// show makes the first n bytes held visible.
func (p *Parser) show(n int) {
	p.visible.Write(p.held[:n])
	p.drop(n)
}

func (p *Parser) drop(n int) {
	p.held = p.held[n:]
	p.base += n
}

// add records calls.
func (p *Parser) add(calls []Call) {
	p.found = append(p.found, calls...)
	p.calls += len(calls)
}

// fail reports that the first n bytes held are malformed, and shows them.
func (p *Parser) fail(n int, reason string) {
	if p.err == nil {
		p.err = &Error{p.base, string(p.held[:n]), reason}
	}
	p.show(n)
}

// advance decides about some of the text held; false if more is needed.
func (p *Parser) advance(end bool) bool {
	switch p.state {
	case start:
		return p.begin(end)
	case text:
		return p.plain(end)
	case bare:
		return p.bare(end)
	case wrapped:
		return p.wrapped(end)
	}
	if end && len(p.held) > 0 {
		p.last()
		return len(p.held) > 0
	}
	return false
}

// begin looks at the first character of a reply, or after a call.
func (p *Parser) begin(end bool) bool {
	n := 0
	for n < len(p.held) && (isSpace(p.held[n]) || p.calls > 0 && (p.held[n] == ';' || p.held[n] == ',')) {
		n++
	}
	p.looked += n
	if n == len(p.held) && n < maxHead {
		if end && p.calls == 0 {
			p.show(n)
		} else if end {
			p.drop(n)
		}
		return false
	}
	if n == len(p.held) {
		p.state = text
		return true
	}
	if c := p.held[n]; c == '{' || c == '[' {
		if p.state = bare; p.calls > 0 {
			p.drop(n)
			n = 0
		}
		p.scan, p.sure = scanner{at: n}, false
		return true
	}
	if p.calls > 0 {
		for n = 0; isSpace(p.held[n]); n++ {
		}
		p.drop(n)
	}
	p.state = text
	return true
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// plain shows text up to the next opening, or what may become one.
func (p *Parser) plain(end bool) bool {
	for at := 0; ; at++ {
		i := bytes.IndexAny(p.held[at:], "<[")
		if i < 0 {
			p.looked += len(p.held) - at
			p.show(len(p.held))
			return false
		}
		at += i
		p.looked += i + 1
		for _, o := range openings {
			here := p.held[at:min(at+len(o), len(p.held))]
			switch {
			case !strings.HasPrefix(o, string(here)):
			case len(here) == len(o):
				p.show(at)
				p.open, p.scan = o, scanner{at: len(o)}
				if p.state = wrapped; o == pythonTag || o == mistralOpen {
					p.state = rest
				}
				return true
			case !end:
				p.show(at)
				return false
			}
		}
	}
}

// bare reads a value without a wrapper.
func (p *Parser) bare(end bool) bool {
	if !p.sure {
		verdict := p.mayCall()
		if verdict == no || verdict == open && end {
			p.state = text
			return true
		}
		if verdict == open {
			return false
		}
		p.sure = true
		p.scan.python = p.list()
	}
	from := p.scan.at
	done, bad := p.scan.run(p.held)
	n := p.scan.at
	p.looked += n - from
	switch {
	case bad != "" || !done && end:
		if bad == "" {
			bad = "it does not end"
		}
		if p.clear() {
			p.state = text
			p.fail(min(n+1, len(p.held)), bad)
			return true
		}
		p.state = text
		return true
	case !done:
		return false
	}
	calls, err := p.value(string(p.held[:n]))
	switch {
	case err == nil && p.offered(calls):
		p.add(calls)
		p.drop(n)
		p.state = start
	case err != nil && p.clear():
		p.fail(n, err.Error())
		p.state = text
	default:
		p.state = text
	}
	return true
}

// value reads calls in JSON or in Python's syntax.
func (p *Parser) value(s string) ([]Call, error) {
	p.looked += len(s)
	s = strings.TrimSpace(s)
	if isList(s) {
		return pythonCalls(s)
	}
	return jsonCalls(s, p.o.Names)
}

// offered reports whether one of the functions is known.
func (p *Parser) offered(calls []Call) bool {
	return len(calls) > 0 && (len(p.o.Names) == 0 || slices.ContainsFunc(calls, func(c Call) bool { return slices.Contains(p.o.Names, c.Name) }))
}

// wrapped reads the inside of <function=…> or <tool_call>.
func (p *Parser) wrapped(end bool) bool {
	closing := functionClose
	if p.open == toolOpen {
		closing = toolClose
	}
	from := max(len(p.open), p.scan.at-len(closing))
	i := bytes.Index(p.held[from:], []byte(closing))
	p.looked += len(p.held) - from
	p.scan.at = len(p.held)
	n := len(p.held)
	switch {
	case i < 0 && !end:
		return false
	case i >= 0:
		n = from + i + len(closing)
	}
	p.looked += n
	inside := strings.TrimSuffix(string(p.held[len(p.open):n]), closing)
	var calls []Call
	var err error
	if p.open == toolOpen {
		calls, err = jsonCalls(strings.TrimSpace(inside), nil)
	} else {
		calls, err = namedCall(inside)
	}
	if err == nil && len(calls) == 0 {
		err = errNoCall
	}
	if err != nil {
		p.state = text
		p.fail(n, err.Error())
		return len(p.held) > 0
	}
	p.add(calls)
	p.drop(n)
	p.state = start
	return true
}

// last reads what follows the python tag, or Mistral's opening, to the end.
func (p *Parser) last() {
	p.looked += len(p.held)
	inside := string(p.held[len(p.open):])
	calls, err := p.tagged(strings.TrimSpace(inside))
	if p.open == mistralOpen {
		calls, err = mistralCalls(inside)
	}
	p.add(calls) // those before the malformed one
	if err != nil {
		p.state = text
		n := len(p.held)
		if p.err == nil {
			p.err = &Error{p.base, string(p.held), err.Error()}
		}
		p.show(n)
		return
	}
	p.drop(len(p.held))
}

// tagged reads what follows the python tag: calls, or code.
func (p *Parser) tagged(s string) ([]Call, error) {
	if s == "" {
		return nil, errNoCall
	}
	var calls []Call
	var err error = errNoCall
	code := p.o.Builtin
	name := identifier.FindString(s)
	builtin := strings.HasSuffix(name, ".call")
	switch {
	case s[0] == '{' || s[0] == '[':
		calls, err = p.several(s)
		code = code && (s[0] == '[' || !namedKey.MatchString(s[:min(len(s), maxHead)]))
	case name != "" && (builtin || !code || slices.Contains(p.o.Names, name)):
		calls, err = pythonCall(s)
		code = code && !builtin
	}
	if err == nil || !code {
		return calls, err
	}
	b, err := json.Marshal(map[string]string{"code": s})
	return []Call{{Name: "code_interpreter", Arguments: b}}, err
}

// several reads values between semicolons, commas or white space.
func (p *Parser) several(s string) (calls []Call, err error) {
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeft(s, " \n\t\r;,") {
		sc := scanner{python: isList(s)}
		done, bad := sc.run([]byte(s))
		if bad == "" && !done {
			bad = "it does not end"
		}
		if bad != "" {
			return calls, reason(bad)
		}
		more, err := p.value(s[:sc.at])
		if err != nil {
			return calls, err
		}
		if len(more) == 0 {
			return calls, errNoCall
		}
		calls = append(calls, more...)
		s = s[sc.at:]
	}
	return calls, nil
}
