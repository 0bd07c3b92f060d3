package jinja

import (
	"sort"
	"strings"
	"unicode/utf8"
)

// Span is a byte range of a text that came from outside.
type Span struct{ Start, End, Source int }

// Str is a Python str. data are the parts that came from outside, ascending and
// apart.
type Str struct {
	s    string
	data []Span
	safe bool // a Markup
}

func clean(s string) Str { return Str{s: s} }

// marked is s, all of it from a source if there is one.
func marked(s string, source int, from bool) Str {
	if !from || s == "" {
		return Str{s: s}
	}
	return Str{s: s, data: []Span{{0, len(s), source}}}
}

// source is the first origin of a string.
func (a Str) source() (int, bool) {
	if len(a.data) == 0 {
		return 0, false
	}
	return a.data[0].Source, true
}

// sub is the part [i, j) in bytes.
func (a Str) sub(i, j int) Str {
	out := Str{s: a.s[i:j], safe: a.safe}
	k := sort.Search(len(a.data), func(k int) bool { return a.data[k].End > i })
	for ; k < len(a.data) && a.data[k].Start < j; k++ {
		d := a.data[k]
		out.data = append(out.data, Span{max(d.Start, i) - i, min(d.End, j) - i, d.Source})
	}
	return out
}

// each calls f for the maximal parts of one origin.
func (a Str) each(f func(part string, source int, from bool)) {
	at := 0
	for _, d := range a.data {
		if d.Start > at {
			f(a.s[at:d.Start], 0, false)
		}
		f(a.s[d.Start:d.End], d.Source, true)
		at = d.End
	}
	if at < len(a.s) {
		f(a.s[at:], 0, false)
	}
}

// mapped changes each part by itself.
func (a Str) mapped(f func(string) string) Str {
	if a.data == nil {
		return Str{s: f(a.s), safe: a.safe}
	}
	var b builder
	a.each(func(part string, source int, from bool) { b.add(marked(f(part), source, from)) })
	out := b.str()
	out.safe = a.safe
	return out
}

// length counts code points.
func (a Str) length() int { return utf8.RuneCountInString(a.s) }

// offset is the byte offset of code point i, at most the length.
func (a Str) offset(i int) int {
	if len(a.s) == utf8.RuneCountInString(a.s) {
		return min(i, len(a.s))
	}
	at := 0
	for ; i > 0 && at < len(a.s); i-- {
		_, n := utf8.DecodeRuneInString(a.s[at:])
		at += n
	}
	return at
}

// builder joins strings.
type builder struct {
	b    strings.Builder
	data []Span
}

func (b *builder) add(a Str) {
	at := b.b.Len()
	for _, d := range a.data {
		d.Start, d.End = d.Start+at, d.End+at
		if n := len(b.data); n > 0 && b.data[n-1].End == d.Start && b.data[n-1].Source == d.Source {
			b.data[n-1].End = d.End
		} else {
			b.data = append(b.data, d)
		}
	}
	b.b.WriteString(a.s)
}

func (b *builder) text(s string) { b.b.WriteString(s) }

func (b *builder) str() Str { return Str{s: b.b.String(), data: b.data} }

func (b *builder) len() int { return b.b.Len() }

// concat is a + b.
func concat(a, b Str) Str {
	if a.s == "" {
		return Str{s: b.s, data: b.data}
	}
	if b.s == "" {
		return Str{s: a.s, data: a.data}
	}
	if a.data == nil && b.data == nil {
		return Str{s: a.s + b.s}
	}
	var out builder
	out.add(a)
	out.add(b)
	return out.str()
}

// pySpace is Python's str.isspace for a rune.
func pySpace(r rune) bool {
	switch {
	case r >= 9 && r <= 13, r >= 0x1c && r <= 0x20, r == 0x85, r == 0xa0, r == 0x1680, r >= 0x2000 && r <= 0x200a:
		return true
	}
	return r == 0x2028 || r == 0x2029 || r == 0x202f || r == 0x205f || r == 0x3000
}

// strip takes runes off the left and the right.
func (a Str) strip(left, right bool, cut func(rune) bool) Str {
	i, j := 0, len(a.s)
	if left {
		i = len(a.s) - len(strings.TrimLeftFunc(a.s, cut))
	}
	if right {
		j = max(i, len(strings.TrimRightFunc(a.s, cut)))
	}
	return a.sub(i, j)
}

// offset1 is the byte offset of the code point after the one at byte at.
func (a Str) offset1(at int) int {
	_, n := utf8.DecodeRuneInString(a.s[at:])
	return at + n
}
