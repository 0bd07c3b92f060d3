package main

import (
	"errors"
	"io"
	"iter"
	"net/http"

	"github.com/herd-ml/herd/llama"
)

// stream sends tokens as they come. An error before the first text has a
// status; a later one cuts the connection, so that the client can tell.
func stream(w http.ResponseWriter, tokens iter.Seq2[llama.Token, error]) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	flusher := http.NewResponseController(w)
	started := false
	for token, err := range tokens {
		switch {
		case err != nil && started:
			panic(http.ErrAbortHandler)
		case errors.Is(err, llama.ErrContextFull):
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		case token.Text == "":
			continue
		}
		started = true
		if _, err := io.WriteString(w, token.Text); err != nil {
			return // the client is gone; leaving the loop stops the generation
		}
		if err := flusher.Flush(); err != nil {
			return
		}
	}
}
