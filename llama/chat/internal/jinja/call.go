package jinja

import (
	"strings"
)

// arguments evaluates what stands in the parentheses of a call.
func (in *interp) arguments(c *callArgs, s *scope) (a args) {
	if c == nil {
		return a
	}
	a.pos = in.evalAll(c.pos, s)
	if c.star != nil {
		items := in.iterate(in.eval(c.star, s))
		in.listed(len(items))
		a.pos = append(a.pos, items...)
	}
	a.names = c.names
	a.named = in.evalAll(c.named, s)
	if c.twoStar != nil {
		d, ok := in.eval(c.twoStar, s).(*Dict)
		if !ok {
			fail(typeError, "argument after ** must be a mapping")
		}
		in.listed(len(d.keys))
		a.names = append([]string{}, a.names...)
		for i, k := range d.keys {
			name, ok := k.(Str)
			if !ok {
				fail(typeError, "keywords must be strings")
			}
			a.names, a.named = append(a.names, name.s), append(a.named, d.values[i])
		}
	}
	return a
}

// call evaluates a call; caller is what a call block passes.
func (in *interp) call(n *node, s *scope, caller Value) Value {
	f := in.eval(n.kids[0], s)
	a := in.arguments(n.args, s)
	if caller != nil {
		a.names, a.named = append([]string{"caller"}, a.names...), append([]Value{caller}, a.named...)
	}
	in.at = n.at
	return in.invoke(f, a)
}

// invoke calls a value.
func (in *interp) invoke(f Value, a args) Value {
	in.step(1)
	in.enter()
	defer in.leave()
	switch f := f.(type) {
	case *function:
		return f.call(in, a)
	case *loop:
		if f.recurse == nil {
			fail(typeError, "The loop must have the 'recursive' marker to be called recursively.")
		}
		return f.recurse(in.bind("loop", a, "iterable").need(0))
	case undefined:
		in.defined(f)
	}
	fail(typeError, "'%s' object is not callable", typeName(f))
	return nil
}

// bound are arguments by the place of their parameter; nil is one not given.
type bound struct {
	in     *interp
	name   string
	params []string
	v      []Value
}

// bind matches arguments with the parameters of a function of the reference.
func (in *interp) bind(name string, a args, params ...string) bound {
	b := bound{in, name, params, make([]Value, len(params))}
	if len(a.pos) > len(params) {
		fail(typeError, "%s() takes at most %d arguments (%d given)", name, len(params), len(a.pos))
	}
	copy(b.v, a.pos)
next:
	for i, k := range a.names {
		for j, p := range params {
			if p != k {
				continue
			}
			if b.v[j] != nil {
				fail(typeError, "%s() got multiple values for argument '%s'", name, k)
			}
			b.v[j] = a.named[i]
			continue next
		}
		fail(typeError, "%s() got an unexpected keyword argument '%s'", name, k)
	}
	return b
}

// need is an argument that must be given.
func (b bound) need(i int) Value {
	if b.v[i] == nil {
		fail(typeError, "%s() missing 1 required positional argument: '%s'", b.name, b.params[i])
	}
	return b.v[i]
}

// or is an argument with its default.
func (b bound) or(i int, v Value) Value {
	if b.v[i] == nil {
		return v
	}
	return b.v[i]
}

// int reads an integer argument.
func (b bound) int(i int, or int64) int64 {
	n, ok := integer(b.or(i, or))
	if !ok {
		b.in.defined(b.v[i])
		fail(typeError, "'%s' object cannot be interpreted as an integer", typeName(b.v[i]))
	}
	return n
}

// text reads a string argument.
func (b bound) text(i int, or string) Str {
	s, ok := b.or(i, clean(or)).(Str)
	if !ok {
		b.in.defined(b.v[i])
		fail(typeError, "%s() argument '%s' must be str, not %s", b.name, b.params[i], typeName(b.v[i]))
	}
	return s
}

