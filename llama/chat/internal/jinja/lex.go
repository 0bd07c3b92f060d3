package jinja

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// token is one word of the source.
type token struct {
	kind string // "data", "begin block", ..., "name", "string", "int", "float", "eof", or an operator
	text string // of names, operators and numbers; the value of strings and data
	pos  int    // byte offset in the source
}

// lexer cuts a source into tokens.
type lexer struct {
	src       string
	at        int
	tokens    []token
	lineStart bool // what was read last ended with a newline
}

// run follows jinja2's lexer with trim_blocks and lstrip_blocks. One newline at
// the end of the source is dropped.
func (l *lexer) run() []token {
	src := l.src
	for l.at < len(src) {
		open := l.opening()
		if open < 0 {
			l.data(src[l.at:])
			break
		}
		start, kind := l.at, src[open:open+2]
		l.at = open + 2
		sign := ""
		if l.at < len(src) && (src[l.at] == '-' || src[l.at] == '+') {
			sign = src[l.at : l.at+1]
			l.at++
		}
		switch {
		case kind == "{#":
			l.text(start, open, sign, true)
			l.comment(open)
		case kind == "{%" && l.raw():
			l.text(start, open, sign, true)
			l.rawBody(open)
		case kind == "{%":
			l.text(start, open, sign, true)
			l.code(open, "block", "%}")
		default:
			l.text(start, open, sign, false)
			l.code(open, "variable", "}}")
		}
	}
	l.tokens = append(l.tokens, token{kind: "eof", pos: len(src)})
	return l.tokens
}

// opening is the place of the next tag, or -1.
func (l *lexer) opening() int {
	for i := l.at; i+1 < len(l.src); i++ {
		j := strings.IndexByte(l.src[i:], '{')
		if j < 0 || i+j+1 >= len(l.src) {
			return -1
		}
		i += j
		if c := l.src[i+1]; c == '{' || c == '%' || c == '#' {
			return i
		}
	}
	return -1
}

// text emits the data before a tag, without the white space that the tag takes.
func (l *lexer) text(start, open int, sign string, block bool) {
	text := l.src[start:open]
	switch {
	case sign == "-":
		text = strings.TrimRightFunc(text, pySpace)
	case sign != "+" && block:
		line := strings.LastIndexByte(text, '\n') + 1
		if (line > 0 || l.lineStart) && strings.TrimFunc(text[line:], pySpace) == "" {
			text = text[:line]
		}
	}
	l.data(text)
}

func (l *lexer) data(text string) {
	if text != "" {
		l.tokens = append(l.tokens, token{"data", text, l.at})
	}
}

// after takes what a tag's end takes along: one newline, or with a sign - all
// white space.
func (l *lexer) after(all, newline bool) {
	switch {
	case all:
		rest := strings.TrimLeftFunc(l.src[l.at:], pySpace)
		l.at = len(l.src) - len(rest)
	case newline && l.at < len(l.src) && l.src[l.at] == '\n':
		l.at++
	}
	l.lineStart = l.at > 0 && l.src[l.at-1] == '\n'
}

func (l *lexer) failAt(pos int, format string, args ...any) {
	l.at = pos
	fail(syntaxError, format, args...)
}

// comment skips to the end of a comment.
func (l *lexer) comment(open int) {
	end := strings.Index(l.src[l.at:], "#}")
	if end < 0 {
		l.failAt(open, "Missing end of comment tag")
	}
	sign := byte(0)
	if end > 0 {
		sign = l.src[l.at+end-1]
	}
	l.at += end + 2
	l.after(sign == '-', sign != '+')
}

// raw reports whether a raw block begins here, and goes past its tag.
func (l *lexer) raw() bool {
	rest := strings.TrimLeftFunc(l.src[l.at:], pySpace)
	rest, ok := strings.CutPrefix(rest, "raw")
	if !ok {
		return false
	}
	rest = strings.TrimLeftFunc(rest, pySpace)
	if end, ok := strings.CutPrefix(rest, "-%}"); ok {
		l.at = len(l.src) - len(end)
		l.after(true, false)
		return true
	}
	if end, ok := strings.CutPrefix(rest, "%}"); ok {
		l.at = len(l.src) - len(end)
		l.after(false, false)
		return true
	}
	return false
}

// rawBody emits the text up to endraw.
func (l *lexer) rawBody(open int) {
	start := l.at
	if start == len(l.src) {
		return // as the reference: nothing is missing where nothing follows
	}
	for at := start; ; {
		i := strings.Index(l.src[at:], "{%")
		if i < 0 {
			l.failAt(open, "Missing end of raw directive")
		}
		tag := at + i
		rest, sign := l.src[tag+2:], ""
		if rest != "" && (rest[0] == '-' || rest[0] == '+') {
			rest, sign = rest[1:], rest[:1]
		}
		rest, ok := strings.CutPrefix(strings.TrimLeftFunc(rest, pySpace), "endraw")
		rest = strings.TrimLeftFunc(rest, pySpace)
		at = tag + 2
		if !ok {
			continue
		}
		last := byte(0)
		if rest != "" && (rest[0] == '-' || rest[0] == '+') {
			last, rest = rest[0], rest[1:]
		}
		if rest, ok = strings.CutPrefix(rest, "%}"); !ok {
			continue
		}
		l.text(start, tag, sign, true)
		l.at = len(l.src) - len(rest)
		l.after(last == '-', last != '+')
		return
	}
}

