package jinja

import (
	"slices"
	"strconv"
	"strings"
)

func filterFirst(in *interp, v Value, a args) Value {
	if g, ok := v.(*list); ok && g.kind == "generator" && len(g.items) > 0 {
		first := g.items[0]
		g.items = g.items[1:]
		return first
	}
	if items := in.iterate(v); len(items) > 0 {
		return items[0]
	}
	return undefined{"No first item, sequence was empty.", undefinedError}
}

func filterLast(in *interp, v Value, a args) Value {
	if g, ok := v.(*list); ok && g.kind == "generator" {
		fail(typeError, "'generator' object is not reversible")
	}
	if items := in.iterate(v); len(items) > 0 {
		return items[len(items)-1]
	}
	return undefined{"No last item, sequence was empty.", undefinedError}
}

func filterLength(in *interp, v Value, a args) Value {
	switch x := v.(type) {
	case Str:
		return int64(x.length())
	case *Dict:
		return int64(len(x.keys))
	case *list:
		if x.kind != "generator" {
			return int64(len(x.items))
		}
	case undefined:
		return int64(0)
	}
	fail(typeError, "object of type '%s' has no len()", typeName(v))
	return nil
}

func filterList(in *interp, v Value, a args) Value {
	items := in.iterate(v)
	in.listed(len(items))
	return List(slices.Clone(items)...)
}

func filterJoin(in *interp, v Value, a args) Value {
	b := in.bind("join", a, "d", "attribute")
	items := in.iterate(v)
	if b.v[1] != nil {
		get := in.getter(b.v[1], nil)
		items = slices.Clone(items)
		for i := range items {
			items[i] = get(items[i])
		}
	}
	return in.joined(in.str(b.or(0, Str{})), items, func(v Value) Str { return in.str(v) })
}

// joined puts items together with a separator.
func (in *interp) joined(sep Str, items []Value, text func(Value) Str) Str {
	var b builder
	for i, item := range items {
		in.step(1)
		if i > 0 {
			b.add(sep)
		}
		s := text(item)
		in.made(len(s.s) + len(sep.s))
		if b.add(s); b.len() > in.limits.String {
			in.tooLong()
		}
	}
	return b.str()
}

// getter makes a function that takes an attribute, as a.b.0, of a value.
func (in *interp) getter(attribute, or Value) func(Value) Value {
	var path []Value
	switch x := attribute.(type) {
	case none:
	case Str:
		for _, part := range strings.Split(x.s, ".") {
			if i, err := strconv.ParseInt(part, 10, 64); err == nil {
				path = append(path, i)
			} else {
				path = append(path, clean(part))
			}
		}
	default:
		path = []Value{x}
	}
	return func(v Value) Value {
		for _, p := range path {
			v = in.item(v, p)
			if _, missing := v.(undefined); missing && or != nil {
				v = or
			}
		}
		return v
	}
}

func filterMap(in *interp, v Value, a args) Value {
	if !truth(v) { // none too
		return generator(nil)
	}
	items := in.iterate(v)
	in.listed(len(items))
	out := make([]Value, len(items))
	var apply func(Value) Value
	if len(a.pos) == 0 {
		b := in.bind("map", a, "attribute", "default")
		if b.v[0] == nil {
			fail(filterError, "map requires a filter argument")
		}
		apply = in.getter(b.v[0], b.v[1])
	} else {
		name := in.str(a.pos[0]).s
		f := in.t.filters[name]
		if f == nil {
			fail(runtimeError, "No filter named %s.", quote(name))
		}
		rest := args{a.pos[1:], a.names, a.named}
		apply = func(v Value) Value { return f(in, v, rest) }
	}
	for i, item := range items {
		in.step(1)
		out[i] = apply(item)
	}
	return generator(out)
}

