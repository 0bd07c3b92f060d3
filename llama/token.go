package llama

import (
	"fmt"

	"github.com/herd-ml/herd/llama/sample"
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
