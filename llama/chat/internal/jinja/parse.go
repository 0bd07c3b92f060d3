package jinja

import (
	"strings"
)

// Template is a parsed template. It never changes and is safe for concurrent
// use.
type Template struct {
	src     string
	body    []*node
	filters map[string]filterFunc
	tests   map[string]testFunc
}

// Parse reads a template. Errors are *Error.
func Parse(source string, l Limits) (t *Template, err error) {
	l = l.resolved()
	if len(source) > l.Source {
		return nil, &Error{Kind: limitError, Message: "the template is longer than the limit"}
	}
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	source = strings.TrimSuffix(source, "\n")
	p := &parser{src: source, limit: l.Depth, filterTable: filterTable(), testTable: testTable()}
	defer func() {
		if e, ok := recover().(*Error); ok {
			at := p.failed
			if p.tokens != nil && at == 0 {
				at = p.cur().pos
			}
			e.Line, e.Column = position(source, at)
			t, err = nil, e
		} else if e != nil {
			panic(e)
		}
	}()
	p.lex()
	body := p.statements(nil)
	return &Template{source, body, p.filterTable, p.testTable}, nil
}

// position is the line and the column of an offset.
func position(src string, at int) (line, column int) {
	before := src[:min(max(at, 0), len(src))]
	return 1 + strings.Count(before, "\n"), len(before) - strings.LastIndexByte(before, '\n')
}

// parser reads tokens by recursive descent, as jinja2's parser does.
type parser struct {
	src         string
	tokens      []token
	i           int
	depth       int
	limit       int
	failed      int
	open        []string // blocks that are open
	filterTable map[string]filterFunc
	testTable   map[string]testFunc
	loops       int // for loops around, for break and continue
}

func (p *parser) lex() {
	l := &lexer{src: p.src, lineStart: true}
	defer func() { p.failed = l.at }()
	p.tokens = l.run()
	l.at = 0
}

func (p *parser) cur() token { return p.tokens[min(p.i, len(p.tokens)-1)] }

func (p *parser) peek() token { return p.tokens[min(p.i+1, len(p.tokens)-1)] }

func (p *parser) next() token {
	t := p.cur()
	p.i++
	return t
}

// is reports whether the token is a name or an operator.
func (p *parser) is(words ...string) bool {
	t := p.cur()
	for _, w := range words {
		if t.kind == "name" && t.text == w && isWord(w) || t.kind == w && !isWord(w) {
			return true
		}
	}
	return false
}

// isWord tells a keyword from the kind of a token.
func isWord(w string) bool {
	return w != "" && (w[0] >= 'a' && w[0] <= 'z') && !strings.Contains(w, " ") && w != "name" && w != "string" && w != "int" && w != "float" && w != "eof" && w != "data"
}

func (p *parser) skip(word string) bool {
	if p.is(word) {
		p.i++
		return true
	}
	return false
}

// describe names a token in messages.
func describe(t token) string {
	switch t.kind {
	case "name", "int", "float":
		return t.text
	case "eof":
		return "end of template"
	case "end block":
		return "end of statement block"
	case "end variable":
		return "end of print statement"
	case "begin variable":
		return "begin of print statement"
	case "begin block":
		return "begin of statement block"
	case "data":
		return "template data / text"
	}
	return t.kind
}

func (p *parser) expect(kind string) token {
	if !p.is(kind) {
		t := p.cur()
		if t.kind == "eof" {
			fail(syntaxError, "unexpected end of template, expected '%s'.", describe(token{kind: kind, text: kind}))
		}
		fail(syntaxError, "expected token '%s', got '%s'", describe(token{kind: kind, text: kind}), describe(t))
	}
	return p.next()
}

// enter bounds the nesting; leave ends it.
func (p *parser) enter() {
	if p.depth++; p.depth > p.limit {
		fail(limitError, "the source is nested deeper than %d", p.limit)
	}
}

func (p *parser) leave() { p.depth-- }

