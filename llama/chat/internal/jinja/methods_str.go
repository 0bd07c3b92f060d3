package jinja

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// strMethod finds a method of str; nil if there is none.
func strMethod(name string) method {
	if m, ok := map[string]func(Str) Str{
		"upper": upper, "lower": lower, "title": titleMethod, "capitalize": capitalize, "swapcase": swapCase, "casefold": func(s Str) Str { return s.mapped(cases.Fold().String) },
	}[name]; ok {
		return func(in *interp, v Value, a args) Value {
			in.bind(name, a)
			in.made(len(v.(Str).s))
			return m(v.(Str))
		}
	}
	if is, ok := map[string]func(s string) bool{
		"isalpha": every(unicode.IsLetter),
		"isdigit": every(func(r rune) bool {
			return unicode.Is(unicode.Nd, r) || strings.ContainsRune("²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", r)
		}),
		"isdecimal": every(func(r rune) bool { return unicode.Is(unicode.Nd, r) }),
		"isnumeric": every(unicode.IsNumber),
		"isalnum":   every(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
		"isspace":   every(pySpace),
		"isascii":   func(s string) bool { return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0 },
		"isupper":   func(s string) bool { return cased(s, unicode.IsUpper, unicode.IsLower) },
		"islower":   func(s string) bool { return cased(s, unicode.IsLower, unicode.IsUpper) },
		"istitle": func(s string) bool {
			return s != "" && titleMethod(clean(s)).s == s && strings.IndexFunc(s, unicode.IsLetter) >= 0
		},
		"isprintable": func(s string) bool {
			return strings.IndexFunc(s, func(r rune) bool { return r != ' ' && (!unicode.IsGraphic(r) || unicode.Is(unicode.Zs, r)) }) < 0
		},
		"isidentifier": func(s string) bool {
			first, _ := utf8.DecodeRuneInString(s)
			return every(func(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) })(s) && !unicode.IsDigit(first)
		},
	}[name]; ok {
		return func(in *interp, v Value, a args) Value {
			in.bind(name, a)
			in.step(len(v.(Str).s) / 16)
			return is(v.(Str).s)
		}
	}
	m := strMethodOf(name)
	switch name {
	case "split", "rsplit", "splitlines", "expandtabs", "format":
		return m
	}
	if m == nil {
		return nil
	}
	return func(in *interp, v Value, a args) Value {
		positional("str."+name, a)
		return m(in, v, a)
	}
}

// strMethodOf finds a method with arguments.
func strMethodOf(name string) method {
	switch name {
	case "strip", "lstrip", "rstrip":
		return func(in *interp, v Value, a args) Value {
			return in.stripped(v.(Str), in.bind(name, a, "chars").or(0, none{}), name != "rstrip", name != "lstrip")
		}
	case "split", "rsplit":
		return func(in *interp, v Value, a args) Value { return in.split(v.(Str), a, name) }
	case "splitlines":
		return func(in *interp, v Value, a args) Value {
			return List(in.lines(v.(Str), truth(in.bind(name, a, "keepends").or(0, false)))...)
		}
	case "partition", "rpartition":
		return func(in *interp, v Value, a args) Value { return in.partition(v.(Str), a, name) }
	case "replace":
		return func(in *interp, v Value, a args) Value {
			b := in.bind(name, a, "old", "new", "count")
			b.need(0)
			b.need(1)
			return in.replaced(v.(Str), b.text(0, ""), b.text(1, ""), b.int(2, -1))
		}
	case "startswith", "endswith":
		return func(in *interp, v Value, a args) Value { return in.affix(v.(Str), a, name) }
	case "find", "rfind", "index", "rindex", "count":
		return func(in *interp, v Value, a args) Value { return in.search(v.(Str), a, name) }
	case "center", "ljust", "rjust", "zfill":
		return func(in *interp, v Value, a args) Value {
			b := in.bind(name, a, "width", "fillchar")
			b.need(0)
			fill := []rune(b.text(1, " ").s)
			if len(fill) != 1 {
				fail(typeError, "The fill character must be exactly one character long")
			}
			if name == "zfill" {
				fill[0] = '0'
			}
			how := map[string]string{"center": "center", "ljust": "left", "rjust": "right", "zfill": "zero"}[name]
			return in.padded(v.(Str), b.int(0, 0), fill[0], how)
		}
	case "removeprefix", "removesuffix":
		return func(in *interp, v Value, a args) Value { return in.without(v.(Str), a, name) }
	case "join":
		return func(in *interp, v Value, a args) Value {
			n := -1
			return in.joined(v.(Str), in.iterate(in.bind(name, a, "iterable").need(0)), func(item Value) Str {
				n++
				s, ok := item.(Str)
				if !ok {
					fail(typeError, "sequence item %d: expected str instance, %s found", n, typeName(item))
				}
				return s
			})
		}
	case "format":
		return func(in *interp, v Value, a args) Value { return in.format(v.(Str), a, 0) }
	case "format_map":
		return func(in *interp, v Value, a args) Value {
			return in.format(v.(Str), in.spread(in.bind(name, a, "mapping").need(0)), 0)
		}
	case "expandtabs":
		return func(in *interp, v Value, a args) Value {
			return in.expandTabs(v.(Str), in.bind(name, a, "tabsize").int(0, 8))
		}
	case "encode", "translate", "maketrans":
		return func(*interp, Value, args) Value {
			fail(securityError, "the method %s of str is not available in chat templates", name)
			return nil
		}
	}
	return nil
}

