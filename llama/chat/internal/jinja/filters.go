package jinja

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// filterFunc is a filter: v with arguments.
type filterFunc func(in *interp, v Value, a args) Value

// filterNode applies a filter to a value.
func (in *interp) filterNode(n *node, v Value, s *scope) Value {
	a := in.arguments(n.args, s)
	in.at = n.at
	in.looked(v)
	return in.t.filters[n.name](in, v, a)
}

// filterChain applies the filters of a block, whose innermost operand is nil.
func (in *interp) filterChain(n *node, v Value, s *scope) Value {
	if n == nil {
		return v
	}
	return in.filterNode(n, in.filterChain(n.kids[0], v, s), s)
}

// filterTable has the filters of jinja2, and transformers' tojson.
func filterTable() map[string]filterFunc {
	t := map[string]filterFunc{
		"abs": filterAbs, "attr": filterAttr, "batch": filterBatch, "capitalize": textFilter(capitalize), "center": filterCenter,
		"default": filterDefault, "dictsort": filterDictSort, "escape": filterEscape, "filesizeformat": filterFileSize,
		"first": filterFirst, "float": filterFloat, "forceescape": filterForceEscape, "format": filterFormat, "groupby": filterGroupBy,
		"indent": filterIndent, "int": filterInt, "items": filterItems, "join": filterJoin, "last": filterLast, "length": filterLength,
		"list": filterList, "lower": textFilter(lower), "map": filterMap, "max": filterMax, "min": filterMin, "pprint": filterPPrint,
		"reject": choose(false, false), "rejectattr": choose(true, false), "select": choose(false, true), "selectattr": choose(true, true),
		"replace": filterReplace, "reverse": filterReverse, "round": filterRound, "safe": filterSafe, "slice": filterSlice,
		"sort": filterSort, "string": filterString, "striptags": filterStripTags, "sum": filterSum, "title": textFilter(titleFilter),
		"tojson": filterToJSON, "trim": filterTrim, "truncate": filterTruncate, "unique": filterUnique, "upper": textFilter(upper),
		"urlencode": filterURLEncode, "wordcount": filterWordCount, "wordwrap": filterWordWrap, "xmlattr": filterXMLAttr,
	}
	for name, of := range map[string]string{"d": "default", "e": "escape", "count": "length"} {
		t[name] = t[of]
	}
	return t
}

// textFilter makes a filter of a function on strings without arguments.
func textFilter(f func(Str) Str) filterFunc {
	return func(in *interp, v Value, a args) Value {
		in.bind("filter", a)
		s := in.str(v)
		in.made(len(s.s))
		return f(s)
	}
}

func filterAbs(in *interp, v Value, a args) Value {
	in.bind("abs", a)
	in.defined(v)
	switch x := v.(type) {
	case float64:
		return math.Abs(x)
	case *big.Int:
		return fromBig(new(big.Int).Abs(x))
	}
	i, ok := integer(v)
	if !ok {
		fail(typeError, "bad operand type for abs(): '%s'", typeName(v))
	}
	return fromBig(new(big.Int).Abs(big.NewInt(i)))
}

func filterAttr(in *interp, v Value, a args) Value {
	name := in.str(in.bind("attr", a, "name").need(0))
	if found, ok := in.member(v, name.s); ok {
		return found
	}
	return undefined{quote(objectName(v)) + " has no attribute " + quote(name.s), undefinedError}
}

func filterDefault(in *interp, v Value, a args) Value {
	b := in.bind("default", a, "default_value", "boolean")
	if _, missing := v.(undefined); missing || truth(b.or(1, false)) && !truth(v) {
		return b.or(0, Str{})
	}
	return v
}

// escapes are markupsafe's.
var escapes = strings.NewReplacer("&", "&amp;", ">", "&gt;", "<", "&lt;", "'", "&#39;", `"`, "&#34;")

func (in *interp) escape(s Str) Str {
	if s.safe {
		return s
	}
	in.made(len(s.s))
	out := s.mapped(escapes.Replace)
	in.made(len(out.s))
	out.safe = true
	return out
}

func filterEscape(in *interp, v Value, a args) Value { return in.escape(in.str(v)) }

func filterForceEscape(in *interp, v Value, a args) Value {
	s := in.str(v)
	s.safe = false
	return in.escape(s)
}

func filterSafe(in *interp, v Value, a args) Value {
	s := in.str(v)
	s.safe = true
	return s
}

func filterString(in *interp, v Value, a args) Value { return in.str(v) }

