package jinja

import (
	"math/big"
	"strconv"
	"strings"
)

func (p *parser) expression() *node {
	p.enter()
	defer p.leave()
	return p.condition()
}

// condition reads a if b else c.
func (p *parser) condition() *node {
	first := p.or()
	for p.is("if") {
		t := p.next()
		n := &node{op: "if", at: t.pos, kids: []*node{p.or(), first, nil}}
		if p.skip("else") {
			p.enter()
			n.kids[2] = p.condition()
			p.leave()
		}
		first = n
	}
	return first
}

// binary reads left-associative operators.
func (p *parser) binary(operand func() *node, op string, words ...string) *node {
	left := operand()
	for p.is(words...) {
		t := p.next()
		name := t.text
		if left.op == op && op != "binary" && op != "compare" {
			left.kids = append(left.kids, operand())
			continue
		}
		left = &node{op: op, at: t.pos, name: name, kids: []*node{left, operand()}}
	}
	return left
}

func (p *parser) or() *node  { return p.binary(p.and, "or", "or") }
func (p *parser) and() *node { return p.binary(p.not, "and", "and") }

func (p *parser) not() *node {
	if !p.is("not") {
		return p.compare()
	}
	p.enter()
	defer p.leave()
	t := p.next()
	return &node{op: "not", at: t.pos, kids: []*node{p.not()}}
}

func (p *parser) compare() *node {
	first := p.sum()
	n := &node{op: "compare", at: first.at, kids: []*node{first}}
	var ops []string
	for {
		switch {
		case p.is("==", "!=", "<", "<=", ">", ">=", "in"):
			ops = append(ops, p.next().text)
		case p.is("not") && p.peek().text == "in":
			p.i += 2
			ops = append(ops, "not in")
		default:
			if ops == nil {
				return first
			}
			n.name = strings.Join(ops, ",")
			return n
		}
		n.kids = append(n.kids, p.sum())
	}
}

func (p *parser) sum() *node { return p.binary(p.concat, "binary", "+", "-") }

func (p *parser) concat() *node { return p.binary(p.product, "concat", "~") }

func (p *parser) product() *node { return p.binary(p.power, "binary", "*", "/", "//", "%") }

func (p *parser) power() *node {
	return p.binary(func() *node { return p.unary(true) }, "binary", "**")
}

func (p *parser) unary(filters bool) *node {
	var n *node
	switch t := p.cur(); {
	case p.is("-", "+"):
		p.enter()
		p.i++
		n = &node{op: map[string]string{"-": "neg", "+": "pos"}[t.kind], at: t.pos, kids: []*node{p.unary(false)}}
		p.leave()
	default:
		n = p.primary()
	}
	n = p.postfix(n)
	if filters {
		n = p.filters(n)
	}
	return n
}

func (p *parser) primary() *node {
	t := p.cur()
	c := func(v Value) *node { p.i++; return &node{op: "const", at: t.pos, val: v} }
	switch t.kind {
	case "name":
		switch t.text {
		case "true", "True":
			return c(true)
		case "false", "False":
			return c(false)
		case "none", "None":
			return c(none{})
		}
		p.i++
		return &node{op: "name", at: t.pos, name: t.text}
	case "string":
		var b strings.Builder
		for p.cur().kind == "string" {
			b.WriteString(p.next().text)
		}
		return &node{op: "const", at: t.pos, val: clean(b.String())}
	case "int":
		i, ok := new(big.Int).SetString(t.text, intBase(t.text))
		if !ok || i.BitLen() > 1<<12 {
			fail(syntaxError, "bad number %.40q", t.text)
		}
		return c(fromBig(i))
	case "float":
		f, _ := strconv.ParseFloat(t.text, 64) // out of range is infinite, as in Python
		return c(f)
	case "(":
		p.i++
		n := p.tuple(true, nil, true)
		p.expect(")")
		return n
	case "[":
		p.i++
		n := &node{op: "list", at: t.pos}
		for !p.is("]") {
			if n.kids != nil {
				p.expect(",")
			}
			if p.is("]") {
				break
			}
			n.kids = append(n.kids, p.expression())
		}
		p.expect("]")
		return n
	case "{":
		return p.dict()
	}
	fail(syntaxError, "unexpected '%s'", describe(t))
	return nil
}

// intBase is 0 where a prefix tells the base, else 10: 007 is 7.
func intBase(s string) int {
	if len(s) > 2 && s[0] == '0' && s[1] > '9' {
		return 0
	}
	return 10
}

func (p *parser) dict() *node {
	n := &node{op: "dict", at: p.next().pos}
	for !p.is("}") {
		if n.kids != nil {
			p.expect(",")
		}
		if p.is("}") {
			break
		}
		key := p.expression()
		p.expect(":")
		n.kids = append(n.kids, key, p.expression())
	}
	p.expect("}")
	return n
}

// tupleEnd reports whether a tuple ends here.
func (p *parser) tupleEnd(end []string) bool {
	return p.is("end variable", "end block", ")") || end != nil && p.is(end...)
}

// tuple reads one expression or several between commas.
func (p *parser) tuple(conditions bool, end []string, parentheses bool) *node {
	read := p.expression
	if !conditions {
		read = func() *node { p.enter(); defer p.leave(); return p.or() }
	}
	return p.commas(read, end, parentheses)
}

