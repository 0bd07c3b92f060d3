package jinja

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// method is a method of a value.
type method func(in *interp, v Value, a args) Value

// methodOf finds a method; nil if there is none.
func methodOf(v Value, name string) method {
	switch v := v.(type) {
	case Str:
		return strMethod(name)
	case *Dict:
		return dictMethod(name)
	case *list:
		return listMethod(v, name)
	}
	return nil
}

func dictMethod(name string) method {
	view := func(kind string, items func(d *Dict) []Value) method {
		return func(in *interp, v Value, a args) Value {
			in.bind(name, a)
			d := v.(*Dict)
			in.listed(4 * len(d.keys))
			return &list{items: items(d), kind: kind}
		}
	}
	switch name {
	case "get":
		return func(in *interp, v Value, a args) Value {
			positional("dict.get", a)
			b := in.bind("get", a, "key", "default")
			if found, ok := v.(*Dict).get(b.need(0)); ok {
				return found
			}
			return b.or(1, none{})
		}
	case "keys":
		return view("dict_keys", func(d *Dict) []Value { return slices.Clone(d.keys) })
	case "values":
		return view("dict_values", func(d *Dict) []Value { return slices.Clone(d.values) })
	case "items":
		return view("dict_items", pairsOf)
	case "copy":
		return func(in *interp, v Value, a args) Value {
			d := v.(*Dict)
			in.listed(8 * len(d.keys))
			return d.copy()
		}
	}
	return nil
}

func listMethod(l *list, name string) method {
	if !l.sequence() {
		return nil
	}
	switch name {
	case "index":
		return func(in *interp, v Value, a args) Value {
			positional("list.index", a)
			b := in.bind("index", a, "value", "start", "stop")
			parts := [3]Value{b.or(1, none{}), b.or(2, none{}), none{}}
			start, stop, _ := in.sliceBounds(parts, len(l.items))
			for i := start; i < stop; i++ {
				if in.equal(l.items[i], b.need(0)) {
					return int64(i)
				}
			}
			fail(valueError, "%s is not in list", in.repr(b.need(0)))
			return nil
		}
	case "count":
		return func(in *interp, v Value, a args) Value {
			positional("list.count", a)
			n, x := int64(0), in.bind("count", a, "value").need(0)
			for _, item := range l.items {
				if in.equal(item, x) {
					n++
				}
			}
			return n
		}
	case "copy":
		if l.kind == "list" {
			return func(in *interp, v Value, a args) Value { return filterList(in, v, a) }
		}
	}
	return nil
}

// Case changes follow Unicode's full mappings, as Python's do.
func upper(s Str) Str { return s.mapped(cases.Upper(language.Und).String) }

// lower maps a text as a whole: a final sigma depends on what is around it.
func lower(s Str) Str {
	text := cases.Lower(language.Und).String(s.s)
	if s.data == nil || len(text) == len(s.s) && utf8.RuneCountInString(text) == utf8.RuneCountInString(s.s) && sameWidths(text, s.s) {
		return Str{s: text, data: s.data, safe: s.safe}
	}
	return s.mapped(cases.Lower(language.Und).String)
}

// sameWidths reports whether two texts have runes of the same lengths.
func sameWidths(a, b string) bool {
	for i := range a {
		if !utf8.RuneStart(b[i]) {
			return false
		}
	}
	return true
}

func capitalize(s Str) Str {
	if s.s == "" {
		return s
	}
	at := s.offset1(0)
	first := s.sub(0, at).mapped(func(t string) string { return cases.Title(language.Und).String(t) })
	out := concat(first, lower(s.sub(at, len(s.s))))
	out.safe = s.safe
	return out
}

// titleFilter is jinja2's title: words are apart by white space, hyphens and
// opening brackets.
func titleFilter(s Str) Str {
	return titled(s, cases.Upper(language.Und).String, func(r rune) bool { return pySpace(r) || strings.ContainsRune("-({[<", r) })
}

// titled makes the first letter of each word a capital and the others small.
func titled(s Str, first func(string) string, apart func(rune) bool) Str {
	start := true
	var b builder
	for at := 0; at < len(s.s); {
		end := s.offset1(at)
		r, _ := utf8.DecodeRuneInString(s.s[at:])
		part := s.sub(at, end)
		switch {
		case apart(r):
			start = true
		case start:
			part = part.mapped(first)
			start = false
		default:
			part = part.mapped(func(t string) string { return strings.ToLower(t) })
		}
		b.add(part)
		at = end
	}
	out := b.str()
	out.safe = s.safe
	return out
}

func swapCase(s Str) Str {
	return s.mapped(func(t string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsUpper(r) {
				return unicode.ToLower(r)
			}
			return unicode.ToUpper(r)
		}, t)
	})
}

// words splits at white space, at most n times unless n < 0.
func (in *interp) words(s Str, n int64) []Value {
	in.step(len(s.s) / 16)
	var out []Value
	at := 0
	for {
		rest := strings.TrimLeftFunc(s.s[at:], pySpace)
		at = len(s.s) - len(rest)
		if rest == "" {
			break
		}
		in.items(1)
		if n >= 0 && int64(len(out)) == n {
			out = append(out, s.sub(at, len(s.s)))
			break
		}
		end := strings.IndexFunc(rest, pySpace)
		if end < 0 {
			end = len(rest)
		}
		out = append(out, s.sub(at, at+end))
		at += end
	}
	in.listed(len(out))
	return out
}

// lines splits at the ends of lines.
func (in *interp) lines(s Str, keep bool) []Value {
	in.step(len(s.s) / 16)
	var out []Value
	start := 0
	for at := 0; at < len(s.s); {
		r, w := utf8.DecodeRuneInString(s.s[at:])
		end := at + w
		at = end
		switch r {
		case '\r':
			if at < len(s.s) && s.s[at] == '\n' {
				at++
			}
		case '\n', '\v', '\f', 0x1c, 0x1d, 0x1e, 0x85, 0x2028, 0x2029:
		default:
			continue
		}
		in.items(1)
		if keep {
			out = append(out, s.sub(start, at))
		} else {
			out = append(out, s.sub(start, end-w))
		}
		start = at
	}
	if start < len(s.s) {
		out = append(out, s.sub(start, len(s.s)))
	}
	in.listed(len(out))
	return out
}