func filterStripTags(in *interp, v Value, a args) Value {
	s := in.str(v)
	var b builder
	depth := 0
	at := 0
	for i := 0; i < len(s.s); i++ {
		switch s.s[i] {
		case '<':
			if depth == 0 {
				b.add(s.sub(at, i))
			}
			depth = 1
		case '>':
			if depth > 0 {
				depth, at = 0, i+1
			}
		}
	}
	if depth == 0 {
		b.add(s.sub(at, len(s.s)))
	}
	return in.joinWords(b.str(), " ")
}

// joinWords puts the words of a text together with a separator.
func (in *interp) joinWords(s Str, sep string) Str {
	var b builder
	for i, w := range in.words(s, -1) {
		if i > 0 {
			b.text(sep)
		}
		b.add(w.(Str))
	}
	in.made(b.len())
	return b.str()
}

func filterFloat(in *interp, v Value, a args) Value {
	or := in.bind("float", a, "default").or(0, 0.0)
	in.defined(v)
	if f, ok := number(v); ok {
		return f
	}
	if s, ok := v.(Str); ok {
		if f, ok := parseFloat(s.s); ok {
			return f
		}
	}
	return or
}

// parseFloat is Python's float of a str.
func parseFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, pySpace)
	for i, c := range s {
		if c == '_' && (i == 0 || i == len(s)-1 || !unicode.IsDigit(rune(s[i-1])) || !unicode.IsDigit(rune(s[i+1]))) || c == 'x' || c == 'X' || c == 'p' {
			return 0, false
		}
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

func filterInt(in *interp, v Value, a args) Value {
	b := in.bind("int", a, "default", "base")
	or, base := b.or(0, int64(0)), b.int(1, 10)
	in.defined(v)
	switch x := v.(type) {
	case Str:
		text := strings.ReplaceAll(strings.TrimFunc(x.s, pySpace), "_", "")
		if len(text) > 1200 {
			return or
		}
		digits := text
		if base != 10 && len(text) > 2 && text[0] == '0' && text[1] > '9' { // a prefix that fits the base
			if p := map[byte]int64{'x': 16, 'o': 8, 'b': 2}[text[1]|32]; p == base {
				digits = text[2:]
			}
		}
		if base >= 2 && base <= 36 {
			if i, ok := new(big.Int).SetString(digits, int(base)); ok {
				return fromBig(i)
			}
		}
		if f, ok := parseFloat(x.s); ok && !math.IsNaN(f) && !math.IsInf(f, 0) {
			i, _ := new(big.Float).SetFloat64(f).Int(nil)
			return fromBig(i)
		}
		return or
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return or
		}
		i, _ := new(big.Float).SetFloat64(x).Int(nil)
		return fromBig(i)
	}
	if i, ok := bigInt(v); ok {
		return fromBig(i)
	}
	return or
}

func filterRound(in *interp, v Value, a args) Value {
	b := in.bind("round", a, "precision", "method")
	p, method := b.int(0, 0), b.text(1, "common").s
	f, ok := number(v)
	if !ok {
		in.defined(v)
		fail(typeError, "type %s doesn't define __round__ method", typeName(v))
	}
	if method != "common" && method != "ceil" && method != "floor" {
		fail(filterError, "method must be common, ceil or floor")
	}
	p = max(min(p, 400), -400)
	if method == "common" {
		if i, ok := bigInt(v); ok && p >= 0 {
			return fromBig(i)
		}
		if p >= 0 {
			r, _ := strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(p), 64), 64)
			return r
		}
		if i, ok := bigInt(v); ok && p > -30 { // half to even
			unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(-p), nil)
			q, r := new(big.Int).DivMod(i, unit, new(big.Int))
			if c := new(big.Int).Lsh(r, 1).Cmp(unit); c > 0 || c == 0 && q.Bit(0) == 1 {
				q.Add(q, big.NewInt(1))
			}
			return fromBig(q.Mul(q, unit))
		}
		scale := math.Pow(10, float64(-p))
		return math.RoundToEven(f/scale) * scale
	}
	scale := math.Pow(10, float64(p))
	if method == "ceil" {
		return math.Ceil(f*scale) / scale
	}
	return math.Floor(f*scale) / scale
}

func filterFileSize(in *interp, v Value, a args) Value {
	binary := truth(in.bind("filesizeformat", a, "binary").or(0, false))
	f, _ := filterFloat(in, v, args{}).(float64)
	base, units := 1000.0, []string{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}
	if binary {
		base, units = 1024, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}
	}
	if f == 1 {
		return clean("1 Byte")
	}
	if f < base {
		return clean(strconv.FormatFloat(math.Trunc(f), 'f', 0, 64) + " Bytes")
	}
	i := 0
	for unit := base * base; i < len(units)-1 && f >= unit; i++ {
		unit *= base
	}
	return clean(strconv.FormatFloat(f/math.Pow(base, float64(i+1)), 'f', 1, 64) + " " + units[i])
}

