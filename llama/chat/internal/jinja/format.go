package jinja

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// spec is how a value is formatted: [[fill]align][sign][#][0][width][,][.precision][type].
type spec struct {
	fill      rune
	align     byte
	sign      byte
	alt, zero bool
	width     int
	group     byte
	precision int // -1: none
	verb      byte
}

// maxWidth bounds widths and precisions.
const maxWidth = 1 << 16

// percent is the % operator of strings.
func (in *interp) percent(f Str, v Value) Str {
	var items []Value
	at := 0
	dict, _ := v.(*Dict)
	if l, ok := v.(*list); ok && l.kind == "tuple" {
		items = l.items
	} else {
		items = []Value{v}
	}
	next := func() Value {
		if at >= len(items) {
			fail(typeError, "not enough arguments for format string")
		}
		at++
		return items[at-1]
	}
	var out builder
	start := 0
	for i := 0; i < len(f.s); i++ {
		if f.s[i] != '%' {
			continue
		}
		out.add(f.sub(start, i))
		i++
		var arg Value
		if i < len(f.s) && f.s[i] == '(' {
			end := strings.IndexByte(f.s[i:], ')')
			if end < 0 {
				fail(valueError, "incomplete format key")
			}
			if dict == nil {
				fail(typeError, "format requires a mapping")
			}
			key := f.s[i+1 : i+end]
			found, ok := dict.str(key)
			if !ok {
				fail("KeyError", "%s", quote(key))
			}
			arg, at = found, len(items)
			i += end + 1
		}
		s := spec{fill: ' ', align: '>', precision: -1}
		i = in.percentSpec(f.s, i, &s, next)
		if i >= len(f.s) {
			fail(valueError, "incomplete format")
		}
		if s.verb = f.s[i]; s.verb == '%' {
			out.text("%")
		} else {
			if arg == nil {
				arg = next()
			}
			if f.safe {
				arg = in.escaped(arg)
			}
			text := in.percentItem(s, arg)
			in.made(len(text.s))
			out.add(text)
		}
		start = i + 1
	}
	if start < len(f.s) {
		out.add(f.sub(start, len(f.s)))
	}
	if at < len(items) && dict == nil {
		fail(typeError, "not all arguments converted during string formatting")
	}
	in.made(out.len())
	text := out.str()
	text.safe = f.safe
	return text
}

// escaped is what a Markup takes for an argument of a format.
func (in *interp) escaped(v Value) Value {
	if s, ok := v.(Str); ok {
		return in.escape(s)
	}
	return v
}

// percentSpec reads flags, width and precision and returns where the verb is.
func (in *interp) percentSpec(f string, i int, s *spec, next func() Value) int {
	for ; i < len(f) && strings.IndexByte("-+ #0", f[i]) >= 0; i++ {
		switch f[i] {
		case '-':
			s.align = '<'
		case '#':
			s.alt = true
		case '0':
			s.zero = true
		default:
			if s.sign != '+' {
				s.sign = f[i]
			}
		}
	}
	read := func() int {
		if i < len(f) && f[i] == '*' {
			i++
			n, _ := integer(next())
			return in.width(n)
		}
		from := i
		for i < len(f) && f[i] >= '0' && f[i] <= '9' {
			i++
		}
		return in.digits(f[from:i])
	}
	s.width = read()
	if i < len(f) && f[i] == '.' {
		i++
		s.precision = read()
	}
	for i < len(f) && strings.IndexByte("hlL", f[i]) >= 0 {
		i++
	}
	if s.align == '<' {
		s.zero = false
	}
	return i
}

// digits reads a width; it bounds it.
func (in *interp) digits(s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return in.width(n)
}

func (in *interp) width(n int64) int {
	if n > maxWidth || n < -maxWidth {
		fail(limitError, "a width or precision of %d, at most %d are allowed", n, maxWidth)
	}
	return int(n)
}

