// Embedfs runs a model that is part of the program: one file to ship, nothing
// to find at run time.
//
//	go run ./examples/embedfs "Once upon a time"
//
// The files here are those of the tests. In a program of your own, put a model
// beside the source and write
//
//	//go:embed model.gguf
//	var models embed.FS
//
// A zip archive (zip.Reader) or os.DirFS works in its place. The linker bounds
// an embedded model to less than 2 GB.
package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"

	models "github.com/herd-ml/herd/internal/golden/testdata"
	"github.com/herd-ml/herd/llama"
)

func main() {
	prompt := "The file sees the king"
	if len(os.Args) > 1 {
		prompt = os.Args[1]
	}
	if err := generate(context.Background(), os.Stdout, models.Models, prompt); err != nil {
		log.Fatal(err)
	}
}

// generate writes what each model of a file system makes of a prompt.
func generate(ctx context.Context, w io.Writer, files fs.FS, prompt string) error {
	names, err := fs.Glob(files, "models/*/model.gguf")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := one(ctx, w, files, name, prompt); err != nil {
			return err
		}
	}
	return nil
}

func one(ctx context.Context, w io.Writer, files fs.FS, name, prompt string) error {
	model, err := llama.OpenFS(ctx, files, name, llama.Options{})
	if err != nil {
		return err
	}
	defer model.Close()
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		return err
	}
	defer session.Close()

	fmt.Fprintf(w, "%s: ", name)
	for token, err := range session.Generate(ctx, prompt, llama.GenerateOptions{MaxTokens: 32}) {
		if err != nil {
			return err
		}
		fmt.Fprint(w, token.Text)
	}
	fmt.Fprintln(w)
	return nil
}
