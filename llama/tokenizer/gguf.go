package tokenizer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/herd-ml/herd/llama/gguf"
)

// VocabGGUF is the vocabulary in GGUF metadata, keys tokenizer.ggml.*. A nil
// pointer means that the file lacks the key.
type VocabGGUF struct {
	Model  string    // "gpt2" (BPE over bytes) or "llama" (BPE by score)
	Pre    string    // how text is split; "" when missing
	Tokens []string  // by id
	Merges []string  // "a b", for gpt2
	Scores []float32 // by id, for llama
	Types  []int32   // by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte

	BOS, EOS, EOT, EOM, UNK        *int32
	PAD, SEP, CLS, Mask            *int32
	AddBOS, AddEOS, AddSpacePrefix *bool
}

// FromGGUF reads the vocabulary in the metadata of an open file. Where there is none the
// error is fs.ErrNotExist.
func FromGGUF(f *gguf.File) (*Tokenizer, error) {
	kind, err := f.String("tokenizer.ggml.model")
	if _, tokens := f.Lookup("tokenizer.ggml.tokens"); !tokens && (errors.Is(err, gguf.ErrNoKey) || kind == "none" || kind == "no_vocab") {
		return nil, &Error{Reason: "the file has no vocabulary", Err: fs.ErrNotExist}
	}
	v, err := readVocab(f)
	if err != nil {
		return nil, err
	}
	return v.tokenizer()
}

// vocabSource is a VocabGGUF whose long lists are read one string at a time: a
// file's are not in memory twice.
type vocabSource struct {
	VocabGGUF
	tokens, merges gguf.StringList
}

// readVocab collects the tokenizer keys.
func readVocab(f *gguf.File) (v vocabSource, err error) {
	const at = "tokenizer.ggml."
	get := func(key string, need bool, read func(string) error) {
		if err != nil {
			return
		}
		if e := read(at + key); e != nil && (need || !errors.Is(e, gguf.ErrNoKey)) {
			err = e
		}
	}
	get("model", true, func(k string) (e error) { v.Model, e = f.String(k); return })
	get("pre", false, func(k string) (e error) { v.Pre, e = f.String(k); return })
	get("tokens", true, func(k string) (e error) { v.tokens, e = f.StringList(k); return })
	get("merges", v.Model == "gpt2", func(k string) (e error) { v.merges, e = f.StringList(k); return })
	get("scores", false, func(k string) (e error) { v.Scores, e = f.Floats(k); return })
	get("token_type", false, func(k string) error {
		types, e := f.Ints(k)
		v.Types = slices.Grow(v.Types, len(types))
		for _, x := range types {
			v.Types = append(v.Types, int32(min(max(x, -1), 99)))
		}
		return e
	})
	for _, p := range []struct {
		key string
		to  **int32
	}{{"bos", &v.BOS}, {"eos", &v.EOS}, {"eot", &v.EOT}, {"eom", &v.EOM}, {"unknown", &v.UNK},
		{"padding", &v.PAD}, {"seperator", &v.SEP}, {"cls", &v.CLS}, {"mask", &v.Mask}} { // the format spells it so
		get(p.key+"_token_id", false, func(k string) error {
			x, e := f.Uint(k)
			if e == nil && x < 1<<32-1 { // 2^32-1 is -1: none
				id := int32(min(x, 1<<31-1))
				*p.to = &id
			}
			return e
		})
	}
	for _, p := range []struct {
		key string
		to  **bool
	}{{"add_bos_token", &v.AddBOS}, {"add_eos_token", &v.AddEOS}, {"add_space_prefix", &v.AddSpacePrefix}} {
		get(p.key, false, func(k string) error {
			x, e := f.Bool(k)
			if e == nil {
				*p.to = &x
			}
			return e
		})
	}
	return v, err
}

// FromVocab makes a tokenizer that behaves as llama.cpp does with the same
// metadata. Errors are *Error and name the key.
func FromVocab(v VocabGGUF) (*Tokenizer, error) {
	src := vocabSource{VocabGGUF: v, tokens: gguf.ListOf(v.Tokens), merges: gguf.ListOf(v.Merges)}
	return src.tokenizer()
}