// positional refuses keyword arguments.
func positional(name string, a args) {
	if len(a.names) > 0 {
		fail(typeError, "%s() takes no keyword arguments", name)
	}
}

// without is str.removeprefix and str.removesuffix.
func (in *interp) without(s Str, a args, name string) Value {
	b := in.bind(name, a, "affix")
	b.need(0)
	cut := b.text(0, "").s
	switch {
	case name == "removeprefix" && strings.HasPrefix(s.s, cut):
		return s.sub(len(cut), len(s.s))
	case name == "removesuffix" && strings.HasSuffix(s.s, cut):
		return s.sub(0, len(s.s)-len(cut))
	}
	return s
}

// spread makes keyword arguments of a dict.
func (in *interp) spread(v Value) (a args) {
	d, ok := v.(*Dict)
	if !ok {
		fail(typeError, "format_map() wants a mapping, not '%s'", typeName(v))
	}
	for i, k := range d.keys {
		if s, ok := k.(Str); ok {
			a.names, a.named = append(a.names, s.s), append(a.named, d.values[i])
		}
	}
	return a
}

func titleMethod(s Str) Str {
	return titled(s, cases.Title(language.Und, cases.NoLower).String, func(r rune) bool { return !unicode.IsLetter(r) })
}

// every makes a test that all of one rune at least pass.
func every(is func(rune) bool) func(string) bool {
	return func(s string) bool {
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0
	}
}

// split is str.split and str.rsplit.
func (in *interp) split(s Str, a args, name string) Value {
	b := in.bind(name, a, "sep", "maxsplit")
	n := b.int(1, -1)
	if _, isNone := b.or(0, none{}).(none); isNone {
		if name == "split" {
			return List(in.words(s, n)...)
		}
		return List(in.lastWords(s, n)...)
	}
	sep := b.text(0, "").s
	if sep == "" {
		fail(valueError, "empty separator")
	}
	in.step(len(s.s) / 64)
	var out []Value
	if name == "rsplit" {
		end := len(s.s)
		for n < 0 || int64(len(out)) < n {
			i := strings.LastIndex(s.s[:end], sep)
			if i < 0 {
				break
			}
			in.items(1)
			out = append(out, s.sub(i+len(sep), end))
			end = i
		}
		out = append(out, s.sub(0, end))
		slices.Reverse(out)
	} else {
		at := 0
		for n < 0 || int64(len(out)) < n {
			i := strings.Index(s.s[at:], sep)
			if i < 0 {
				break
			}
			in.items(1)
			out = append(out, s.sub(at, at+i))
			at += i + len(sep)
		}
		out = append(out, s.sub(at, len(s.s)))
	}
	in.listed(len(out))
	return List(out...)
}

