package tokenizer

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// step cuts a text into words. It appends the spans of the words to dst; text
// between them is dropped.
type step interface {
	cut(dst []span, s string) ([]span, error)
}

// scan is a step made from a hand-written scanner.
type scan struct {
	end  func(s string, i int) int // of the word that starts at s[i]
	mark string                    // between two letters it always starts a word
}

func (f scan) cut(dst []span, s string) ([]span, error) {
	for i := 0; i < len(s); {
		end := f.end(s, i)
		dst = append(dst, span{int32(i), int32(end)})
		i = end
	}
	return dst, nil
}

// finder reports the matches of an expression in s, in order and not empty.
type finder interface {
	matches(dst []span, s string) ([]span, error)
}

// behavior says what becomes of matches, with Hugging Face's names.
type behavior string

const (
	isolated   behavior = "Isolated"
	removed    behavior = "Removed"
	withBefore behavior = "MergedWithPrevious"
	withAfter  behavior = "MergedWithNext"
	contiguous behavior = "Contiguous"
)

// splitter cuts at the matches of a finder.
type splitter struct {
	finder
	behavior behavior
	invert   bool // what lies between the matches counts as match
}

func (p splitter) cut(dst []span, s string) ([]span, error) {
	found, err := p.matches(nil, s)
	if err != nil {
		return dst, err
	}
	// Matches and gaps in turn, from the start of s to its end.
	base, at, was, open := len(dst), int32(0), false, false
	add := func(end int32, is bool) {
		if end == at {
			return
		}
		is = is != p.invert
		join := len(dst) > base && open && (p.behavior == contiguous && is == was ||
			p.behavior == withBefore && is && !was || p.behavior == withAfter && was && !is)
		switch {
		case join:
			dst[len(dst)-1].end = end
		case p.behavior != removed || !is:
			dst = append(dst, span{at, end})
		}
		at, was, open = end, is, true
	}
	for _, m := range found {
		add(m.start, false)
		add(m.end, true)
	}
	add(int32(len(s)), false)
	return dst, nil
}

// runes finds characters of a set, one match each.
type runes func(r rune) bool

func (f runes) matches(dst []span, s string) ([]span, error) {
	for i, r := range s {
		if f(r) {
			dst = append(dst, span{int32(i), int32(i + utf8.RuneLen(r))})
		}
	}
	return dst, nil
}

// literal finds a fixed text.
type literal string

func (l literal) matches(dst []span, s string) ([]span, error) {
	for i := 0; ; {
		k := strings.Index(s[i:], string(l))
		if k < 0 {
			return dst, nil
		}
		dst = append(dst, span{int32(i + k), int32(i + k + len(l))})
		i += k + len(l)
	}
}

// punctuation is the Punctuation pre-tokenizer's set.
func punctuation(r rune) bool {
	return r > ' ' && r < 0x7f && asciiClass[r] == other || unicode.IsPunct(r)
}

// mapped applies a step to the text as GPT-2 spells bytes: pre-tokenizers that
// come after ByteLevel see that spelling, where byte 0xB2 is the digit "²".
type mapped struct{ step }

func (m mapped) cut(dst []span, s string) ([]span, error) {
	var b strings.Builder
	starts := make([]int32, 0, 2*len(s)+1) // by offset in the spelled text: offset in s
	for i := 0; i < len(s); i++ {
		n, _ := b.WriteRune(byteChar(s[i]))
		for range n {
			starts = append(starts, int32(i))
		}
	}
	starts = append(starts, int32(len(s)))
	from := len(dst)
	dst, err := m.step.cut(dst, b.String())
	for k := from; k < len(dst); k++ {
		dst[k] = span{starts[dst[k].start], starts[dst[k].end]}
	}
	return dst, err
}

// fast is an expression that RE2 runs. Where its last alternatives were
// `\s+(?!\S)` and perhaps `\s+`, they have become one group, which gives back its
// last character when something follows.
type fast struct {
	re   *regexp.Regexp
	tail int  // index of that group's start in a match, negative: none
	rest bool // `\s+` was there
}

func (f fast) matches(dst []span, s string) ([]span, error) {
	deadline := time.Now().Add(slowLimit(len(s))) // one match is linear, all together need not be
	for i := 0; i < len(s); {
		m := f.re.FindStringSubmatchIndex(s[i:])
		if m == nil {
			break
		}
		if len(dst)%64 == 63 && time.Now().After(deadline) {
			return dst, tooSlow(f.re.String(), len(s))
		}
		start, end := i+m[0], i+m[1]
		if f.tail > 0 && m[f.tail] >= 0 && end < len(s) {
			if _, w := utf8.DecodeLastRuneInString(s[start:end]); start+w < end {
				end -= w
			} else if !f.rest { // one character cannot give any back: no match here
				i = end
				continue
			}
		}
		if end == start { // an empty match separates nothing
			_, w := utf8.DecodeRuneInString(s[end:])
			i = end + max(w, 1)
			continue
		}
		dst = append(dst, span{int32(start), int32(end)})
		i = end
	}
	return dst, nil
}