// choose makes select, reject, selectattr and rejectattr.
func choose(attribute, keep bool) filterFunc {
	return func(in *interp, v Value, a args) Value {
		if !truth(v) { // none too
			return generator(nil)
		}
		get := func(v Value) Value { return v }
		pos := a.pos
		if attribute {
			if len(pos) == 0 {
				fail(filterError, "Missing parameter for attribute name")
			}
			get, pos = in.getter(pos[0], nil), pos[1:]
		}
		test := func(in *interp, v Value, _ args) bool { return truth(v) }
		if len(pos) > 0 {
			name := in.str(pos[0]).s
			if test = in.t.tests[name]; test == nil {
				fail(runtimeError, "No test named %s.", quote(name))
			}
			pos = pos[1:]
		}
		var out []Value
		for _, item := range in.iterate(v) {
			in.step(1)
			if test(in, get(item), args{pos, a.names, a.named}) == keep {
				out = append(out, item)
			}
		}
		in.listed(len(out))
		return generator(out)
	}
}

// folded is a value as filters compare it: strings without case.
func folded(v Value) Value {
	if s, ok := v.(Str); ok {
		return lower(s)
	}
	return v
}

// sorted orders items by a key, stably.
func (in *interp) sorted(items []Value, key func(Value) Value, reverse bool) []Value {
	in.listed(3 * len(items))
	type pair struct{ key, item Value }
	pairs := make([]pair, len(items))
	for i, item := range items {
		pairs[i] = pair{key(item), item}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int {
		c := in.compare("<", a.key, b.key)
		if c == 2 {
			c = 0
		}
		if reverse {
			return -c
		}
		return c
	})
	out := make([]Value, len(items))
	for i, p := range pairs {
		out[i] = p.item
	}
	return out
}

// keyBy makes a sort key of attributes: several between commas.
func (in *interp) keyBy(attribute Value, exact bool) func(Value) Value {
	fold := folded
	if exact {
		fold = func(v Value) Value { return v }
	}
	if s, ok := attribute.(Str); ok && strings.Contains(s.s, ",") {
		var gets []func(Value) Value
		for _, part := range strings.Split(s.s, ",") {
			gets = append(gets, in.getter(clean(part), nil))
		}
		return func(v Value) Value {
			items := make([]Value, len(gets))
			for i, get := range gets {
				items[i] = fold(get(v))
			}
			return List(items...)
		}
	}
	get := in.getter(attribute, nil)
	return func(v Value) Value { return fold(get(v)) }
}

func filterSort(in *interp, v Value, a args) Value {
	b := in.bind("sort", a, "reverse", "case_sensitive", "attribute")
	key := in.keyBy(b.or(2, none{}), truth(b.or(1, false)))
	// A list of one, as in the reference: equal keys need not have an order.
	return List(in.sorted(in.iterate(v), func(v Value) Value { return List(key(v)) }, truth(b.or(0, false)))...)
}

func filterDictSort(in *interp, v Value, a args) Value {
	b := in.bind("dictsort", a, "case_sensitive", "by", "reverse")
	d, ok := v.(*Dict)
	if !ok {
		in.defined(v)
		fail(typeError, "'%s' object has no attribute 'items'", typeName(v))
	}
	at := map[string]int64{"key": 0, "value": 1}
	i, ok := at[b.text(1, "key").s]
	if !ok {
		fail(filterError, `You can only sort by either "key" or "value"`)
	}
	return List(in.sorted(pairsOf(d), in.keyBy(i, truth(b.or(0, false))), truth(b.or(2, false)))...)
}

func filterUnique(in *interp, v Value, a args) Value {
	b := in.bind("unique", a, "case_sensitive", "attribute")
	key := in.keyBy(b.or(1, none{}), truth(b.or(0, false)))
	seen := map[any]bool{}
	var out []Value
	for _, item := range in.iterate(v) {
		in.step(1)
		if h := hash(key(item)); !seen[h] {
			seen[h] = true
			out = append(out, item)
		}
	}
	in.listed(4 * len(out))
	return generator(out)
}

// extreme makes min and max.
func extreme(in *interp, v Value, a args, name string, sign int) Value {
	b := in.bind(name, a, "case_sensitive", "attribute")
	key := in.keyBy(b.or(1, none{}), truth(b.or(0, false)))
	var best Value
	for _, item := range in.iterate(v) {
		if best == nil || in.compare("<", key(item), key(best))*sign == 1 {
			best = item
		}
	}
	if best == nil {
		return undefined{"No aggregated item, sequence was empty.", undefinedError}
	}
	return best
}