// lastWords is words from the right.
func (in *interp) lastWords(s Str, n int64) []Value {
	all := in.words(s, -1)
	if n < 0 || int64(len(all)) <= n {
		return all
	}
	rest := s.strip(false, true, pySpace)
	var out []Value
	for range n {
		i := strings.LastIndexFunc(rest.s, pySpace)
		_, w := utf8.DecodeRuneInString(rest.s[i:])
		out = append(out, rest.sub(i+w, len(rest.s)))
		rest = rest.sub(0, i).strip(false, true, pySpace)
	}
	out = append(out, rest)
	slices.Reverse(out)
	return out
}

func (in *interp) partition(s Str, a args, name string) Value {
	b := in.bind(name, a, "sep")
	b.need(0)
	sep := b.text(0, "")
	if sep.s == "" {
		fail(valueError, "empty separator")
	}
	i := strings.Index(s.s, sep.s)
	if name == "rpartition" {
		i = strings.LastIndex(s.s, sep.s)
	}
	switch {
	case i >= 0:
		return tuple(s.sub(0, i), s.sub(i, i+len(sep.s)), s.sub(i+len(sep.s), len(s.s)))
	case name == "rpartition":
		return tuple(Str{}, Str{}, s)
	}
	return tuple(s, Str{}, Str{})
}

// part is s[start:stop] for the arguments of a search, and its offset.
func (in *interp) part(s Str, b bound, i int) (string, int, bool) {
	in.step(len(s.s) / 64)
	n := s.length()
	start, stop, _ := in.sliceBounds([3]Value{b.or(i, none{}), b.or(i+1, none{}), none{}}, n)
	if start > stop {
		return "", 0, false
	}
	from, to := s.offset(start), s.offset(stop)
	return s.s[from:to], from, true
}

// affix is str.startswith and str.endswith.
func (in *interp) affix(s Str, a args, name string) Value {
	b := in.bind(name, a, "affix", "start", "end")
	text, _, ok := in.part(s, b, 1)
	list, isTuple := b.need(0).(*list)
	options := []Value{b.need(0)}
	if isTuple && list.kind == "tuple" {
		options = list.items
	}
	for _, o := range options {
		x, isText := o.(Str)
		if !isText {
			in.defined(o)
			fail(typeError, "%s first arg must be str or a tuple of str, not %s", name, typeName(o))
		}
		if ok && (name == "startswith" && strings.HasPrefix(text, x.s) || name == "endswith" && strings.HasSuffix(text, x.s)) {
			return true
		}
	}
	return false
}

// search is str.find, rfind, index, rindex and count.
func (in *interp) search(s Str, a args, name string) Value {
	b := in.bind(name, a, "sub", "start", "end")
	b.need(0)
	sub := b.text(0, "").s
	text, from, ok := in.part(s, b, 1)
	if name == "count" {
		if !ok {
			return int64(0)
		}
		return int64(strings.Count(text, sub))
	}
	i := -1
	switch {
	case !ok:
	case name[0] == 'r':
		i = strings.LastIndex(text, sub)
	default:
		i = strings.Index(text, sub)
	}
	if i < 0 {
		if strings.HasSuffix(name, "index") {
			fail(valueError, "substring not found")
		}
		return int64(-1)
	}
	return int64(utf8.RuneCountInString(s.s[:from+i]))
}

func (in *interp) expandTabs(s Str, size int64) Value {
	if size > int64(in.limits.String) {
		in.tooLong()
	}
	var b builder
	column := int64(0)
	for at := 0; at < len(s.s); {
		end := s.offset1(at)
		switch c := s.s[at]; {
		case c == '\t':
			if size > 0 {
				n := size - column%size
				in.made(int(n))
				b.text(strings.Repeat(" ", int(n)))
				column += n
			}
		default:
			b.add(s.sub(at, end))
			if column++; c == '\n' || c == '\r' {
				column = 0
			}
		}
		at = end
	}
	in.made(b.len())
	return b.str()
}