// tuplePrimary is tuple for the targets of assignments.
func (p *parser) tuplePrimary(end []string) *node {
	return p.commas(func() *node { p.enter(); defer p.leave(); return p.primary() }, end, false)
}

func (p *parser) commas(read func() *node, end []string, parentheses bool) *node {
	at := p.cur().pos
	var items []*node
	isTuple := false
	for {
		if items != nil {
			p.expect(",")
		}
		if p.tupleEnd(end) {
			break
		}
		items = append(items, read())
		if !p.is(",") {
			break
		}
		isTuple = true
	}
	if !isTuple {
		if items != nil {
			return items[0]
		}
		if !parentheses {
			fail(syntaxError, "Expected an expression, got '%s'", describe(p.cur()))
		}
	}
	return &node{op: "tuple", at: at, kids: items}
}

// postfix reads .name, [...] and (...).
func (p *parser) postfix(n *node) *node {
	for {
		switch t := p.cur(); t.kind {
		case ".":
			p.i++
			switch a := p.next(); a.kind {
			case "name":
				n = &node{op: "attr", at: a.pos, name: a.text, kids: []*node{n}}
			case "int":
				i, _ := strconv.ParseInt(a.text, 10, 64)
				n = &node{op: "item", at: a.pos, kids: []*node{n, {op: "const", at: a.pos, val: i}}}
			default:
				p.i--
				fail(syntaxError, "expected name or number")
			}
		case "[":
			p.i++
			n = &node{op: "item", at: t.pos, kids: []*node{n, p.subscript()}}
			p.expect("]")
		case "(":
			n = &node{op: "call", at: t.pos, kids: []*node{n}, args: p.arguments()}
		default:
			return n
		}
	}
}

// subscript reads what stands in brackets.
func (p *parser) subscript() *node {
	at := p.cur().pos
	var items []*node
	for {
		items = append(items, p.slice())
		if !p.skip(",") {
			break
		}
	}
	if len(items) == 1 {
		return items[0]
	}
	return &node{op: "tuple", at: at, kids: items}
}

func (p *parser) slice() *node {
	at := p.cur().pos
	parts := []*node{nil, nil, nil}
	if !p.is(":") {
		first := p.expression()
		if !p.is(":") {
			return first
		}
		parts[0] = first
	}
	p.expect(":")
	if !p.is(":", "]", ",") {
		parts[1] = p.expression()
	}
	if p.skip(":") && !p.is("]", ",") {
		parts[2] = p.expression()
	}
	return &node{op: "slice", at: at, kids: parts}
}

// arguments reads the arguments of a call.
func (p *parser) arguments() *callArgs {
	a := &callArgs{}
	p.expect("(")
	for first := true; !p.is(")"); first = false {
		if !first {
			p.expect(",")
			if p.is(")") {
				break
			}
		}
		ok := true
		switch {
		case p.skip("*"):
			ok = a.star == nil && a.twoStar == nil
			a.star = p.expression()
		case p.skip("**"):
			ok = a.twoStar == nil
			a.twoStar = p.expression()
		case p.is("name") && p.peek().kind == "=":
			ok = a.twoStar == nil
			a.names = append(a.names, p.next().text)
			p.i++
			a.named = append(a.named, p.expression())
		default:
			ok = a.star == nil && a.twoStar == nil && a.names == nil
			a.pos = append(a.pos, p.expression())
		}
		if !ok {
			fail(syntaxError, "invalid syntax for function call expression")
		}
	}
	p.expect(")")
	return a
}

// filters reads what may follow an operand: | filters, is tests, and calls.
func (p *parser) filters(n *node) *node {
	for {
		switch t := p.cur(); {
		case t.kind == "|":
			n = p.filter(n, false)
		case p.is("is"):
			n = p.test(n)
		case t.kind == "(":
			n = &node{op: "call", at: t.pos, kids: []*node{n}, args: p.arguments()}
		default:
			return n
		}
	}
}

// filter reads filters; n nil is what a block holds. inline leaves out the
// first bar.
func (p *parser) filter(n *node, inline bool) *node {
	for p.is("|") || inline {
		if !inline {
			p.i++
		}
		t := p.expect("name")
		name := t.text
		for p.skip(".") {
			name += "." + p.expect("name").text
		}
		a := &callArgs{}
		if p.is("(") {
			a = p.arguments()
		}
		if p.filterTable[name] == nil {
			p.failed = t.pos
			fail(assertionError, "No filter named '%s'.", name)
		}
		n = &node{op: "filter", at: t.pos, name: name, kids: []*node{n}, args: a}
		inline = false
	}
	return n
}

func (p *parser) test(n *node) *node {
	p.i++
	not := p.skip("not")
	t := p.expect("name")
	name := t.text
	for p.skip(".") {
		name += "." + p.expect("name").text
	}
	a := &callArgs{}
	switch {
	case p.is("("):
		a = p.arguments()
	case p.is("name", "string", "int", "float", "[", "{") && !p.is("else", "or", "and"):
		if p.is("is") {
			fail(syntaxError, "You cannot chain multiple tests with is")
		}
		a.pos = []*node{p.postfix(p.primary())}
	}
	if p.testTable[name] == nil {
		p.failed = t.pos
		fail(assertionError, "No test named '%s'.", name)
	}
	return &node{op: "test", at: t.pos, name: name, kids: []*node{n}, args: a, not: not}
}
