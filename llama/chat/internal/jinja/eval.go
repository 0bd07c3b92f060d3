package jinja

import (
	"runtime"
	"strings"
	"time"
)

// Options are the settings of one rendering.
type Options struct {
	Now    time.Time // what strftime_now sees
	Limits Limits
}

// Text is what a template wrote.
type Text struct {
	String     string
	Data       []Span  // its parts that came from outside, ascending and apart
	Generation []Range // what generation blocks wrote, in the order of their ends
}

// Range is a part of a text, [Start, End) in bytes.
type Range struct{ Start, End int }

// scope holds the names that are set in a block, and what is around it.
type scope struct {
	names map[string]Value
	outer *scope
}

func (s *scope) set(name string, v Value) {
	if s.names == nil {
		s.names = map[string]Value{}
	}
	s.names[name] = v
}

func (s *scope) get(name string) (Value, bool) {
	for ; s != nil; s = s.outer {
		if v, ok := s.names[name]; ok {
			return v, true
		}
	}
	return nil, false
}

// interp is one rendering.
type interp struct {
	t      *Template
	limits Limits
	now    time.Time
	at     int // place of the node under way
	steps  int
	bytes  int
	depth  int // of calls
	deep   int // of values within values
	nest   int // of expressions and statements
	out    *builder
	outer  int // builders around out
	gen    []Range
	root   *scope
}

// Render runs the template. Errors are *Error.
func (t *Template) Render(vars *Dict, o Options) (text Text, err error) {
	given := o.Limits.Bytes > 0
	in := &interp{t: t, limits: o.Limits.resolved(), now: o.Now, out: &builder{}}
	defer func() {
		switch e := recover().(type) {
		case nil:
		case *Error:
			e.Line, e.Column = position(t.src, in.at)
			text, err = Text{}, e
		case runtime.Error:
			text, err = Text{}, &Error{Kind: runtimeError, Message: "the interpreter failed: " + e.Error()}
		default:
			panic(e)
		}
	}()
	globals := &scope{names: in.globals()}
	in.root = &scope{outer: globals}
	for i, k := range vars.keys {
		in.root.set(k.(Str).s, vars.values[i])
	}
	if !given {
		in.limits.Bytes += 128 * in.weigh(vars)
	}
	in.run(t.body, in.root)
	s := in.out.str()
	return Text{s.s, s.data, in.gen}, nil
}

// weigh is the number of bytes in a value.
func (in *interp) weigh(v Value) (n int) {
	switch v := v.(type) {
	case Str:
		return len(v.s)
	case *list:
		for _, item := range v.items {
			n += in.weigh(item)
		}
	case *Dict:
		for i, k := range v.keys {
			n += in.weigh(k) + in.weigh(v.values[i])
		}
	}
	return n + 16
}

// flow is how a statement ends.
type flow int

const (
	goOn flow = iota
	breakLoop
	continueLoop
)

// write adds to the output.
func (in *interp) write(s Str) {
	if in.out.len()+len(s.s) > in.limits.String {
		in.tooLong()
	}
	in.made(len(s.s))
	in.out.add(s)
}

// capture runs a body and returns what it writes.
func (in *interp) capture(body []*node, s *scope) Str {
	out := in.out
	in.out = &builder{}
	in.outer++
	in.run(body, s)
	text := in.out.str()
	in.out = out
	in.outer--
	return text
}

func (in *interp) run(body []*node, s *scope) flow {
	if in.nest++; in.nest > maxNest {
		fail(limitError, "the template is nested too deep")
	}
	defer func() { in.nest-- }()
	for _, n := range body {
		if f := in.exec(n, s); f != goOn {
			return f
		}
	}
	return goOn
}

