package tokenizer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/herd-ml/herd/llama/gguf"
)

// SetGGUF writes the vocabulary into w as metadata tokenizer.ggml.* that
// llama.cpp and FromGGUF read: model `gpt2` for vocabularies of bytes, `llama`
// for those of characters. vocab is the number of rows of the model's embedding
// table, 0 for as many as there are tokens; ids without a token become unused
// ones named [PAD<id>], as llama.cpp's converter has it.
//
// What the vocabulary's order implies is written out: merges for a rank file,
// scores for the merges of a tokenizer.json. Readers of GGUF take every control
// token with a known name (<|eot_id|>, ...) for an end of generation, even if
// the source did not.
//
// The error wraps ErrInexpressible where GGUF cannot hold the tokenizer (a split
// without a name there, more tokens than rows), and ErrInexact where it was
// written with differences, which the error names.
func (t *Tokenizer) SetGGUF(w *gguf.Writer, vocab int) error {
	const target = "GGUF"
	v, n, err := t.vocabGGUF(target, vocab)
	if err != nil {
		return err
	}
	back, err := FromVocab(v)
	if err != nil {
		return inexpressible(target, "cannot be read back: %v", err)
	}
	n.compare(t, back)
	n.add(t.eos != back.eos, "EOS is %d, not %d", back.eos, t.eos)
	const at = "tokenizer.ggml."
	set := func(key string, value any) {
		if err == nil {
			err = w.Set(at+key, value)
		}
	}
	set("model", v.Model)
	set("pre", v.Pre)
	set("tokens", v.Tokens)
	set("token_type", v.Types)
	if v.Scores != nil {
		set("scores", v.Scores)
	}
	if v.Merges != nil {
		set("merges", v.Merges)
	}
	for _, p := range []struct {
		key string
		id  *int32
	}{{"bos", v.BOS}, {"eos", v.EOS}, {"eot", v.EOT}, {"eom", v.EOM}, {"unknown", v.UNK}, {"padding", v.PAD},
		{"seperator", v.SEP}, {"cls", v.CLS}, {"mask", v.Mask}} { // the format spells it so
		if p.id != nil {
			set(p.key+"_token_id", uint32(*p.id))
		}
	}
	set("add_bos_token", *v.AddBOS)
	set("add_eos_token", *v.AddEOS)
	if v.AddSpacePrefix != nil {
		set("add_space_prefix", *v.AddSpacePrefix)
	}
	if err != nil {
		return err
	}
	return n.err(target)
}

// vocabGGUF is the content of the metadata.
func (t *Tokenizer) vocabGGUF(target string, rows int) (v VocabGGUF, n notes, err error) {
	size := len(t.kinds)
	if rows > 0 && rows < size {
		return v, n, inexpressible(target, "the vocabulary has %d tokens, the model only %d rows", size, rows)
	}
	size = max(size, rows)
	v.Tokens, v.Types = make([]string, size), make([]int32, size)
	for i := range size {
		v.Tokens[i], v.Types[i] = fmt.Sprintf("[PAD%d]", i), int32(unused)
		if i < len(t.kinds) && t.kinds[i] != absent {
			v.Tokens[i], v.Types[i] = t.spelled(int32(i)), int32(t.kinds[i])
		}
	}
	addBOS, addEOS := len(t.before) > 0, len(t.after) > 0
	v.AddBOS, v.AddEOS = &addBOS, &addEOS
	v.BOS, v.EOS, v.EOT, v.EOM, v.UNK = optional(t.bos), optional(t.eos), optional(t.eot), t.unnamedStop(), optional(t.model.unk)
	if v.UNK != nil && v.Types[*v.UNK] == int32(control) {
		v.Types[*v.UNK] = int32(unknown)
	}
	v.UNK, v.PAD = optional(t.role("unk_token", t.model.unk)), optional(t.padding())
	v.SEP, v.CLS, v.Mask = optional(t.role("sep_token", -1)), optional(t.role("cls_token", -1)), optional(t.role("mask_token", -1))
	n.pipeline(t)
	n.userSpaces(t, false)
	if t.model.bytes {
		err = v.setMerges(t, target)
	} else {
		err = v.setScores(t, target, &n)
	}
	return v, n, err
}

// unnamedStop returns a token that ends a generation although neither its name
// nor its being EOS or EOT says so. There is a key for one.
func (t *Tokenizer) unnamedStop() *int32 {
	for _, id := range t.eog {
		if id != t.eos && id != t.eot && !slices.Contains(stopNames, t.names.at(id)) {
			return &id
		}
	}
	return nil
}

// setMerges fills in the `gpt2` model.
func (v *VocabGGUF) setMerges(t *Tokenizer, target string) error {
	v.Model, v.Pre = "gpt2", t.pre()
	if v.Pre == "" {
		return inexpressible(target, "the split %.200q has no name for tokenizer.ggml.pre", t.info.Split)
	}
	rules := t.model.merges()
	v.Merges = make([]string, len(rules))
	for i, r := range rules {
		a, b := v.Tokens[r.a], v.Tokens[r.b]
		if strings.Contains(a, " ") || strings.Contains(b, " ") {
			return inexpressible(target, "the merge of %.40q and %.40q has a space", a, b)
		}
		v.Merges[i] = a + " " + b
	}
	return nil
}

// setScores fills in the `llama` model.
func (v *VocabGGUF) setScores(t *Tokenizer, target string, n *notes) (err error) {
	v.Model, v.Pre = "llama", "default"
	s, err := n.likeSPM(t, target)
	if err != nil {
		return err
	}
	switch m := t.model; {
	case s.collapse:
		return inexpressible(target, "that runs of spaces become one")
	case s.plain:
		return inexpressible(target, "that spaces are not written as %q", spaceMark)
	default:
		n.add(!m.fallback && m.fuse, "neighbouring unknown characters are not one unknown token")
		n.add(m.unused != nil, "unused tokens may come about")
	}
	if v.Scores, err = t.scores(target); err != nil {
		return err
	}
	for len(v.Scores) < len(v.Tokens) { // below all others
		v.Scores = append(v.Scores, -float32(len(v.Tokens)))
	}
	prefix := s.prefix != ""
	v.AddSpacePrefix = &prefix
	return nil
}
