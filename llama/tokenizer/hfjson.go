package tokenizer

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/herd-ml/herd/internal/jsontext"
)

// hfFile is a tokenizer.json. https://github.com/huggingface/tokenizers
type hfFile struct {
	Added         []hfAdded       `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         struct {
		Type         *string         `json:"type"`
		Dropout      *float64        `json:"dropout"`
		Unk          *string         `json:"unk_token"`
		Prefix       *string         `json:"continuing_subword_prefix"`
		Suffix       *string         `json:"end_of_word_suffix"`
		FuseUnk      bool            `json:"fuse_unk"`
		ByteFallback bool            `json:"byte_fallback"`
		IgnoreMerges bool            `json:"ignore_merges"`
		Vocab        json.RawMessage `json:"vocab"`
		Merges       json.RawMessage `json:"merges"`
	} `json:"model"`
}

type hfAdded struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// fromJSON reads a tokenizer.json; side holds what the files beside it say.
func fromJSON(data []byte, side sideFiles) (*Tokenizer, error) {
	var f hfFile
	if err := jsontext.Unmarshal(data, &f); err != nil {
		return nil, fail("", "not a tokenizer.json: %v", err)
	}
	m := &f.Model
	switch {
	case m.Type != nil && *m.Type != "BPE":
		return nil, unsupported("model.type", "%.40q (only BPE is)", *m.Type)
	case m.Type == nil && (len(m.Vocab) == 0 || len(m.Merges) == 0):
		return nil, fail("model", "no BPE model: vocab and merges expected")
	case m.Prefix != nil && *m.Prefix != "":
		return nil, unsupported("model.continuing_subword_prefix", "%.40q", *m.Prefix)
	case m.Suffix != nil && *m.Suffix != "":
		return nil, unsupported("model.end_of_word_suffix", "%.40q", *m.Suffix)
	}
	t := &Tokenizer{origin: origin{normalizer: f.Normalizer, preTokenizer: f.PreTokenizer, decoder: f.Decoder}}
	if m.Dropout != nil && *m.Dropout > 0 {
		t.info.Warnings = append(t.info.Warnings, "model.dropout is for training and is not applied")
	}
	vocab := map[string]int64{}
	if err := jsontext.Unmarshal(m.Vocab, &vocab); err != nil {
		return nil, fail("model.vocab", "expected an object of tokens and ids: %v", err)
	}
	if err := t.addBeside(&f, vocab, side); err != nil {
		return nil, err
	}
	v, err := hfVocabulary(vocab, f.Added)
	if err != nil {
		return nil, err
	}
	var err2 error
	if t.normalize, err2 = normalizers(f.Normalizer, 0); err2 != nil {
		return nil, err2
	}
	pre := preTokenizer{t: t}
	if err := pre.read(f.PreTokenizer, 0); err != nil {
		return nil, err
	}
	var raws []string
	if t.model, raws, err = hfModel(&f, v, vocab, pre.bytes); err != nil {
		return nil, err
	}
	if err := t.hfAddedTokens(f.Added, v); err != nil {
		return nil, err
	}
	if err := t.readDecoder(f.Decoder, pre.bytes, v, raws); err != nil {
		return nil, err
	}
	for _, raw := range raws {
		v.raws.add(raw)
	}
	if t.before, t.after, err = postProcessor(f.PostProcessor, v, 0); err != nil {
		return nil, err
	}
	info := Info{Source: "tokenizer.json", Model: "BPE over characters", Split: strings.Join(pre.names, ", "), Merges: t.model.pairs.n, Warnings: t.info.Warnings}
	if pre.bytes {
		info.Model = "BPE over bytes"
	}
	if len(t.split) == 0 {
		info.Split, t.split = "none", t.model.spaceStep(v)
	}
	return t.finish(v, side.apply(t, v), info)
}

// addBeside adds the tokens that only the files beside a tokenizer.json name, and gives
// all added tokens their ids.
func (t *Tokenizer) addBeside(f *hfFile, vocab map[string]int64, side sideFiles) error {
	own, next := map[string]bool{}, int64(0)
	for _, id := range vocab {
		next = max(next, id+1)
	}
	holes := next != int64(len(vocab)) // the library would give an id twice
	settle := func(a *hfAdded, beside bool) {
		id, there := vocab[a.Content]
		switch {
		case there:
		case holes && a.ID >= 0:
			id = a.ID
		default:
			id = next
		}
		t.place(a, id, beside && !there)
		next = max(next, id+1)
	}
	once := f.Added[:0]
	for _, a := range f.Added {
		if !own[a.Content] {
			own[a.Content] = true
			settle(&a, false)
			once = append(once, a)
		}
	}
	more, err := side.tokens(func(content string) bool { return own[content] })
	if err != nil {
		return err
	}
	for i := range more {
		settle(&more[i], true)
	}
	f.Added = append(once, more...)
	t.info.Warnings = append(t.info.Warnings, side.warnings...)
	return nil
}

// hfVocabulary enters the model's tokens and the added ones, whose ids are settled.
func hfVocabulary(vocab map[string]int64, added []hfAdded) (*vocabulary, error) {
	size := int64(0)
	for name, id := range vocab {
		if id < 0 {
			return nil, fail("model.vocab", "token %.40q has the id %d", name, id)
		}
		size = max(size, id+1)
	}
	for i := range added {
		size = max(size, added[i].ID+1)
	}
	v, err := newVocabulary(size, len(vocab)+len(added), "model.vocab")
	if err != nil {
		return nil, err
	}
	tokens := make([]token, size) // absent ones are holes
	for name, id := range vocab {
		if old := &tokens[id]; old.kind != absent {
			return nil, fail("model.vocab", "id %d is given to both %.40q and %.40q", id, old.name, name)
		}
		tokens[id] = token{name: name, kind: normal}
	}
	for _, a := range added {
		k := user
		if a.Special {
			k = control
		}
		if old := &tokens[a.ID]; old.kind != absent && old.name != a.Content {
			return nil, fail("added_tokens", "id %d is given to both %.40q and %.40q", a.ID, old.name, a.Content)
		}
		tokens[a.ID] = token{name: a.Content, kind: k}
	}
	for _, t := range tokens {
		v.addName(t.name, t.kind)
	}
	return v, nil
}

// hfModel builds the BPE model and returns the bytes of its tokens.
func hfModel(f *hfFile, v *vocabulary, vocab map[string]int64, byteLevel bool) (m *bpe, raws []string, err error) {
	m = &bpe{bytes: byteLevel, whole: f.Model.IgnoreMerges, fuse: f.Model.FuseUnk, unk: -1}
	for c := range m.first {
		m.first[c] = -1
	}
	merging := newTexts(len(v.kinds)) // what the tokens are to merges
	m.text = newIndex(merging, len(vocab))
	raws = make([]string, len(v.kinds))
	for i, k := range v.kinds {
		id, name := int32(i), v.names.at(int32(i))
		raws[i] = name
		if _, ok := vocab[name]; !ok || k == absent {
			merging.add(name)
			continue
		}
		raw, plain := name, true
		if byteLevel {
			raw, plain = charsToBytes(name)
		}
		if k == normal {
			raws[i] = raw
		}
		merging.add(raw)
		if !plain {
			continue
		}
		m.max = max(m.max, len(raw))
		if byteLevel && len(raw) == 1 {
			m.first[raw[0]] = id
		}
		// A special token's text is reached only by cutting it out, but a
		// single character may be special and a symbol at once.
		if k == normal || utf8.RuneCountInString(raw) == 1 {
			m.text.add(id)
		}
	}
	if err := m.setUnknown(f, v, raws); err != nil {
		return nil, nil, err
	}
	merges, err := hfMerges(f.Model.Merges)
	if err != nil {
		return nil, nil, err
	}
	m.pairs = newPairTable(len(merges))
	for rank, p := range merges {
		if err := m.pairs.enter(rank, p[0], p[1], v.ids, "model.merges", true); err != nil {
			return nil, nil, err
		}
	}
	return m, raws, nil
}

// setUnknown reads what becomes of characters without a token.
func (m *bpe) setUnknown(f *hfFile, v *vocabulary, raws []string) error {
	if name := f.Model.Unk; name != nil {
		id, ok := v.ids.find(*name)
		if !ok {
			return fail("model.unk_token", "%.40q is not in the vocabulary", *name)
		}
		m.unk = id
	}
	if f.Model.ByteFallback && !m.bytes {
		m.fallback = true
		for c := range m.first {
			id, ok := v.ids.find(byteName(byte(c)))
			if !ok {
				m.fallback = false // as the reference does: then all go to unk
				break
			}
			m.first[c] = id
			if v.kinds[id] == normal {
				v.kinds[id], raws[id] = byteTok, string([]byte{byte(c)})
			}
		}
	}
	return nil
}

// byteName is how SentencePiece vocabularies spell the token of a byte.
func byteName(c byte) string {
	const hex = "0123456789ABCDEF"
	return "<0x" + string(hex[c>>4]) + string(hex[c&15]) + ">"
}

// byteOf is the inverse of byteName.
func byteOf(name string) (byte, bool) {
	if len(name) != 6 || !strings.HasPrefix(name, "<0x") || name[5] != '>' {
		return 0, false
	}
	v := 0
	for _, c := range []byte(strings.ToUpper(name[3:5])) {
		d := strings.IndexByte("0123456789ABCDEF", c)
		if d < 0 {
			return 0, false
		}
		v = v<<4 | d
	}
	return byte(v), true
}

// hfMerges reads merges as pairs or as "a b" strings.
func hfMerges(raw json.RawMessage) ([][2]string, error) {
	const field = "model.merges"
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	first := bytes.TrimLeft(bytes.TrimPrefix(bytes.TrimSpace(raw), []byte("[")), " \t\r\n")
	if len(first) > 0 && first[0] == '[' {
		var pairs [][]string
		if err := jsontext.Unmarshal(raw, &pairs); err != nil {
			return nil, fail(field, "%v", err)
		}
		out := make([][2]string, len(pairs))
		for i, p := range pairs {
			if len(p) != 2 {
				return nil, fail(field, "merge %d has %d parts, expected 2", i, len(p))
			}
			out[i] = [2]string{p[0], p[1]}
		}
		return out, nil
	}
	var lines []string
	if err := jsontext.Unmarshal(raw, &lines); err != nil {
		return nil, fail(field, "%v", err)
	}
	out := make([][2]string, 0, len(lines))
	for i, line := range lines {
		a, b, ok := strings.Cut(line, " ")
		if !ok || a == "" || b == "" || strings.Contains(b, " ") {
			return nil, fail(field, "merge %d is %.40q, expected two tokens and one space", i, line)
		}
		out = append(out, [2]string{a, b})
	}
	return out, nil
}

// enter resolves a merge to ids. replace says whether a pair that comes twice takes
// its last rank (Hugging Face) or its first (llama.cpp).
func (p *pairTable) enter(rank int, left, right string, ids *index, field string, replace bool) error {
	a, okA := ids.find(left)
	b, okB := ids.find(right)
	merged, okM := ids.find(left + right)
	if !okA || !okB || !okM {
		return fail(field, "merge %d (%.40q + %.40q): both and %.40q must be in the vocabulary", rank, left, right, left+right)
	}
	p.add(a, b, uint32(rank), merged, replace)
	return nil
}

// hfAddedTokens enters the added tokens in the two matchers.
func (t *Tokenizer) hfAddedTokens(added []hfAdded, v *vocabulary) error {
	t.added, t.addedAfter = new(matcher), new(matcher)
	for _, a := range added {
		text, m := a.Content, t.added
		if a.Normalized {
			m = t.addedAfter
			for _, edit := range t.normalize {
				text = edit(text, false)
			}
		}
		err := m.add(text, addedToken{id: int32(a.ID), special: a.Special, word: a.SingleWord, lstrip: a.LStrip, rstrip: a.RStrip})
		if err != nil {
			return err
		}
	}
	return nil
}