// macro makes a function of a body.
func (in *interp) macro(name string, sig *signature, body []*node, def *scope) *function {
	return &function{name: name, text: "<Macro " + quote(name) + ">", call: func(in *interp, a args) Value {
		s := &scope{outer: def}
		rest, extra := tuple(), NewDict()
		if len(a.pos) > len(sig.names) {
			rest = tuple(a.pos[len(sig.names):]...)
		}
		given := map[string]Value{}
		for i, name := range sig.names {
			if i < len(a.pos) {
				given[name] = a.pos[i]
			}
		}
		var caller Value = undefined{"No caller defined", undefinedError}
		for i, k := range a.names {
			_, twice := given[k]
			switch {
			case twice:
				fail(typeError, "macro %s got multiple values for argument %s", quote(name), quote(k))
			case sig.has(k):
				given[k] = a.named[i]
			case k == "caller":
				caller = a.named[i]
			default:
				extra.Set(k, a.named[i])
			}
		}
		if len(rest.items) > 0 && !uses(body, "varargs") {
			fail(typeError, "macro %s takes not more than %d argument(s)", quote(name), len(sig.names))
		}
		if len(extra.keys) > 0 && !uses(body, "kwargs") {
			fail(typeError, "macro %s takes no keyword argument %s", quote(name), quote(extra.keys[0].(Str).s))
		}
		s.set("varargs", rest)
		s.set("kwargs", extra)
		s.set("caller", caller)
		first := len(sig.names) - len(sig.defaults)
		for i, p := range sig.names {
			v, ok := given[p]
			if !ok && i >= first {
				v = in.eval(sig.defaults[i-first], s)
			} else if !ok {
				v = undefined{"parameter " + quote(p) + " was not provided", undefinedError}
			}
			s.set(p, v)
		}
		return in.capture(body, s)
	}}
}

func (s *signature) has(name string) bool {
	for _, n := range s.names {
		if n == name {
			return true
		}
	}
	return false
}

// uses reports whether a body speaks of a name.
func uses(body []*node, name string) bool {
	for _, n := range body {
		if n == nil {
			continue
		}
		if n.op == "name" && n.name == name || uses(n.kids, name) || uses(n.more, name) {
			return true
		}
		if a := n.args; a != nil && (uses(a.pos, name) || uses(a.named, name) || uses([]*node{a.star, a.twoStar}, name)) {
			return true
		}
	}
	return false
}

// globals are the functions that every template sees.
func (in *interp) globals() map[string]Value {
	g := map[string]Value{}
	add := func(name string, call func(in *interp, a args) Value) {
		g[name] = &function{name: name, text: "<function " + name + ">", call: call}
	}
	add("range", makeRange)
	add("dict", makeDict)
	add("namespace", func(in *interp, a args) Value {
		ns := &namespace{NewDict()}
		d := makeDict(in, a).(*Dict)
		for i, k := range d.keys {
			name, ok := k.(Str)
			if !ok {
				fail(typeError, "attribute names must be strings")
			}
			in.setAttr(ns, name.s, d.values[i])
		}
		return ns
	})
	add("cycler", makeCycler)
	add("joiner", func(in *interp, a args) Value {
		sep, used := in.bind("joiner", a, "sep").text(0, ", "), false
		return &function{name: "joiner", text: "<Joiner>", call: func(in *interp, a args) Value {
			if !used {
				used = true
				return Str{}
			}
			return sep
		}}
	})
	add("raise_exception", func(in *interp, a args) Value {
		fail(raised, "%s", in.str(in.bind("raise_exception", a, "message").need(0)).s)
		return nil
	})
	add("strftime_now", func(in *interp, a args) Value {
		return clean(in.strftime(in.bind("strftime_now", a, "format").text(0, "").s))
	})
	add("lipsum", func(*interp, args) Value {
		fail(securityError, "lipsum is not available")
		return nil
	})
	return g
}

// maxRange is the sandbox's.
const maxRange = 100000

