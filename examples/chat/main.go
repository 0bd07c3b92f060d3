// Chat holds a conversation: each line of stdin is a message, and the reply is
// printed as it comes. Ctrl-C ends it.
//
//	go run ./examples/chat -m MODEL
//
// Without -m it runs the small random model of the tests, which talks nonsense,
// from the root of the checkout. MODEL is a .gguf file, a Hugging Face folder or
// a Meta folder.
package main

import (
	"bufio"
	"context"
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

func main() {
	path := flag.String("m", "internal/golden/testdata/models/tied-rope8/model.gguf", "model")
	system := flag.String("system", "You are brief.", "what the model is told first")
	n := flag.Int("n", 256, "most tokens of a reply")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := converse(ctx, os.Stdin, os.Stdout, *path, *system, *n)
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

// converse answers every line of r.
func converse(ctx context.Context, r io.Reader, w io.Writer, path, system string, n int) error {
	model, err := llama.Open(ctx, path, llama.Options{})
	if err != nil {
		return err
	}
	defer model.Close()
	// The session keeps what it computed: a turn costs what is new in it.
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer session.Close()

	messages := []chat.Message{chat.Text("system", system)}
	options := llama.ChatOptions{GenerateOptions: llama.GenerateOptions{MaxTokens: n, Sampling: model.DefaultSampling()}}
	for in := bufio.NewScanner(r); in.Scan(); {
		messages = append(messages, chat.Text("user", in.Text()))
		reply, err := model.NewReply(options)
		if err != nil {
			return err
		}
		for token, err := range session.Chat(ctx, messages, options) {
			if err != nil {
				return err
			}
			fmt.Fprint(w, reply.Add(token))
		}
		message, rest, _ := reply.Message()
		fmt.Fprintln(w, rest)
		messages = append(messages, message)
	}
	return ctx.Err()
}
