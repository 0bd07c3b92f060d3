package tokenizer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Error is what reading a tokenizer's files returns.
type Error struct {
	File   string // the file, as given
	Field  string // the field in it, empty when it is the file as a whole
	Reason string // what is wrong and what was expected
	Err    error  // ErrUnsupported, ErrSplitTime, what the file system says, or nil
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// ErrUnsupported is wrapped by errors about a kind of tokenizer, or a part of
// one, that this package does not have.
var ErrUnsupported = errors.New("not supported")

// ErrSplitTime is wrapped by the error of a split expression that took too long.
var ErrSplitTime = errors.New("split expression took too long")

// unsupported refuses by name what this package cannot do exactly.
func unsupported(field, format string, args ...any) error {
	return &Error{Field: field, Reason: fmt.Sprintf(format, args...) + " is not supported", Err: ErrUnsupported}
}

func (e *Error) Error() string {
	s := e.Reason
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.File != "" && e.File != "." { // the whole of a file system
		s = e.File + ": " + s
	}
	return "tokenizer: " + s
}

// fail builds an *Error; the file is filled in by the caller that knows it.
func fail(field, format string, args ...any) error {
	return &Error{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// kind says what a token is, with the numbers of SentencePiece and GGUF.
type kind uint8

const (
	absent  kind = 0 // a hole in the ids
	normal  kind = 1
	unknown kind = 2
	control kind = 3
	user    kind = 4
	unused  kind = 5
	byteTok kind = 6
)

// Tokenizer is a vocabulary and its rules. It is immutable and safe for
// concurrent use.
type Tokenizer struct {
	*vocabulary

	added      *matcher // added tokens, looked for in the text as it is
	normalize  []editor // applied to each segment between added tokens
	addedAfter *matcher // added tokens that are looked for in normalised text
	prepare    []editor // edits of the pre-tokenizers (a leading space, "▁")
	split      []step   // words
	mark       string   // between two letters, it starts a word whatever comes before; empty: nothing is known to
	model      *bpe

	before, after []int32 // what the model's files put around a text
	bos, eos, eot int32   // -1: none
	eog           []int32
	roles         map[string]string // of further special tokens: "pad_token" and its name
	trim          bool              // a text starts with a space that decoding drops
	info          Info
	origin        origin

	scratch sync.Pool // *scratch
}

// EncodeOptions say how text becomes ids.
type EncodeOptions struct {
	// AddBOS puts in front what the model's own files put there: BOS for most
	// Llamas, nothing for models that add nothing.
	AddBOS bool
	// AddEOS does the same behind the text; few models add anything.
	AddEOS bool
	// Special lets the text of control tokens become those tokens.
	Special bool
	// Plain are byte ranges of the text, ascending and apart, that hold what came
	// from outside: no control token is found that touches one, Special or not,
	// and no user-defined token in angle or square brackets, which chat templates
	// use as marks. The text is cut into words as if it had no ranges.
	Plain []Range
}

// Range is a part of a text, [Start, End) in bytes.
type Range struct{ Start, End int }

// Info describes a tokenizer for people.
type Info struct {
	Source   string   // "tiktoken", "sentencepiece", "tokenizer.json" or "gguf"
	Model    string   // "BPE over bytes", "BPE over characters" or "BPE by score"
	Split    string   // the names or expressions by which text is cut into words
	Tokens   int      // vocabulary size
	Special  int      // control and unknown tokens
	Merges   int      // merge rules; 0 where the vocabulary's order gives them
	Warnings []string // guesses and oddities
}

func (i Info) String() string {
	return fmt.Sprintf("%s, %s, split %s, %d tokens (%d special), %d merges", i.Source, i.Model, i.Split, i.Tokens, i.Special, i.Merges)
}

// Info returns a summary.
func (t *Tokenizer) Info() Info {
	i := t.info
	i.Warnings = slices.Clone(i.Warnings)
	return i
}

// VocabSize returns the number of ids, holes included.
func (t *Tokenizer) VocabSize() int { return len(t.kinds) }

// BOS returns the token that starts a text.
func (t *Tokenizer) BOS() (int32, bool) { return t.bos, t.bos >= 0 }

// EOS returns the token that ends a text.
func (t *Tokenizer) EOS() (int32, bool) { return t.eos, t.eos >= 0 }

// EOT returns the token that ends a turn of a chat, if it has one of its own.
func (t *Tokenizer) EOT() (int32, bool) { return t.eot, t.eot >= 0 }

// EOG returns, in ascending order, the tokens at which generation stops.
func (t *Tokenizer) EOG() []int32 { return slices.Clone(t.eog) }

// SpecialTokens are the names of the tokens that the files give a role other than BOS and
// EOS, by the name of the role in Python's transformers: "pad_token", "unk_token",
// "sep_token", "cls_token", "mask_token".
func (t *Tokenizer) SpecialTokens() map[string]string { return maps.Clone(t.roles) }

// AddsBOS reports whether EncodeOptions.AddBOS adds anything.
func (t *Tokenizer) AddsBOS() bool { return len(t.before) > 0 }

// AddsEOS reports whether EncodeOptions.AddEOS adds anything.
func (t *Tokenizer) AddsEOS() bool { return len(t.after) > 0 }

// IsSpecial reports whether id is a control or unknown token. Those are what
// DecodeOptions.SkipSpecial leaves out.
func (t *Tokenizer) IsSpecial(id int32) bool {
	if id < 0 || int(id) >= len(t.kinds) {
		return false
	}
	k := t.kinds[id]
	return k == control || k == unknown
}

// ID returns the id of the token that the vocabulary spells as name
// ("<|eot_id|>", "Ġthe", "▁the", "<0x0A>").
func (t *Tokenizer) ID(name string) (int32, bool) {
	return t.ids.find(name)
}

// Name returns how the vocabulary spells a token; empty for ids it lacks.
func (t *Tokenizer) Name(id int32) string {
	if id < 0 || int(id) >= len(t.kinds) {
		return ""
	}
	return t.names.at(id)
}

// TokenBytes returns the bytes of one token as it appears inside a text; for a
// control token its name, for an id outside the vocabulary nothing.
func (t *Tokenizer) TokenBytes(id int32) []byte {
	if id < 0 || int(id) >= len(t.kinds) {
		return nil
	}
	return []byte(t.raws.at(id))
}

// maxText is the largest text in bytes; offsets are int32.
const maxText = 1 << 30

// Encode returns the ids of text. It fails only for a text above one GiB or,
// with a foreign split expression, one that takes too long.
func (t *Tokenizer) Encode(text string, o EncodeOptions) ([]int32, error) {
	return t.Append(make([]int32, 0, len(text)/4+4), text, o)
}

// Append is Encode onto dst.
func (t *Tokenizer) Append(dst []int32, text string, o EncodeOptions) ([]int32, error) {
	if len(text) > maxText {
		return dst, fail("", "text of %d bytes, at most %d are allowed", len(text), maxText)
	}
	last := 0
	for i, r := range o.Plain {
		if r.Start < last || r.End < r.Start || r.End > len(text) {
			return dst, fail("", "plain range %d is [%d, %d) after %d in a text of %d bytes", i, r.Start, r.End, last, len(text))
		}
		last = r.End
	}
	if o.AddBOS {
		dst = append(dst, t.before...)
	}
	s := t.getScratch()
	defer t.putScratch(s)
	for i, from := 0, 0; from < len(text); {
		m := t.added.find(text, i, from, o.Special, plain{o.Plain, 0})
		if m.start > i {
			var err error
			if dst, err = t.segment(dst, text[i:m.start], i == 0, o.Special, plain{o.Plain, i}, s); err != nil {
				return dst, err
			}
		}
		if m.id >= 0 {
			dst = append(dst, m.id)
		}
		i, from = m.end, m.next
	}
	if o.AddEOS {
		dst = append(dst, t.after...)
	}
	return dst, nil
}

// segment encodes the text between two added tokens. first says that it starts
// the whole text.
func (t *Tokenizer) segment(dst []int32, text string, first, special bool, p plain, s *scratch) ([]int32, error) {
	limit := int(min(maxText, maxGrowth*int64(len(text))+4096))
	raw := text
	for _, edit := range t.normalize {
		if text = edit(text, first); len(text) > limit {
			return dst, fail("normalizer", "it makes %d bytes of a text, at most %d are allowed", len(text), limit)
		}
	}
	if text != raw && p.touches(0, len(raw)) { // where the ranges are now is not known
		p = plain{[]Range{{0, len(text)}}, 0}
	}
	for i, from := 0, 0; from < len(text); {
		m := t.addedAfter.find(text, i, from, special, p)
		if m.start > i {
			part := text[i:m.start]
			for _, edit := range t.prepare {
				part = edit(part, first && i == 0)
			}
			var err error
			if dst, err = t.words(dst, part, s); err != nil {
				return dst, err
			}
		}
		if m.id >= 0 {
			dst = append(dst, m.id)
		}
		i, from = m.end, m.next
	}
	return dst, nil
}

// words cuts text into words and merges each. Text that is not UTF-8 is cut up
// to its first invalid byte; the rest goes with the last word.
func (t *Tokenizer) words(dst []int32, text string, s *scratch) ([]int32, error) {
	valid := validPrefix(text)
	if valid < len(text) && !t.model.bytes {
		return t.model.merge(dst, text, s), nil // its symbols keep single bytes
	}
	if t.mark != "" && len(text) > blockLen {
		dst = t.blocks(dst, &text, &valid, s)
	}
	start := len(dst)
	dst, last, err := t.pieces(dst, text[:valid], s)
	if err != nil {
		return dst, err
	}
	if valid == len(text) {
		return dst, nil
	}
	// A split after spaces may vanish when more text follows, so tiktoken takes
	// back all tokens of spaces, not only the last word.
	if last < len(dst) && t.blank(dst[last]) {
		for last > start && t.blank(dst[last-1]) {
			last--
		}
	}
	from := valid
	for _, id := range dst[last:] {
		from -= len(t.raws.at(id))
	}
	if from < 0 { // unknown tokens do not give back their bytes
		last, from = len(dst), valid
	}
	return t.model.merge(dst[:last], text[from:], s), nil
}

// blank reports whether a token is only spaces, tabs and newlines.
func (t *Tokenizer) blank(id int32) bool { return strings.Trim(t.raws.at(id), " \n\t") == "" }

// validPrefix returns the length of the longest prefix of s that is UTF-8.
func validPrefix(s string) int {
	if utf8.ValidString(s) {
		return len(s)
	}
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(s)
}

// pieces encodes the words of a text. last is where the tokens of its last word
// start in dst.
func (t *Tokenizer) pieces(dst []int32, text string, s *scratch) (out []int32, last int, err error) {
	if s.pieces == nil && len(text) > cachedText {
		s.pieces = new(pieces)
	}
	last = len(dst)
	if len(t.split) == 1 {
		if f, ok := t.split[0].(scan); ok { // no need to keep where the words are
			for i := 0; i < len(text); {
				end := f.end(text, i)
				last = len(dst)
				dst = t.model.encode(dst, text, i, end, s)
				i = end
			}
			return dst, last, nil
		}
	}
	spans, err := t.cut(text, s)
	if err != nil {
		return dst, last, err
	}
	for _, w := range spans {
		last = len(dst)
		dst = t.model.encode(dst, text, int(w.start), int(w.end), s)
	}
	return dst, last, nil
}

// cachedText is the length from which a cache of words pays.
const cachedText = 1 << 10

// span is a part of a text, [start, end) in bytes.
type span struct{ start, end int32 }

// cut applies the split steps one after the other to every part. Its result
// lives in s until the next call.
func (t *Tokenizer) cut(text string, s *scratch) ([]span, error) {
	s.spans = s.spans[:0]
	if len(text) > 0 {
		s.spans = append(s.spans, span{0, int32(len(text))})
	}
	for _, st := range t.split {
		s.spare = s.spare[:0]
		for _, w := range s.spans {
			from := len(s.spare)
			var err error
			if s.spare, err = st.cut(s.spare, text[w.start:w.end]); err != nil {
				return nil, err
			}
			for k := from; k < len(s.spare); k++ {
				s.spare[k].start += w.start
				s.spare[k].end += w.start
			}
		}
		s.spans, s.spare = s.spare, s.spans
	}
	return s.spans, nil
}

// scratch holds the buffers of one call.
type scratch struct {
	spans, spare []span
	pieces       *pieces // nil before the first text that is worth it
	syms         []symbol
	heap         []candidate
	made         map[string]int32 // text of an unused token: where its two parts meet
	work         int              // symbols that merging has looked at
}

func (t *Tokenizer) getScratch() *scratch {
	if s, ok := t.scratch.Get().(*scratch); ok {
		return s
	}
	return new(scratch)
}

// putScratch keeps the buffers for the next call unless one huge text grew them.
func (t *Tokenizer) putScratch(s *scratch) {
	if cap(s.spans)+cap(s.spare)+cap(s.syms)+cap(s.heap) < 1<<18 {
		t.scratch.Put(s)
	}
}

// finish turns what was collected into a Tokenizer: the special ids, the stop
// tokens, the summary.
func (t *Tokenizer) finish(v *vocabulary, sp specials, info Info) (*Tokenizer, error) {
	v.share(t.model.text)
	t.vocabulary, t.mark = v, splitMark(t.split)
	for _, ids := range [][]int32{t.before, t.after} {
		for _, id := range ids {
			if id < 0 || int(id) >= len(t.kinds) {
				return nil, fail("post_processor", "id %d is outside the vocabulary of %d tokens", id, len(t.kinds))
			}
		}
	}
	// Other programs run files that name tokens they do not have.
	outside := func(field string, id int32) {
		info.Warnings = append(info.Warnings, fmt.Sprintf("%s %d is outside the vocabulary of %d tokens and is not used", field, id, len(t.kinds)))
	}
	for _, s := range []struct {
		name string
		id   *int32
		at   *int32
	}{{"bos", sp.bos, &t.bos}, {"eos", sp.eos, &t.eos}, {"eot", sp.eot, &t.eot}} {
		*s.at = -1
		switch {
		case s.id == nil || *s.id == -1:
		case !inside(*s.id, len(t.kinds)):
			outside(s.name+"_token_id", *s.id)
		default:
			*s.at = *s.id
		}
	}
	for role, id := range sp.roles {
		if inside(id, len(t.kinds)) {
			if t.roles == nil {
				t.roles = map[string]string{}
			}
			t.roles[role] = v.names.at(id)
		}
	}
	sp.stop = slices.DeleteFunc(slices.Clone(sp.stop), func(id int32) bool {
		bad := !inside(id, len(t.kinds))
		if bad && id != -1 {
			outside("eos_token_id", id)
		}
		return bad
	})
	if t.eot < 0 {
		for _, name := range turnNames {
			if id, ok := t.ids.find(name); ok {
				t.eot = id
				break
			}
		}
	}
	t.eog = append(t.eog, sp.stop...)
	if len(sp.stop) == 0 {
		for _, name := range stopNames {
			if id, ok := t.ids.find(name); ok && t.kinds[id] == control {
				t.eog = append(t.eog, id)
			}
		}
	}
	for _, id := range []int32{t.eos, sp.eotID()} {
		if inside(id, len(t.kinds)) {
			t.eog = append(t.eog, id)
		}
	}
	slices.Sort(t.eog)
	t.eog = slices.Compact(t.eog)
	t.info = info
	t.info.Tokens = len(t.kinds)
	for i := range t.kinds {
		if t.IsSpecial(int32(i)) {
			t.info.Special++
		}
	}
	return t, nil
}

// specials are the ids that a file names. A nil pointer or -1 means none.
type specials struct {
	bos, eos, eot *int32
	roles         map[string]int32 // of SpecialTokens
	stop          []int32          // further ids that end generation; when given, names are not guessed
}

func (s specials) eotID() int32 {
	if s.eot == nil {
		return -1
	}
	return *s.eot
}

// stopNames are the control tokens that end a generation in the models we know.
var stopNames = []string{
	"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|end|>", "<|endoftext|>",
	"<end_of_turn>", "<EOT>", "<|eot|>", "<|eom|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>",
}

// turnNames are those of them that end a turn.
var turnNames = []string{"<|eot_id|>", "<|im_end|>", "<|eot|>", "<end_of_turn>", "<|end|>"}
