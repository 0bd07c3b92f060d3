package llama

import (
	"fmt"
	"strings"

	"github.com/herd-ml/herd/llama/sample"
	"github.com/herd-ml/herd/llama/tokenizer"
)

// Token is one generated token.
type Token struct {
	ID int32
	// Text is what can be shown now. It is empty while an unfinished UTF-8
	// sequence or the start of a stop text is held back, and holds what was held
	// back once that is decided. Bytes that are not UTF-8 are kept.
	Text string
	// Logprob is the natural logarithm of the token's probability, and Top the
	// most likely tokens, when GenerateOptions asks for them.
	Logprob float32
	Top     []Alt
	// Finish says why the generation ended, on its last token.
	Finish Finish
}

// Alt is an alternative to a token, with its log-probability.
type Alt = sample.Alt

// Finish says why a generation ended.
type Finish uint8

const (
	// NotFinished: more tokens follow.
	NotFinished Finish = iota
	// FinishStop: a stop token, which is the last Token, or a stop text.
	FinishStop
	// FinishLength: MaxTokens were generated.
	FinishLength
	// FinishContext: the session has no position left.
	FinishContext
)

// String is empty, "stop", "length" or "context".
func (f Finish) String() string {
	if int(f) >= len(finishNames) {
		return fmt.Sprintf("Finish(%d)", uint8(f))
	}
	return finishNames[f]
}

var finishNames = [...]string{"", "stop", "length", "context"}

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