// percentItem formats one value for %.
func (in *interp) percentItem(s spec, v Value) Str {
	switch s.verb {
	case 's', 'r', 'a':
		text := in.str(v)
		if s.verb != 's' {
			source, from := in.sourceOf(v)
			text = marked(in.repr(v), source, from)
		}
		if s.precision >= 0 {
			text = text.sub(0, text.offset(s.precision))
		}
		return in.aligned(s, text, 0)
	case 'c':
		if i, ok := integer(v); ok && i >= 0 && i <= utf8.MaxRune {
			return in.aligned(s, clean(string(rune(i))), 0)
		}
		return in.aligned(s, in.str(v), 0)
	case 'd', 'i', 'u', 'x', 'X', 'o':
		if f, ok := v.(float64); ok {
			if math.IsNaN(f) || math.IsInf(f, 0) {
				fail(valueError, "cannot convert float to integer")
			}
			b, _ := new(big.Float).SetFloat64(f).Int(nil)
			v = fromBig(b)
		}
		if _, ok := bigInt(v); !ok {
			fail(typeError, "%%%c format: a real number is required, not %s", s.verb, typeName(v))
		}
		if s.verb == 'i' || s.verb == 'u' {
			s.verb = 'd'
		}
		return in.formatNumber(s, v)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		f, ok := number(v)
		if !ok {
			fail(typeError, "must be real number, not %s", typeName(v))
		}
		return in.formatNumber(s, f)
	}
	fail(valueError, "unsupported format character '%c'", s.verb)
	return Str{}
}

// aligned brings a text to the width; zeros go after the first sign bytes.
func (in *interp) aligned(s spec, text Str, sign int) Str {
	n := s.width - text.length()
	if n <= 0 {
		return text
	}
	var b builder
	pad := func(n int, r rune) { b.text(strings.Repeat(string(r), n)) }
	switch {
	case s.align == '=':
		b.add(text.sub(0, sign))
		pad(n, s.fill)
		b.add(text.sub(sign, len(text.s)))
	case s.align == '<':
		b.add(text)
		pad(n, s.fill)
	case s.align == '^':
		pad(n/2, s.fill)
		b.add(text)
		pad(n-n/2, s.fill)
	default:
		pad(n, s.fill)
		b.add(text)
	}
	return b.str()
}

// formatNumber writes an int or a float.
func (in *interp) formatNumber(s spec, v Value) Str {
	text, prefix := "", ""
	negative := false
	if b, ok := bigInt(v); ok && strings.IndexByte("dxXobn", s.verb) >= 0 {
		base := map[byte]int{'d': 10, 'n': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[s.verb]
		negative = b.Sign() < 0
		text = new(big.Int).Abs(b).Text(base)
		if s.alt && base != 10 {
			prefix = "0" + string(s.verb)
		}
		if s.verb == 'X' {
			text = strings.ToUpper(text)
		}
	} else {
		f, _ := number(v)
		negative = math.Signbit(f) && !math.IsNaN(f)
		text = floatText(s, math.Abs(f))
	}
	if s.group != 0 {
		text = grouped(text, s.group)
	}
	switch {
	case negative:
		prefix = "-" + prefix
	case s.sign == '+' || s.sign == ' ':
		prefix = string(s.sign) + prefix
	}
	if s.zero {
		s.fill, s.align = '0', '='
	}
	return in.aligned(s, clean(prefix+text), len(prefix))
}

// floatText writes a float that is not negative.
func floatText(s spec, f float64) string {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		text := strings.ToLower(fmt.Sprint(f))
		text = strings.TrimPrefix(text, "+")
		if s.verb == 'E' || s.verb == 'F' || s.verb == 'G' {
			text = strings.ToUpper(text)
		}
		return text
	}
	p := s.precision
	if p < 0 {
		p = 6
	}
	switch s.verb {
	case 'e', 'E', 'f', 'F':
		return strconv.FormatFloat(f, map[byte]byte{'e': 'e', 'E': 'E', 'f': 'f', 'F': 'f'}[s.verb], p, 64)
	case '%':
		return strconv.FormatFloat(f*100, 'f', p, 64) + "%"
	case 0:
		if s.precision < 0 {
			return pyFloat(f)
		}
	}
	p = max(p, 1)
	_, e, _ := strings.Cut(strconv.FormatFloat(f, 'e', p-1, 64), "e")
	exp, _ := strconv.Atoi(e)
	var text string
	if exp < -4 || exp >= p || s.verb == 0 && exp >= p-1 && p > 1 && exp >= p {
		text = strconv.FormatFloat(f, 'e', p-1, 64)
		mantissa, e, _ := strings.Cut(text, "e")
		if !s.alt && strings.Contains(mantissa, ".") {
			mantissa = strings.TrimRight(strings.TrimRight(mantissa, "0"), ".")
		}
		text = mantissa + "e" + e
	} else {
		text = strconv.FormatFloat(f, 'f', max(p-1-exp, 0), 64)
		if !s.alt && strings.Contains(text, ".") {
			text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
		}
		if s.verb == 0 && !strings.Contains(text, ".") {
			text += ".0"
		}
	}
	if s.verb == 'G' {
		text = strings.ToUpper(text)
	}
	return text
}

