package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/herd-ml/herd/internal/jsontext"
)

// editor changes a segment of text before it is split. first says that the
// segment starts the whole text.
type editor func(text string, first bool) string

// component is what the parts of a tokenizer.json pipeline have in common; each
// type uses some of the fields.
type component struct {
	Type string `json:"type"`

	Normalizers   []json.RawMessage `json:"normalizers"`
	Pretokenizers []json.RawMessage `json:"pretokenizers"`
	Decoders      []json.RawMessage `json:"decoders"`
	Processors    []json.RawMessage `json:"processors"`

	Pattern  json.RawMessage `json:"pattern"` // {"String": s} or {"Regex": s}
	Content  string          `json:"content"`
	Prepend  string          `json:"prepend"`
	Behavior behavior        `json:"behavior"`
	Invert   bool            `json:"invert"`

	AddPrefixSpace *bool  `json:"add_prefix_space"`
	UseRegex       *bool  `json:"use_regex"`
	Individual     bool   `json:"individual_digits"`
	Replacement    string `json:"replacement"`
	PrependScheme  string `json:"prepend_scheme"`
	Split          *bool  `json:"split"`
	Delimiter      string `json:"delimiter"`
	StripLeft      bool   `json:"strip_left"`
	StripRight     bool   `json:"strip_right"`
	Start          int    `json:"start"`
	Stop           int    `json:"stop"`
	Single         []json.RawMessage
	SpecialTokens  map[string]struct{ IDs []int32 } `json:"special_tokens"`
	Cls            []json.RawMessage                `json:"cls"`
	Sep            []json.RawMessage                `json:"sep"`
}

// maxGrowth is how many times longer normalising may make a text; the longest
// compatibility decomposition makes three bytes 33.
const maxGrowth = 16

// maxNesting bounds Sequence inside Sequence.
const maxNesting = 8

// parseComponent reads one part; nil for a missing or null one.
func parseComponent(raw json.RawMessage, field string, depth int) (*component, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if depth > maxNesting {
		return nil, fail(field, "more than %d levels of Sequence", maxNesting)
	}
	c := new(component)
	if err := jsontext.Unmarshal(raw, c); err != nil {
		return nil, fail(field, "%v", err)
	}
	return c, nil
}

// pattern returns a component's pattern: a fixed text, or an expression.
func (c *component) pattern(field string) (text string, regex bool, err error) {
	var p struct{ String, Regex *string }
	if err := jsontext.Unmarshal(c.Pattern, &p); err != nil {
		return "", false, fail(field+".pattern", "%v", err)
	}
	switch {
	case p.Regex != nil && *p.Regex != "":
		return *p.Regex, true, nil
	case p.String != nil && *p.String != "":
		return *p.String, false, nil
	}
	return "", false, fail(field+".pattern", "expected a String or a Regex that is not empty")
}

// normalizers reads a tokenizer.json normalizer.
func normalizers(raw json.RawMessage, depth int) ([]editor, error) {
	const field = "normalizer"
	c, err := parseComponent(raw, field, depth)
	if c == nil || err != nil {
		return nil, err
	}
	form := func(f norm.Form) []editor {
		return []editor{func(s string, _ bool) string { return f.String(s) }}
	}
	switch c.Type {
	case "Sequence":
		var all []editor
		for _, raw := range c.Normalizers {
			e, err := normalizers(raw, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, e...)
		}
		return all, nil
	case "NFC":
		return form(norm.NFC), nil
	case "NFD":
		return form(norm.NFD), nil
	case "NFKC":
		return form(norm.NFKC), nil
	case "NFKD":
		return form(norm.NFKD), nil
	case "Lowercase":
		return []editor{func(s string, _ bool) string { return lowercase(s) }}, nil
	case "StripAccents":
		return []editor{func(s string, _ bool) string { return dropMarks(s) }}, nil
	case "Strip":
		return []editor{func(s string, _ bool) string {
			if c.StripLeft {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if c.StripRight {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		}}, nil
	case "Prepend":
		return []editor{func(s string, _ bool) string {
			if s == "" {
				return s
			}
			return c.Prepend + s
		}}, nil
	case "Replace":
		return replaceEditor(c, field)
	}
	return nil, unsupported(field, "type %q", c.Type)
}

// lowercase maps characters one by one; U+0130 is the one whose lower case is
// two characters.
func lowercase(s string) string {
	return strings.ReplaceAll(strings.Map(func(r rune) rune {
		if r == 'İ' {
			return r
		}
		return unicode.ToLower(r)
	}, s), "İ", "i\u0307")
}

func dropMarks(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
			return -1
		}
		return r
	}, s)
}

// replaceEditor is the Replace normalizer.
func replaceEditor(c *component, field string) ([]editor, error) {
	text, regex, err := c.pattern(field)
	if err != nil {
		return nil, err
	}
	if len(c.Content) > maxGrowth {
		return nil, fail(field+".content", "%d bytes, at most %d are allowed", len(c.Content), maxGrowth)
	}
	if !regex {
		return []editor{func(s string, _ bool) string { return strings.ReplaceAll(s, text, c.Content) }}, nil
	}
	f, err := newFinder(text)
	if err != nil {
		return nil, err
	}
	quick, ok := f.(fast)
	if !ok {
		return nil, unsupported(field, "Replace with the expression %.80q", text)
	}
	return []editor{func(s string, _ bool) string {
		found, err := quick.matches(nil, s)
		if err != nil {
			return s
		}
		var b strings.Builder
		at := int32(0)
		for _, m := range found {
			b.WriteString(s[at:m.start])
			b.WriteString(c.Content)
			at = m.end
		}
		b.WriteString(s[at:])
		return b.String()
	}}, nil
}

// oneMark refuses a replacement of Metaspace that is not one character.
func (c *component) oneMark(field string) error {
	if utf8.RuneCountInString(c.Replacement) != 1 {
		return fail(field, "replacement %.20q is not one character", c.Replacement)
	}
	return nil
}

// metaspace is the Metaspace pre-tokenizer: spaces become the replacement, and
// one is put in front unless there is one.
func metaspace(c *component) (edit editor, cut step, err error) {
	const field = "pre_tokenizer.Metaspace"
	mark, scheme := c.Replacement, c.PrependScheme
	if err := c.oneMark(field); err != nil {
		return nil, nil, err
	}
	switch scheme {
	case "": // before prepend_scheme there was add_prefix_space
		if scheme = "always"; c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
			scheme = "never"
		}
	case "always", "first", "never":
	default:
		return nil, nil, fail(field, "prepend_scheme is %.20q, expected always, first or never", scheme)
	}
	edit = func(s string, first bool) string {
		s = strings.ReplaceAll(s, " ", mark)
		if (scheme == "always" || scheme == "first" && first) && !strings.HasPrefix(s, mark) {
			s = mark + s
		}
		return s
	}
	if c.Split == nil || *c.Split {
		cut = splitter{literal(mark), withAfter, false}
	}
	return edit, cut, nil
}

// prefixSpace puts a space in front of a segment that has none.
func prefixSpace(s string, _ bool) string {
	if strings.HasPrefix(s, " ") {
		return s
	}
	return " " + s
}