// statements reads up to a tag with one of the names in end, which it leaves.
func (p *parser) statements(end []string) (body []*node) {
	p.enter()
	defer p.leave()
	for {
		t := p.cur()
		switch t.kind {
		case "eof":
			if end != nil {
				p.unclosed(end)
			}
			return body
		case "data":
			p.i++
			body = append(body, &node{op: "data", at: t.pos, val: clean(t.text)})
		case "begin variable":
			p.i++
			body = append(body, &node{op: "output", at: t.pos, kids: []*node{p.tuple(true, nil, false)}})
			p.expect("end variable")
		case "begin block":
			p.i++
			for _, name := range end {
				if p.is(name) {
					return body
				}
			}
			if n := p.statement(end); n != nil {
				body = append(body, n)
			}
			p.expect("end block")
		default:
			fail(syntaxError, "unexpected '%s'", describe(t))
		}
	}
}

func quoted(names []string) string { return "'" + strings.Join(names, "' or '") + "'" }

func (p *parser) unclosed(end []string) {
	m := "Unexpected end of template. Jinja was looking for the following tags: " + quoted(end) + "."
	if n := len(p.open); n > 0 {
		m += " The innermost block that needs to be closed is '" + p.open[n-1] + "'."
	}
	fail(syntaxError, "%s", m)
}

// body reads statements up to the end tag named, whose name it takes.
func (p *parser) body(end string) []*node {
	p.expect("end block")
	body := p.statements([]string{end})
	p.i++
	return body
}

// statement reads a tag after its begin.
func (p *parser) statement(end []string) *node {
	t := p.cur()
	if t.kind != "name" {
		fail(syntaxError, "tag name expected")
	}
	p.open = append(p.open, t.text)
	defer func() { p.open = p.open[:len(p.open)-1] }()
	p.i++
	switch t.text {
	case "for":
		return p.forLoop(t.pos)
	case "if":
		return p.ifBlock(t.pos)
	case "set":
		return p.set(t.pos)
	case "macro":
		name := p.expect("name").text
		sig := p.signature()
		return &node{op: "macro", at: t.pos, name: name, sig: sig, more: p.scoped("endmacro")}
	case "call":
		n := &node{op: "call block", at: t.pos, sig: &signature{}}
		if p.is("(") {
			n.sig = p.signature()
		}
		call := p.expression()
		if call.op != "call" {
			fail(syntaxError, "expected call")
		}
		n.kids = []*node{call}
		n.more = p.scoped("endcall")
		return n
	case "filter":
		f := p.filter(nil, true)
		return &node{op: "filter block", at: t.pos, kids: []*node{f}, more: p.body("endfilter")}
	case "with":
		return p.with(t.pos)
	case "generation":
		return &node{op: "generation", at: t.pos, more: p.scoped("endgeneration")}
	case "block":
		p.expect("name")
		for p.skip("scoped") || p.skip("required") {
		}
		n := &node{op: "block", at: t.pos, more: p.scoped("endblock")}
		if p.is("name") {
			p.i++
		}
		return n
	case "autoescape":
		p.expression()
		return &node{op: "autoescape", at: t.pos, more: p.body("endautoescape")}
	case "print":
		n := &node{op: "output", at: t.pos}
		for !p.is("end block") {
			if n.kids != nil {
				p.expect(",")
			}
			n.kids = append(n.kids, p.expression())
		}
		return n
	case "break", "continue":
		if p.loops == 0 {
			fail("SyntaxError", "'%s' outside loop", t.text)
		}
		return &node{op: t.text, at: t.pos}
	case "include", "import", "extends", "from":
		for !p.is("end block") && !p.is("eof") {
			p.i++
		}
		return &node{op: "load", at: t.pos}
	}
	p.i--
	p.unknown(t.text, end)
	return nil
}