func makeRange(in *interp, a args) Value {
	if len(a.names) > 0 {
		fail(typeError, "range() takes no keyword arguments")
	}
	if len(a.pos) == 0 || len(a.pos) > 3 {
		fail(typeError, "range expected 1 to 3 arguments, got %d", len(a.pos))
	}
	b := in.bind("range", a, "start", "stop", "step")
	start, stop, step := int64(0), b.int(0, 0), b.int(2, 1)
	shown := ""
	if len(a.pos) > 1 {
		start, stop = stop, b.int(1, 0)
	}
	if step == 0 {
		fail(valueError, "range() arg 3 must not be zero")
	}
	shown = "range(" + scalar(start) + ", " + scalar(stop)
	if step != 1 {
		shown += ", " + scalar(step)
	}
	if far := int64(1) << 62; start > far || start < -far || stop > far || stop < -far || step > far || step < -far {
		fail(overflowError, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
	}
	n := int64(0)
	if step > 0 && stop > start {
		n = (stop-start-1)/step + 1
	} else if step < 0 && stop < start {
		n = (start-stop-1)/-step + 1
	}
	if n > maxRange {
		fail(overflowError, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", maxRange)
	}
	in.listed(int(n))
	items := make([]Value, n)
	for i := range items {
		items[i] = start + int64(i)*step
	}
	return &list{items: items, kind: "range", shown: shown + ")"}
}

func makeDict(in *interp, a args) Value {
	d := NewDict()
	if len(a.pos) > 1 {
		fail(typeError, "dict expected at most 1 argument, got %d", len(a.pos))
	}
	for _, v := range a.pos {
		from, ok := v.(*Dict)
		if !ok {
			from = NewDict()
			for _, pair := range in.iterate(v) {
				kv := in.iterate(pair)
				if len(kv) != 2 {
					fail(valueError, "dictionary update sequence element has length %d; 2 is required", len(kv))
				}
				from.set(kv[0], kv[1])
			}
		}
		in.listed(4 * len(from.keys))
		d = from.copy()
	}
	for i, k := range a.names {
		d.Set(k, a.named[i])
	}
	return d
}

func makeCycler(in *interp, a args) Value {
	if len(a.pos) == 0 {
		fail(typeError, "at least one item has to be provided")
	}
	at := 0
	ns := &namespace{NewDict()}
	method := func(name string, call func() Value) {
		ns.attrs.Set(name, &function{name: name, text: "<bound method Cycler." + name + ">", call: func(*interp, args) Value { return call() }})
	}
	current := func() { ns.attrs.Set("current", a.pos[at]) }
	method("next", func() Value {
		v := a.pos[at]
		at = (at + 1) % len(a.pos)
		current()
		return v
	})
	method("reset", func() Value {
		at = 0
		current()
		return none{}
	})
	current()
	return ns
}

// member is an attribute of a value, as Python's getattr finds it through the
// sandbox.
func (in *interp) member(v Value, name string) (Value, bool) {
	if strings.HasPrefix(name, "__") {
		return undefined{"access to attribute " + quote(name) + " of " + quote(typeName(v)) + " object is unsafe.", securityError}, true
	}
	switch x := v.(type) {
	case *namespace:
		return x.attrs.str(name)
	case *loop:
		return in.loopMember(x, name)
	case *function:
		if name == "name" && strings.HasPrefix(x.text, "<Macro") {
			return clean(x.name), true
		}
	case Str, *list, *Dict:
		if l, ok := v.(*list); ok {
			for i, n := range l.names {
				if n == name {
					return l.items[i], true
				}
			}
		}
		if refused[typeName(unsafeType(v))][name] {
			return undefined{"access to attribute " + quote(name) + " of " + quote(typeName(v)) + " object is unsafe.", securityError}, true
		}
		if m := methodOf(v, name); m != nil {
			return &function{name: name, text: "<built-in method " + name + " of " + typeName(v) + " object>", call: func(in *interp, a args) Value {
				in.looked(v)
				return m(in, v, a)
			}}, true
		}
	}
	return nil, false
}

// unsafeType is v, or a plain str for a Markup.
func unsafeType(v Value) Value {
	if s, ok := v.(Str); ok {
		s.safe = false
		return s
	}
	return v
}

// refused are the methods that the sandbox takes for changing their object.
var refused = map[string]map[string]bool{
	"list": {"append": true, "clear": true, "pop": true, "reverse": true, "insert": true, "sort": true, "extend": true, "remove": true},
	"dict": {"clear": true, "pop": true, "popitem": true, "setdefault": true, "update": true},
}

// loopMember is an attribute of the loop variable.
func (in *interp) loopMember(l *loop, name string) (Value, bool) {
	n := len(l.items)
	near := func(i int, message string) Value {
		if i < 0 || i >= n {
			return undefined{message, undefinedError}
		}
		return l.items[i]
	}
	switch name {
	case "index":
		return int64(l.index + 1), true
	case "index0":
		return int64(l.index), true
	case "revindex":
		return int64(n - l.index), true
	case "revindex0":
		return int64(n - l.index - 1), true
	case "first":
		return l.index == 0, true
	case "last":
		return l.index == n-1, true
	case "length":
		return int64(n), true
	case "depth":
		return int64(l.depth + 1), true
	case "depth0":
		return int64(l.depth), true
	case "previtem":
		return near(l.index-1, "there is no previous item"), true
	case "nextitem":
		return near(l.index+1, "there is no next item"), true
	case "cycle":
		return &function{name: name, text: "<bound method LoopContext.cycle>", call: func(in *interp, a args) Value {
			if len(a.pos) == 0 {
				fail(typeError, "no items for cycling given")
			}
			return a.pos[l.index%len(a.pos)]
		}}, true
	case "changed":
		return &function{name: name, text: "<bound method LoopContext.changed>", call: func(in *interp, a args) Value {
			if l.changed != nil && in.equal(tuple(a.pos...), tuple(l.changed...)) {
				return false
			}
			l.changed = append([]Value{}, a.pos...)
			return true
		}}, true
	}
	return nil, false
}
