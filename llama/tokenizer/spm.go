package tokenizer

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
)

// spaceMark is SentencePiece's spelling of a space, U+2581.
const spaceMark = "▁"

// The fields of sentencepiece_model.proto that decide how text is encoded.
// https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
type spmModel struct {
	pieces       []spmPiece
	modelType    uint64 // 1 unigram (default), 2 BPE, 3 word, 4 char
	byteFallback bool
	suffixSpace  bool // treat_whitespace_as_suffix
	unk          int32
	bos          int32
	eos          int32
	charsMap     int // bytes of precompiled_charsmap
	normName     string
	dummyPrefix  bool
	removeExtra  bool
	escape       bool
}

type spmPiece struct {
	text  string
	score float32
	kind  kind
}

// protoField is one field of a protobuf message.
type protoField struct {
	num  uint64
	wire uint64
	val  uint64 // varint or fixed32 bits
	data []byte // length-delimited
}

// protoFields calls f for each field of a message. Groups are refused.
func protoFields(b []byte, name string, f func(protoField) error) error {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return fail(name, "broken field key, %d bytes before the end", len(b))
		}
		b = b[n:]
		p := protoField{num: key >> 3, wire: key & 7}
		size := 0
		switch p.wire {
		case 0:
			if p.val, size = binary.Uvarint(b); size <= 0 {
				return fail(name, "broken number in field %d", p.num)
			}
		case 1:
			size = 8
		case 2:
			length, n := binary.Uvarint(b)
			if n <= 0 || length > uint64(len(b)-n) {
				return fail(name, "field %d says %d bytes, %d are left", p.num, length, len(b))
			}
			size = n + int(length)
			p.data = b[n:size]
		case 5:
			size = 4
			if len(b) >= 4 {
				p.val = uint64(binary.LittleEndian.Uint32(b))
			}
		default:
			return fail(name, "field %d has wire type %d", p.num, p.wire)
		}
		if size > len(b) {
			return fail(name, "field %d is cut off", p.num)
		}
		b = b[size:]
		if err := f(p); err != nil {
			return err
		}
	}
	return nil
}

// parseSPM reads a ModelProto.
func parseSPM(data []byte) (*spmModel, error) {
	m := &spmModel{modelType: 1, unk: 0, bos: 1, eos: 2, dummyPrefix: true, removeExtra: true, escape: true}
	err := protoFields(data, "model", func(f protoField) error {
		switch {
		case f.num == 1 && f.wire == 2:
			p, err := parsePiece(f.data, len(m.pieces))
			m.pieces = append(m.pieces, p)
			return err
		case f.num == 2 && f.wire == 2:
			return protoFields(f.data, "trainer_spec", m.trainer)
		case f.num == 3 && f.wire == 2:
			return protoFields(f.data, "normalizer_spec", m.normalizer)
		}
		return nil
	})
	return m, err
}

func (m *spmModel) trainer(f protoField) error {
	if f.wire != 0 {
		return nil
	}
	switch f.num {
	case 3:
		m.modelType = f.val
	case 24:
		m.suffixSpace = f.val != 0
	case 35:
		m.byteFallback = f.val != 0
	case 40:
		m.unk = int32(f.val)
	case 41:
		m.bos = int32(f.val)
	case 42:
		m.eos = int32(f.val)
	}
	return nil
}

func (m *spmModel) normalizer(f protoField) error {
	switch {
	case f.num == 1 && f.wire == 2:
		m.normName = string(f.data)
	case f.num == 2 && f.wire == 2:
		m.charsMap = len(f.data)
	case f.num == 3 && f.wire == 0:
		m.dummyPrefix = f.val != 0
	case f.num == 4 && f.wire == 0:
		m.removeExtra = f.val != 0
	case f.num == 5 && f.wire == 0:
		m.escape = f.val != 0
	}
	return nil
}

func parsePiece(data []byte, id int) (spmPiece, error) {
	p := spmPiece{kind: normal}
	name := fmt.Sprintf("pieces[%d]", id)
	err := protoFields(data, name, func(f protoField) error {
		switch {
		case f.num == 1 && f.wire == 2:
			p.text = string(f.data)
		case f.num == 2 && f.wire == 5:
			p.score = math.Float32frombits(uint32(f.val))
		case f.num == 3 && f.wire == 0:
			if f.val < uint64(normal) || f.val > uint64(byteTok) {
				return fail(name, "type %d is unknown", f.val)
			}
			p.kind = kind(f.val)
		}
		return nil
	})
	return p, err
}