// grouped puts a separator between thousands.
func grouped(text string, sep byte) string {
	whole := text
	rest := ""
	if i := strings.IndexAny(text, ".e%"); i >= 0 {
		whole, rest = text[:i], text[i:]
	}
	var b strings.Builder
	for i := range len(whole) {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(sep)
		}
		b.WriteByte(whole[i])
	}
	return b.String() + rest
}

// format is str.format.
func (in *interp) format(f Str, a args, depth int) Str {
	if depth > 1 {
		fail(valueError, "Max string recursion exceeded")
	}
	var out builder
	auto := 0
	for i := 0; i < len(f.s); {
		j := strings.IndexAny(f.s[i:], "{}")
		if j < 0 {
			out.add(f.sub(i, len(f.s)))
			break
		}
		out.add(f.sub(i, i+j))
		i += j
		if i+1 < len(f.s) && f.s[i+1] == f.s[i] {
			out.add(f.sub(i, i+1))
			i += 2
			continue
		}
		if f.s[i] == '}' {
			fail(valueError, "Single '}' encountered in format string")
		}
		end := closing(f.s, i)
		if end < 0 {
			fail(valueError, "expected '}' before end of string")
		}
		text := in.formatField(f.sub(i+1, end), a, &auto, depth)
		in.made(len(text.s))
		if out.add(text); out.len() > in.limits.String {
			in.tooLong()
		}
		i = end + 1
	}
	in.made(out.len())
	text := out.str()
	text.safe = f.safe
	return text
}