func (v *vocabSource) tokenizer() (*Tokenizer, error) {
	const at = "tokenizer.ggml."
	n := v.tokens.Len()
	switch {
	case n == 0:
		return nil, fail(at+"tokens", "the vocabulary is empty")
	case v.Types != nil && len(v.Types) != n:
		return nil, fail(at+"token_type", "%d entries for %d tokens", len(v.Types), n)
	case v.Scores != nil && len(v.Scores) != n:
		return nil, fail(at+"scores", "%d entries for %d tokens", len(v.Scores), n)
	}
	for i, t := range v.Types {
		if t < int32(absent) || t > int32(byteTok) {
			return nil, fail(fmt.Sprintf("%stoken_type[%d]", at, i), "type %d is unknown", t)
		}
	}
	switch v.Model {
	case "gpt2":
		return v.byteLevel()
	case "llama":
		return v.byScore()
	}
	return nil, unsupported(at+"model", "%.40q, other than gpt2 and llama,", v.Model)
}

// piece is token i, whose text is given.
func (v *vocabSource) piece(i int, text string) spmPiece {
	p := spmPiece{text: text, kind: normal}
	if text == "" { // llama.cpp keeps such an id, under a name that cannot clash
		p.text, p.kind = fmt.Sprintf("[EMPTY_%d]", i), unused
	} else if v.Types != nil {
		p.kind = kind(max(v.Types[i], int32(normal)))
	}
	if slices.Contains(stopNames, text) { // whatever the file says: text must not forge it
		p.kind = control
	}
	if v.Scores != nil {
		p.score = v.Scores[i]
	}
	return p
}

// byScore is the `llama` model: SentencePiece's merges, llama.cpp's handling of
// spaces.
func (v *vocabSource) byScore() (*Tokenizer, error) {
	const at = "tokenizer.ggml."
	var warnings []string
	if v.Scores == nil { // llama.cpp takes them for zeros
		warnings = append(warnings, at+"scores is missing: the leftmost pair merges first")
	}
	pieces := make([]spmPiece, 0, v.tokens.Len())
	for i, text := range v.tokens.All() {
		p := v.piece(i, text)
		if p.kind == unused && text != "" {
			p.kind = normal // llama.cpp merges into unused tokens
		}
		pieces = append(pieces, p)
	}
	t := &Tokenizer{}
	unk, fallback := int32(-1), true
	if v.UNK != nil && inside(*v.UNK, len(pieces)) {
		unk = *v.UNK
	} else if pieces[0].kind == unknown {
		unk = 0
	}
	seen := [256]bool{}
	for _, p := range pieces {
		if c, ok := byteOf(p.text); ok && p.kind == byteTok {
			seen[c] = true
		}
	}
	for _, ok := range seen {
		fallback = fallback && ok
	}
	vocab, err := t.scored(pieces, fallback, unk, at+"tokens")
	if err != nil {
		return nil, err
	}
	t.model.fuse = false
	if err := t.vocabAdded(vocab); err != nil {
		return nil, err
	}
	prefix := v.AddSpacePrefix == nil || *v.AddSpacePrefix
	t.trim, t.origin.prefix = prefix, prefix
	t.normalize = []editor{func(s string, _ bool) string {
		if prefix { // every segment starts the text or follows an added token
			s = " " + s
		}
		return strings.ReplaceAll(s, " ", spaceMark)
	}}
	one, two := int32(1), int32(2)
	if v.BOS == nil && len(pieces) > 1 && pieces[1].kind == control {
		v.BOS = &one
	}
	if v.EOS == nil && len(pieces) > 2 && pieces[2].kind == control {
		v.EOS = &two
	}
	return v.finish(t, vocab, true, Info{Model: "BPE by score", Split: "none", Warnings: warnings})
}

// byteLevel is the `gpt2` model.
func (v *vocabSource) byteLevel() (*Tokenizer, error) {
	const at = "tokenizer.ggml."
	n := v.tokens.Len()
	vocab, err := newVocabulary(int64(n), n, at+"tokens")
	if err != nil {
		return nil, err
	}
	vocab.names.all.Grow(v.tokens.Bytes())
	vocab.raws.all.Grow(v.tokens.Bytes())
	m := &bpe{bytes: true, text: newIndex(vocab.raws, n), unk: -1}
	for c := range m.first {
		m.first[c] = -1
	}
	for i, text := range v.tokens.All() {
		p, id := v.piece(i, text), int32(i)
		if old, ok := vocab.ids.find(p.text); ok {
			return nil, fail(fmt.Sprintf("%stokens[%d]", at, i), "%.40q is also token %d", p.text, old)
		}
		raw, plain := charsToBytes(p.text)
		if plain && len(raw) == 1 {
			m.first[raw[0]] = id
		}
		if p.kind != normal && p.kind != unused || !plain {
			vocab.add(p.text, p.text, p.kind)
			continue
		}
		vocab.add(p.text, raw, p.kind)
		m.text.add(id)
		m.max = max(m.max, len(raw))
	}
	m.pairs = newPairTable(v.merges.Len())
	for i, line := range v.merges.All() {
		k := -1
		if len(line) > 1 {
			k = strings.IndexByte(line[1:], ' ') + 1 // the first character may be a space
		}
		if k <= 0 || k+1 == len(line) {
			return nil, fail(fmt.Sprintf("%smerges[%d]", at, i), "%.40q, expected two tokens and a space", line)
		}
		if err := m.pairs.enter(i, line[:k], line[k+1:], vocab.ids, at+"merges", false); err != nil {
			return nil, err
		}
	}
	t := &Tokenizer{model: m}
	if err := t.vocabAdded(vocab); err != nil {
		return nil, err
	}
	addBOS, err := v.setSplit(t, vocab)
	if err != nil {
		return nil, err
	}
	return v.finish(t, vocab, addBOS, Info{Model: "BPE over bytes", Split: t.info.Split, Merges: m.pairs.n, Warnings: t.info.Warnings})
}

