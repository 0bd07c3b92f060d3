package llama

import (
	"strings"

	"github.com/herd-ml/herd/llama/tokenizer"
)

// textStream turns tokens into text that can be shown: UTF-8 sequences whole,
// stop texts never, not even in part.
type textStream struct {
	dec  *tokenizer.Decoder // nil without a tokenizer: no text
	stop []string
	held string // may be the start of a stop text
}

func newTextStream(t *tokenizer.Tokenizer, stop []string) *textStream {
	s := &textStream{stop: stop}
	if t != nil {
		s.dec = t.NewDecoder(tokenizer.DecodeOptions{SkipSpecial: true, Continued: true})
	}
	return s
}

// write adds a token. found says that a stop text was completed; the text ends
// before it.
func (s *textStream) write(id int32) (text string, found bool) {
	if s.dec == nil {
		return "", false
	}
	return s.add(s.dec.Write(id))
}

// flush returns what is still held back, as at the end of a generation.
func (s *textStream) flush() (text string, found bool) {
	if s.dec == nil {
		return "", false
	}
	text, found = s.add(s.dec.Flush())
	if !found {
		text += s.held
		s.held = ""
	}
	return text, found
}

func (s *textStream) add(more string) (text string, found bool) {
	if len(s.stop) == 0 {
		return more, false
	}
	all := s.held + more
	at := -1
	for _, stop := range s.stop {
		if i := strings.Index(all, stop); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at >= 0 {
		s.held = ""
		return all[:at], true
	}
	keep := 0
	for _, stop := range s.stop {
		keep = max(keep, overlap(all, stop))
	}
	s.held = all[len(all)-keep:]
	return all[:len(all)-keep], false
}

// overlap is the length of the longest end of text that begins stop.
func overlap(text, stop string) int {
	for n := min(len(text), len(stop)-1); n > 0; n-- {
		if text[len(text)-n:] == stop[:n] {
			return n
		}
	}
	return 0
}
