package toolcall

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// python reads calls and literals of Python.
type python struct {
	s     string
	i     int
	depth int
}

// pythonCalls reads a list of calls.
func pythonCalls(s string) (calls []Call, err error) {
	defer recovered(&calls, &err)
	p := &python{s: s}
	p.want("[")
	for !p.skip("]") {
		if calls != nil {
			p.want(",")
			if p.skip("]") {
				break
			}
		}
		calls = append(calls, p.call())
	}
	p.end()
	return calls, nil
}

// pythonCall reads one call, or several between semicolons or lines.
func pythonCall(s string) (calls []Call, err error) {
	defer recovered(&calls, &err)
	p := &python{s: s}
	for {
		calls = append(calls, p.call())
		for p.skip(";") {
		}
		if p.space(); p.i == len(p.s) {
			return calls, nil
		}
	}
}

// recovered turns what fail panics with into an error.
func recovered(calls *[]Call, err *error) {
	switch r := recover().(type) {
	case nil:
	case reason:
		*calls, *err = nil, r
	default:
		panic(r)
	}
}

func (p *python) fail(format string, args ...any) {
	panic(reason(fmt.Sprintf(format, args...) + fmt.Sprintf(" at byte %d", p.i)))
}

func (p *python) space() {
	for p.i < len(p.s) && isSpace(p.s[p.i]) {
		p.i++
	}
}

func (p *python) skip(s string) bool {
	p.space()
	if strings.HasPrefix(p.s[p.i:], s) {
		p.i += len(s)
		return true
	}
	return false
}

func (p *python) want(s string) {
	if !p.skip(s) {
		p.fail("want %s", s)
	}
}

func (p *python) end() {
	if p.space(); p.i < len(p.s) {
		p.fail("unexpected text")
	}
}

func (p *python) name() string {
	p.space()
	name := identifier.FindString(p.s[p.i:])
	p.i += len(name)
	if name == "" {
		p.fail("want a name")
	}
	return name
}

// call reads name(key=value, ...).
func (p *python) call() Call {
	c := Call{Name: strings.TrimSuffix(p.name(), ".call")}
	if c.Name == "" {
		p.fail("want a name")
	}
	p.want("(")
	var b bytes.Buffer
	seen := map[string]bool{}
	for !p.skip(")") {
		if len(seen) > 0 {
			p.want(",")
			if p.skip(")") {
				break
			}
		}
		key := p.name()
		if strings.ContainsAny(key, ".-") || !p.skip("=") {
			p.fail("an argument without a name")
		}
		if seen[key] {
			p.fail("the argument %s is given twice", key)
		}
		b.WriteString(map[bool]string{true: "{", false: ", "}[len(seen) == 0])
		seen[key] = true
		b.Write(quoted(key))
		b.WriteString(": ")
		p.value(&b)
	}
	if len(seen) == 0 {
		b.WriteByte('{')
	}
	b.WriteByte('}')
	c.Arguments = b.Bytes()
	return c
}

