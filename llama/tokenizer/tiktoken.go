package tokenizer

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
)

// maxToken is the longest token in bytes of vocabularies that merge by text: it
// bounds what one merge costs.
const maxToken = 1 << 10

// llama3Specials is how many control tokens follow the ranks of a Llama 3 file.
const llama3Specials = 256

// llama3Special is the i-th of them, in the order of Llama 3.1's tokenizer.json.
func llama3Special(i int) string {
	named := [...]string{
		"<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
		"<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>",
		"<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
	}
	if i < len(named) {
		return named[i]
	}
	return fmt.Sprintf("<|reserved_special_token_%d|>", i-8)
}

// fromRanks reads a tiktoken rank file, lines of a token in base64 and its rank,
// as Meta's Llama 3 tokenizer.model is one. The rank is the id and the order of
// merging; Llama 3's control tokens and split follow.
func fromRanks(data []byte) (*Tokenizer, error) {
	n := bytes.Count(data, []byte{'\n'}) + 1
	v, err := newVocabulary(int64(n+llama3Specials), n+llama3Specials, "")
	if err != nil {
		return nil, err
	}
	m := &bpe{bytes: true, whole: true, text: newIndex(v.names, n), unk: -1}
	for line, no := []byte(nil), 1; len(data) > 0; no++ {
		line, data, _ = bytes.Cut(data, []byte{'\n'})
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		raw, rank, err := rankLine(line, no)
		if err != nil {
			return nil, err
		}
		if next := len(v.kinds); rank != next {
			return nil, fail(fmt.Sprintf("line %d", no), "rank %d, expected %d: ranks must be 0, 1, 2 and so on", rank, next)
		}
		if old, ok := m.text.find(raw); ok {
			return nil, fail(fmt.Sprintf("line %d", no), "the token of rank %d again", old)
		}
		v.add(raw, raw, normal)
		m.text.add(int32(rank))
		m.rank = append(m.rank, uint32(rank))
		m.max = max(m.max, len(raw))
	}
	for c := range m.first {
		id, ok := m.text.find(string([]byte{byte(c)}))
		if !ok {
			return nil, fail("", "no token for byte 0x%02X: this is not a byte-level rank file", c)
		}
		m.first[c] = id
	}
	t := &Tokenizer{model: m, added: new(matcher)}
	t.split = []step{llama3Split}
	var sp specials
	for i := range llama3Specials {
		id, name := int32(len(v.kinds)), llama3Special(i)
		if old, ok := v.ids.find(name); ok {
			return nil, fail("", "rank %d is spelled as the special token %s", old, name)
		}
		v.add(name, name, control)
		if err := t.added.add(name, addedToken{id: id, special: true}); err != nil {
			return nil, err
		}
		switch name {
		case "<|begin_of_text|>":
			sp.bos, t.before = &id, []int32{id}
		case "<|end_of_text|>":
			sp.eos = &id
		}
	}
	return t.finish(v, sp, Info{Source: "tiktoken", Model: "BPE over bytes", Split: "llama3"})
}

// rankLine reads one line.
func rankLine(line []byte, no int) (raw string, rank int, err error) {
	at := fmt.Sprintf("line %d", no)
	b64, number, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return "", 0, fail(at, "expected a token in base64, a space and a rank")
	}
	if len(b64) > maxToken*4/3+4 {
		return "", 0, fail(at, "token of more than %d bytes", maxToken)
	}
	tok, err := base64.StdEncoding.DecodeString(string(b64))
	if err != nil || len(tok) == 0 {
		return "", 0, fail(at, "the token is empty or not base64")
	}
	if rank, err = strconv.Atoi(string(number)); err != nil {
		return "", 0, fail(at, "the rank %.20q is not a number", number)
	}
	return string(tok), rank, nil
}
