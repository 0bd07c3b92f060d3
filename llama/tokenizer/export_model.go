package tokenizer

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ModelFile returns a tokenizer.model, the file of Meta's folders: a tiktoken
// rank file for a vocabulary of bytes, a SentencePiece model of the BPE type for
// one of characters.
//
// A rank file holds tokens and their order and nothing else. So the split must
// be Llama 3's, the order must imply the merges, and 256 control tokens must
// follow under the names that Llama 3 gives them. The error wraps
// ErrInexpressible where something else is asked for, and ErrInexact where the
// result is the nearest form; the error names the differences. A rank
// file does not say which of several stop tokens is EOS, so that is no difference.
func (t *Tokenizer) ModelFile() ([]byte, error) {
	write, target := t.spmFile, "SentencePiece model"
	read := func(data []byte) (*Tokenizer, error) { return fromSPM(data, sideFiles{}) }
	if t.model.bytes {
		write, read, target = t.rankFile, fromRanks, "rank file"
	}
	var n notes
	n.pipeline(t)
	data, err := write(target, &n)
	if err != nil {
		return nil, err
	}
	back, err := read(data)
	if err != nil {
		return nil, inexpressible(target, "cannot be read back: %v", err)
	}
	n.compare(t, back)
	n.add(!t.model.bytes && t.eos != back.eos, "EOS is %d, not %d", back.eos, t.eos)
	return data, n.err(target)
}

// rankFile is the tiktoken form.
func (t *Tokenizer) rankFile(target string, n *notes) ([]byte, error) {
	m := t.model
	llama3 := splitByPre("llama-bpe")
	if s := splitByPre(t.pre()); s == nil || !slices.Equal(s.patterns, llama3.patterns) {
		return nil, inexpressible(target, "its readers split text as Llama 3 does, this vocabulary has %.200q", t.info.Split)
	}
	end := len(t.kinds)
	for end > 0 && (t.kinds[end-1] == absent || t.kinds[end-1] == unused) {
		end-- // rows of the embedding table without a token
	}
	ranks := end - llama3Specials
	if ranks < 0 {
		return nil, inexpressible(target, "%d tokens, of which %d must be control tokens", end, llama3Specials)
	}
	if err := t.llama3Specials(target, ranks, n); err != nil {
		return nil, err
	}
	text, rank := newIndex(t.raws, ranks), make([]uint32, len(t.kinds))
	var out []byte
	for i := range ranks {
		tok := t.token(int32(i))
		if id, ok := m.text.find(tok.raw); !ok || int(id) != i || tok.kind != normal && tok.kind != unused {
			return nil, inexpressible(target, "token %d, %.40q, is not one of bytes: those must have the ids below the %d control tokens", i, tok.name, llama3Specials)
		}
		text.add(int32(i))
		rank[i] = uint32(i)
		out = base64.StdEncoding.AppendEncode(out, []byte(tok.raw))
		out = append(strconv.AppendInt(append(out, ' '), int64(i), 10), '\n')
	}
	if m.pairs != nil && !m.byText(text, rank) {
		return nil, inexpressible(target, "the order of the tokens does not imply the merges")
	}
	n.add(!m.whole && !m.wholes(), "words that are tokens but do not come out of merging are left whole")
	return out, nil
}

// llama3Specials checks the control tokens from an id on. Names of reserved tokens have
// changed between versions: where they are others, that is a difference and no error.
func (t *Tokenizer) llama3Specials(target string, from int, n *notes) error {
	renamed := 0
	for i := range llama3Specials {
		tok, want := t.token(int32(from+i)), llama3Special(i)
		switch {
		case tok.kind == control && tok.name == want:
		case tok.kind == control && strings.Contains(tok.name, "reserved"):
			renamed++
		default:
			return inexpressible(target, "token %d is %.40q, where its readers have the control token %s", from+i, tok.name, want)
		}
	}
	n.add(renamed > 0, "%d reserved tokens have another name", renamed)
	return nil
}

// spmFile is the SentencePiece form, a ModelProto (see parseSPM).
func (t *Tokenizer) spmFile(target string, n *notes) ([]byte, error) {
	s, err := n.likeSPM(t, target)
	if err != nil {
		return nil, err
	}
	m := t.model
	if m.unk < 0 {
		return nil, inexpressible(target, "a vocabulary without an unknown token")
	}
	n.add(!m.fallback && !m.fuse, "neighbouring unknown characters are one unknown token")
	n.userSpaces(t, true)
	scores, err := t.scores(target)
	if err != nil {
		return nil, err
	}
	var out []byte
	for i := range t.kinds {
		tok := t.token(int32(i))
		switch {
		case int32(i) == m.unk:
			tok.kind = unknown
		case tok.kind == absent:
			tok.name, tok.kind = fmt.Sprintf("[PAD%d]", i), unused
		}
		var p []byte
		p = protoBytes(p, 1, tok.name)
		p = binary.LittleEndian.AppendUint32(append(p, 2<<3|5), math.Float32bits(scores[i]))
		if tok.kind != normal {
			p = protoUint(p, 3, uint64(tok.kind))
		}
		out = protoBytes(out, 1, string(p))
	}
	flag := map[bool]uint64{true: 1}
	var trainer, normalizer []byte
	trainer = protoUint(trainer, 3, 2) // BPE
	trainer = protoUint(trainer, 4, uint64(len(t.kinds)))
	trainer = protoUint(trainer, 35, flag[m.fallback])
	for i, id := range []int32{m.unk, t.bos, t.eos, t.padding()} {
		trainer = protoUint(trainer, uint64(40+i), uint64(int64(id)))
		if id >= 0 {
			trainer = protoBytes(trainer, uint64(45+i), t.names.at(id))
		}
	}
	normalizer = protoBytes(normalizer, 1, "identity")
	normalizer = protoUint(normalizer, 3, flag[s.prefix != ""])
	normalizer = protoUint(normalizer, 4, flag[s.collapse])
	normalizer = protoUint(normalizer, 5, flag[!s.plain])
	return protoBytes(protoBytes(out, 2, string(trainer)), 3, string(normalizer)), nil
}

// protoUint and protoBytes append a field of a protobuf message.
func protoUint(b []byte, field, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, field<<3), v)
}

func protoBytes(b []byte, field uint64, v string) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(b, field<<3|2), uint64(len(v)))
	return append(b, v...)
}
