package tokenizer

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// hfOut is a tokenizer.json as it is written.
type hfOut struct {
	Version       string          `json:"version"`
	Truncation    json.RawMessage `json:"truncation"`
	Padding       json.RawMessage `json:"padding"`
	Added         []hfAdded       `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         hfModelOut      `json:"model"`
}

type hfModelOut struct {
	Type         string          `json:"type"`
	Dropout      *float64        `json:"dropout"`
	Unk          *string         `json:"unk_token"`
	Prefix       *string         `json:"continuing_subword_prefix"`
	Suffix       *string         `json:"end_of_word_suffix"`
	FuseUnk      bool            `json:"fuse_unk"`
	ByteFallback bool            `json:"byte_fallback"`
	IgnoreMerges bool            `json:"ignore_merges"`
	Vocab        json.RawMessage `json:"vocab"`
	Merges       [][2]string     `json:"merges"`
}

// part is a piece of JSON under construction.
type part map[string]any

// JSON returns a tokenizer.json, Hugging Face's form, that OpenFS reads back to
// the same encoder. What that file cannot hold is in ConfigJSON (which tokens
// are BOS and EOS) and in the model's generation_config.json (EOG).
//
// The error wraps ErrInexpressible where that form cannot hold the tokenizer
// (runs of spaces that become one, names that are not UTF-8), and ErrInexact
// where the result is the nearest form; the error names the differences. One
// difference is always there: with special tokens allowed, the text of the unknown
// token becomes that token, which it never does in SentencePiece.
func (t *Tokenizer) JSON() ([]byte, error) {
	const target = "tokenizer.json"
	var n notes
	out := hfOut{Version: "1.0", Added: t.addedJSON(), PostProcessor: t.templateJSON()}
	for i := range t.kinds {
		if name := t.spelled(int32(i)); !utf8.ValidString(name) {
			return nil, inexpressible(target, "token %d, %.40q, is not UTF-8", i, name)
		}
	}
	rules := t.model.merges()
	if t.model.pairs == nil {
		n.implied(t.model, rules)
	}
	if t.info.Source == "sentencepiece" {
		n.userSpaces(t, false)
	}
	if err := t.pipelineJSON(&out, target); err != nil {
		return nil, err
	}
	m := t.model
	out.Model = hfModelOut{Type: "BPE", FuseUnk: m.fuse, ByteFallback: m.fallback, IgnoreMerges: m.whole, Vocab: t.vocabJSON(rules)}
	if m.unk >= 0 {
		name := t.spelled(m.unk)
		out.Model.Unk = &name
	}
	out.Model.Merges = make([][2]string, 0, len(rules))
	for _, r := range rules {
		if r.a >= 0 && r.b >= 0 {
			out.Model.Merges = append(out.Model.Merges, [2]string{t.spelled(r.a), t.spelled(r.b)})
		}
	}
	data := marshal(out, "")
	back, err := fromJSON(data, t.side())
	if err != nil {
		return nil, inexpressible(target, "cannot be read back: %v", err)
	}
	n.compare(t, back)
	n.add(t.eos != back.eos, "EOS is %d, not %d", back.eos, t.eos)
	return data, n.err(target)
}

// implied notes where a list of merges says less than scores.
func (n *notes) implied(m *bpe, rules []merge) {
	ties, missing, passed := 0, 0, 0
	for i, r := range rules {
		if i > 0 && r.rank == rules[i-1].rank {
			ties++
		}
		if r.a < 0 || r.b < 0 {
			missing++
		}
		if m.unused != nil && m.unused[r.id] {
			passed++
		}
	}
	for text, id := range m.text.all() { // a character
		if m.unused != nil && m.unused[id] && utf8.RuneCountInString(text) == 1 {
			passed++
		}
	}
	n.add(ties > 0, "%d tokens of equal score merge in the order of their ids", ties)
	n.add(missing > 0, "%d tokens with characters that are no tokens do not come about", missing)
	n.add(passed > 0, "%d unused tokens may come about", passed)
}

// side is what the files beside the tokenizer.json will say.
func (t *Tokenizer) side() sideFiles {
	s := sideFiles{Class: fastClass, stopIDs: t.eog}
	if t.bos >= 0 {
		s.BOS = marshal(t.names.at(t.bos), "")
	}
	if t.eos >= 0 {
		s.EOS = marshal(t.names.at(t.eos), "")
	}
	return s
}

// addedJSON lists the tokens that are cut out of the text.
func (t *Tokenizer) addedJSON() []hfAdded {
	flags := map[int32]hfAdded{}
	for _, m := range []*matcher{t.added, t.addedAfter} {
		if m == nil {
			continue
		}
		for _, a := range m.tokens {
			late := m == t.addedAfter && t.info.Source == "tokenizer.json"
			flags[a.id] = hfAdded{SingleWord: a.word, LStrip: a.lstrip, RStrip: a.rstrip, Normalized: late}
		}
	}
	out := []hfAdded{}
	for i, k := range t.kinds {
		if k == control || k == user || k == unknown {
			a := flags[int32(i)]
			a.ID, a.Content, a.Special = int64(i), t.names.at(int32(i)), k != user
			out = append(out, a)
		}
	}
	return out
}

// vocabJSON is model.vocab, in the order of ids. The tokenizers library takes the id
// of an added token from there; one that is missing gets the next free id, whatever
// added_tokens says. So only a last run of added tokens may be left out, as Llama 3's
// own file leaves out its control tokens.
func (t *Tokenizer) vocabJSON(rules []merge) json.RawMessage {
	from := t.appended(rules)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	b.WriteByte('{')
	for i := range from {
		if t.kinds[i] == absent {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		enc.Encode(t.spelled(int32(i))) // strings and numbers always encode
		b.Truncate(b.Len() - 1)         // the newline
		b.WriteByte(':')
		enc.Encode(i)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// appended returns the first id of those added tokens that the library numbers by itself.
// They are the last ones of a vocabulary of bytes that has no holes, and no merge uses
// them.
func (t *Tokenizer) appended(rules []merge) int {
	size := len(t.kinds)
	if !t.model.bytes || slices.Contains(t.kinds, absent) {
		return size
	}
	from := size
	for from > 0 && (t.kinds[from-1] == control || t.kinds[from-1] == user || t.kinds[from-1] == unknown) {
		from--
	}
	use := func(id int32) { from = max(from, int(id)+1) }
	use(t.model.unk)
	for _, id := range t.model.first {
		use(id)
	}
	for _, r := range rules {
		use(max(r.a, r.b, r.id))
	}
	return from
}

// pipelineJSON says how text is prepared and decoded.
func (t *Tokenizer) pipelineJSON(out *hfOut, target string) error {
	regex := func(p string) part {
		return part{"type": "Split", "pattern": part{"Regex": p}, "behavior": isolated, "invert": false}
	}
	replace := func(from, to string) part {
		return part{"type": "Replace", "pattern": part{"String": from}, "content": to}
	}
	switch {
	case t.info.Source == "tokenizer.json":
		out.Normalizer, out.PreTokenizer, out.Decoder = t.origin.normalizer, t.origin.preTokenizer, t.origin.decoder
	case t.model.bytes:
		steps := []part{}
		for _, p := range splitByPre(t.pre()).patterns {
			steps = append(steps, regex(p))
		}
		level := part{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
		out.PreTokenizer = marshal(part{"type": "Sequence", "pretokenizers": append(steps, level)}, "")
		out.Decoder = marshal(part{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}, "")
	default:
		s, _ := t.spacing()
		if s.collapse {
			return inexpressible(target, "that runs of spaces become one")
		}
		edits, decoders := []part{}, []part{}
		mark := spaceMark
		if s.plain {
			mark = " "
		}
		if s.prefix != "" {
			edits = append(edits, part{"type": "Prepend", "prepend": mark})
		}
		if !s.plain {
			edits = append(edits, replace(" ", mark))
		}
		if len(edits) > 0 {
			out.Normalizer = marshal(part{"type": "Sequence", "normalizers": edits}, "")
		}
		decoders = append(decoders, replace(spaceMark, " "), part{"type": "ByteFallback"}, part{"type": "Fuse"})
		if t.trim {
			decoders = append(decoders, part{"type": "Strip", "content": " ", "start": 1, "stop": 0})
		}
		out.Decoder = marshal(part{"type": "Sequence", "decoders": decoders}, "")
	}
	return nil
}

// templateJSON is the post_processor that puts BOS and EOS around a text.
func (t *Tokenizer) templateJSON() json.RawMessage {
	if len(t.before)+len(t.after) == 0 {
		return nil
	}
	around := part{}
	one := func(sequence string, kind int) (list []part) {
		add := func(ids []int32) {
			for _, id := range ids {
				name := t.spelled(id)
				around[name] = part{"id": name, "ids": []int32{id}, "tokens": []string{name}}
				list = append(list, part{"SpecialToken": part{"id": name, "type_id": kind}})
			}
		}
		add(t.before)
		list = append(list, part{"Sequence": part{"id": sequence, "type_id": kind}})
		add(t.after)
		return list
	}
	a, b := one("A", 0), one("B", 1)
	return marshal(part{"type": "TemplateProcessing", "single": a, "pair": slices.Concat(a, b), "special_tokens": around}, "")
}

// fastClass is the class of transformers that reads a tokenizer.json and changes nothing
// of it.
const fastClass = "PreTrainedTokenizerFast"

// ConfigJSON returns the tokenizer_config.json that belongs beside JSON: which
// tokens are BOS, EOS, padding and what else SpecialTokens names, and the chat template
// unless it is empty.
func (t *Tokenizer) ConfigJSON(chatTemplate string) ([]byte, error) {
	type optional = *string
	name := func(id int32) optional {
		if id < 0 {
			return nil
		}
		s := t.spelled(id)
		return &s
	}
	c := struct {
		AddBOS  bool     `json:"add_bos_token"`
		AddEOS  bool     `json:"add_eos_token"`
		BOS     optional `json:"bos_token"`
		Chat    string   `json:"chat_template,omitempty"`
		CleanUp bool     `json:"clean_up_tokenization_spaces"`
		CLS     optional `json:"cls_token,omitempty"`
		EOS     optional `json:"eos_token"`
		Mask    optional `json:"mask_token,omitempty"`
		Pad     optional `json:"pad_token,omitempty"`
		Sep     optional `json:"sep_token,omitempty"`
		Class   string   `json:"tokenizer_class"`
		Unk     optional `json:"unk_token,omitempty"`
	}{
		AddBOS: len(t.before) > 0, AddEOS: len(t.after) > 0, BOS: name(t.bos), EOS: name(t.eos), Chat: chatTemplate, Class: fastClass, Pad: name(t.padding()),
		Unk: name(t.role("unk_token", t.model.unk)), Sep: name(t.role("sep_token", -1)), CLS: name(t.role("cls_token", -1)), Mask: name(t.role("mask_token", -1)),
	}
	return append(marshal(c, "  "), '\n'), nil
}

// marshal encodes what cannot fail: strings, numbers, and JSON that was read.
func marshal(v any, indent string) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		panic(err) // a value of another kind: a mistake here
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}
