package llama_test

import (
	"context"
	"fmt"
	"log"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
)

// Two turns of a conversation. The model has random weights and talks
// nonsense; what the second turn computes is its own text only.
func ExampleSession_Chat() {
	model, session := openSmall()
	defer model.Close()
	options := llama.ChatOptions{GenerateOptions: llama.GenerateOptions{MaxTokens: 8}}
	messages := []chat.Message{chat.Text("user", "Who are you?")}
	for range 2 {
		reply, err := model.NewReply(options)
		if err != nil {
			log.Fatal(err)
		}
		for token, err := range session.Chat(context.Background(), messages, options) {
			if err != nil {
				log.Fatal(err)
			}
			reply.Add(token) // returns what is to be shown
		}
		message, _, err := reply.Message()
		if err != nil {
			log.Fatal(err)
		}
		messages = append(messages, message, chat.Text("user", "And then?"))
	}
	prompt, err := model.ChatPrompt(messages[:3], options)
	if err != nil {
		log.Fatal(err)
	}
	u := session.Usage()
	fmt.Println(len(messages), "messages;", u.ReusedTokens > 0, u.PrefillTokens < len(prompt.IDs)+10)
	// Output: 5 messages; true true
}

// The prompt of a conversation, before anything is computed.
func ExampleModel_ChatPrompt() {
	model, _ := openSmall()
	defer model.Close()
	p, err := model.ChatPrompt([]chat.Message{chat.Text("user", "Hi")}, llama.ChatOptions{})
	fmt.Printf("%q %v\n", p.Text, err)
}

// The template of a model, without loading its weights.
func ExampleChatFormat() {
	f, err := llama.ChatFormat(context.Background(), smallModel)
	fmt.Printf("%T %v\n", f, err)
	// Output: *chat.Template <nil>
}

func ExampleModel_ChatFormat() {
	model, _ := openSmall()
	defer model.Close()
	f, err := model.ChatFormat()
	fmt.Printf("%T %v\n", f, err)
	// Output: *chat.Template <nil>
}

// Reply tells text from tool calls.
func ExampleModel_NewReply() {
	model, _ := openSmall()
	defer model.Close()
	reply, err := model.NewReply(llama.ChatOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.Add(llama.Token{ID: 1, Text: "Hello"}))
	message, rest, err := reply.Message()
	fmt.Println(message.Role, message.Text(), rest == "", len(reply.Calls()), err)
	// Output:
	// Hello
	// assistant Hello true 0 <nil>
}