// quoted is a JSON string.
func quoted(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// value writes a literal as JSON.
func (p *python) value(b *bytes.Buffer) {
	if p.depth++; p.depth > maxDepth {
		p.fail("it is nested too deep")
	}
	defer func() { p.depth-- }()
	p.space()
	if p.i == len(p.s) {
		p.fail("want a value")
	}
	switch c := p.s[p.i]; {
	case c == '"' || c == '\'':
		b.Write(quoted(p.text()))
	case c == '[':
		p.i++
		p.items(b, "]")
	case c == '(':
		p.i++
		p.items(b, ")")
	case c == '{':
		p.i++
		p.dict(b)
	case c == '-' || c == '+' || c == '.' || c >= '0' && c <= '9':
		p.number(b)
	default:
		word := p.name()
		text, ok := map[string]string{"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}[word]
		if !ok {
			p.i -= len(word)
			p.fail("%s is no value", word)
		}
		b.WriteString(text)
	}
}

func (p *python) items(b *bytes.Buffer, end string) {
	b.WriteByte('[')
	for n := 0; !p.skip(end); n++ {
		if n > 0 {
			p.want(",")
			if p.skip(end) {
				break
			}
			b.WriteString(", ")
		}
		p.value(b)
	}
	b.WriteByte(']')
}

func (p *python) dict(b *bytes.Buffer) {
	b.WriteByte('{')
	for n := 0; !p.skip("}"); n++ {
		if n > 0 {
			p.want(",")
			if p.skip("}") {
				break
			}
			b.WriteString(", ")
		}
		var key bytes.Buffer
		p.value(&key)
		switch c := key.Bytes()[0]; c {
		case '"':
			b.Write(key.Bytes())
		case '[', '{':
			p.fail("a key that is no string")
		default: // as json.dumps: 1 becomes "1", None "null"
			b.Write(quoted(key.String()))
		}
		p.want(":")
		b.WriteString(": ")
		p.value(b)
	}
	b.WriteByte('}')
}

// number writes an int or a float.
func (p *python) number(b *bytes.Buffer) {
	from := p.i
	for p.i < len(p.s) && (strings.IndexByte("+-._xXoO", p.s[p.i]) >= 0 || p.s[p.i] >= '0' && p.s[p.i] <= '9' || p.s[p.i]|32 >= 'a' && p.s[p.i]|32 <= 'f') {
		p.i++
	}
	text := strings.TrimPrefix(strings.ReplaceAll(p.s[from:p.i], "_", ""), "+")
	if len(text) > 1<<12 {
		p.fail("a number of %d digits", len(text))
	}
	if i, ok := new(big.Int).SetString(text, 0); ok && (len(strings.TrimPrefix(text, "-")) < 2 || strings.TrimPrefix(text, "-")[0] != '0' || strings.ContainsAny(text, "xXoObB")) {
		b.WriteString(i.String())
		return
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !strings.ContainsAny(text, ".eE") || strings.ContainsAny(text, "xX") {
		p.i = from
		p.fail("%.40s is no number", text)
	}
	if json.Valid([]byte(text)) {
		b.WriteString(text) // as the model spelled it
		return
	}
	out, err := json.Marshal(f)
	if err != nil {
		p.fail("%.40s is no number", text)
	}
	b.Write(out)
}

// text reads string literals that follow each other: one string.
func (p *python) text() string {
	var b strings.Builder
	for {
		p.str(&b)
		if p.space(); p.i == len(p.s) || p.s[p.i] != '"' && p.s[p.i] != '\'' {
			return b.String()
		}
	}
}

// str reads a string literal onto b.
func (p *python) str(b *strings.Builder) {
	quote := p.s[p.i : p.i+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(p.s[p.i:], triple) {
		quote = triple
	}
	p.i += len(quote)
	for {
		if p.i >= len(p.s) {
			p.fail("a string that does not end")
		}
		if strings.HasPrefix(p.s[p.i:], quote) {
			p.i += len(quote)
			return
		}
		c := p.s[p.i]
		if c == '\n' && len(quote) == 1 {
			p.fail("a line that ends within a string")
		}
		if c != '\\' || p.i+1 == len(p.s) {
			b.WriteByte(c)
			p.i++
			continue
		}
		p.i++
		p.escape(b)
	}
}

// escape reads what follows a backslash.
func (p *python) escape(b *strings.Builder) {
	c := p.s[p.i]
	p.i++
	if text, ok := map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '\\': `\`, '\'': "'", '"': `"`, 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '0': "\x00", '\n': ""}[c]; ok {
		b.WriteString(text)
		return
	}
	n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
	if n == 0 { // Python keeps what it does not know
		b.WriteByte('\\')
		b.WriteByte(c)
		return
	}
	if p.i+n > len(p.s) {
		p.fail("a bad escape")
	}
	code, err := strconv.ParseUint(p.s[p.i:p.i+n], 16, 32)
	if err != nil || code > utf8.MaxRune {
		p.fail("a bad escape")
	}
	p.i += n
	b.WriteRune(rune(code))
}
