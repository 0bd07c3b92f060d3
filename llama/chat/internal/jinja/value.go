package jinja

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Value is a Python value: none, bool, int64, *big.Int, float64, Str, *list,
// *Dict, undefined, or something that can be called.
type Value any

type none struct{}

// undefined is the value of a name that is not there.
type undefined struct {
	message string // of the error when it is used
	kind    string
}

// list is a list, a tuple or a range.
type list struct {
	items []Value
	kind  string   // "list", "tuple", "range", a view as "dict_keys", "generator"
	shown string   // of a range
	names []string // of items that are attributes too
}

// Dict is a dict, ordered.
type Dict struct {
	keys   []Value
	values []Value
	at     map[any]int
}

// namespace is an object whose attributes can be set.
type namespace struct{ attrs *Dict }

// function is what a template can call.
type function struct {
	name string
	call func(in *interp, a args) Value
	text string // how it prints
}

// args are the arguments of a call.
type args struct {
	pos   []Value
	names []string // of named
	named []Value
}

// None is Python's None.
func None() Value { return none{} }

// Bool is a bool.
func Bool(b bool) Value { return b }

// Int is an int.
func Int(i int64) Value { return i }

// String is text of the program itself.
func String(s string) Value { return clean(s) }

// Data is text from outside; source >= 0 says from where.
func Data(s string, source int) Value { return marked(s, source, true) }

// List is a list.
func List(items ...Value) Value { return &list{items: items, kind: "list"} }

// sequence reports whether a list can be indexed.
func (l *list) sequence() bool { return l.kind == "list" || l.kind == "tuple" || l.kind == "range" }

// generator makes what can be gone over once, and is true even if empty.
func generator(items []Value) *list { return &list{items: items, kind: "generator"} }

func tuple(items ...Value) *list { return &list{items: items, kind: "tuple"} }

// NewDict returns an empty dict.
func NewDict() *Dict { return &Dict{at: map[any]int{}} }

// Set adds or replaces a member.
func (d *Dict) Set(key string, v Value) { d.set(clean(key), v) }

func (d *Dict) set(key, v Value) {
	k := hash(key)
	if i, ok := d.at[k]; ok {
		d.values[i] = v
		return
	}
	d.at[k] = len(d.keys)
	d.keys, d.values = append(d.keys, key), append(d.values, v)
}

func (d *Dict) get(key Value) (Value, bool) {
	if i, ok := d.at[hash(key)]; ok {
		return d.values[i], true
	}
	return nil, false
}

func (d *Dict) str(key string) (Value, bool) { return d.get(clean(key)) }

func (d *Dict) copy() *Dict {
	c := NewDict()
	for i, k := range d.keys {
		c.set(k, d.values[i])
	}
	return c
}

// hash is a key for equal values, as Python's dict has it.
func hash(v Value) any { return hashAt(v, 0) }

func hashAt(v Value, depth int) any {
	if depth > 20 {
		fail(limitError, "a key of tuples nested deeper than 20")
	}
	switch v := v.(type) {
	case Str:
		if len(v.s) > 1<<16 {
			fail(limitError, "a key of %d bytes, at most %d are allowed", len(v.s), 1<<16)
		}
		return v.s
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case int64, none:
		return v
	case *big.Int:
		return "big " + v.String() + "\xff"
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<62 {
			return int64(v)
		}
		return v
	case undefined:
		return undefined{}
	case *list:
		if v.kind != "tuple" {
			break
		}
		var b strings.Builder
		for _, item := range v.items {
			h := hashAt(item, depth+1)
			fmt.Fprintf(&b, "%T%v\xff", h, h)
		}
		return [1]string{b.String()}
	case *function, *namespace:
		return v
	}
	fail(typeError, "unhashable type: '%s'", typeName(v))
	return nil
}

// typeName is Python's name of a value's type.
func typeName(v Value) string {
	switch v := v.(type) {
	case none:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case Str:
		if v.safe {
			return "Markup"
		}
		return "str"
	case *list:
		return v.kind
	case *Dict:
		return "dict"
	case undefined:
		return "Undefined"
	case *namespace:
		return "Namespace"
	case *loop:
		return "LoopContext"
	case *function:
		return "function"
	}
	return "object"
}

// objectName is how the reference names a value in messages about attributes.
func objectName(v Value) string {
	if _, ok := v.(none); ok {
		return "None"
	}
	return typeName(v) + " object"
}

// truth is Python's bool.
func truth(v Value) bool {
	switch v := v.(type) {
	case none, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case *big.Int:
		return v.Sign() != 0
	case float64:
		return v != 0
	case Str:
		return v.s != ""
	case *list:
		return len(v.items) > 0 || v.kind == "generator"
	case *Dict:
		return len(v.keys) > 0
	}
	return true
}

// str is Python's str.
func (in *interp) str(v Value) Str {
	switch v := v.(type) {
	case Str:
		return v
	case undefined:
		return Str{}
	case bool, int64, none, float64:
		return clean(scalar(v))
	}
	source, from := in.sourceOf(v)
	return marked(in.repr(v), source, from)
}

