package jinja

import (
	"strings"
)

// eval computes an expression.
func (in *interp) eval(n *node, s *scope) Value {
	in.step(0)
	if in.nest++; in.nest > maxNest {
		fail(limitError, "the template is nested too deep")
	}
	v := in.evalNode(n, s)
	in.nest--
	in.at = n.at
	return v
}

func (in *interp) evalNode(n *node, s *scope) Value {
	switch n.op {
	case "const":
		return n.val
	case "name":
		if v, ok := s.get(n.name); ok {
			return v
		}
		return undefined{"'" + n.name + "' is undefined", undefinedError}
	case "list", "tuple":
		in.listed(len(n.kids))
		return &list{items: in.evalAll(n.kids, s), kind: n.op}
	case "dict":
		d := NewDict()
		in.listed(len(n.kids) * 4)
		for i := 0; i < len(n.kids); i += 2 {
			d.set(in.eval(n.kids[i], s), in.eval(n.kids[i+1], s))
		}
		return d
	case "attr":
		v := in.eval(n.kids[0], s)
		in.at = n.at
		return in.attr(v, n.name)
	case "item":
		return in.evalItem(n, s)
	case "call":
		return in.call(n, s, nil)
	case "filter":
		return in.filterNode(n, in.eval(n.kids[0], s), s)
	case "test":
		v := in.eval(n.kids[0], s)
		a := in.arguments(n.args, s)
		in.at = n.at
		in.looked(v)
		return in.t.tests[n.name](in, v, a) != n.not
	case "if":
		if truth(in.eval(n.kids[0], s)) {
			return in.eval(n.kids[1], s)
		}
		if n.kids[2] == nil {
			return undefined{"the inline if-expression evaluated to false and no else section was defined.", undefinedError}
		}
		return in.eval(n.kids[2], s)
	case "not":
		return !truth(in.eval(n.kids[0], s))
	case "and", "or":
		var v Value
		for _, k := range n.kids {
			if v = in.eval(k, s); truth(v) == (n.op == "or") {
				break
			}
		}
		return v
	case "compare":
		return in.evalCompare(n, s)
	case "concat":
		var b builder
		for _, k := range n.kids {
			v := in.str(in.eval(k, s))
			in.made(len(v.s))
			if b.add(v); b.len() > in.limits.String {
				in.tooLong()
			}
		}
		return b.str()
	case "binary":
		a := in.eval(n.kids[0], s)
		b := in.eval(n.kids[1], s)
		in.at = n.at
		return in.binary(n.name, a, b)
	case "neg", "pos":
		v := in.eval(n.kids[0], s)
		in.at = n.at
		return in.unary(n.op, v)
	}
	fail(runtimeError, "cannot evaluate %s", n.op)
	return nil
}

func (in *interp) evalAll(nodes []*node, s *scope) []Value {
	out := make([]Value, len(nodes))
	for i, k := range nodes {
		out[i] = in.eval(k, s)
	}
	return out
}

func (in *interp) evalCompare(n *node, s *scope) Value {
	left := in.eval(n.kids[0], s)
	for i, op := range strings.Split(n.name, ",") {
		right := in.eval(n.kids[i+1], s)
		in.at = n.at
		if !in.holds(op, left, right) {
			return false
		}
		left = right
	}
	return true
}

// holds is one comparison.
func (in *interp) holds(op string, a, b Value) bool {
	switch op {
	case "==":
		return in.equal(a, b)
	case "!=":
		return !in.equal(a, b)
	case "in":
		return in.contains(b, a)
	case "not in":
		return !in.contains(b, a)
	}
	switch c := in.compare(op, a, b); op {
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c == 1
	default:
		return c >= 0 && c != 2
	}
}

// evalItem is a subscript: an item first, then an attribute.
func (in *interp) evalItem(n *node, s *scope) Value {
	v := in.eval(n.kids[0], s)
	if k := n.kids[1]; k.op == "slice" {
		parts := [3]Value{none{}, none{}, none{}}
		for i, part := range k.kids {
			if part != nil {
				parts[i] = in.eval(part, s)
			}
		}
		in.at = n.at
		return in.slice(v, parts)
	}
	key := in.eval(n.kids[1], s)
	in.at = n.at
	return in.item(v, key)
}

