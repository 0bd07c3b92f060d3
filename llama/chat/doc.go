// Package chat turns conversations into prompts and replies into messages.
//
// A [Format] writes a conversation in the way a model was trained on: the
// [Llama3] protocol, built in, or a [Template], the Jinja program that comes
// with most models. A [Reader] turns the reply, token by token, back into text
// to show, tool calls, and the [Message] to append to the conversation.
//
// # What may become a special token
//
// Only what the format itself writes. Text of a message, of a tool definition
// or of a template variable is encoded as plain text, whatever it says: no
// content can end its turn, forge a header, or pose as the result of a tool.
// In a template this is tracked through every operation on strings.
//
// # JSON
//
// Contents, tool definitions and arguments of calls are raw JSON: keys keep
// their order and numbers their spelling, because models were trained on both.
package chat