func filterTrim(in *interp, v Value, a args) Value {
	return in.stripped(in.str(v), in.bind("trim", a, "chars").or(0, none{}), true, true)
}

// stripped takes characters, or white space, off the ends.
func (in *interp) stripped(s Str, chars Value, left, right bool) Value {
	in.step(len(s.s) / 16)
	cut := pySpace
	switch c := chars.(type) {
	case none:
	case Str:
		set := map[rune]bool{}
		for _, r := range c.s {
			set[r] = true
		}
		cut = func(r rune) bool { return set[r] }
	default:
		fail(typeError, "strip arg must be None or str")
	}
	return s.strip(left, right, cut)
}

func filterReplace(in *interp, v Value, a args) Value {
	b := in.bind("replace", a, "old", "new", "count")
	s, from, to := in.str(v), in.str(b.need(0)), in.str(b.need(1))
	n := int64(-1)
	if _, isNone := b.or(2, none{}).(none); !isNone {
		n = b.int(2, -1)
	}
	s.safe = false // as without autoescape
	return in.replaced(s, from, to, n)
}

// replaced is Python's str.replace.
func (in *interp) replaced(s, from, to Str, n int64) Str {
	in.step(len(s.s) / 64)
	count := strings.Count(s.s, from.s)
	if n >= 0 {
		count = int(min(int64(count), n))
	}
	if count == 0 {
		return s
	}
	if len(to.s) > 0 && count > in.limits.String/len(to.s) {
		in.tooLong()
	}
	in.made(len(s.s) + count*len(to.s))
	in.step(count)
	var b builder
	at := 0
	for k := range count {
		i := at
		if from.s == "" {
			if k > 0 {
				_, w := utf8.DecodeRuneInString(s.s[at:])
				i = at + w
			}
		} else {
			i += strings.Index(s.s[at:], from.s)
		}
		b.add(s.sub(at, i))
		b.add(to)
		at = i + len(from.s)
	}
	b.add(s.sub(at, len(s.s)))
	out := b.str()
	out.safe = s.safe
	return out
}

func filterCenter(in *interp, v Value, a args) Value {
	return in.padded(in.str(v), in.bind("center", a, "width").int(0, 80), ' ', "center")
}

// padded brings a text to a width.
func (in *interp) padded(s Str, width int64, fill rune, how string) Str {
	if width > int64(in.limits.String) {
		in.tooLong()
	}
	n := int(width) - s.length()
	if n <= 0 {
		return s
	}
	in.made((len(s.s) + n) * utf8.RuneLen(fill))
	left, right := 0, n
	switch how {
	case "center":
		left = n/2 + n&int(width)&1
		right = n - left
	case "right", "zero":
		left, right = n, 0
	}
	var b builder
	pad := func(n int) { b.text(strings.Repeat(string(fill), n)) }
	if how == "zero" && s.s != "" && (s.s[0] == '-' || s.s[0] == '+') {
		b.add(s.sub(0, 1))
		s = s.sub(1, len(s.s))
	}
	pad(left)
	b.add(s)
	pad(right)
	out := b.str()
	out.safe = s.safe
	return out
}

func filterIndent(in *interp, v Value, a args) Value {
	b := in.bind("indent", a, "width", "first", "blank")
	var indent Str
	if s, ok := b.or(0, int64(4)).(Str); ok {
		indent = s
	} else {
		n := b.int(0, 4)
		if n > int64(in.limits.String) {
			in.tooLong()
		}
		indent = clean(strings.Repeat(" ", int(max(n, 0))))
	}
	first, blank := truth(b.or(1, false)), truth(b.or(2, false))
	s := concat(in.str(v), clean("\n")) // as the reference does, for splitlines
	lines := in.lines(s, false)
	in.made(len(s.s))
	for range lines {
		in.made(len(indent.s))
	}
	var out builder
	for i, l := range lines {
		line := l.(Str)
		if i > 0 {
			out.text("\n")
		}
		if i == 0 && first || i > 0 && (line.s != "" || blank) {
			out.add(indent)
		}
		out.add(line)
		if out.len() > in.limits.String {
			in.tooLong()
		}
	}
	return out.str()
}