// closing is the place of the brace that ends the field at i, or -1.
func closing(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// formatField formats what stands between braces: name!conversion:spec.
func (in *interp) formatField(field Str, a args, auto *int, depth int) Str {
	in.step(1)
	name, format := field.s, Str{}
	if i := strings.IndexByte(name, ':'); i >= 0 {
		name, format = field.s[:i], field.sub(i+1, len(field.s))
	}
	conversion := ""
	if i := strings.IndexByte(name, '!'); i >= 0 {
		name, conversion = name[:i], name[i+1:]
	}
	end := strings.IndexAny(name, ".[")
	if end < 0 {
		end = len(name)
	}
	v := in.formatArgument(name[:end], a, auto)
	for rest := name[end:]; rest != ""; {
		if rest[0] == '.' {
			stop := strings.IndexAny(rest[1:], ".[") + 1
			if stop == 0 {
				stop = len(rest)
			}
			v, rest = in.attr(v, rest[1:stop]), rest[stop:]
			continue
		}
		stop := strings.IndexByte(rest, ']')
		if stop < 0 || rest[0] != '[' {
			fail(valueError, "Missing ']' in format string")
		}
		var key Value = clean(rest[1:stop])
		if n, err := strconv.ParseInt(rest[1:stop], 10, 64); err == nil {
			key = n
		}
		v, rest = in.item(v, key), rest[stop+1:]
	}
	switch conversion {
	case "":
		if field.safe {
			v = in.escaped(v)
		}
	case "s":
		v = in.str(v)
	case "r", "a":
		source, from := in.sourceOf(v)
		v = marked(in.repr(v), source, from)
	default:
		fail(valueError, "Unknown conversion specifier %s", quote(conversion))
	}
	if strings.ContainsAny(format.s, "{}") {
		format = in.format(format, a, depth+1)
	}
	return in.formatValue(v, format.s)
}

// formatArgument finds the argument that a field names.
func (in *interp) formatArgument(name string, a args, auto *int) Value {
	at, err := strconv.Atoi(name)
	if name == "" {
		at, err = *auto, nil
		*auto++
	}
	if err == nil {
		if at < 0 || at >= len(a.pos) {
			fail("IndexError", "Replacement index %d out of range for positional args tuple", at)
		}
		return a.pos[at]
	}
	for i, n := range a.names {
		if n == name {
			return a.named[i]
		}
	}
	fail("KeyError", "%s", quote(name))
	return nil
}

// formatValue is Python's format(v, spec).
func (in *interp) formatValue(v Value, text string) Str {
	if text == "" {
		return in.str(v)
	}
	s := in.parseSpec(text)
	switch x := v.(type) {
	case Str:
		if s.verb != 0 && s.verb != 's' {
			fail(valueError, "Unknown format code '%c' for object of type 'str'", s.verb)
		}
		if s.align == 0 {
			s.align = '<'
		}
		if s.precision >= 0 {
			x = x.sub(0, x.offset(s.precision))
		}
		return in.aligned(s, x, 0)
	case bool, int64, *big.Int, float64:
		if s.align == 0 {
			s.align = '>'
		}
		_, isFloat := v.(float64)
		if !isFloat && s.verb == 0 {
			s.verb = 'd'
		}
		known := "eEfFgG%n"
		if !isFloat {
			known += "bcdoxX"
		}
		if s.verb != 0 && strings.IndexByte(known, s.verb) < 0 {
			fail(valueError, "Unknown format code '%c' for object of type '%s'", s.verb, typeName(v))
		}
		if s.verb == 'c' {
			i, _ := integer(v)
			return in.aligned(s, clean(string(rune(i))), 0)
		}
		return in.formatNumber(s, v)
	}
	fail(typeError, "unsupported format string passed to %s.__format__", typeName(v))
	return Str{}
}

// parseSpec reads a format specification.
func (in *interp) parseSpec(text string) spec {
	s := spec{fill: ' ', precision: -1}
	r, n := utf8.DecodeRuneInString(text)
	isAlign := func(c byte) bool { return strings.IndexByte("<>=^", c) >= 0 }
	if len(text) > n && isAlign(text[n]) {
		s.fill, s.align, text = r, text[n], text[n+1:]
	} else if text != "" && isAlign(text[0]) {
		s.align, text = text[0], text[1:]
	}
	take := func(set string) byte {
		if text != "" && strings.IndexByte(set, text[0]) >= 0 {
			c := text[0]
			text = text[1:]
			return c
		}
		return 0
	}
	number := func() int {
		n := 0
		for n < len(text) && text[n] >= '0' && text[n] <= '9' {
			n++
		}
		d := text[:n]
		text = text[n:]
		return in.digits(d)
	}
	if c := take("+- "); c != '-' {
		s.sign = c
	}
	s.alt = take("#") != 0
	s.zero = take("0") != 0 && s.align == 0
	s.width = number()
	s.group = take(",_")
	if take(".") != 0 {
		s.precision = number()
	}
	s.verb = take("bcdeEfFgGnosxX%")
	if text != "" {
		fail(valueError, "Invalid format specifier")
	}
	return s
}