// setSplit chooses the split by tokenizer.ggml.pre, and reports whether such
// models start a text with BOS.
func (v *vocabSource) setSplit(t *Tokenizer, vocab *vocabulary) (addBOS bool, err error) {
	pre := v.Pre
	if pre == "" {
		pre = "default"
		if vocab.llama3() {
			pre = "llama-bpe"
		}
		t.info.Warnings = append(t.info.Warnings, fmt.Sprintf("tokenizer.ggml.pre is missing; %s is assumed", pre))
	}
	s := splitByPre(pre)
	if s == nil {
		return false, unsupported("tokenizer.ggml.pre", "%.40q", pre)
	}
	for _, pattern := range s.patterns {
		st, _, err := newSplit(pattern, isolated, false)
		if err != nil {
			return false, err
		}
		t.split = append(t.split, st)
	}
	t.info.Split = pre
	t.model.whole = s.whole
	return s.bos, nil
}

// llama3 reports whether a vocabulary is Llama 3's, by size and known ids.
func (v *vocabulary) llama3() bool {
	for name, want := range map[string]int32{"<|begin_of_text|>": 128000, "<|eot_id|>": 128009, "Ġthe": 279} {
		if id, ok := v.ids.find(name); !ok || id != want {
			return false
		}
	}
	return len(v.kinds) == 128256
}

// vocabAdded enters the tokens that are cut out of the text: user-defined ones
// always, control and unknown ones only when special tokens are allowed.
func (t *Tokenizer) vocabAdded(v *vocabulary) error {
	t.added = new(matcher)
	for i, k := range v.kinds {
		if k == user || k == control || k == unknown {
			if err := t.added.add(v.names.at(int32(i)), addedToken{id: int32(i), special: k != user}); err != nil {
				return err
			}
		}
	}
	return nil
}

// inside reports whether a vocabulary of n tokens has an id.
func inside(id int32, n int) bool { return id >= 0 && int(id) < n }

// finish sets BOS, EOS and the tokens that end a generation.
func (v *vocabSource) finish(t *Tokenizer, vocab *vocabulary, addBOS bool, info Info) (*Tokenizer, error) {
	if v.AddBOS != nil {
		addBOS = *v.AddBOS
	}
	if v.EOM != nil && inside(*v.EOM, len(vocab.kinds)) {
		t.eog = append(t.eog, *v.EOM)
	}
	info.Source = "gguf"
	for name, id := range map[string]*int32{"eom": v.EOM, "unknown": v.UNK} {
		if id != nil && *id != -1 && !inside(*id, len(vocab.kinds)) {
			info.Warnings = append(info.Warnings, fmt.Sprintf("tokenizer.ggml.%s_token_id %d is outside the vocabulary of %d tokens and is not used", name, *id, len(vocab.kinds)))
		}
	}
	slices.Sort(info.Warnings)
	roles := map[string]int32{}
	for role, id := range map[string]*int32{"unk_token": v.UNK, "pad_token": v.PAD, "sep_token": v.SEP, "cls_token": v.CLS, "mask_token": v.Mask} {
		if id != nil {
			roles[role] = *id
		}
	}
	if _, err := t.finish(vocab, specials{bos: v.BOS, eos: v.EOS, eot: v.EOT, roles: roles}, info); err != nil {
		return nil, err
	}
	if addBOS && t.bos >= 0 {
		t.before = []int32{t.bos}
	} else if addBOS {
		t.info.Warnings = append(t.info.Warnings, "the file asks for BOS but names none")
	}
	if v.AddEOS != nil && *v.AddEOS && t.eos >= 0 {
		t.after = []int32{t.eos}
	}
	return t, nil
}