// slow is an expression that needs backtracking, under a time limit that grows
// with the text.
type slow struct {
	pattern string
	pool    *sync.Pool // *regexp2.Regexp, since its limit is a field of it
}

// slowLimit is the time that an expression may take on n bytes.
func slowLimit(n int) time.Duration { return time.Second + time.Duration(n)*4*time.Microsecond }

func tooSlow(pattern string, n int) error {
	return &Error{Field: "pre_tokenizer", Reason: fmt.Sprintf("the split expression %.80q took more than %v on a text of %d bytes", pattern, slowLimit(n), n), Err: ErrSplitTime}
}

func (f slow) matches(dst []span, s string) ([]span, error) {
	re, ok := f.pool.Get().(*regexp2.Regexp)
	if !ok {
		re = regexp2.MustCompile(f.pattern, regexp2.None) // compiled before, when the file was read
	}
	defer f.pool.Put(re)
	text := []rune(s)
	deadline := time.Now().Add(slowLimit(len(s)))
	at, pos := 0, 0 // byte and character offset
	advance := func(to int) int32 {
		for ; pos < to; pos++ {
			at += utf8.RuneLen(text[pos])
		}
		return int32(at)
	}
	for start := 0; start < len(text); {
		re.MatchTimeout = max(time.Until(deadline), time.Millisecond)
		m, err := re.FindRunesMatchStartingAt(text, start)
		if err != nil || time.Now().After(deadline) {
			return dst, tooSlow(f.pattern, len(s))
		}
		if m == nil {
			break
		}
		if m.Length == 0 {
			start = m.Index + 1
			continue
		}
		dst = append(dst, span{advance(m.Index), advance(m.Index + m.Length)})
		start = m.Index + m.Length
	}
	return dst, nil
}

// The hand-written scanners. None has an alternative with a letter before a
// space, or one that looks ahead from a letter.
var (
	llama3Split = scan{func(s string, i int) int { return scanLlama3(s, i, 3) }, " "}
	qwen2Split  = scan{func(s string, i int) int { return scanLlama3(s, i, 1) }, " "}
	gpt2Split   = scan{scanGPT2, " "}
	digitSplit  = scan{scanNumber, " "} // does not cut there, but cuts nothing else then
)

// The split expressions that have scanners, by exact text. Those of llama.cpp
// spell case folding out and leave off the last `\s+`; a single white space that
// nothing matches is a word of its own all the same.
func known(pattern string) (scan, string) {
	const (
		head     = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
		headFold = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
		words    = `|[^\r\n\p{L}\p{N}]?\p{L}+|`
		rest     = `| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
		gpt2     = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
	)
	switch pattern {
	case head + words + `\p{N}{1,3}` + rest, headFold + words + `\p{N}{1,3}` + rest:
		return llama3Split, "llama3"
	case head + words + `\p{N}` + rest, headFold + words + `\p{N}` + rest:
		return qwen2Split, "qwen2"
	case gpt2, gpt2 + `|\s+`:
		return gpt2Split, "gpt2"
	case `\p{N}`:
		return digitSplit, "digits"
	}
	return scan{}, ""
}

// newSplit makes a step of an expression in Oniguruma's syntax (what Hugging
// Face uses), and a name for it.
func newSplit(pattern string, b behavior, invert bool) (step, string, error) {
	if f, name := known(pattern); name != "" && b == isolated {
		return f, name, nil // a scanner's words alternate, so inverting changes nothing
	}
	f, err := newFinder(pattern)
	if err != nil {
		return nil, "", err
	}
	return splitter{f, b, invert}, pattern, nil
}

// newFinder compiles an expression: with RE2 where it can, else with backtracking.
func newFinder(pattern string) (finder, error) {
	const ahead = `\s+(?!\S)`
	for _, end := range []string{ahead + `|\s+`, ahead, ""} {
		body, ok := strings.CutSuffix(pattern, end)
		if !ok || end != "" && body != "" && (!strings.HasSuffix(body, "|") || strings.HasSuffix(body, `\|`)) {
			continue
		}
		body, backtracks, err := translate(body)
		if err != nil {
			return nil, err
		}
		if backtracks {
			break
		}
		if end != "" {
			body += "(?P<tail>[" + whiteSpace + "]+)"
		}
		re, err := regexp.Compile(body)
		if err != nil {
			return nil, fail("", "split expression %.200q: %v", pattern, err)
		}
		return fast{re, 2 * re.SubexpIndex("tail"), end != ahead}, nil
	}
	translated, _, err := translate(pattern)
	if err != nil {
		return nil, err
	}
	re, err := regexp2.Compile(translated, regexp2.None)
	if err != nil {
		return nil, fail("", "split expression %.200q: %v", pattern, err)
	}
	pool := new(sync.Pool)
	pool.Put(re)
	return slow{translated, pool}, nil
}
