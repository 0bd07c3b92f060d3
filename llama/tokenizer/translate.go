package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// whiteSpace is Unicode's White_Space, and the rest of Unicode, as the inside of
// a character class.
const (
	whiteSpace    = "\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
	notWhiteSpace = "\x00-\x08\x0e-\x1f!-\u0084\u0086-\u009f\u00a1-\u167f\u1681-\u1fff\u200b-\u2027\u202a-\u202e\u2030-\u205e\u2060-\u2fff\u3001-\U0010ffff"
)

// translate rewrites an expression from Oniguruma's syntax to one that RE2 and
// .NET read alike, with Unicode classes. backtracks says that RE2 cannot run it.
func translate(p string) (out string, backtracks bool, err error) {
	if len(p) > 1<<16 || !utf8.ValidString(p) {
		return "", false, fail("", "split expression of %d bytes is too long or not UTF-8", len(p))
	}
	var b strings.Builder
	class := false
	for i := 0; i < len(p); {
		switch c := p[i]; {
		case c == '\\':
			text, n, back, e := escape(p[i:], class)
			if e != nil {
				return "", false, e
			}
			b.WriteString(text)
			backtracks = backtracks || back
			i += n
			continue
		case class && c == '[' && !strings.HasPrefix(p[i:], "[:"), class && strings.HasPrefix(p[i:], "&&"):
			return "", false, fail("", "split expression %.200q: nested character classes are not supported", p)
		case class && strings.HasPrefix(p[i:], "[:"):
			return "", false, fail("", "split expression %.200q: POSIX classes are not supported", p)
		case c == '[' && !class:
			class = true
			b.WriteByte(c)
			i++
			if strings.HasPrefix(p[i:], "^") {
				b.WriteByte('^')
				i++
			}
			if strings.HasPrefix(p[i:], "]") { // a literal in first place
				b.WriteString(`\]`)
				i++
			}
			continue
		case c == ']' && class:
			class = false
		case !class && c == '$':
			b.WriteString(`(?m:$)`)
			i++
			continue
		case !class && c == '^': // RE2 is run on what is left of the text, so it cannot look behind
			b.WriteString(`(?m:^)`)
			backtracks = true
			i++
			continue
		case !class && strings.HasPrefix(p[i:], "(?") && !strings.HasPrefix(p[i:], "(?:") && !strings.HasPrefix(p[i:], "(?i"):
			backtracks = true // lookaround, atomic group, or something compiling will refuse
		case !class && c == '+' && i > 0 && strings.IndexByte("+*?", p[i-1]) >= 0 && !(i > 1 && p[i-2] == '\\'):
			return "", false, fail("", "split expression %.200q: possessive repeats are not supported", p)
		}
		b.WriteByte(p[i])
		i++
	}
	return b.String(), backtracks, nil
}

// escape translates the escape at the start of p, which is n bytes long.
func escape(p string, class bool) (text string, n int, backtracks bool, err error) {
	if len(p) < 2 {
		return "", 0, false, fail("", "split expression ends with a backslash")
	}
	set := func(inside string) string {
		if class {
			return inside
		}
		return "[" + inside + "]"
	}
	switch c := p[1]; c {
	case 's':
		return set(whiteSpace), 2, false, nil
	case 'S':
		return set(notWhiteSpace), 2, false, nil
	case 'd':
		return `\p{Nd}`, 2, false, nil
	case 'D':
		return `\P{Nd}`, 2, false, nil
	case 'w':
		return set(`\p{L}\p{M}\p{Nd}\p{Pc}`), 2, false, nil
	case 'W':
		if class {
			return "", 0, false, fail("", `\W inside a character class is not supported`)
		}
		return `[^\p{L}\p{M}\p{Nd}\p{Pc}]`, 2, false, nil
	case 'p', 'P':
		end := strings.IndexByte(p, '}')
		if !strings.HasPrefix(p[2:], "{") || end < 0 {
			return "", 0, false, fail("", `\p without a name in braces`)
		}
		return p[:end+1], end + 1, false, nil
	case 'u', 'x':
		digits := ""
		if strings.HasPrefix(p[2:], "{") {
			if end := strings.IndexByte(p, '}'); end > 0 {
				digits, n = p[3:end], end+1
			}
		} else if width := map[byte]int{'u': 4, 'x': 2}[c]; len(p) >= 2+width {
			digits, n = p[2:2+width], 2+width
		}
		v, e := strconv.ParseUint(digits, 16, 32)
		if e != nil || v > utf8.MaxRune || !utf8.ValidRune(rune(v)) {
			return "", 0, false, fail("", "bad character escape %.12q", p)
		}
		return quote(rune(v)), n, false, nil
	case 'n', 'r', 't', 'f', 'v', 'a':
		return p[:2], 2, false, nil
	}
	r, w := utf8.DecodeRuneInString(p[1:])
	if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
		return p[:1+w], 1 + w, true, nil // back references, \b, \G: .NET may know them
	}
	return quote(r), 1 + w, false, nil
}

// quote spells a character so that it stands for itself.
func quote(r rune) string {
	if r < utf8.RuneSelf {
		return fmt.Sprintf(`\x%02x`, r)
	}
	return string(r)
}