func filterTruncate(in *interp, v Value, a args) Value {
	b := in.bind("truncate", a, "length", "killwords", "end", "leeway")
	s, length, end, leeway := in.str(v), b.int(0, 255), b.text(2, "..."), b.int(3, 5)
	endLen := int64(end.length())
	if length < endLen {
		fail("AssertionError", "expected length >= %d, got %d", endLen, length)
	}
	if leeway < 0 {
		fail("AssertionError", "expected leeway >= 0, got %d", leeway)
	}
	if int64(s.length()) <= length+leeway {
		return s
	}
	cut := s.sub(0, s.offset(int(length-endLen)))
	if !truth(b.or(1, false)) {
		if i := strings.LastIndexByte(cut.s, ' '); i >= 0 {
			cut = cut.sub(0, i)
		}
	}
	in.made(len(cut.s) + len(end.s))
	return concat(cut, end)
}

func filterWordCount(in *interp, v Value, a args) Value {
	n := int64(0)
	inWord := false
	s := in.str(v)
	in.step(len(s.s) / 16)
	for _, r := range s.s {
		word := r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r)
		if word && !inWord {
			n++
		}
		inWord = word
	}
	return n
}

// filterWordWrap breaks lines at a width, words that are longer too.
func filterWordWrap(in *interp, v Value, a args) Value {
	b := in.bind("wordwrap", a, "width", "break_long_words", "wrapstring", "break_on_hyphens")
	width := int(max(min(b.int(0, 79), 1<<30), 1))
	long, sep := truth(b.or(1, true)), "\n"
	if s, ok := b.or(2, none{}).(Str); ok {
		sep = s.s
	}
	s := in.str(v)
	var out builder
	for i, l := range in.lines(s, false) {
		if i > 0 {
			out.text(sep)
		}
		column := 0
		for _, w := range in.words(l.(Str), -1) {
			word := w.(Str)
			n := word.length()
			if column > 0 && column+1+n <= width {
				out.text(" ")
				column++
			} else if column > 0 {
				out.text(sep)
				column = 0
			}
			for long && n > width {
				at := word.offset(width)
				out.add(word.sub(0, at))
				out.text(sep)
				in.made(len(sep))
				word, n = word.sub(at, len(word.s)), n-width
			}
			out.add(word)
			column += n
		}
	}
	in.made(out.len())
	return out.str()
}

func filterURLEncode(in *interp, v Value, a args) Value {
	quoteURL := func(s Str, slash bool) Str {
		in.made(3 * len(s.s))
		return s.mapped(func(part string) string {
			var b strings.Builder
			for i := range len(part) {
				switch c := part[i]; {
				case c == ' ' && !slash:
					b.WriteByte('+')
				case c < 0x80 && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c))), strings.IndexByte("_.-~", c) >= 0, slash && c == '/':
					b.WriteByte(c)
				default:
					b.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(c)|0x100, 16)[1:]))
				}
			}
			return b.String()
		})
	}
	var pairs []Value
	switch x := v.(type) {
	case *Dict:
		pairs = pairsOf(x)
	case *list:
		pairs = x.items
	default:
		return quoteURL(in.str(v), true)
	}
	var out builder
	for i, p := range pairs {
		kv := in.iterate(p)
		if len(kv) != 2 {
			fail(valueError, "not enough values to unpack (expected 2, got %d)", len(kv))
		}
		if i > 0 {
			out.text("&")
		}
		out.add(quoteURL(in.str(kv[0]), false))
		out.text("=")
		out.add(quoteURL(in.str(kv[1]), false))
	}
	return out.str()
}

func filterXMLAttr(in *interp, v Value, a args) Value {
	d, ok := v.(*Dict)
	if !ok {
		fail(typeError, "xmlattr wants a dict, not '%s'", typeName(v))
	}
	var out builder
	for i, k := range d.keys {
		switch d.values[i].(type) {
		case none, undefined:
			continue
		}
		key := in.str(k)
		if strings.ContainsAny(key.s, " \t\n\f\r/>=") {
			fail(valueError, "Invalid character in attribute name: %s", quote(key.s))
		}
		out.text(" ")
		out.add(in.escape(key))
		out.text(`="`)
		out.add(in.escape(in.str(d.values[i])))
		out.text(`"`)
	}
	return out.str()
}

func filterFormat(in *interp, v Value, a args) Value {
	if len(a.pos) > 0 && len(a.names) > 0 {
		fail(filterError, "can't handle positional and keyword arguments at the same time")
	}
	if len(a.names) > 0 {
		return in.percent(in.str(v), makeDict(in, args{names: a.names, named: a.named}))
	}
	return in.percent(in.str(v), tuple(a.pos...))
}

func filterPPrint(in *interp, v Value, a args) Value {
	source, from := in.sourceOf(v)
	return marked(in.repr(v), source, from)
}
