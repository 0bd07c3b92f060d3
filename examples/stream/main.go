// Stream serves a model over HTTP: the prompt is the request's body, the text
// comes back as it is generated, and a client that goes away stops the work.
//
//	go run ./examples/stream -m MODEL &
//	curl -N localhost:8080/generate -d 'Once upon a time'
//
// Without -m it runs the small random model of the tests, from the root of the
// checkout.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/herd-ml/herd/llama"
)

func main() {
	path := flag.String("m", "internal/golden/testdata/models/tied-rope8/model.gguf", "model")
	addr := flag.String("addr", "localhost:8080", "address to listen on")
	n := flag.Int("n", 256, "most tokens of an answer")
	flag.Parse()
	if err := serve(*path, *addr, *n); err != nil {
		log.Fatal(err)
	}
}

// serve answers until Ctrl-C, then lets running answers finish for 5 seconds.
func serve(path, addr string, n int) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	model, err := llama.Open(ctx, path, llama.Options{})
	if err != nil {
		return err
	}
	defer model.Close()
	options := llama.GenerateOptions{MaxTokens: n, Sampling: model.DefaultSampling()}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	log.Printf("listening: curl -N http://%s/generate -d 'Once upon a time'", listener.Addr())
	server := &http.Server{Handler: newHandler(model, options), ReadTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// newHandler answers POST /generate.
func newHandler(model *llama.Model, options llama.GenerateOptions) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) {
		prompt, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		session, err := model.NewSession(llama.SessionOptions{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer session.Close()
		// The request's context ends when the client goes away.
		stream(w, session.Generate(r.Context(), string(prompt), options))
	})
	return mux
}
