package chat

import (
	"encoding/json"
	"fmt"
	"time"
)

// Format turns conversations into prompts for the model it was made for. It is
// safe for concurrent use.
type Format interface {
	// Encode returns the prompt after which the model writes its reply. The same
	// messages and options give the same prompt.
	Encode(messages []Message, o Options) (Prompt, error)
}

// Options say what goes into a prompt beside the messages. The zero value asks
// for a reply without tools.
type Options struct {
	// Tools are the definitions that the model may call, each a JSON object as
	// chat interfaces have it: {"type": "function", "function": {"name": …,
	// "description": …, "parameters": …}}. Nil and an empty list can differ.
	Tools []json.RawMessage
	// Template is the name of one of the templates of a model that has several. Empty is
	// "tool_use" where tools are given and there is one, else "default".
	Template string
	// NoGenerationPrompt ends the prompt after the last message, instead of where
	// the model's reply begins.
	NoGenerationPrompt bool
	// Vars are more variables of a template, by name. The Llama3 protocol knows
	// date_string, tools_in_user_message, builtin_tools and custom_tools.
	Vars map[string]json.RawMessage
	// Now is the time that a prompt may tell; zero is the time of the call.
	Now time.Time
}

// now is the resolved Now.
func (o Options) now() time.Time {
	if o.Now.IsZero() {
		return time.Now()
	}
	return o.Now
}

// Prompt is a conversation as a model reads it.
type Prompt struct {
	Text string  // as a template renders it
	IDs  []int32 // its tokens
	// Origins says for each token where it is from. It is nil for a Template, whose
	// text has no parts that are known.
	Origins []Origin
}

// Origin is where a token of a prompt is from.
type Origin struct {
	// Turn counts the messages from 0. It is -1 where no message is behind the
	// token, and the number of messages in the header of the reply.
	Turn int
	Role string // as the header says it
	Part Part
}

// Part is the part of a turn to which a token belongs.
type Part uint8

const (
	// BOS is the token before all turns.
	BOS Part = iota
	// Header is the role with the tokens around it and the empty line.
	Header
	// Body is what a turn says.
	Body
	// Terminator ends a turn.
	Terminator
)

// String is "BOS", "header", "body" or "terminator".
func (p Part) String() string {
	if int(p) >= len(partNames) {
		return fmt.Sprintf("Part(%d)", uint8(p))
	}
	return partNames[p]
}

var partNames = [...]string{"BOS", "header", "body", "terminator"}