// exec runs one statement.
func (in *interp) exec(n *node, s *scope) flow {
	in.step(0)
	in.at = n.at
	switch n.op {
	case "data":
		in.write(n.val.(Str))
	case "output":
		for _, k := range n.kids {
			in.write(in.str(in.eval(k, s)))
		}
	case "if block":
		for i, body := range n.more {
			if i == len(n.kids) || truth(in.eval(n.kids[i], s)) {
				return in.run(body.more, s)
			}
		}
	case "for":
		in.forLoop(n, s, in.eval(n.kids[1], s), 0)
	case "set":
		in.assign(n.kids[0], in.eval(n.kids[1], s), s)
	case "set block":
		var v Value = in.capture(n.more, &scope{outer: s})
		if n.kids[1] != nil {
			v = in.filterChain(n.kids[1], v, s)
		}
		in.assign(n.kids[0], v, s)
	case "filter block":
		text := in.capture(n.more, &scope{outer: s})
		in.write(in.str(in.filterChain(n.kids[0], text, s)))
	case "macro":
		s.set(n.name, in.macro(n.name, n.sig, n.more, s))
	case "call block":
		caller := in.macro("caller", n.sig, n.more, s)
		in.write(in.str(in.call(n.kids[0], s, caller)))
	case "generation":
		text := in.capture(n.more, &scope{outer: s})
		start := in.out.len()
		in.write(text)
		if in.outer == 0 {
			in.gen = append(in.gen, Range{start, in.out.len()})
		}
	case "with":
		inner := &scope{outer: s}
		for i := 0; i < len(n.kids); i += 2 {
			in.assign(n.kids[i], in.eval(n.kids[i+1], s), inner)
		}
		return in.run(n.more, inner)
	case "block", "autoescape":
		return in.run(n.more, &scope{outer: s})
	case "load":
		fail(typeError, "no loader for this environment specified")
	case "break":
		return breakLoop
	case "continue":
		return continueLoop
	}
	return goOn
}

// assign binds targets to a value.
func (in *interp) assign(target *node, v Value, s *scope) {
	switch target.op {
	case "name":
		s.set(target.name, v)
	case "attr":
		ns, ok := in.eval(target.kids[0], s).(*namespace)
		if !ok {
			fail(runtimeError, "cannot assign attribute on non-namespace object")
		}
		in.setAttr(ns, target.name, v)
	default:
		items := in.iterate(v)
		switch {
		case len(items) < len(target.kids):
			fail(valueError, "not enough values to unpack (expected %d, got %d)", len(target.kids), len(items))
		case len(items) > len(target.kids):
			fail(valueError, "too many values to unpack (expected %d)", len(target.kids))
		}
		for i, k := range target.kids {
			in.assign(k, items[i], s)
		}
	}
}

func (in *interp) setAttr(ns *namespace, name string, v Value) {
	if strings.HasPrefix(name, "_") {
		fail(securityError, "Chat templates cannot store underscore-prefixed attributes on a namespace, but got %s. Please rename the attribute.", quote(name))
	}
	ns.attrs.Set(name, v)
}

// loop is the variable of that name in a for loop.
type loop struct {
	items   []Value
	index   int
	depth   int
	changed []Value           // of the last call
	recurse func(v Value) Str // runs a recursive loop over another value
}

// forLoop runs a loop over a value; depth counts recursive loops.
func (in *interp) forLoop(n *node, s *scope, iter Value, depth int) {
	target, test := n.kids[0], n.kids[2]
	items := in.iterate(iter)
	if test != nil {
		var kept []Value
		for _, item := range items {
			in.step(1)
			inner := &scope{outer: s}
			in.assign(target, item, inner)
			if truth(in.eval(test, inner)) {
				kept = append(kept, item)
			}
		}
		items = kept
	}
	if len(items) == 0 {
		if n.more[1] != nil {
			in.run(n.more[1].more, &scope{outer: s})
		}
		return
	}
	l := &loop{items: items, depth: depth}
	if n.not { // recursive
		l.recurse = func(v Value) Str {
			in.enter()
			defer in.leave()
			out := in.out
			in.out = &builder{}
			in.outer++
			in.forLoop(n, s, v, depth+1)
			text := in.out.str()
			in.out = out
			in.outer--
			return text
		}
	}
	for i, item := range items {
		in.step(1)
		l.index = i
		inner := &scope{outer: s}
		inner.set("loop", l)
		in.assign(target, item, inner)
		if in.run(n.more[0].more, inner) == breakLoop {
			break
		}
	}
}
