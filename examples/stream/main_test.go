package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/herd-ml/herd/internal/golden"
	"github.com/herd-ml/herd/llama"
)

const prompt = "Once upon a time"

func open(t *testing.T) *llama.Model {
	model, err := llama.Open(t.Context(), golden.Glob(t, "models/*/model.gguf")[0], llama.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { model.Close() })
	return model
}

// TestStream wants over HTTP the text that the library gives.
func TestStream(t *testing.T) {
	model := open(t)
	options := llama.GenerateOptions{MaxTokens: 24, IgnoreEOS: true}
	session, err := model.NewSession(llama.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for token, err := range session.Generate(t.Context(), prompt, options) {
		if err != nil {
			t.Fatal(err)
		}
		want.WriteString(token.Text)
	}
	server := httptest.NewServer(newHandler(model, options))
	defer server.Close()
	response, err := http.Post(server.URL+"/generate", "text/plain", strings.NewReader(prompt))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || string(got) != want.String() {
		t.Errorf("%s, %v: got %q, want %q", response.Status, err, got, want.String())
	}
}

func TestRefused(t *testing.T) {
	model := open(t)
	server := httptest.NewServer(newHandler(model, llama.GenerateOptions{MaxTokens: 1}))
	defer server.Close()
	for _, c := range []struct {
		prompt string
		status int
	}{
		{strings.Repeat("a b ", model.Config().Context), http.StatusRequestEntityTooLarge},
		{strings.Repeat("a", 1<<20+1), http.StatusRequestEntityTooLarge},
	} {
		response, err := http.Post(server.URL+"/generate", "text/plain", strings.NewReader(c.prompt))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != c.status {
			t.Errorf("%d bytes: %s, want %d", len(c.prompt), response.Status, c.status)
		}
	}
}

// held counts writes and holds the second one back until the request's context
// ends, so that the client is gone while the answer is still running.
type held struct {
	http.ResponseWriter
	ctx    context.Context
	writes *atomic.Int32
}

func (h held) Write(b []byte) (int, error) {
	if h.writes.Add(1) == 2 {
		<-h.ctx.Done()
	}
	return h.ResponseWriter.Write(b)
}

func (h held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func TestClientGone(t *testing.T) {
	model := open(t)
	handler := newHandler(model, llama.GenerateOptions{IgnoreEOS: true})
	var writes atomic.Int32
	returned := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(returned)
		handler.ServeHTTP(held{w, r.Context(), &writes}, r)
	}))
	defer server.Close()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/generate", strings.NewReader(prompt))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadFull(response.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-returned:
	case <-time.After(10 * time.Second):
		t.Fatal("the handler still runs")
	}
	// The write that was held back, and at most the token on its way.
	if n := writes.Load(); n > 3 {
		t.Errorf("%d writes after the client left", n)
	}
}
