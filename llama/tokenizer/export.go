package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrInexpressible is wrapped by the errors of SetGGUF, JSON and ModelFile for
// a tokenizer that the format cannot hold, or cannot hold exactly.
var ErrInexpressible = errors.New("cannot be expressed in that format")

// ErrInexact is wrapped, along with ErrInexpressible, by an error that comes
// with a result: the nearest form was written, and the error names in what it
// differs. A caller may keep the result and pass the error on as a warning.
var ErrInexact = fmt.Errorf("%w exactly", ErrInexpressible)

// origin keeps what a file said that only an export needs.
type origin struct {
	normalizer, preTokenizer, decoder json.RawMessage // of a tokenizer.json

	// Of SentencePiece and GGUF: a space is put in front of each segment, runs
	// of spaces become one, spaces are not written as "▁".
	prefix, collapse, plain bool
}

// inexpressible refuses a target.
func inexpressible(target, format string, args ...any) error {
	return &Error{Field: target, Reason: fmt.Sprintf(format, args...), Err: ErrInexpressible}
}

// notes are the differences between a tokenizer and its written form.
type notes []string

func (n *notes) add(when bool, format string, args ...any) {
	if when {
		*n = append(*n, fmt.Sprintf(format, args...))
	}
}

// err is nil for an exact form.
func (n notes) err(target string) error {
	if len(n) == 0 {
		return nil
	}
	return &Error{Field: target, Reason: "written, with differences: " + strings.Join(n, "; "), Err: ErrInexact}
}

// compare notes how u differs from t, of which it is the written form, read back. It looks
// at their tables only.
func (n *notes) compare(t, u *Tokenizer) {
	n.add(t.bos != u.bos, "BOS is %d, not %d", u.bos, t.bos)
	n.add(!slices.Equal(t.before, u.before), "texts start with %v, not %v", u.before, t.before)
	n.add(!slices.Equal(t.after, u.after), "texts end with %v, not %v", u.after, t.after)
	n.add(t.trim != u.trim, "whether decoding drops a leading space")
	for _, id := range t.eog {
		n.add(!slices.Contains(u.eog, id), "%q does not end a generation", t.names.at(id))
	}
	different, first := 0, int32(0)
	for i := range t.kinds {
		id := int32(i)
		a, b := t.token(id), token{}
		if i < len(u.kinds) {
			b = u.token(id)
		} else if a.kind == unused { // a row without a token
			continue
		}
		if a.kind != absent && (a.raw != b.raw || t.IsSpecial(id) != u.IsSpecial(id) || (a.kind == user) != (b.kind == user)) {
			if different == 0 {
				first = id
			}
			different++
		}
	}
	n.add(different > 0, "%d tokens have another kind or text, the first is %d, %.40q", different, first, t.names.at(first))
}

// spelled is a token's name as the files of Hugging Face and GGUF spell it. Rank files
// hold plain bytes instead.
func (t *Tokenizer) spelled(id int32) string {
	tok := t.token(id)
	if !t.model.bytes || t.model.pairs != nil || tok.kind != normal {
		return tok.name
	}
	var b strings.Builder
	for i := range len(tok.raw) {
		b.WriteRune(byteChar(tok.raw[i]))
	}
	return b.String()
}

// optional is a pointer to an id, nil for none.
func optional(id int32) *int32 {
	if id < 0 {
		return nil
	}
	return &id
}

// role returns the token that the files give a role, else another one.
func (t *Tokenizer) role(name string, otherwise int32) int32 {
	if id, ok := t.ids.find(t.roles[name]); ok {
		return id
	}
	return otherwise
}

// padding returns the token that fills up batches. Where the files name none, a token
// with a usual name is taken.
func (t *Tokenizer) padding() int32 {
	for _, name := range []string{t.roles["pad_token"], "<|finetune_right_pad_id|>", "<pad>", "<|pad|>", "[PAD]"} {
		if id, ok := t.ids.find(name); ok && t.kinds[id] == control {
			return id
		}
	}
	return -1
}

// preNames are the values of tokenizer.ggml.pre that are written. Two of them stand for
// the same split where one merges words that are tokens and the other takes them whole.
var preNames = []string{"llama-bpe", "smaug-bpe", "qwen2", "gpt-2", "smollm", "falcon", "tekken", "gpt-4o", "deepseek-llm",
	"deepseek-coder", "deepseek-v3", "seed-coder", "bailingmoe", "bloom", "viking"}

// pre returns GGUF's name of the split of a byte-level vocabulary, or "".
func (t *Tokenizer) pre() string {
	if t.info.Source == "gguf" {
		return t.info.Split
	}
	for _, st := range t.split {
		if s, ok := st.(splitter); ok {
			if _, fixed := s.finder.(literal); fixed || s.behavior != isolated || s.invert {
				return ""
			}
		} else if _, ok := st.(scan); !ok {
			return ""
		}
	}
	for _, pre := range preNames {
		s := splitByPre(pre)
		var names []string
		for _, p := range s.patterns {
			if _, name := known(p); name != "" {
				p = name
			}
			names = append(names, p)
		}
		if len(names) == len(t.split) && strings.Join(names, ", ") == t.info.Split && (s.whole == t.model.whole || t.model.wholes()) {
			return pre
		}
	}
	return ""
}

// pipeline notes what is lost outside a tokenizer.json: of the text before it is split,
// and of added tokens.
func (n *notes) pipeline(t *Tokenizer) {
	n.add(t.model.bytes && len(t.normalize)+len(t.prepare) > 0, "text is not normalised and gets no space in front")
	n.add(t.info.Source == "tokenizer.json" && len(t.normalize) > 0 && len(t.addedAfter.tokens) > 0, "added tokens are found in the text as it is, not in the normalised text")
	flagged := 0
	for _, m := range []*matcher{t.added, t.addedAfter} {
		if m == nil {
			continue
		}
		for _, a := range m.tokens {
			if a.word || a.lstrip || a.rstrip {
				flagged++
			}
		}
	}
	n.add(flagged > 0, "%d added tokens lose the rules for what stands beside them", flagged)
	lost := t.model.bytes && t.model.unk >= 0 && slices.Contains(t.model.first[:], -1)
	n.add(lost, "bytes without a token are dropped, not unknown")
}

// users returns the number of user-defined tokens.
func (t *Tokenizer) users() (n int) {
	for i := range t.kinds {
		if t.kinds[i] == user {
			n++
		}
	}
	return n
}
