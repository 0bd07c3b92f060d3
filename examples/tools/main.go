// Tools lets a model call a Go function: it is told of the function, its reply
// is searched for calls, these are executed, and what they return goes back to
// the model until it answers in words.
//
//	go run ./examples/tools -m MODEL "What is the weather in Oslo?"
//
// The model must have been trained to call tools, as Llama 3.1 Instruct.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/herd-ml/herd/llama"
	"github.com/herd-ml/herd/llama/chat"
)

// tool is a function that the model may call.
type tool struct {
	definition string // JSON, as the model is told
	run        func(arguments json.RawMessage) (any, error)
}

// tools by name.
var tools = map[string]tool{
	"get_weather": {
		definition: `{"type": "function", "function": {
			"name": "get_weather",
			"description": "The weather at a place now.",
			"parameters": {"type": "object", "required": ["place"],
				"properties": {"place": {"type": "string", "description": "City and country"}}}}}`,
		run: func(arguments json.RawMessage) (any, error) {
			var a struct{ Place string }
			if err := json.Unmarshal(arguments, &a); err != nil {
				return nil, err
			}
			if a.Place == "" {
				return nil, errors.New("no place given")
			}
			return map[string]any{"place": a.Place, "celsius": 7, "sky": "rain"}, nil
		},
	},
}

func main() {
	path := flag.String("m", "", "model")
	flag.Parse()
	if *path == "" || flag.NArg() == 0 {
		log.Fatal("usage: tools -m MODEL QUESTION")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	model, err := llama.Open(ctx, *path, llama.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	if err := answer(ctx, os.Stdout, model, flag.Arg(0), llama.ChatOptions{}); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

// maxCalls bounds how often the model may ask back.
const maxCalls = 8

// answer lets the model answer a question with the help of the tools.
func answer(ctx context.Context, w io.Writer, model *llama.Model, question string, o llama.ChatOptions) error {
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer session.Close()
	for _, t := range tools {
		o.Prompt.Tools = append(o.Prompt.Tools, json.RawMessage(t.definition))
	}
	messages := []chat.Message{chat.Text("user", question)}
	for range maxCalls {
		reply, err := model.NewReply(o)
		if err != nil {
			return err
		}
		for token, err := range session.Chat(ctx, messages, o) {
			if err != nil {
				return err
			}
			fmt.Fprint(w, reply.Add(token))
		}
		message, rest, err := reply.Message()
		fmt.Fprintln(w, rest)
		if err != nil { // a malformed call: its text is shown as the answer
			return err
		}
		if len(message.ToolCalls) == 0 {
			return nil
		}
		messages = append(messages, message)
		for _, call := range message.ToolCalls {
			result := execute(call)
			fmt.Fprintf(w, "%s %s: %s\n", call.Function.Name, call.Function.Arguments, result)
			messages = append(messages, chat.Message{Role: "tool", Content: result, ToolCallID: call.ID})
		}
	}
	return fmt.Errorf("no answer after %d rounds of calls", maxCalls)
}

// execute runs a call. Its result is JSON, and so is what went wrong: the model
// can then try again.
func execute(call chat.ToolCall) json.RawMessage {
	var result any
	t, ok := tools[call.Function.Name]
	err := fmt.Errorf("there is no function %q", call.Function.Name)
	if ok {
		result, err = t.run(call.Function.Arguments)
	}
	if err != nil {
		result = map[string]string{"error": err.Error()}
	}
	b, err := json.Marshal(result)
	if err != nil {
		return json.RawMessage(`{"error": "the result has no JSON form"}`)
	}
	return b
}