// operators, longer ones first.
var operators = []string{"//", "**", "==", "!=", ">=", "<=", ">", "<", "=", "~", "|", "+", "-", "/", "*", "%", "[", "]", "(", ")", "{", "}", ".", ":", ",", ";"}

// code emits the tokens of a block or variable tag.
func (l *lexer) code(open int, what, end string) {
	l.tokens = append(l.tokens, token{"begin " + what, "", open})
	var stack []byte
	for {
		l.at = len(l.src) - len(strings.TrimLeftFunc(l.src[l.at:], pySpace))
		rest := l.src[l.at:]
		if rest == "" {
			l.tokens = append(l.tokens, token{"eof", "", l.at})
			return
		}
		if len(stack) == 0 {
			for _, sign := range []string{"-", "+", ""} {
				if strings.HasPrefix(rest, sign+end) && (sign != "+" || what == "block") {
					l.tokens = append(l.tokens, token{"end " + what, "", l.at})
					l.at += len(sign + end)
					l.after(sign == "-", sign == "" && what == "block")
					return
				}
			}
		}
		stack = l.word(rest, stack)
	}
}

// word emits one token of code.
func (l *lexer) word(rest string, stack []byte) []byte {
	pos := l.at
	r, _ := utf8.DecodeRuneInString(rest)
	switch {
	case r >= '0' && r <= '9':
		l.number(rest)
		return stack
	case r == '_' || unicode.IsLetter(r):
		n := strings.IndexFunc(rest, func(r rune) bool {
			return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.Is(unicode.M, r)
		})
		if n < 0 {
			n = len(rest)
		}
		l.at += n
		l.tokens = append(l.tokens, token{"name", rest[:n], pos})
		return stack
	case r == '\'' || r == '"':
		for i := 1; i < len(rest); i++ {
			switch rest[i] {
			case '\\':
				i++
			case byte(r):
				l.at += i + 1
				l.tokens = append(l.tokens, token{"string", l.unescape(rest[1:i], pos), pos})
				return stack
			}
		}
		l.failAt(pos, "unexpected char %q at %d", string(r), pos)
	}
	for _, op := range operators {
		if !strings.HasPrefix(rest, op) {
			continue
		}
		switch op {
		case "{", "(", "[":
			stack = append(stack, "})]"[strings.Index("{([", op)])
		case "}", ")", "]":
			if len(stack) == 0 {
				l.failAt(pos, "unexpected '%s'", op)
			}
			if want := stack[len(stack)-1]; want != op[0] {
				l.failAt(pos, "unexpected '%s', expected '%c'", op, want)
			}
			stack = stack[:len(stack)-1]
		}
		l.at += len(op)
		l.tokens = append(l.tokens, token{op, op, pos})
		return stack
	}
	l.failAt(pos, "unexpected char %s at %d", quote(string(r)), pos)
	return stack
}

// number emits an int or a float.
func (l *lexer) number(s string) {
	pos := l.at
	digits := func(i int, ok func(byte) bool) int {
		for i < len(s) && (ok(s[i]) || s[i] == '_' && i+1 < len(s) && ok(s[i+1])) {
			i++
		}
		return i
	}
	dec := func(c byte) bool { return c >= '0' && c <= '9' }
	if len(s) > 2 && s[0] == '0' && strings.IndexByte("xXoObB", s[1]) >= 0 {
		hex := func(c byte) bool { return dec(c) || c|32 >= 'a' && c|32 <= 'f' }
		if n := digits(2, hex); n > 2 {
			l.at += n
			l.tokens = append(l.tokens, token{"int", strings.ReplaceAll(s[:n], "_", ""), pos})
			return
		}
	}
	n, kind := digits(0, dec), "int"
	if n+1 < len(s) && s[n] == '.' && dec(s[n+1]) && (pos == 0 || l.src[pos-1] != '.') {
		n, kind = digits(n+1, dec), "float"
	}
	if n < len(s) && s[n]|32 == 'e' {
		e := n + 1
		if e < len(s) && (s[e] == '+' || s[e] == '-') {
			e++
		}
		if m := digits(e, dec); m > e && dec(s[e]) {
			n, kind = m, "float"
		}
	}
	l.at += n
	l.tokens = append(l.tokens, token{kind, strings.ReplaceAll(s[:n], "_", ""), pos})
}

// simpleEscapes are those of one letter.
var simpleEscapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\\': "\\", '\'': "'", '"': `"`, '\n': ""}

// unescape reads the escapes of a string literal as Python does.
func (l *lexer) unescape(s string, pos int) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if text, ok := simpleEscapes[s[i]]; ok {
			b.WriteString(text)
			continue
		}
		width := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]]
		if width > 0 {
			var code uint64
			var err error = strconv.ErrSyntax
			if i+width < len(s) {
				code, err = strconv.ParseUint(s[i+1:i+1+width], 16, 32)
			}
			if err != nil || code > unicode.MaxRune {
				l.failAt(pos, "bad escape \\%c in a string", s[i])
			}
			b.WriteRune(rune(code))
			i += width
			continue
		}
		if s[i] >= '0' && s[i] <= '7' {
			n := 1
			for n < 3 && i+n < len(s) && s[i+n] >= '0' && s[i+n] <= '7' {
				n++
			}
			code, _ := strconv.ParseUint(s[i:i+n], 8, 32)
			b.WriteRune(rune(code))
			i += n - 1
			continue
		}
		b.WriteByte('\\')
		b.WriteByte(s[i])
	}
	return b.String()
}