// fromSPM reads a SentencePiece model of the BPE type; side holds what the files beside
// it say.
func fromSPM(data []byte, side sideFiles) (*Tokenizer, error) {
	m, err := parseSPM(data)
	if err != nil {
		return nil, err
	}
	switch {
	case m.modelType != 2:
		names := map[uint64]string{1: "Unigram", 3: "Word", 4: "Char"}
		return nil, unsupported("trainer_spec.model_type", "%d (%s), unlike BPE,", m.modelType, names[m.modelType])
	case m.charsMap > 0:
		return nil, unsupported("normalizer_spec.precompiled_charsmap", "the character map %.40q", m.normName)
	case m.suffixSpace:
		return nil, unsupported("trainer_spec.treat_whitespace_as_suffix", "a space behind words")
	}
	for i, p := range m.pieces {
		if p.text == "" {
			return nil, fail(fmt.Sprintf("pieces[%d]", i), "the piece is empty")
		}
	}
	t := &Tokenizer{added: new(matcher), addedAfter: new(matcher), trim: m.dummyPrefix || m.removeExtra,
		origin: origin{prefix: m.dummyPrefix, collapse: m.removeExtra, plain: !m.escape}}
	own := len(m.pieces)
	beside, err := t.piecesBeside(m, side)
	if err != nil {
		return nil, err
	}
	v, err := t.scored(m.pieces, m.byteFallback, m.unk, "pieces")
	if err != nil {
		return nil, err
	}
	for _, a := range beside {
		if err := t.added.add(a.Content, addedToken{id: int32(a.ID), special: a.Special, word: a.SingleWord, lstrip: a.LStrip, rstrip: a.RStrip}); err != nil {
			return nil, err
		}
	}
	for id, p := range m.pieces[:own] {
		k := t.added
		switch p.kind {
		case control: // looked for in the text as it is, and only when allowed
		case user: // frozen in the normalised text
			k = t.addedAfter
		default:
			continue
		}
		if err := k.add(p.text, addedToken{id: int32(id), special: p.kind == control}); err != nil {
			return nil, err
		}
	}
	t.normalize = []editor{m.edit}
	if m.bos >= 0 {
		t.before = []int32{m.bos}
	}
	sp := specials{bos: &m.bos, eos: &m.eos, stop: side.stopIDs, roles: side.roles(v)}
	for raw, id := range map[*json.RawMessage]**int32{&side.BOS: &sp.bos, &side.EOS: &sp.eos} {
		if named := side.id(v, *raw); named != nil {
			*id = named
		}
	}
	side.around(t, sp)
	return t.finish(v, sp, Info{Source: "sentencepiece", Model: "BPE by score", Split: "none", Warnings: t.info.Warnings})
}

// piecesBeside appends the tokens that only the files beside the model name. They are
// looked for in the text as it is.
func (t *Tokenizer) piecesBeside(m *spmModel, side sideFiles) ([]hfAdded, error) {
	own := map[string]int{}
	for i, p := range m.pieces {
		own[p.text] = i
	}
	more, err := side.tokens(func(content string) bool { _, ok := own[content]; return ok })
	if err != nil {
		return nil, err
	}
	t.info.Warnings = side.warnings
	for i := range more {
		a := &more[i]
		k := user
		if a.Special {
			k = control
		}
		t.place(a, int64(len(m.pieces)), true)
		m.pieces = append(m.pieces, spmPiece{text: a.Content, kind: k})
	}
	return more, nil
}

// edit is SentencePiece's normaliser without a character map.
func (m *spmModel) edit(s string, _ bool) string {
	if m.removeExtra {
		s = strings.Trim(s, " ")
		for strings.Contains(s, "  ") {
			s = strings.ReplaceAll(s, "  ", " ")
		}
	}
	if m.dummyPrefix && s != "" {
		s = " " + s
	}
	if m.escape {
		s = strings.ReplaceAll(s, " ", spaceMark)
	}
	return s
}

// scored builds the model that merges by score, the highest first, and its
// vocabulary. Control, unknown, user-defined and byte tokens never come out of
// merges.
func (t *Tokenizer) scored(pieces []spmPiece, fallback bool, unk int32, field string) (*vocabulary, error) {
	v, err := newVocabulary(int64(len(pieces)), len(pieces), field)
	if err != nil {
		return nil, err
	}
	m := &bpe{text: newIndex(v.names, len(pieces)), rank: make([]uint32, len(pieces)), unk: -1, fuse: true}
	order := make([]int32, 0, len(pieces))
	for c := range m.first {
		m.first[c] = -1
	}
	for i, p := range pieces {
		id := int32(i)
		if len(p.text) > maxToken {
			return nil, fail(fmt.Sprintf("%s[%d]", field, i), "%d bytes, at most %d are allowed", len(p.text), maxToken)
		}
		if math.IsNaN(float64(p.score)) {
			return nil, fail(fmt.Sprintf("%s[%d]", field, i), "the score is not a number")
		}
		if old, ok := v.ids.find(p.text); ok {
			return nil, fail(fmt.Sprintf("%s[%d]", field, i), "%.40q is also token %d", p.text, old)
		}
		raw := p.text
		switch p.kind {
		case normal, unused, user:
			raw = strings.ReplaceAll(p.text, spaceMark, " ")
		case byteTok:
			c, ok := byteOf(p.text)
			if !ok {
				return nil, fail(fmt.Sprintf("%s[%d]", field, i), "the byte token is spelled %.40q, expected <0x00> to <0xFF>", p.text)
			}
			m.first[c], raw = id, string([]byte{c})
		}
		v.add(p.text, raw, p.kind)
		if p.kind != normal && p.kind != unused {
			continue
		}
		m.text.add(id)
		m.max = max(m.max, len(p.text))
		order = append(order, id)
		if p.kind == unused {
			if m.unused == nil {
				m.unused = make([]bool, len(pieces))
			}
			m.unused[i] = true
		}
	}
	// Equal scores get equal ranks, so that the leftmost wins.
	slices.SortFunc(order, func(a, b int32) int {
		switch sa, sb := pieces[a].score, pieces[b].score; {
		case sa > sb:
			return -1
		case sa < sb:
			return 1
		}
		return int(a - b)
	})
	for i, id := range order {
		m.rank[id] = uint32(i)
		if i > 0 && pieces[id].score == pieces[order[i-1]].score {
			m.rank[id] = m.rank[order[i-1]]
		}
	}
	if m.fallback = fallback; fallback && slices.Contains(m.first[:], -1) {
		return nil, fail(field, "byte fallback without a token for byte 0x%02X", slices.Index(m.first[:], -1))
	}
	if unk >= 0 {
		if int(unk) >= len(pieces) {
			return nil, fail("unk_id", "id %d is outside the vocabulary of %d tokens", unk, len(pieces))
		}
		m.unk = unk
	}
	t.model, t.split = m, m.spaceStep(v)
	return v, nil
}
