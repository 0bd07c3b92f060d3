// Package chat holds the messages of a conversation. Turning them into a
// prompt, natively or through a model's own template, is not built yet.
package chat

import "encoding/json"

// Message is one turn of a conversation.
type Message struct {
	Role string `json:"role"` // "system", "user", "assistant", "tool" or "ipython"
	// Content is any JSON: a string, null, an object or an array of parts. A
	// missing content (nil) differs from null.
	Content   json.RawMessage `json:"content,omitempty"`
	ToolCalls []ToolCall      `json:"tool_calls,omitempty"`
	// ToolCallID names the call that a tool's message answers.
	ToolCallID string `json:"tool_call_id,omitempty"`
	Name       string `json:"name,omitempty"`
}

// ToolCall is a model's request to run a function.
type ToolCall struct {
	ID       string   `json:"id,omitempty"`
	Type     string   `json:"type,omitempty"` // "function"
	Function Function `json:"function"`
}

// Function names what to call, with arguments as JSON whose key order is kept.
type Function struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// Text returns a message with a string as its content.
func Text(role, content string) Message {
	b, _ := json.Marshal(content) // a string always marshals
	return Message{Role: role, Content: b}
}