// unknown refuses a tag.
func (p *parser) unknown(name string, end []string) {
	m := "Encountered unknown tag '" + name + "'."
	if end != nil {
		m += " Jinja was looking for the following tags: " + quoted(end) + "."
		if n := len(p.open); n > 1 {
			m += " The innermost block that needs to be closed is '" + p.open[n-2] + "'."
		}
	}
	fail(syntaxError, "%s", m)
}

// scoped is body for blocks in which the loops around do not count.
func (p *parser) scoped(end string) []*node {
	loops := p.loops
	p.loops = 0
	defer func() { p.loops = loops }()
	return p.body(end)
}

func (p *parser) forLoop(at int) *node {
	n := &node{op: "for", at: at}
	target := p.target(false, []string{"in"})
	p.expect("in")
	iter := p.tuple(false, []string{"recursive"}, false)
	var test *node
	if p.skip("if") {
		test = p.expression()
	}
	n.not = p.skip("recursive")
	n.kids = []*node{target, iter, test}
	p.expect("end block")
	p.loops++
	loop := &node{op: "body", at: at, more: p.statements([]string{"endfor", "else"})}
	p.loops--
	n.more = []*node{loop, nil}
	if p.next().text == "else" {
		n.more[1] = &node{op: "body", at: at, more: p.body("endfor")}
	}
	return n
}

func (p *parser) ifBlock(at int) *node {
	n := &node{op: "if block", at: at}
	for {
		n.kids = append(n.kids, p.tuple(false, nil, false))
		p.expect("end block")
		n.more = append(n.more, &node{op: "body", at: at, more: p.statements([]string{"elif", "else", "endif"})})
		switch p.next().text {
		case "elif":
			continue
		case "else":
			n.more = append(n.more, &node{op: "body", at: at, more: p.body("endif")})
		}
		return n
	}
}

func (p *parser) set(at int) *node {
	target := p.target(true, nil)
	if p.skip("=") {
		return &node{op: "set", at: at, kids: []*node{target, p.tuple(true, nil, false)}}
	}
	var f *node
	if p.is("|") {
		f = p.filter(nil, false)
	}
	return &node{op: "set block", at: at, kids: []*node{target, f}, more: p.body("endset")}
}

func (p *parser) with(at int) *node {
	n := &node{op: "with", at: at}
	for !p.is("end block") {
		if n.kids != nil {
			p.expect(",")
		}
		target := p.target(false, nil)
		p.expect("=")
		n.kids = append(n.kids, target, p.expression())
	}
	n.more = p.body("endwith")
	return n
}

// signature reads the parameters of a macro.
func (p *parser) signature() *signature {
	s := &signature{}
	p.expect("(")
	for !p.is(")") {
		if s.names != nil {
			p.expect(",")
		}
		s.names = append(s.names, p.assignable(p.expect("name")))
		if p.skip("=") {
			s.defaults = append(s.defaults, p.expression())
		} else if s.defaults != nil {
			fail(syntaxError, "non-default argument follows default argument")
		}
	}
	p.expect(")")
	return s
}

// assignable refuses names that mean a constant.
func (p *parser) assignable(t token) string {
	switch t.text {
	case "true", "false", "none", "True", "False", "None":
		fail(syntaxError, "can't assign to '%s'", t.text)
	}
	return t.text
}

// target reads what a value is assigned to: a name, a tuple of targets, or an
// attribute of a namespace.
func (p *parser) target(namespace bool, end []string) *node {
	if namespace && p.is("name") && p.peek().kind == "." {
		t := p.next()
		p.i++
		return &node{op: "attr", at: t.pos, name: p.expect("name").text, kids: []*node{{op: "name", at: t.pos, name: t.text}}}
	}
	n := p.tuplePrimary(end)
	p.checkTarget(n)
	return n
}

func (p *parser) checkTarget(n *node) {
	switch n.op {
	case "name":
	case "tuple", "list":
		for _, k := range n.kids {
			p.checkTarget(k)
		}
	default:
		fail(syntaxError, "can't assign to '%s'", n.op)
	}
}
