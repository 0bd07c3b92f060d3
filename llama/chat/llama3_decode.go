package chat

import (
	"fmt"
	"strings"

	"github.com/herd-ml/herd/llama/chat/internal/toolcall"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// Decode reads the turns that ids hold. Every turn becomes a message, a system turn that the
// protocol added too. What a tool returned has the role ipython. Decode parses the
// assistant's tool calls; one that is malformed stays text. The last turn may be unfinished.
// An error names the token that does not follow the protocol.
func (l *Llama3) Decode(ids []int32) ([]Message, error) {
	var messages []Message
	i := 0
	if len(ids) > 0 && ids[0] == l.bos {
		i++
	}
	for i < len(ids) {
		if ids[i] != l.start {
			return nil, fmt.Errorf("chat: token %d is %q, want the %s of a turn", i, l.tok.Name(ids[i]), startHeader)
		}
		end := l.next(ids, i+1)
		if end == len(ids) || ids[end] != l.end {
			return nil, fmt.Errorf("chat: token %d: the header that begins here has no %s", i, endHeader)
		}
		role := l.text(ids[i+1 : end])
		i = end + 1
		end = l.next(ids, i)
		body := ids[i:end]
		i = end
		if end < len(ids) && (ids[end] == l.eot || ids[end] == l.eom) {
			i++
		}
		messages = append(messages, l.decodeTurn(role, body))
	}
	return messages, nil
}

// next returns the place of the next token that ends a turn or part of one.
func (l *Llama3) next(ids []int32, i int) int {
	for i < len(ids) && ids[i] != l.start && ids[i] != l.end && ids[i] != l.eot && (ids[i] != l.eom || l.eom < 0) {
		i++
	}
	return i
}

func (l *Llama3) decodeTurn(role string, body []int32) Message {
	for line := "\n\n"; line != "" && len(body) > 0; body = body[1:] { // one token or two
		text := l.text(body[:1])
		if text == "" || !strings.HasPrefix(line, text) {
			break
		}
		line = line[len(text):]
	}
	if role != "assistant" {
		return Text(role, l.text(body))
	}
	r := &Reader{tok: l.tok, options: toolcall.Options{Builtin: true}}
	r.parser = toolcall.New(r.options)
	d := l.tok.NewDecoder(tokenizer.DecodeOptions{SkipSpecial: true, Continued: true})
	for _, id := range body {
		r.Add(id, d.Write(id))
	}
	r.flush(d.Flush())
	m, _, _ := r.Message()
	return m
}

func (l *Llama3) text(ids []int32) string {
	return l.tok.Decode(ids, tokenizer.DecodeOptions{Continued: true})
}