// item is v[key], or what the reference takes instead.
func (in *interp) item(v, key Value) Value {
	in.defined(v)
	switch x := v.(type) {
	case *Dict:
		if l, ok := key.(*list); !ok || l.kind == "tuple" {
			if found, ok := x.get(key); ok {
				return found
			}
		}
	case *namespace:
	case *list, Str:
		i, ok := integer(key)
		if !ok {
			break
		}
		if text, ok := x.(Str); ok {
			in.step(len(text.s) / 16)
			n := text.length()
			if i < 0 {
				i += int64(n)
			}
			if i >= 0 && i < int64(n) {
				at := text.offset(int(i))
				return text.sub(at, text.offset1(at))
			}
			break
		}
		items := x.(*list)
		if !items.sequence() {
			break
		}
		if i < 0 {
			i += int64(len(items.items))
		}
		if i >= 0 && i < int64(len(items.items)) {
			return items.items[i]
		}
	}
	if name, ok := key.(Str); ok {
		if found, ok := in.member(v, name.s); ok {
			return found
		}
		return undefined{quote(objectName(v)) + " has no attribute " + quote(name.s), undefinedError}
	}
	return undefined{objectName(v) + " has no element " + in.repr(key), undefinedError}
}

// attr is v.name: an attribute first, then an item.
func (in *interp) attr(v Value, name string) Value {
	in.defined(v)
	if found, ok := in.member(v, name); ok {
		return found
	}
	if d, ok := v.(*Dict); ok {
		if found, ok := d.str(name); ok {
			return found
		}
	}
	return undefined{quote(objectName(v)) + " has no attribute " + quote(name), undefinedError}
}

// slice is v[start:stop:step].
func (in *interp) slice(v Value, parts [3]Value) Value {
	in.defined(v)
	text, isText := v.(Str)
	items, isList := v.(*list)
	if _, ok := v.(*Dict); ok {
		fail(typeError, "unhashable type: 'slice'")
	}
	if !isText && (!isList || !items.sequence()) {
		fail(typeError, "'%s' object is not subscriptable", typeName(v))
	}
	n := 0
	in.looked(v)
	if isText {
		n = text.length()
	} else {
		n = len(items.items)
	}
	start, stop, step := in.sliceBounds(parts, n)
	if isText {
		in.step(len(text.s) / 64)
		if step == 1 {
			start = min(start, stop)
			from := text.offset(start)
			return Str{s: text.s, data: text.data, safe: text.safe}.sub(from, text.offset(max(stop, start)))
		}
		chars := in.iterate(text)
		var b builder
		for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
			b.add(chars[i].(Str))
		}
		in.made(b.len())
		return b.str()
	}
	var out []Value
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		out = append(out, items.items[i])
	}
	in.listed(len(out))
	kind := items.kind
	if kind == "range" {
		kind = "list"
	}
	return &list{items: out, kind: kind}
}

// sliceBounds are Python's slice.indices.
func (in *interp) sliceBounds(parts [3]Value, n int) (start, stop, step int) {
	read := func(v Value, or int) int {
		if _, ok := v.(none); ok {
			return or
		}
		i, ok := integer(v)
		if !ok {
			in.defined(v)
			fail(typeError, "slice indices must be integers or None or have an __index__ method")
		}
		return int(max(min(i, 1<<31-2), -1<<31+2))
	}
	step = read(parts[2], 1)
	if step == 0 {
		fail(valueError, "slice step cannot be zero")
	}
	low, high := 0, n
	if step < 0 {
		low, high = -1, n-1
	}
	clamp := func(v Value, or int) int {
		if _, ok := v.(none); ok {
			return or
		}
		i := read(v, or)
		if i < 0 {
			return max(i+n, low)
		}
		return min(i, high)
	}
	if step > 0 {
		return clamp(parts[0], low), clamp(parts[1], high), step
	}
	return clamp(parts[0], high), clamp(parts[1], low), step
}