func filterMax(in *interp, v Value, a args) Value { return extreme(in, v, a, "max", 1) }
func filterMin(in *interp, v Value, a args) Value { return extreme(in, v, a, "min", -1) }

func filterSum(in *interp, v Value, a args) Value {
	b := in.bind("sum", a, "attribute", "start")
	get := in.getter(b.or(0, none{}), nil)
	total := b.or(1, int64(0))
	if _, ok := total.(Str); ok {
		fail(typeError, "sum() can't sum strings [use ''.join(seq) instead]")
	}
	for _, item := range in.iterate(v) {
		in.step(1)
		total = in.binary("+", total, get(item))
	}
	return total
}

func filterGroupBy(in *interp, v Value, a args) Value {
	b := in.bind("groupby", a, "attribute", "default", "case_sensitive")
	get := in.getter(b.need(0), b.v[1])
	exact := truth(b.or(2, false))
	key := func(v Value) Value {
		if exact {
			return get(v)
		}
		return folded(get(v))
	}
	var groups []Value
	var members *list
	var last Value
	for _, item := range in.sorted(in.iterate(v), key, false) {
		k := key(item)
		if members == nil || !in.equal(k, last) {
			members, last = &list{kind: "list"}, k
			group := tuple(get(item), members)
			group.names = []string{"grouper", "list"}
			groups = append(groups, group)
		}
		members.items = append(members.items, item)
	}
	return List(groups...)
}

func filterBatch(in *interp, v Value, a args) Value {
	b := in.bind("batch", a, "linecount", "fill_with")
	b.need(0)
	n := b.int(0, 0)
	fill := b.or(1, none{})
	var out []Value
	items := in.iterate(v)
	in.listed(2 * len(items))
	if n < 1 {
		fail(valueError, "batch wants at least 1 item a row, not %d", n)
	}
	for from := 0; from < len(items); from += int(min(n, int64(len(items)))) {
		to := int(min(int64(from)+n, int64(len(items))))
		row := slices.Clone(items[from:to])
		if _, isNone := fill.(none); !isNone {
			if n > int64(in.limits.String/16) {
				in.tooLong()
			}
			in.listed(int(n))
			for int64(len(row)) < n {
				row = append(row, fill)
			}
		}
		out = append(out, List(row...))
	}
	return generator(out)
}

func filterSlice(in *interp, v Value, a args) Value {
	b := in.bind("slice", a, "slices", "fill_with")
	b.need(0)
	n, fill := b.int(0, 1), b.or(1, none{})
	items := in.iterate(v)
	if n <= 0 {
		fail(zeroDivision, "integer division or modulo by zero")
	}
	if n > int64(in.limits.String/16) {
		in.tooLong()
	}
	in.listed(len(items) + 2*int(n))
	per, extra := len(items)/int(n), len(items)%int(n)
	var out []Value
	at := 0
	for i := range int(n) {
		size := per
		if i < extra {
			size++
		}
		row := slices.Clone(items[at : at+size])
		if _, isNone := fill.(none); !isNone && i >= extra {
			row = append(row, fill)
		}
		at += size
		out = append(out, List(row...))
	}
	return generator(out)
}

// pairsOf are the items of a dict.
func pairsOf(d *Dict) []Value {
	out := make([]Value, len(d.keys))
	for i, k := range d.keys {
		out[i] = tuple(k, d.values[i])
	}
	return out
}

func filterItems(in *interp, v Value, a args) Value {
	switch x := v.(type) {
	case undefined:
		return generator(nil)
	case *Dict:
		in.listed(4 * len(x.keys))
		return generator(pairsOf(x))
	}
	fail(typeError, "Can only get item pairs from a mapping.")
	return nil
}

func filterReverse(in *interp, v Value, a args) Value {
	items := in.iterate(v)
	in.listed(len(items))
	out := slices.Clone(items)
	slices.Reverse(out)
	if _, ok := v.(Str); !ok {
		return generator(out)
	}
	var b builder
	for _, c := range out {
		b.add(c.(Str))
	}
	return b.str()
}
