package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode"

	"github.com/herd-ml/herd/internal/jsontext"
)

// preTokenizer collects the steps of a tokenizer.json pre_tokenizer.
type preTokenizer struct {
	t     *Tokenizer
	bytes bool     // a ByteLevel was seen
	names []string // for Info
}

func (p *preTokenizer) add(name string, s step) {
	if p.bytes {
		s = mapped{s}
	}
	p.t.split = append(p.t.split, s)
	p.names = append(p.names, name)
}

func (p *preTokenizer) read(raw json.RawMessage, depth int) error {
	const field = "pre_tokenizer"
	c, err := parseComponent(raw, field, depth)
	if c == nil || err != nil {
		return err
	}
	switch c.Type {
	case "Sequence":
		for _, raw := range c.Pretokenizers {
			if err := p.read(raw, depth+1); err != nil {
				return err
			}
		}
	case "ByteLevel":
		if p.bytes {
			return unsupported(field, "a second ByteLevel")
		}
		if c.AddPrefixSpace == nil || *c.AddPrefixSpace {
			if len(p.t.split) > 0 {
				return unsupported(field, "ByteLevel with add_prefix_space after another pre-tokenizer")
			}
			p.t.prepare = append(p.t.prepare, prefixSpace)
		}
		if c.UseRegex == nil || *c.UseRegex {
			p.add("gpt2", gpt2Split)
		}
		p.bytes = true
	case "Metaspace":
		if len(p.t.split) > 0 || p.bytes {
			return unsupported(field, "Metaspace after another pre-tokenizer")
		}
		edit, cut, err := metaspace(c)
		if err != nil {
			return err
		}
		p.t.prepare = append(p.t.prepare, edit)
		if cut != nil {
			p.add("metaspace", cut)
		}
	default:
		return p.simple(c, field)
	}
	return nil
}

// simple reads the pre-tokenizers that only cut.
func (p *preTokenizer) simple(c *component, field string) error {
	switch c.Type {
	case "Split":
		text, regex, err := c.pattern(field)
		if err != nil {
			return err
		}
		switch c.Behavior {
		case isolated, removed, withBefore, withAfter, contiguous:
		default:
			return fail(field+".behavior", "%.40q is unknown", c.Behavior)
		}
		if !regex {
			p.add(text, splitter{literal(text), c.Behavior, c.Invert})
			return nil
		}
		s, name, err := newSplit(text, c.Behavior, c.Invert)
		if err != nil {
			return err
		}
		p.add(name, s)
	case "Digits":
		if c.Individual {
			p.add("digits", digitSplit)
		} else {
			p.add("numbers", splitter{runes(unicode.IsNumber), contiguous, false})
		}
	case "Punctuation":
		if c.Behavior == "" {
			c.Behavior = isolated
		}
		p.add("punctuation", splitter{runes(punctuation), c.Behavior, false})
	case "Whitespace":
		f, err := newFinder(`\w+|[^\w\s]+`)
		if err != nil {
			return err
		}
		p.add("whitespace", splitter{f, removed, true})
	case "WhitespaceSplit":
		p.add("whitespace", splitter{runes(unicode.IsSpace), removed, false})
	case "CharDelimiterSplit":
		if c.Delimiter == "" {
			return fail(field+".delimiter", "is empty")
		}
		p.add(c.Delimiter, splitter{literal(c.Delimiter), removed, false})
	default:
		return unsupported(field, "type %q", c.Type)
	}
	return nil
}

// readDecoder finds out whether names are spelled as bytes or with "▁", and
// sets the text of the model's tokens. Of the decoders' freedom, the
// combinations that exist are taken and others refused.
func (t *Tokenizer) readDecoder(raw json.RawMessage, byteLevel bool, v *vocabulary, raws []string) error {
	d := decoder{}
	if err := d.read(raw, 0); err != nil {
		return err
	}
	if byteLevel { // hfModel has set the text
		if len(d.replace) > 0 {
			return unsupported("decoder", "Replace with a ByteLevel pre-tokenizer")
		}
		if !d.bytes {
			t.info.Warnings = append(t.info.Warnings, "no ByteLevel decoder; the tokens are decoded as bytes all the same")
		}
		return nil
	}
	if d.bytes {
		return unsupported("decoder", "ByteLevel without such a pre-tokenizer")
	}
	t.trim = d.trim
	for i, k := range v.kinds {
		if k != normal {
			continue
		}
		for _, r := range d.replace {
			raws[i] = strings.ReplaceAll(raws[i], r[0], r[1])
		}
	}
	return nil
}

