package chat_test

import (
	"encoding/json"
	"fmt"

	"github.com/herd-ml/herd/llama/chat"
)

// A conversation is the JSON of the usual chat interfaces.
func Example() {
	conversation := []chat.Message{
		chat.Text("system", "You are brief."),
		chat.Text("user", "Who are you?"),
	}
	b, err := json.Marshal(conversation)
	fmt.Println(string(b), err)
	// Output: [{"role":"system","content":"You are brief."},{"role":"user","content":"Who are you?"}] <nil>
}

func ExampleText() {
	m := chat.Text("user", `She said "yes".`)
	fmt.Println(m.Role, string(m.Content))
	// Output: user "She said \"yes\"."
}

// A call of a tool and its answer. Arguments stay as they were written, key
// order and all, and a content of null is not a missing one.
func ExampleMessage() {
	const text = `[
		{"role": "assistant", "content": null, "tool_calls": [
			{"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"town": "Oslo", "day": 1}}}]},
		{"role": "tool", "tool_call_id": "1", "content": {"rain": true}}]`
	var conversation []chat.Message
	if err := json.Unmarshal([]byte(text), &conversation); err != nil {
		fmt.Println(err)
		return
	}
	call := conversation[0].ToolCalls[0].Function
	fmt.Println(call.Name, string(call.Arguments))
	fmt.Println(conversation[1].ToolCallID, string(conversation[1].Content))
	fmt.Println(string(conversation[0].Content), chat.Message{}.Content == nil)
	// Output:
	// weather {"town": "Oslo", "day": 1}
	// 1 {"rain": true}
	// null true
}
