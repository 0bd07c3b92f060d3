package tokenizer

import (
	"encoding/json"
	"strings"
)

// spacing is how a vocabulary of characters treats spaces.
type spacing struct {
	prefix   string // where one is put in front: "", eachSegment, or Metaspace's always or first
	collapse bool   // runs become one, those at the ends go
	plain    bool   // they are not written as "▁"
	cut      bool   // words start at each "▁"
}

// eachSegment puts a space in front of each segment, also of one that begins with a
// space, as SentencePiece and llama.cpp do. Metaspace adds none there.
const eachSegment = "each"

// spacing returns how t treats spaces. ok is false where its tokenizer.json does more.
func (t *Tokenizer) spacing() (s spacing, ok bool) {
	if t.info.Source != "tokenizer.json" {
		s = spacing{collapse: t.origin.collapse, plain: t.origin.plain}
		if t.origin.prefix {
			s.prefix = eachSegment
		}
		return s, true
	}
	normal, ok1 := flatten(t.origin.normalizer)
	pre, ok2 := flatten(t.origin.preTokenizer)
	if !ok1 || !ok2 || len(pre) > 1 {
		return s, false
	}
	s.plain = true
	for _, c := range normal {
		text, regex := "", false
		if c.Type == "Replace" {
			text, regex, _ = c.pattern("normalizer")
		}
		switch {
		case c.Type == "Prepend" && c.Prepend == spaceMark && s.prefix == "":
			s.prefix = eachSegment
		case c.Type == "Replace" && !regex && text == " " && c.Content == spaceMark:
			s.plain = false
		default:
			return s, false
		}
	}
	for _, c := range pre {
		if c.Type != "Metaspace" || c.Replacement != spaceMark || s.prefix != "" {
			return s, false
		}
		s.plain, s.cut = false, c.Split == nil || *c.Split
		s.prefix = c.PrependScheme
		if s.prefix == "" && (c.AddPrefixSpace == nil || *c.AddPrefixSpace) {
			s.prefix = "always"
		} else if s.prefix == "never" {
			s.prefix = ""
		}
	}
	return s, !(s.plain && s.prefix != "")
}

// flatten returns the parts of a normalizer or pre-tokenizer.
func flatten(raw json.RawMessage) (parts []*component, ok bool) {
	c, err := parseComponent(raw, "", 0)
	if c == nil || err != nil {
		return nil, err == nil
	}
	if c.Type != "Sequence" {
		return []*component{c}, true
	}
	for _, raw := range append(c.Normalizers, c.Pretokenizers...) {
		p, err := parseComponent(raw, "", 1)
		if p == nil || err != nil || p.Type == "Sequence" {
			return nil, false
		}
		parts = append(parts, p)
	}
	return parts, true
}

// likeSPM checks that t treats text as SentencePiece and llama.cpp's `llama` do,
// and notes small differences.
func (n *notes) likeSPM(t *Tokenizer, target string) (spacing, error) {
	s, ok := t.spacing()
	if !ok {
		return s, inexpressible(target, "the normalizer and pre_tokenizer do more than to mark spaces")
	}
	switch s.prefix {
	case "always":
		n.add(true, "a text that starts with a space or ▁ gets another in front")
	case "first":
		n.add(true, "a text that starts with a space or ▁ gets another in front, and so does text after a control token")
	}
	if s.cut {
		for _, r := range t.model.merges() {
			if strings.LastIndex(t.names.at(r.id), spaceMark) > 0 {
				n.add(true, "tokens such as %.40q, with a space inside, may come about", t.names.at(r.id))
				break
			}
		}
	}
	return s, nil
}

// userSpaces notes that user-defined tokens are cut out of the text before
// spaces are marked (GGUF, tokenizer.json) or after it (SentencePiece).
func (n *notes) userSpaces(t *Tokenizer, spm bool) {
	k := t.users()
	n.add(k > 0 && (t.info.Source == "sentencepiece") != spm, "spaces beside the %d user-defined tokens", k)
}