// decoder is what a tokenizer.json decoder comes down to.
type decoder struct {
	bytes   bool
	trim    bool // one leading space is dropped
	replace [][2]string
}

func (d *decoder) read(raw json.RawMessage, depth int) error {
	const field = "decoder"
	c, err := parseComponent(raw, field, depth)
	if c == nil || err != nil {
		return err
	}
	switch c.Type {
	case "Sequence":
		for _, raw := range c.Decoders {
			if err := d.read(raw, depth+1); err != nil {
				return err
			}
		}
	case "ByteLevel":
		d.bytes = true
	case "ByteFallback", "Fuse":
	case "Metaspace":
		if err := c.oneMark(field); err != nil {
			return err
		}
		d.replace = append(d.replace, [2]string{c.Replacement, " "})
		d.trim = c.PrependScheme != "never" && (c.AddPrefixSpace == nil || *c.AddPrefixSpace)
	case "Replace":
		text, regex, err := c.pattern(field)
		if err != nil {
			return err
		}
		if regex || len(c.Content) > len(text) {
			return unsupported(field, "Replace of %.40q by %.40q", text, c.Content)
		}
		d.replace = append(d.replace, [2]string{text, c.Content})
	case "Strip":
		if c.Content != " " || c.Start > 1 || c.Stop > 0 {
			return unsupported(field, "Strip of %.20q, %d at the start and %d at the end", c.Content, c.Start, c.Stop)
		}
		d.trim = d.trim || c.Start == 1
	default:
		return unsupported(field, "type %q", c.Type)
	}
	return nil
}

// postProcessor reads what is put around a single text.
func postProcessor(raw json.RawMessage, v *vocabulary, depth int) (before, after []int32, err error) {
	const field = "post_processor"
	c, err := parseComponent(raw, field, depth)
	if c == nil || err != nil {
		return nil, nil, err
	}
	switch c.Type {
	case "Sequence":
		for _, raw := range c.Processors {
			b, a, err := postProcessor(raw, v, depth+1)
			if err != nil {
				return nil, nil, err
			}
			before, after = append(b, before...), append(after, a...)
		}
		return before, after, nil
	case "ByteLevel":
		return nil, nil, nil
	case "TemplateProcessing":
		return template(c, field)
	case "BertProcessing", "RobertaProcessing":
		for _, p := range []struct {
			pair []json.RawMessage
			to   *[]int32
		}{{c.Cls, &before}, {c.Sep, &after}} {
			var id int32
			if len(p.pair) != 2 || json.Unmarshal(p.pair[1], &id) != nil {
				return nil, nil, fail(field, "cls and sep must be pairs of a token and its id")
			}
			*p.to = []int32{id}
		}
		return before, after, nil
	}
	return nil, nil, unsupported(field, "type %q", c.Type)
}

// template reads the single template of TemplateProcessing.
func template(c *component, field string) (before, after []int32, err error) {
	seen := false
	for _, raw := range c.Single {
		var part struct {
			SpecialToken *struct{ ID string }
			Sequence     *struct{ ID string }
		}
		if err := jsontext.Unmarshal(raw, &part); err != nil {
			return nil, nil, fail(field+".single", "%v", err)
		}
		switch {
		case part.Sequence != nil && !seen:
			seen = true
		case part.SpecialToken != nil:
			ids, ok := c.SpecialTokens[part.SpecialToken.ID]
			if !ok {
				return nil, nil, fail(field+".special_tokens", "%.40q is missing", part.SpecialToken.ID)
			}
			if seen {
				after = append(after, ids.IDs...)
			} else {
				before = append(before, ids.IDs...)
			}
		default:
			return nil, nil, fail(field+".single", "expected special tokens and one sequence")
		}
	}
	return before, after, nil
}
