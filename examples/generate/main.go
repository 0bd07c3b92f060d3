// Generate continues a prompt and prints the text as it comes. Ctrl-C stops it.
//
//	go run ./examples/generate
//	go run ./examples/generate -m MODEL -n 100 "Once upon a time"
//
// Without -m it runs the small random model of the tests, from the root of the
// checkout. MODEL is a .gguf file, a Hugging Face folder or a Meta folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/herd-ml/herd/llama"
)

func main() {
	path := flag.String("m", "internal/golden/testdata/models/tied-rope8/model.gguf", "model")
	n := flag.Int("n", 32, "most tokens to generate")
	flag.Parse()
	prompt := "The file sees the king"
	if flag.NArg() > 0 {
		prompt = flag.Arg(0)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := generate(ctx, os.Stdout, *path, prompt, *n)
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

// generate writes what the model at path makes of a prompt.
func generate(ctx context.Context, w io.Writer, path, prompt string, n int) error {
	model, err := llama.Open(ctx, path, llama.Options{})
	if err != nil {
		return err
	}
	defer model.Close()
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer session.Close()

	options := llama.GenerateOptions{MaxTokens: n, Sampling: model.DefaultSampling()}
	for token, err := range session.Generate(ctx, prompt, options) {
		if err != nil {
			return err
		}
		if _, err := fmt.Fprint(w, token.Text); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(w)
	return err
}