// sourceOf is the first origin of any text in a value.
func (in *interp) sourceOf(v Value) (int, bool) {
	in.step(1)
	in.into()
	defer in.outOf()
	switch v := v.(type) {
	case Str:
		return v.source()
	case *list:
		for _, item := range v.items {
			if s, ok := in.sourceOf(item); ok {
				return s, true
			}
		}
	case *Dict:
		for i, k := range v.keys {
			if s, ok := in.sourceOf(k); ok {
				return s, true
			}
			if s, ok := in.sourceOf(v.values[i]); ok {
				return s, true
			}
		}
	case *namespace:
		return in.sourceOf(v.attrs)
	}
	return 0, false
}

func scalar(v Value) string {
	switch v := v.(type) {
	case bool:
		if v {
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(v, 10)
	case *big.Int:
		return v.String()
	case float64:
		return pyFloat(v)
	}
	return "None"
}

// pyFloat is Python's repr of a float.
func pyFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	s := strconv.FormatFloat(f, 'e', -1, 64)
	_, e, _ := strings.Cut(s, "e")
	if exp, _ := strconv.Atoi(e); exp < -4 || exp >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// repr is Python's repr.
func (in *interp) repr(v Value) string {
	var b strings.Builder
	in.writeRepr(&b, v)
	in.made(b.Len())
	return b.String()
}

func (in *interp) writeRepr(b *strings.Builder, v Value) {
	in.step(1)
	in.into()
	defer in.outOf()
	if b.Len() > in.limits.String {
		in.tooLong()
	}
	items := func(open, end string, items []Value) {
		b.WriteString(open)
		for i, item := range items {
			if i > 0 {
				b.WriteString(", ")
			}
			in.writeRepr(b, item)
		}
		b.WriteString(end)
	}
	switch v := v.(type) {
	case Str:
		if v.safe {
			b.WriteString("Markup(" + quote(v.s) + ")")
			return
		}
		b.WriteString(quote(v.s))
	case *list:
		switch {
		case v.kind == "range":
			b.WriteString(v.shown)
		case v.kind == "tuple" && len(v.items) == 1:
			items("(", ",)", v.items)
		case v.kind == "tuple":
			items("(", ")", v.items)
		case v.kind == "list":
			items("[", "]", v.items)
		case v.kind == "generator":
			b.WriteString("<generator object>")
		default:
			items(v.kind+"([", "])", v.items)
		}
	case *Dict:
		b.WriteString("{")
		for i, k := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			in.writeRepr(b, k)
			b.WriteString(": ")
			in.writeRepr(b, v.values[i])
		}
		b.WriteString("}")
	case undefined:
		b.WriteString("Undefined")
	case *namespace:
		b.WriteString("<Namespace ")
		in.writeRepr(b, v.attrs)
		b.WriteString(">")
	case *loop:
		fmt.Fprintf(b, "<LoopContext %d/%d>", v.index+1, len(v.items))
	case *function:
		b.WriteString(v.text)
	default:
		b.WriteString(scalar(v))
	}
}

// quote is Python's repr of a str.
func quote(s string) string {
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	var b strings.Builder
	b.WriteByte(q)
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == rune(q) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zs, r):
			b.WriteString(s[:n])
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		s = s[n:]
	}
	b.WriteByte(q)
	return b.String()
}

// number reads an int or float as a float.
func number(v Value) (f float64, ok bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return float64(v), true
	case *big.Int:
		f, _ := new(big.Float).SetInt(v).Float64()
		return f, true
	case float64:
		return v, true
	}
	return 0, false
}

// integer reads an int or a bool.
func integer(v Value) (int64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return v, true
	}
	return 0, false
}

// bigInt reads an int of any size.
func bigInt(v Value) (*big.Int, bool) {
	if b, ok := v.(*big.Int); ok {
		return b, true
	}
	i, ok := integer(v)
	return big.NewInt(i), ok
}

// fromBig is the value of an integer.
func fromBig(b *big.Int) Value {
	if b.IsInt64() {
		return b.Int64()
	}
	if b.BitLen() > 1<<12 {
		fail(limitError, "an integer of %d bits, at most %d are allowed", b.BitLen(), 1<<12)
	}
	return b
}

// iterate lists the items of a value.
func (in *interp) iterate(v Value) []Value {
	switch v := v.(type) {
	case undefined:
		return nil
	case *list:
		items := v.items
		if v.kind == "generator" {
			v.items = nil
		}
		return items
	case *Dict:
		return v.keys
	case Str:
		in.step(len(v.s))
		n := v.length()
		in.items(n)
		out := make([]Value, 0, n)
		for at := 0; at < len(v.s); {
			_, n := utf8.DecodeRuneInString(v.s[at:])
			out = append(out, v.sub(at, at+n))
			at += n
		}
		return out
	}
	fail(typeError, "'%s' object is not iterable", typeName(v))
	return nil
}

// contains is Python's in.
func (in *interp) contains(v, item Value) bool {
	switch v := v.(type) {
	case Str:
		in.step(len(v.s) / 64)
		s, ok := item.(Str)
		if !ok {
			in.defined(item)
			fail(typeError, "'in <string>' requires string as left operand, not %s", typeName(item))
		}
		return strings.Contains(v.s, s.s)
	case *Dict:
		_, ok := v.get(item)
		return ok
	case *namespace, *loop, *function, none, bool, int64, float64:
		fail(typeError, "argument of type '%s' is not iterable", typeName(v))
	}
	return slices.ContainsFunc(in.iterate(v), func(x Value) bool { return in.equal(x, item) })
}

// defined fails for an undefined value.
func (in *interp) defined(v Value) {
	if u, ok := v.(undefined); ok {
		fail(u.kind, "%s", u.message)
	}
}
